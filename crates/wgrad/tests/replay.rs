//! A training step that repeats finds all that it needs: program, memory, pipelines, bind groups.
#![cfg(feature = "gpu")]

use std::sync::Arc;

use wgrad::{
    models::{Gpt2Config, Gpt2Init, Gpt2LMHead},
    nn::Init,
    optim::{AdamWConfig, StepOutcome, decay_matrices_only},
    prelude::*,
    runtime::{CacheStats, DeviceStats},
};
use wgrad_cpu::CpuDevice;
use wgrad_gpu::GpuBackend;

const CONTEXT: usize = 32;
const BATCH: usize = 4;

/// What the caller does with a step's batch and outcome.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Caller {
    /// Waits for the loss, and lets go of all.
    Waits,
    /// Reads the loss one step later.
    ReadsLater,
    /// Keeps batch and outcome until it has the next ones.
    Keeps,
}

/// A device's counters after each of some training steps of a small GPT with dropout.
fn train(device: &DeviceHandle, caller: Caller, steps: u32) -> Vec<(DeviceStats, CacheStats)> {
    let config = Gpt2Config {
        vocab_size: 256,
        n_positions: CONTEXT,
        n_embd: 32,
        n_layer: 1,
        n_head: 2,
        tie_word_embeddings: false,
        ..Gpt2Config::default()
    };
    let model = Gpt2LMHead::new(&config, &Init::new(device, 3), Gpt2Init::ScaledResiduals).unwrap();
    let mut optimizer = AdamW::new(decay_matrices_only(&model, 0.1), AdamWConfig::default());
    optimizer.set_clip_grad_norm(Some(1.0));
    let batch = |step: u32| {
        let ids =
            |shift: usize| (0..BATCH * CONTEXT).map(move |i| ((i * 7 + shift + step as usize) % 256) as i32);
        [0, 7].map(|shift| Tensor::from_vec(ids(shift).collect(), [BATCH, CONTEXT], device))
    };
    let mut stats = Vec::new();
    let (mut pending, mut kept) = (None, None);
    for step in 0..steps {
        let [ids, targets] = batch(step);
        let logits = model.forward(&ids, None, &Context::train(3, step));
        let loss = Gpt2LMHead::next_token_loss(&logits, &targets);
        drop(logits);
        optimizer.set_lr(1e-3 * f64::from(step));
        let outcome: StepOutcome = optimizer.step(&loss).unwrap();
        match caller {
            Caller::Waits => assert!(outcome.loss.item().unwrap().is_finite()),
            Caller::ReadsLater => {
                let reads = [outcome.loss.read::<f32>().unwrap(), outcome.grad_norm.read().unwrap()];
                for read in pending.replace(reads).into_iter().flatten() {
                    assert!(read.wait().unwrap()[0].is_finite());
                }
            }
            Caller::Keeps => kept = Some((ids, targets, outcome)),
        }
        stats.push((device.stats(), device.cache().stats()));
    }
    drop(kept);
    stats
}

/// From the second step on a step makes nothing, and is one program that the device is given at once.
fn check(stats: &[(DeviceStats, CacheStats)], caller: Caller, reads: u64) {
    for pair in stats.windows(2) {
        let ((before, cached_before), (after, cached)) = (pair[0], pair[1]);
        let counters = |s: &DeviceStats| (s.allocations, s.bind_groups, s.pipelines, s.copied_inputs);
        assert_eq!(counters(&after), counters(&before), "{caller:?}: {before:?} {after:?}");
        assert_eq!(cached.misses, cached_before.misses, "{caller:?}");
        assert_eq!(after.runs, before.runs + 1, "{caller:?}");
        assert_eq!(after.submissions, before.submissions + 1 + reads, "{caller:?}");
    }
    assert_eq!(stats[0].0.copied_inputs, 0);
}

#[test]
fn a_training_step_on_the_cpu_makes_nothing_from_the_second_on() {
    for caller in [Caller::Waits, Caller::ReadsLater, Caller::Keeps] {
        let device: DeviceHandle = Arc::new(CpuDevice::new());
        check(&train(&device, caller, 4), caller, 0);
    }
}

#[test]
fn a_training_step_on_the_gpu_makes_nothing_from_the_second_on_and_submits_once() {
    if std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|v| v == "cpu") {
        return;
    }
    for caller in [Caller::Waits, Caller::ReadsLater, Caller::Keeps] {
        let device: DeviceHandle = GpuBackend::new().open_gpu("gpu:0").unwrap();
        let reads = match caller {
            Caller::Waits => 1,
            Caller::ReadsLater => 2,
            Caller::Keeps => 0,
        };
        check(&train(&device, caller, 5), caller, reads);
    }
}
