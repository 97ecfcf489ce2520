//! `wgrad plan`, and `wgrad train --profile`.

// The other test binaries use the rest of it.
#[allow(dead_code)]
mod common;

use std::fs;
use std::process::Command;

use common::{output, recipe, succeed, train, wgrad};
use serde_json::Value;

/// `wgrad plan recipes/gpt-tiny.toml --device cpu ARGUMENTS`
fn plan(arguments: &[&str]) -> Command {
    let mut command = wgrad();
    command.arg("plan").arg(recipe("gpt-tiny.toml")).args(["--device", "cpu"]).args(arguments);
    command
}

#[test]
fn a_plan_is_made_without_the_text_and_adds_up() {
    let text = succeed(plan(&["--json", "--set", "data.root=/nowhere", "--memory", "100MiB"]));
    let plan: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!(plan["parameters"], 30_176);
    assert_eq!(plan["tokens_per_step"], 8 * 32);
    assert_eq!((&plan["fits"], &plan["available_bytes"]), (&true.into(), &(100 << 20).into()));
    let memory = plan["memory"].as_object().expect("bytes by kind");
    let bytes = |key: &str| memory[key].as_u64().expect(key);
    let sum: u64 = memory.keys().filter(|key| *key != "peak").map(|key| bytes(key)).sum();
    assert_eq!(sum, bytes("peak"));
    let largest = &plan["largest_batch"];
    assert!(largest["exact"] == true && largest["batch_size"].as_u64() > Some(8), "{largest}");
    let kernels: u64 = plan["kernels"].as_object().expect("by kind").values().filter_map(Value::as_u64).sum();
    assert_eq!(plan["dispatches"], kernels);
    assert!(plan["bytes_moved"].as_u64() >= plan["bytes_minimum"].as_u64());
}

#[test]
fn a_plan_for_people_names_what_matters() {
    let text = succeed(plan(&[]));
    for part in ["parameters", "30,176", "optimizer state", "activations", "largest tensor", "largest batch"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_step_that_does_not_fit_is_an_error_that_says_what_does() {
    let output = output(plan(&["--memory", "1MiB"]));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("1.0 MiB are available") && error.contains("--set train.batch_size="), "{error}");
    assert!(!output.stdout.is_empty(), "the plan is shown all the same");
}

/// Logits of 256 x 4096: 4 MiB.
const LARGE: [&str; 6] = [
    "--set",
    "data.tokenizer={kind='bpe', vocab_size=4096}",
    "--set",
    "model.n_layer=4",
    "--memory",
    "64MiB",
];

#[test]
fn a_plan_compares_the_settings_that_save_memory() {
    let text = succeed(plan(&LARGE));
    for start in [
        "with gradient_checkpointing: ",
        "with loss_chunk = 128: ",
        "with gradient_checkpointing, loss_chunk = 128: ",
    ] {
        let line =
            text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"));
        assert!(line.contains("MiB") && line.contains("work, largest batch "), "{line}");
    }
    let text = succeed(plan(&[&LARGE[..], &["--json"]].concat()));
    let plan: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!((&plan["gradient_checkpointing"], &plan["loss_chunk"]), (&false.into(), &0.into()));
    let others = plan["alternatives"].as_array().expect("a list");
    assert_eq!(others.len(), 3);
    let own = plan["memory"]["peak"].as_u64().expect("bytes");
    for other in others {
        assert!(other["peak_bytes"].as_u64().expect("bytes") < own, "{other}");
        let more = other["gradient_checkpointing"] == true;
        assert_eq!(other["work"].as_f64().expect("a number") > 1.0, more, "{other}");
        assert!(
            other["largest_batch"]["batch_size"].as_u64() >= plan["largest_batch"]["batch_size"].as_u64()
        );
    }
}

#[test]
fn where_memory_is_short_the_error_names_the_setting_that_fits_and_it_does() {
    // Between what the step needs as it is and what it needs in chunks.
    let json = |extra: &[&str]| -> Value {
        let output = output(plan(&[&LARGE[..], &["--json"], extra].concat()));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let peak = |plan: &Value| plan["memory"]["peak"].as_u64().expect("bytes");
    let (plain, chunks) = (json(&[]), json(&["--set", "train.loss_chunk=128"]));
    let memory = ((peak(&plain) + peak(&chunks)) / 2).to_string();
    let output = output(plan(&[&LARGE[..4], &["--memory", &memory]].concat()));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("`--set train.loss_chunk=128` fits, with"), "{error}");
    assert!(error.contains("the same work") && error.contains("train.batch_size="), "{error}");
    succeed(plan(&[&LARGE[..4], &["--memory", &memory, "--set", "train.loss_chunk=128"]].concat()));
}

#[test]
fn a_model_that_no_batch_makes_fit_is_told_without_a_word_of_the_batch() {
    let output = output(plan(&["--memory", "200KiB"]));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("alone take 524") && error.ends_with("choose a smaller model\n"), "{error}");
    let output = self::output(plan(&["--set", "model.n_layer=40000000"]));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("choose a smaller model") && !error.contains("batch"), "{error}");
}

#[test]
fn a_wrong_recipe_is_refused_before_a_device_is_opened() {
    let mut command = wgrad();
    command.arg("plan").arg(recipe("gpt-tiny.toml")).args(["--set", "model.n_layr=2", "--device", "abacus"]);
    let output = output(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("did you mean `n_layer`?"), "{error}");
}

#[test]
fn a_profiled_run_prints_its_kernels_and_leaves_a_trace() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    let mut command = train(&out, &["train.steps=12", "sample.every=0", "train.validation_windows=4"]);
    command.args(["--profile", "2"]);
    let output = output(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert!(error.contains("mean of 2") && error.contains("matmul") && error.contains("GFLOP/s"), "{error}");

    let text = fs::read_to_string(out.join("trace.json")).expect("a trace");
    let trace: Value = serde_json::from_str(&text).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    let complete: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
    for event in &complete {
        for key in ["name", "cat"] {
            assert!(event[key].as_str().is_some_and(|text| !text.is_empty()), "{event}");
        }
        for key in ["ts", "dur", "pid", "tid"] {
            assert!(event[key].as_f64().is_some_and(|number| number >= 0.0), "{event}");
        }
    }
    // Kernels say what they worked on, and lie within their step.
    let span = |e: &Value| {
        let start = e["ts"].as_f64().expect("a time");
        (start, start + e["dur"].as_f64().expect("a duration"))
    };
    let kernels: Vec<&&Value> = complete.iter().filter(|e| e["args"]["kernel"].is_string()).collect();
    assert!(kernels.iter().all(|e| e["args"]["shape"].is_string() && e["args"]["bytes"].is_u64()));
    assert!(kernels.iter().any(|e| e["args"]["flops"].as_u64() > Some(0)));
    let steps: Vec<(f64, f64)> =
        complete.iter().filter(|e| e["name"] == "step 0" || e["name"] == "wait").map(|e| span(e)).collect();
    let (begin, end) =
        steps.iter().fold((f64::MAX, 0.0_f64), |(b, e), &(start, stop)| (b.min(start), e.max(stop)));
    assert!(kernels.iter().all(|e| span(e).0 >= begin && span(e).1 <= end + 1.0));
}
