//! A convolutional network with batch norm learns to tell drawings apart, on both devices alike.

use wgrad::{
    models::{Cnn, CnnConfig},
    nn::Init,
    optim::AdamWConfig,
    prelude::*,
};

const IMAGES: usize = 12;
const SIDE: usize = 8;
const STEPS: u32 = 30;

/// Stripes along rows, along columns, or both, with some noise: three classes in turn.
fn drawings(seed: usize, device: &DeviceHandle) -> (Tensor, Tensor) {
    let mut pixels = Vec::with_capacity(IMAGES * SIDE * SIDE);
    for n in 0..IMAGES {
        for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
            let (row, column) = ((y + n / 3) % 4 < 2, (x + n / 3 + seed) % 4 < 2);
            let lit = [row, column, row && column][n % 3];
            let noise = ((n * 59 + y * 17 + x * 31 + seed * 43) % 23) as f32 / 23.0 - 0.5;
            pixels.push(if lit { 1.0 } else { -1.0 } + noise);
        }
    }
    let labels = (0..IMAGES).map(|n| (n % 3) as i32).collect();
    (Tensor::from_vec(pixels, [IMAGES, 1, SIDE, SIDE], device), Tensor::from_vec(labels, [IMAGES], device))
}

/// What a run leaves: the losses, the statistics of the norms by name, and how many new drawings are recognised.
struct Learnt {
    losses: Vec<f64>,
    buffers: Vec<(String, Vec<f64>)>,
    recognised: usize,
}

fn learn(device: &DeviceHandle) -> Learnt {
    let config = CnnConfig {
        image_size: [SIDE, SIDE],
        num_labels: 3,
        channels: vec![4, 6],
        hidden_size: Some(8),
        classifier_dropout: 0.1,
        ..CnnConfig::default()
    };
    let model = Cnn::new(&config, &Init::new(device, 5)).unwrap();
    let mut optimizer = AdamW::new(decay_matrices_only(&model, 0.01), AdamWConfig::default());
    optimizer.set_lr(0.01);
    let step = |step: u32| {
        let (x, labels) = drawings(step as usize % 4, device);
        let logits = model.forward(&x, &Context::train(1, step));
        let loss = functional::cross_entropy(&logits, &labels, None);
        optimizer.step(&loss).unwrap().loss.item().unwrap()
    };
    let losses = (0..STEPS).map(step).collect();
    let buffers = model.named_buffers().into_iter();
    let buffers = buffers.map(|(name, buffer)| (name, buffer.tensor().to_f64_vec().unwrap())).collect();
    let (x, labels) = drawings(9, device);
    let found = model.forward(&x, &Context::eval()).argmax(-1, false).to_vec::<i32>().unwrap();
    let recognised = found.iter().zip(labels.to_vec::<i32>().unwrap()).filter(|(f, l)| *f == l).count();
    Learnt { losses, buffers, recognised }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn a_classifier_learns_on_the_cpu_and_tracks_what_its_norms_see() {
    let device = wgrad::devices().open("cpu").unwrap().device;
    let learnt = learn(&device);
    // ln 3 = 1.099 is what knowing nothing gives.
    assert!(learnt.losses[0] > 0.7 && mean(&learnt.losses[26..]) < 0.3, "{:?}", learnt.losses);
    assert!(learnt.recognised >= IMAGES - 1, "{}", learnt.recognised);
    let buffer = |name: &str| &learnt.buffers.iter().find(|(n, _)| n == name).unwrap().1;
    for layer in ["blocks.0.layers.0.norm", "blocks.1.layers.0.norm"] {
        assert_eq!(buffer(&format!("{layer}.num_batches_tracked")), &[f64::from(STEPS)]);
        assert!(buffer(&format!("{layer}.running_mean")).iter().any(|m| m.abs() > 1e-3));
        // An average over all steps from 1 on: whatever a channel's variance is, 0.9^30 of the beginning is left.
        let left = 0.9_f64.powi(STEPS as i32);
        assert!(buffer(&format!("{layer}.running_var")).iter().all(|&v| v > left && v != 1.0));
    }
}

#[test]
fn a_classifier_and_its_statistics_are_the_same_on_the_gpu_as_on_the_cpu() {
    if std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|v| v == "cpu") {
        eprintln!("not run: WGRAD_TEST_DEVICES=cpu");
        return;
    }
    let open = |name: &str| wgrad::devices().open(name).unwrap().device;
    let (cpu, gpu) = (learn(&open("cpu")), learn(&open("gpu")));
    for (step, (c, g)) in cpu.losses.iter().zip(&gpu.losses).enumerate().take(15) {
        assert!((c - g).abs() <= 1e-3 * c.max(0.1), "step {step}: {c} on the CPU, {g} on the GPU");
    }
    let last = |losses: &[f64]| mean(&losses[26..]);
    assert!(last(&gpu.losses) < 0.3, "{:?}", gpu.losses);
    assert!((last(&cpu.losses) - last(&gpu.losses)).abs() < 0.05, "{:?}\n{:?}", cpu.losses, gpu.losses);
    assert_eq!(cpu.buffers.len(), gpu.buffers.len());
    for ((name, c), (_, g)) in cpu.buffers.iter().zip(&gpu.buffers) {
        for (c, g) in c.iter().zip(g) {
            // Thirty updates apart, rounding has grown to this; after the first they agree to 1e-6.
            assert!((c - g).abs() <= 2e-2 * c.abs().max(1.0), "{name}: {c} on the CPU, {g} on the GPU");
        }
    }
    assert!(gpu.recognised >= IMAGES - 1, "{}", gpu.recognised);
}
