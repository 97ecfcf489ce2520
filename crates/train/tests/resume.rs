//! A run that is continued is the run that was never stopped, bit for bit; checked through the library.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_tensor::DeviceHandle;
use wgrad_train::{Interrupt, Metric, Outcome, Override, Recipe, RunOptions, Speed, Split, resume, train};

fn options() -> RunOptions {
    let device: DeviceHandle = Arc::new(CpuDevice::new());
    RunOptions { device, interrupt: Interrupt::default(), profile: None }
}

fn settings(extra: &[&str]) -> Vec<Override> {
    let common = [
        "schedule.name=constant",
        "schedule.min_lr=0",
        "schedule.warmup_steps=5",
        "train.eval_every=10",
        "train.checkpoint_every=10",
        "sample.every=0",
    ];
    common.iter().chain(extra).map(|text| text.parse().expect("key=value")).collect()
}

fn recipe(extra: &[&str]) -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/gpt-tiny.toml");
    Recipe::from_file(&path, &settings(extra)).expect("a valid recipe")
}

fn curve(out: &Path) -> Vec<Metric> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let line = |line| Metric { speed: Speed::Tokens(0.0), ..serde_json::from_str(line).expect("a metric") };
    text.lines().map(line).collect()
}

fn checkpoint(out: &Path, step: u64, file: &str) -> Vec<u8> {
    let path: PathBuf = out.join(format!("checkpoints/step-{step:06}")).join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Trains 20 steps at once, and 10 and 10; compares everything that the two leave.
fn twenty_is_ten_and_ten(extra: &[&str]) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let with = |steps: &str| recipe(&[extra, &[steps][..]].concat());
    train(with("train.steps=20"), Some(&whole), options()).expect("trained");
    train(with("train.steps=10"), Some(&parts), options()).expect("trained");
    let more = settings(&["train.steps=20"]);
    let outcome = resume(&parts, None, &more, options()).expect("continued");
    assert!(matches!(outcome, Outcome::Finished { .. }));

    assert_eq!(curve(&parts), curve(&whole));
    assert_eq!(curve(&whole).len(), 22);
    for file in ["model.safetensors", "optimizer.safetensors", "optimizer.json"] {
        assert!(checkpoint(&parts, 20, file) == checkpoint(&whole, 20, file), "{file} differs");
        assert!(checkpoint(&parts, 20, file) != checkpoint(&parts, 10, file), "{file} has not changed");
    }
    let steps = fs::read_to_string(parts.join("recipe.toml")).expect("the recipe");
    assert!(steps.contains("steps = 20"), "the run's recipe is what was run last");
}

#[test]
fn adamw_with_dropout_continues_bit_for_bit() {
    twenty_is_ten_and_ten(&[]);
}

#[test]
fn a_run_does_not_continue_as_another_model() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    train(recipe(&["train.steps=10"]), Some(&out), options()).expect("trained");
    let before = fs::read_to_string(out.join("recipe.toml")).expect("the recipe");
    let tokenizer = "data.tokenizer={kind=\"bpe\",vocab_size=300}";
    for other in ["model.n_head=1", "model.activation_function=relu", tokenizer] {
        let error =
            resume(&out, None, &settings(&["train.steps=20", other]), options()).unwrap_err().to_string();
        assert!(error.contains("not what the run began with"), "{other}: {error}");
    }
    assert_eq!(fs::read_to_string(out.join("recipe.toml")).expect("the recipe"), before);
    resume(&out, None, &settings(&["train.steps=12", "model.resid_pdrop=0.2"]), options())
        .expect("continued");
}

#[test]
fn a_stop_during_a_sample_leaves_the_sample_to_the_resumed_run() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let of = |steps: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/gpt-tiny.toml");
        let extra = ["sample.every=5", "sample.length=2000", steps];
        Recipe::from_file(&path, &settings(&extra)).expect("a valid recipe")
    };
    train(of("train.steps=8"), Some(&whole), options()).expect("trained");
    let stopping = options();
    let (interrupt, metrics) = (stopping.interrupt.clone(), parts.join("metrics.jsonl"));
    let watcher = std::thread::spawn(move || {
        // The sample begins once the fifth step's line is written.
        let lines = || fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
        while lines() < 5 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        interrupt.raise();
    });
    let outcome = train(of("train.steps=8"), Some(&parts), stopping).expect("stopped");
    watcher.join().expect("the watcher ends");
    assert!(matches!(outcome, Outcome::Interrupted { .. }), "{outcome:?}");
    resume(&parts, None, &[], options()).expect("continued");
    let samples = |out: &Path| fs::read_to_string(out.join("samples.txt")).expect("samples");
    assert_eq!(samples(&parts), samples(&whole));
    assert_eq!(curve(&parts), curve(&whole));
}

#[test]
fn accumulated_gradients_continue_bit_for_bit() {
    twenty_is_ten_and_ten(&["train.batch_size=2", "train.grad_accumulation=3"]);
}

#[test]
fn sgd_with_momentum_continues_bit_for_bit() {
    twenty_is_ten_and_ten(&["optimizer.name=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.05"]);
}

#[test]
fn a_trained_vocabulary_is_taken_from_the_checkpoint() {
    twenty_is_ten_and_ten(&["data.tokenizer={kind='bpe', vocab_size=300}"]);
}

#[test]
fn checkpointing_and_the_loss_in_chunks_continue_bit_for_bit() {
    twenty_is_ten_and_ten(&["train.gradient_checkpointing=true", "train.loss_chunk=64"]);
}

#[test]
fn a_run_may_go_on_with_checkpointing_and_the_loss_in_chunks() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    train(recipe(&["train.steps=10"]), Some(&out), options()).expect("trained");
    let more = ["train.steps=12", "train.gradient_checkpointing=true", "train.loss_chunk=64"];
    resume(&out, None, &settings(&more), options()).expect("continued");
    let resolved = fs::read_to_string(out.join("recipe.toml")).expect("the recipe");
    assert!(resolved.contains("gradient_checkpointing = true") && resolved.contains("loss_chunk = 64"));
}

#[test]
fn damaged_token_caches_are_rebuilt_and_the_run_is_the_same() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    train(recipe(&["train.steps=12"]), Some(&whole), options()).expect("trained");
    train(recipe(&["train.steps=6"]), Some(&parts), options()).expect("trained");
    let files: Vec<PathBuf> =
        fs::read_dir(parts.join("tokens")).expect("listed").map(|e| e.expect("an entry").path()).collect();
    assert_eq!(files.len(), 2);
    for (file, keep) in files.iter().zip([100, 0]) {
        let bytes = fs::read(file).expect("read");
        fs::write(file, &bytes[..keep]).expect("written");
    }
    resume(&parts, None, &settings(&["train.steps=12"]), options()).expect("continued");
    let steps = |out: &Path| curve(out).into_iter().filter(|m| m.split == Split::Train).collect::<Vec<_>>();
    assert_eq!(steps(&parts), steps(&whole));
    let size = |file: &PathBuf| fs::metadata(file).expect("there").len();
    assert!(files.iter().all(|file| size(file) > 100_000), "they are whole again");
}

#[test]
fn a_raised_interrupt_saves_what_was_done() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    let options_now = options();
    options_now.interrupt.raise();
    let outcome = train(recipe(&["train.steps=20"]), Some(&out), options_now).expect("stopped");
    assert_eq!(outcome, Outcome::Interrupted { step: 1, folder: out.clone() });
    assert_eq!(curve(&out).len(), 1);
    assert!(!checkpoint(&out, 1, "model.safetensors").is_empty());
}

#[test]
fn another_seed_model_or_text_is_not_continued() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    train(recipe(&["train.steps=6"]), Some(&out), options()).expect("trained");
    let before = curve(&out);
    for (change, complaint) in [
        ("train.seed=7", "keep the seed"),
        ("model.n_layer=2", "not what the run began with"),
        ("data.train.range=[2010, 2018]", "the training text is another one now"),
        ("train.steps=5", "raise train.steps"),
    ] {
        let error = resume(&out, None, &settings(&["train.steps=8", change]), options()).expect_err(change);
        assert!(error.to_string().contains(complaint), "{change}: {error}");
    }
    assert_eq!(curve(&out), before, "a refusal changes nothing");
    resume(&out, None, &settings(&["train.steps=8"]), options()).expect("continued");
}
