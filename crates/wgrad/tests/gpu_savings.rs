//! On the GPU too, checkpointing and the loss in chunks change a run's losses by no more than rounding.

use std::path::Path;

use wgrad::train::{Interrupt, Outcome, Override, Recipe, RunOptions, train};

/// All losses of a short run of the tiny recipe, its validation included.
fn losses(device: &str, extra: &[&str]) -> Vec<f64> {
    let common = [
        "train.steps=4",
        "train.validation_windows=8",
        "schedule.warmup_steps=2",
        "sample.every=0",
        "sample.prompts=['We ']",
    ];
    let overrides: Vec<Override> = common.iter().chain(extra).map(|s| s.parse().unwrap()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/gpt-tiny.toml");
    let recipe = Recipe::from_file(&path, &overrides).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let device = wgrad::devices().open(device).unwrap().device;
    let options = RunOptions { device, interrupt: Interrupt::default(), profile: None };
    let Outcome::Finished { validation_loss, folder, .. } = train(recipe, Some(&out), options).unwrap()
    else {
        panic!("nobody interrupts it")
    };
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let loss =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    let mut losses: Vec<f64> = text.lines().map(loss).collect();
    assert_eq!(losses.last(), Some(&validation_loss));
    losses.push(validation_loss);
    losses
}

#[test]
fn a_gpu_run_with_checkpointing_and_chunks_has_the_losses_of_one_without() {
    let both = ["train.gradient_checkpointing=true", "train.loss_chunk=48"];
    let (plain, saving, cpu) = (losses("gpu", &[]), losses("gpu", &both), losses("cpu", &both));
    assert_eq!((plain.len(), saving.len()), (6, 6));
    for (i, expected) in plain.iter().enumerate() {
        let near = |found: f64, tolerance: f64| (found - expected).abs() <= tolerance * expected;
        assert!(near(saving[i], 1e-5), "{i}: {} and {expected}", saving[i]);
        // Sums run in another order there.
        assert!(near(cpu[i], 1e-4), "{i}: {} on the CPU and {expected}", cpu[i]);
    }
}
