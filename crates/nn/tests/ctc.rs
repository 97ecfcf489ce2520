//! The loss of alignments against all alignments, one by one.

use std::sync::Arc;

use wgrad_nn::functional::{CtcOptions, Reduction, ctc_beam_decode, ctc_greedy_decode, ctc_loss};
use wgrad_tensor::{DeviceHandle, Tensor, grad};

/// One for each test: an index out of range is told to whoever reads from the device next.
fn device() -> &'static DeviceHandle {
    thread_local!(static DEVICE: &'static DeviceHandle = {
        let device: DeviceHandle = Arc::new(wgrad_cpu::CpuDevice::new());
        Box::leak(Box::new(device))
    });
    DEVICE.with(|device| *device)
}

fn logits(t: usize, n: usize, c: usize) -> Tensor {
    let values: Vec<f64> = (0..t * n * c).map(|i| ((i * 37 + 11) % 101) as f64 / 40.0 - 1.2).collect();
    Tensor::from_vec(values, [t, n, c], device())
}

fn ints(values: &[i32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, device())
}

const NONE: CtcOptions = CtcOptions { blank: 0, reduction: Reduction::None, zero_infinity: false };

/// The loss by its definition: every path of classes that becomes the target once repetitions are joined and blanks left out.
fn by_definition(log_probs: &Tensor, row: usize, frames: usize, target: &[i32], blank: i32) -> f64 {
    let [_, n, c] = log_probs.dims();
    let all = log_probs.to_vec::<f64>().unwrap();
    let mut total = 0.0;
    for path in 0..c.pow(frames as u32) {
        let classes: Vec<i32> = (0..frames).map(|t| (path / c.pow(t as u32) % c) as i32).collect();
        let mut read = classes.clone();
        read.dedup();
        read.retain(|&class| class != blank);
        if read == target {
            let logs = classes.iter().enumerate().map(|(t, &class)| all[(t * n + row) * c + class as usize]);
            total += logs.sum::<f64>().exp();
        }
    }
    -total.ln()
}

#[test]
fn losses_are_those_of_all_alignments() {
    let log_probs = logits(6, 5, 3).log_softmax(-1);
    let targets: [&[i32]; 5] = [&[1, 1], &[1, 2, 1], &[], &[2], &[2, 2, 2]];
    let (il, tl) = ([6, 5, 4, 1, 6], [2, 3, 0, 1, 3]);
    let rows: Vec<i32> =
        targets.iter().flat_map(|t| (0..3).map(|i| t.get(i).copied().unwrap_or(-7))).collect();
    let (lengths, sizes) = (ints(&il, &[5]), ints(&tl, &[5]));
    let losses = ctc_loss(&log_probs, &ints(&rows, &[5, 3]), &lengths, &sizes, NONE).to_vec::<f64>().unwrap();
    for (n, loss) in losses.iter().enumerate() {
        let want = by_definition(&log_probs, n, il[n] as usize, targets[n], 0);
        assert!((loss - want).abs() < 1e-10, "{n}: {loss}, by definition {want}");
    }
    let together = ints(&targets.concat(), &[9]);
    assert_eq!(ctc_loss(&log_probs, &together, &lengths, &sizes, NONE).to_vec::<f64>().unwrap(), losses);
    let reduced = |reduction| {
        let options = CtcOptions { reduction, ..NONE };
        ctc_loss(&log_probs, &together, &lengths, &sizes, options).item().unwrap()
    };
    assert!((reduced(Reduction::Sum) - losses.iter().sum::<f64>()).abs() < 1e-10);
    let mean = losses.iter().zip(tl).map(|(l, n)| l / f64::from(n.max(1))).sum::<f64>() / 5.0;
    assert!((reduced(Reduction::Mean) - mean).abs() < 1e-10);
}

#[test]
fn one_sequence_needs_no_axis_of_sequences_and_the_blank_may_be_a_label() {
    let log_probs = logits(4, 1, 3).log_softmax(-1);
    let (targets, four, two) = (ints(&[1, 0], &[2]), ints(&[4], &[1]), ints(&[2], &[1]));
    let batch = ctc_loss(&log_probs, &targets, &four, &two, NONE);
    let alone = ctc_loss(&log_probs.squeeze(1), &targets, &four.reshape([]), &two.reshape([]), NONE);
    assert_eq!((alone.rank(), batch.shape().dims()), (0, &[1][..]));
    assert_eq!(alone.item().unwrap(), batch.item().unwrap());
    // As PyTorch counts it: four states that read as blanks and one label, each entered from the one before.
    assert!(batch.item().unwrap().is_finite());
}

#[test]
fn another_class_may_be_the_blank() {
    let log_probs = logits(5, 1, 3).log_softmax(-1);
    let options = CtcOptions { blank: 2, ..NONE };
    let loss =
        ctc_loss(&log_probs, &ints(&[0, 1, 0], &[1, 3]), &ints(&[5], &[1]), &ints(&[3], &[1]), options);
    let want = by_definition(&log_probs, 0, 5, &[0, 1, 0], 2);
    assert!((loss.item().unwrap() - want).abs() < 1e-10);
}

#[test]
fn what_no_alignment_fits_is_infinite_without_a_gradient_or_zero() {
    let x = logits(4, 2, 3);
    let targets = ints(&[1, 1, 2, 1, 2, 1], &[2, 3]);
    let (lengths, sizes) = (ints(&[3, 4], &[2]), ints(&[3, 3], &[2]));
    for zero_infinity in [false, true] {
        let options = CtcOptions { zero_infinity, ..NONE };
        let losses = ctc_loss(&x.log_softmax(-1), &targets, &lengths, &sizes, options);
        let values = losses.to_vec::<f64>().unwrap();
        assert_eq!(values[0], if zero_infinity { 0.0 } else { f64::INFINITY });
        assert!(values[1].is_finite());
        let gradient = grad(&losses.narrow(0, 1, 1).sum_all(), &[&x]).unwrap()[0].to_vec::<f64>().unwrap();
        let (first, second): (Vec<_>, Vec<_>) = gradient.chunks(3).enumerate().partition(|(i, _)| i % 2 == 0);
        // Of three frames; the fourth does not count.
        let nothing = |i: usize, g: f64| if zero_infinity || i == 6 { g == 0.0 } else { g.is_nan() };
        assert!(first.iter().all(|(i, g)| g.iter().all(|&g| nothing(*i, g))), "{first:?}");
        assert!(second.iter().any(|(_, g)| g.iter().any(|&g| g != 0.0)));
    }
    // Probabilities of zero are as good as no alignment.
    let masked = Tensor::full([4, 2, 3], f64::NEG_INFINITY, wgrad_tensor::DType::F64, device());
    let losses = ctc_loss(&masked, &targets, &lengths, &sizes, NONE).to_vec::<f64>().unwrap();
    assert_eq!(losses, [f64::INFINITY; 2]);
}

#[test]
fn the_gradient_is_that_of_finite_differences_and_zero_beyond_the_frames() {
    let x = logits(5, 2, 3);
    let (targets, lengths, sizes) = (ints(&[1, 1, 2, 0], &[2, 2]), ints(&[5, 3], &[2]), ints(&[2, 1], &[2]));
    let loss = |log_probs: &Tensor| ctc_loss(log_probs, &targets, &lengths, &sizes, CtcOptions::default());
    let analytic = grad(&loss(&x), &[&x]).unwrap()[0].to_vec::<f64>().unwrap();
    let values = x.to_vec::<f64>().unwrap();
    for i in 0..values.len() {
        let at = |shift: f64| {
            let mut moved = values.clone();
            moved[i] += shift;
            loss(&Tensor::from_vec(moved, [5, 2, 3], device())).item().unwrap()
        };
        let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
        assert!((analytic[i] - numeric).abs() < 1e-8, "{i}: {} and {numeric}", analytic[i]);
    }
    assert!((3..5).all(|t| (0..3).all(|c| analytic[(t * 2 + 1) * 3 + c] == 0.0)));
}

#[test]
fn greedy_decoding_joins_repetitions_and_leaves_blanks_out() {
    // Best classes 1 1 0 1 2 2 for the first sequence, 0 0 2 . . . for the second.
    let best = [[1, 0], [1, 0], [0, 2], [1, 1], [2, 1], [2, 1]];
    let of = |class: i32| (0..3).map(move |c| if c == class { 0.8f64.ln() } else { 0.1f64.ln() });
    let values: Vec<f64> = best.iter().flatten().flat_map(|&class| of(class)).collect();
    let log_probs = Tensor::from_vec(values, [6, 2, 3], device());
    let found = ctc_greedy_decode(&log_probs, &[6, 3], 0).unwrap();
    assert_eq!(found[0].labels, [1, 1, 2]);
    assert_eq!(found[1].labels, [2]);
    assert!((found[1].log_prob - 3.0 * 0.8f64.ln()).abs() < 1e-12);
    assert!(ctc_greedy_decode(&log_probs, &[7, 3], 0).unwrap_err().to_string().contains("at most 6 frames"));
}

#[test]
fn a_wide_beam_finds_the_probabilities_of_all_readings() {
    let log_probs = logits(5, 2, 3).log_softmax(-1);
    let found = ctc_beam_decode(&log_probs, &[5, 4], 0, 1000).unwrap();
    for (n, readings) in found.iter().enumerate() {
        let frames = [5, 4][n];
        let total: f64 = readings.iter().map(|r| r.log_prob.exp()).sum();
        assert!((total - 1.0).abs() < 1e-10);
        assert!(readings.windows(2).all(|w| w[0].log_prob >= w[1].log_prob));
        for reading in &readings[..4] {
            let want = -by_definition(&log_probs, n, frames, &reading.labels, 0);
            assert!((reading.log_prob - want).abs() < 1e-10, "{reading:?}, by definition {want}");
        }
    }
    assert_eq!(ctc_beam_decode(&log_probs, &[5, 4], 0, 2).unwrap()[0].len(), 2);
    assert!(ctc_beam_decode(&log_probs, &[5, 4], 0, 0).is_err());
}

#[test]
fn what_does_not_fit_is_an_error_that_says_what_was_expected() {
    let (x, lengths, sizes) = (logits(4, 2, 3), ints(&[4, 4], &[2]), ints(&[1, 2], &[2]));
    let message = |x: &Tensor, t: &Tensor, il: &Tensor, tl: &Tensor, options| {
        ctc_loss(x, t, il, tl, options).realize().unwrap_err().to_string()
    };
    let targets = ints(&[1, 0, 1, 2], &[2, 2]);
    let found = message(&x, &targets, &ints(&[4, 5], &[2]), &sizes, NONE);
    assert!(found.contains("an input length is 5, but there are 4 frames"), "{found}");
    let found = message(&x, &targets, &lengths, &ints(&[1, 3], &[2]), NONE);
    assert!(found.contains("a target length is 3, but there are 2 labels"), "{found}");
    let found = message(&x, &targets, &lengths, &sizes, CtcOptions { blank: 3, ..NONE });
    assert!(found.contains("the blank is class 3, but there are 3 classes"), "{found}");
    let found = message(&x, &ints(&[1], &[1, 1]), &lengths, &sizes, NONE);
    assert!(found.contains("targets [2, labels]"), "{found}");
    let found = message(&x.narrow(0, 0, 1).squeeze(0), &targets, &lengths, &sizes, NONE);
    assert!(found.contains("[frames, sequences, classes], got f64[2, 3]"), "{found}");
    // Labels that count must be classes; those beyond a target's length may be anything.
    let found = message(&x, &ints(&[1, 3, 2], &[3]), &lengths, &sizes, NONE);
    assert!(found.contains("targets lie in 1..=3, but there are 3 classes"), "{found}");
    assert!(ctc_loss(&x, &ints(&[1, 7, 1, 2], &[2, 2]), &lengths, &sizes, NONE).realize().is_ok());
    // The host does not know the elements of a sum.
    let more = |values: &[i32], shape: &[usize]| ints(values, shape).sub(1.0);
    for (targets, lengths, sizes) in [
        (ints(&[1, 0, 1, 3], &[2, 2]), lengths.clone(), sizes.clone()),
        (ints(&[1, 0, 1, -1], &[2, 2]), lengths.clone(), sizes.clone()),
        (more(&[2, 1, 4], &[3]), lengths.clone(), sizes.clone()),
        (targets.clone(), more(&[5, 6], &[2]), sizes.clone()),
        (targets.clone(), lengths.clone(), more(&[2, 4], &[2])),
        (ints(&[1, 2, 1, 2], &[4]), lengths.clone(), sizes.clone()),
    ] {
        let failed = ctc_loss(&x, &targets, &lengths, &sizes, NONE).to_vec::<f64>();
        assert!(failed.unwrap_err().to_string().contains("out of range"));
    }
    let (targets, sizes) = (more(&[2, 2, 3], &[3]), ints(&[1, 2], &[2]));
    assert!(ctc_loss(&x, &targets, &more(&[5, 5], &[2]), &sizes, NONE).to_vec::<f64>().is_ok());
}
