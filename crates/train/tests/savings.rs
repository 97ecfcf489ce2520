//! Gradient checkpointing and the loss in chunks change a run's losses by no more than rounding.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_train::{Interrupt, Metric, Override, Recipe, RunOptions, train};

/// The curve of a short run of the tiny recipe, with dropout, whose last validation batch is a smaller one.
fn curve(extra: &[&str]) -> Vec<Metric> {
    let common = [
        "train.steps=12",
        "train.eval_every=6",
        "train.validation_windows=13",
        "schedule.warmup_steps=5",
        "sample.every=0",
        "model.n_layer=2",
    ];
    let overrides: Vec<Override> =
        common.iter().chain(extra).map(|s| s.parse().expect("key=value")).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/gpt-tiny.toml");
    let recipe = Recipe::from_file(&path, &overrides).expect("a valid recipe");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    let options =
        RunOptions { device: Arc::new(CpuDevice::new()), interrupt: Interrupt::default(), profile: None };
    train(recipe, Some(&out), options).expect("trained");
    let text = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("a metric")).collect()
}

fn assert_same_losses(found: &[Metric], expected: &[Metric], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert_eq!((f.step, f.split), (e.step, e.split), "{what}");
        assert!(
            (f.loss - e.loss).abs() <= 1e-5 * e.loss,
            "{what}: step {}: {} and {}",
            f.step,
            f.loss,
            e.loss
        );
    }
}

#[test]
fn a_run_with_either_or_both_has_the_losses_of_one_without() {
    let plain = curve(&[]);
    assert_eq!(plain.len(), 12 + 2);
    let (on, chunk) = ("train.gradient_checkpointing=true", "train.loss_chunk=48");
    for settings in [&[on][..], &[chunk], &[on, chunk]] {
        assert_same_losses(&curve(settings), &plain, &settings.join(" "));
    }
}

#[test]
fn the_same_with_accumulated_gradients_a_tied_table_and_a_trained_vocabulary() {
    let model = [
        "train.batch_size=2",
        "train.grad_accumulation=3",
        "model.tie_word_embeddings=true",
        "data.tokenizer={kind='bpe', vocab_size=300}",
    ];
    let plain = curve(&model);
    let settings = [&model[..], &["train.gradient_checkpointing=true", "train.loss_chunk=10"]].concat();
    assert_same_losses(&curve(&settings), &plain, "both");
}

#[test]
fn a_chunk_of_one_token_is_cut_off_at_a_hundred_and_twenty_eight_pieces() {
    // 256 tokens a pass: chunks of two.
    let settings = curve(&["train.loss_chunk=1"]);
    assert_same_losses(&settings, &curve(&["train.loss_chunk=2"]), "the same program");
    assert_eq!(settings.last().map(|m| m.loss), curve(&["train.loss_chunk=2"]).last().map(|m| m.loss));
}
