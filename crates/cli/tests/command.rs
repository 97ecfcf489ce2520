//! The command's subcommands, from arguments to files and exit codes.

mod common;

use std::fs;
use std::process::Command;

use common::{curve, output, recipe, resume, succeed, train, weights, wgrad};

const SHORT: [&str; 5] = [
    "train.steps=40",
    "train.eval_every=20",
    "train.checkpoint_every=10",
    "sample.every=20",
    "sample.length=20",
];

/// Standard error of a command that must fail with exit code 1.
fn fail(command: Command) -> String {
    let output = output(command);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("error: "), "{error}");
    error
}

#[test]
fn a_run_leaves_its_files_and_names_its_folder_in_the_last_line() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    let text = succeed(train(&out, &["sample.length=20"]));
    let last = text.lines().last().expect("a line");
    let rest = last.strip_prefix("done: validation loss ").expect(last);
    let (loss, folder) = rest.split_once(", run folder ").expect(last);
    assert_eq!(folder, out.display().to_string());
    for file in
        ["recipe.toml", "metrics.jsonl", "loss.svg", "samples.txt", "checkpoints/step-000200/config.json"]
    {
        assert!(out.join(file).is_file(), "{file}");
    }
    assert_eq!(fs::read_dir(out.join("checkpoints")).expect("listed").count(), 3, "the last three are kept");

    let lines = curve(&out);
    let losses = |split: &str| -> Vec<f64> {
        lines.iter().filter(|l| l["split"] == split).map(|l| l["loss"].as_f64().expect("a number")).collect()
    };
    let (training, validation) = (losses("train"), losses("validation"));
    assert_eq!((training.len(), validation.len()), (200, 4));
    // The first batch is predicted no better than by chance: ln 256.
    assert!((training[0] - 256f64.ln()).abs() < 0.1, "{}", training[0]);
    assert!(validation[3] < 2.9 && validation[3] < validation[0], "{validation:?}");
    assert_eq!(format!("{:.4}", validation[3]), loss);

    let mut evaluate = wgrad();
    evaluate.args(["evaluate", "--device", "cpu", "--checkpoint"]).arg(&out);
    let text = succeed(evaluate);
    assert!(text.contains(&format!("validation loss  {loss} nats per token")), "{text}");
    let bits = format!("bits per byte    {:.4}", validation[3] / 2f64.ln());
    assert!(text.contains(&bits), "{text} {bits}");

    let generate = |checkpoint: &str, temperature: &str| {
        let mut generate = wgrad();
        generate.args([
            "generate",
            "--device",
            "cpu",
            "--prompt",
            "We ",
            "--max-new-tokens",
            "40",
            "--checkpoint",
        ]);
        generate.arg(out.join(checkpoint)).args(["--temperature", temperature]);
        succeed(generate)
    };
    let text = generate("", "0");
    assert!(text.starts_with("We ") && text.len() > 40, "{text}");
    assert_eq!(text, generate("checkpoints/step-000200", "0"), "a run folder stands for its last checkpoint");
    assert_eq!(generate("", "0.8"), generate("", "0.8"), "the same seed writes the same text");

    let error = fail(train(&out, &[]));
    assert!(error.contains("expected an empty folder") && error.contains("--resume"), "{error}");
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_warning_and_the_run_is_the_same() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    succeed(train(&out, &SHORT));
    let (expected, expected_weights) = (curve(&out), weights(&out, 40));
    for file in ["checkpoints/step-000040/optimizer.safetensors", "checkpoints/step-000030/state.json"] {
        let mut bytes = fs::read(out.join(file)).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(out.join(file), bytes).expect("written");
    }
    let output = output(resume(&out));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert!(error.contains("warning") && error.contains("`optimizer.safetensors` is damaged"), "{error}");
    assert!(
        error.contains("`state.json` is damaged") && error.contains("continuing after step 20"),
        "{error}"
    );
    assert_eq!(curve(&out), expected);
    assert!(weights(&out, 40) == expected_weights);
}

#[test]
fn a_damaged_token_cache_is_rebuilt_with_a_notice() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    succeed(train(&out, &SHORT));
    let expected = curve(&out);
    let mut files = fs::read_dir(out.join("tokens")).expect("listed").flatten();
    let file = files.next().expect("a file").path();
    fs::write(&file, "not tokens").expect("written");
    fs::remove_dir_all(out.join("checkpoints/step-000040")).expect("removed");
    let output = output(resume(&out));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let notices: Vec<&str> = error.lines().filter(|line| line.contains("token cache")).collect();
    assert!(notices.len() == 1 && notices[0].contains("is damaged"), "{error}");
    assert!(notices[0].contains("the text is tokenised anew"), "{error}");
    assert_eq!(curve(&out), expected);
}

#[test]
fn a_run_folder_with_only_damaged_checkpoints_is_refused_by_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    succeed(train(&out, &["train.steps=2", "sample.every=0", "schedule.warmup_steps=0"]));
    fs::write(out.join("checkpoints/step-000002/model.safetensors"), "x").expect("written");
    let error = fail(resume(&out));
    assert!(error.contains("`model.safetensors` should have"), "{error}");
}

#[test]
fn mistakes_in_the_arguments_end_in_one_clear_error() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    let error = fail(train(&out, &["train.stepps=3"]));
    assert!(error.contains("did you mean `steps`?"), "{error}");
    assert!(!out.exists(), "nothing is made for a recipe that is wrong");
    let error = fail(resume(dir.path()));
    assert!(error.contains("not a run folder"), "{error}");
    let mut command = wgrad();
    command.args(["train"]).arg(recipe("gpt-tiny.toml")).args(["--device", "abacus"]);
    let error = fail(command);
    assert!(error.contains("no device `abacus`") && error.contains("cpu"), "{error}");
    let mut command = wgrad();
    command.args(["generate", "--device", "cpu", "--prompt", "x", "--checkpoint"]).arg(dir.path());
    let error = fail(command);
    assert!(error.contains("no checkpoint was found"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    succeed(train(&out, &["train.steps=10", "train.checkpoint_every=5", "sample.every=0"]));
    let mut command = resume(&out);
    command.args(["--set", "train.steps=30", "--set", "optimizer.lr=1e30", "--set", "schedule.min_lr=0"]);
    let error = fail(command);
    assert!(error.contains("the gradient norm") && error.contains("step 1"), "{error}");
    assert!(error.contains("transformer."), "the first bad tensor is named: {error}");
    assert!(error.contains("the checkpoint of step 10 is kept"), "{error}");
    let mut command = resume(&out);
    command.args(["--set", "optimizer.lr=1e-3", "--set", "train.steps=20", "--set", "schedule.min_lr=0"]);
    succeed(command);
}

#[test]
fn devices_are_listed_with_the_choice_of_auto() {
    let mut command = wgrad();
    command.arg("devices");
    let text = succeed(command);
    assert!(text.contains("cpu  ") && text.contains("`--device auto` picks"), "{text}");
}

/// A file-size limit gives the write error of a full disk at a chosen place.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_ends_in_an_error_and_keeps_the_last_checkpoint() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    succeed(train(
        &out,
        &[
            "train.steps=10",
            "train.checkpoint_every=5",
            "sample.every=0",
            "schedule.name=constant",
            "schedule.min_lr=0",
        ],
    ));
    let before = weights(&out, 10);
    let mut command = Command::new("sh");
    // Blocks of 512 bytes: too few for the weights, enough for the metrics.
    command.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh"]).arg(env!("CARGO_BIN_EXE_wgrad"));
    command.args(["train", "--device", "cpu", "--set", "train.steps=20", "--resume"]).arg(&out);
    let error = fail(command);
    assert!(error.contains("cannot write"), "{error}");
    assert!(weights(&out, 10) == before);
    let left: Vec<_> =
        fs::read_dir(out.join("checkpoints")).expect("listed").flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().starts_with("step-")), "{left:?}");
    let mut command = resume(&out);
    command.args(["--set", "train.steps=20"]);
    succeed(command);
}
