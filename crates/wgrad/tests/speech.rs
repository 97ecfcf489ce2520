//! A network as speech recognisers are built, of a convolution, recurrent layers in both directions and the loss of alignments, learns to read made-up
//! sounds on both devices.

use wgrad::{
    nn::{
        Conv1d, GRU, Init, Linear, Module, RecurrentOptions,
        functional::{Conv, CtcOptions, Padding, ctc_greedy_decode, ctc_loss},
    },
    optim::{AdamWConfig, decay_matrices_only},
    prelude::*,
};

const FRAMES: usize = 9;
const WIDTH: usize = 6;
const CLASSES: usize = 4;
/// What is said, padded; how long it is, and how many frames it takes.
const TARGETS: [[i32; 3]; 4] = [[1, 2, 3], [3, 3, 1], [2, 1, 0], [1, 0, 0]];
const LABELS: [i32; 4] = [3, 3, 2, 1];
const LENGTHS: [i32; 4] = [9, 9, 7, 5];

#[derive(Module)]
struct Recogniser {
    conv: Conv1d,
    rnn: GRU,
    output: Linear,
}

impl Recogniser {
    fn new(device: &DeviceHandle) -> Self {
        let init = Init::new(device, 5);
        let options =
            RecurrentOptions { batch_first: true, bidirectional: true, ..RecurrentOptions::default() };
        Recogniser {
            conv: Conv1d::new(&init, WIDTH, 8, [3], Conv { padding: Padding::Same, ..Conv::default() }, true),
            rnn: GRU::new(&init, 8, 8, options),
            output: Linear::new(&init, 16, CLASSES, true),
        }
    }

    /// Logarithms of class probabilities, `[frames, sequences, classes]`.
    fn forward(&self, x: &Tensor, lengths: &Tensor, ctx: &Context) -> Tensor {
        let h = self.conv.forward(&x.transpose(1, 2)).relu().transpose(1, 2);
        let (h, _) = self.rnn.forward(&h, None, Some(lengths), ctx);
        self.output.forward(&h).log_softmax(-1).transpose(0, 1)
    }
}

/// Each label sounds for two frames and is silent for one; some noise on top.
fn sounds(device: &DeviceHandle) -> Tensor {
    let mut values = Vec::new();
    for (n, target) in TARGETS.iter().enumerate() {
        for t in 0..FRAMES {
            for d in 0..WIDTH {
                let label = target[t / 3] as usize;
                let sounds = t % 3 < 2 && label > 0 && (d == label || d == label + 2 * (t % 3));
                let noise = ((n * 59 + t * 17 + d * 31) % 23) as f32 / 46.0 - 0.25;
                values.push(if sounds { 1.0 } else { 0.0 } + noise);
            }
        }
    }
    Tensor::from_vec(values, [TARGETS.len(), FRAMES, WIDTH], device)
}

/// The losses of so many steps, and what is read afterwards.
fn learn(device: &DeviceHandle, steps: u32) -> (Vec<f64>, Vec<Vec<i32>>) {
    let model = Recogniser::new(device);
    let config = AdamWConfig::default();
    let mut optimizer = AdamW::new(decay_matrices_only(&model, 0.01), config);
    optimizer.set_lr(0.03);
    let (x, lengths) = (sounds(device), Tensor::from_slice(&LENGTHS, [4], device));
    let (targets, labels) =
        (Tensor::from_vec(TARGETS.concat(), [4, 3], device), Tensor::from_slice(&LABELS, [4], device));
    let step = |step: u32| {
        let log_probs = model.forward(&x, &lengths, &Context::train(1, step));
        let loss = ctc_loss(&log_probs, &targets, &lengths, &labels, CtcOptions::default());
        optimizer.step(&loss).unwrap().loss.item().unwrap()
    };
    let losses = (0..steps).map(step).collect();
    let read = model.forward(&x, &lengths, &Context::eval());
    let read = ctc_greedy_decode(&read, &LENGTHS.map(|n| n as usize), 0).unwrap();
    (losses, read.into_iter().map(|r| r.labels).collect())
}

fn spoken() -> Vec<Vec<i32>> {
    TARGETS.iter().zip(LABELS).map(|(t, n)| t[..n as usize].to_vec()).collect()
}

#[test]
fn a_recogniser_reads_what_it_was_taught_on_the_cpu() {
    let device = wgrad::devices().open("cpu").unwrap().device;
    let (losses, read) = learn(&device, 60);
    assert!(losses[0] > 1.0 && losses[59] < 0.1, "{losses:?}");
    assert_eq!(read, spoken());
}

#[test]
fn a_recogniser_learns_the_same_on_the_gpu_as_on_the_cpu() {
    if std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|v| v == "cpu") {
        eprintln!("not run: WGRAD_TEST_DEVICES=cpu");
        return;
    }
    let gpu = wgrad::devices().open("gpu").unwrap().device;
    let cpu = wgrad::devices().open("cpu").unwrap().device;
    let ((on_gpu, read), (on_cpu, _)) = (learn(&gpu, 60), learn(&cpu, 60));
    for (g, c) in on_gpu.iter().zip(&on_cpu).take(20) {
        assert!((g - c).abs() < 1e-3 * c.max(1.0), "{on_gpu:?}\n{on_cpu:?}");
    }
    assert_eq!(read, spoken());
}
