//! Runs the `wgrad` command on the tiny recipe and reads what it leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The command, with errors' backtraces on so that a panic shows.
pub(crate) fn wgrad() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgrad"));
    command.env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command
}

pub(crate) fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name)
}

/// `wgrad train recipes/gpt-tiny.toml --device cpu --out OUT --set ...`
pub(crate) fn train(out: &Path, settings: &[&str]) -> Command {
    let mut command = wgrad();
    command.arg("train").arg(recipe("gpt-tiny.toml")).args(["--device", "cpu", "--out"]).arg(out);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

/// `wgrad train --device cpu --resume OUT`
pub(crate) fn resume(out: &Path) -> Command {
    let mut command = wgrad();
    command.args(["train", "--device", "cpu", "--resume"]).arg(out);
    command
}

pub(crate) fn output(mut command: Command) -> Output {
    let output = command.output().expect("the command starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!error.contains("panicked"), "{error}");
    output
}

/// Standard output of a command that must succeed.
pub(crate) fn succeed(command: Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The lines of `metrics.jsonl` without the speeds, which no two runs share.
pub(crate) fn curve(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let object = line.as_object_mut().expect("an object");
        object.remove("tokens_per_s").or_else(|| object.remove("examples_per_s")).expect("a speed");
        line
    };
    text.lines().map(line).collect()
}

/// The bytes of the weights in a run's checkpoint.
pub(crate) fn weights(out: &Path, step: u64) -> Vec<u8> {
    fs::read(out.join(format!("checkpoints/step-{step:06}/model.safetensors"))).expect("weights")
}
