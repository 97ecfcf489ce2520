//! Image classifiers, from IDX files to the accuracy that `wgrad evaluate` prints.

// The other test binaries use the rest of it.
#[allow(dead_code)]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{curve, output, resume, succeed, weights, wgrad};
use serde_json::Value;

const RECIPE: &str = r#"
[task]
kind = "image-classification"

[model]
type = "cnn"
channels = [4, 6]
classifier_dropout = 0.1

[data]
path = "images"
image_size = [8, 8]
num_labels = 3
labels = ["rows", "columns", "squares"]
random_crop = 1
horizontal_flip = true

[optimizer]
name = "adamw"
lr = 1e-2

[train]
steps = 40
batch_size = 16
eval_every = 20
checkpoint_every = 10
"#;

fn idx(shape: &[usize], bytes: &[u8]) -> Vec<u8> {
    let extents = shape.iter().flat_map(|&extent| (extent as u32).to_be_bytes());
    [0, 0, 8, shape.len() as u8].into_iter().chain(extents).chain(bytes.iter().copied()).collect()
}

/// Noisy stripes along rows, along columns, or both: three classes in turn.
fn drawn(count: usize, seed: u32) -> (Vec<u8>, Vec<u8>) {
    let mut random = seed;
    let mut pixels = Vec::new();
    for n in 0..count {
        for (y, x) in (0..8).flat_map(|y| (0..8).map(move |x| (y, x))) {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (row, column) = ((y + n / 3) % 4 < 2, (x + n / 3) % 4 < 2);
            let lit = [row, column, row && column][n % 3];
            pixels.push(if lit { 160 } else { 40 } + (random >> 26) as u8);
        }
    }
    (pixels, (0..count).map(|n| (n % 3) as u8).collect())
}

/// A folder with the recipe and its images.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("stripes.toml"), RECIPE).expect("written");
    fs::create_dir(dir.path().join("images")).expect("made");
    for (split, count, seed) in [("train", 90, 1), ("t10k", 33, 2)] {
        let (pixels, labels) = drawn(count, seed);
        let file = |what: &str| dir.path().join(format!("images/{split}-{what}-ubyte"));
        fs::write(file("images-idx3"), idx(&[count, 8, 8], &pixels)).expect("written");
        fs::write(file("labels-idx1"), idx(&[count], &labels)).expect("written");
    }
    dir
}

fn train(dir: &Path, out: &str, settings: &[&str]) -> (Command, PathBuf) {
    let out = dir.join(out);
    let mut command = wgrad();
    command.arg("train").arg(dir.join("stripes.toml")).args(["--device", "cpu", "--out"]).arg(&out);
    for setting in settings {
        command.args(["--set", setting]);
    }
    (command, out)
}

fn fail(command: Command) -> String {
    let output = output(command);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    error
}

#[test]
fn a_classifier_learns_says_how_well_and_is_measured_again() {
    let dir = folder();
    let (command, out) = train(dir.path(), "run", &[]);
    let text = succeed(command);
    let lines = curve(&out);
    let last = lines.last().expect("a line");
    assert_eq!((&last["split"], &last["step"]), (&"validation".into(), &40.into()));
    let number = |key: &str| last[key].as_f64().unwrap_or_else(|| panic!("{key}: {last}"));
    let (loss, accuracy) = (number("loss"), number("accuracy"));
    assert!(accuracy > 0.9, "{lines:?}");
    let done =
        format!("done: validation loss {loss:.4}, accuracy {accuracy:.4}, run folder {}", out.display());
    assert_eq!(text.lines().last(), Some(&*done));
    assert!(lines.iter().all(|line| line["split"] == "validation" || line.get("accuracy").is_none()));
    let raw = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    assert!(raw.contains("\"examples_per_s\":") && !raw.contains("tokens_per_s"), "{raw}");
    assert!(fs::read_to_string(out.join("loss.svg")).expect("a picture").contains("nats per image"));
    assert!(!out.join("samples.txt").exists());
    let config =
        fs::read_to_string(out.join("checkpoints/step-000040/config.json")).expect("a configuration");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!((&config["id2label"]["2"], &config["num_labels"]), (&"squares".into(), &3.into()));
    let resolved = fs::read_to_string(out.join("recipe.toml")).expect("the recipe");
    assert!(!resolved.contains("context") && !resolved.contains("[sample]"), "{resolved}");

    for checkpoint in ["", "checkpoints/step-000040"] {
        let mut evaluate = wgrad();
        evaluate.args(["evaluate", "--device", "cpu", "--checkpoint"]).arg(out.join(checkpoint));
        let text = succeed(evaluate);
        for line in [
            "images           33\n".to_owned(),
            format!("validation loss  {loss:.4} nats per image\n"),
            format!("accuracy         {accuracy:.4}\n"),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}

#[test]
fn a_run_that_is_continued_is_the_run_that_was_not_stopped() {
    let dir = folder();
    for (name, extra) in [
        ("plain", &[][..]),
        (
            "averaged",
            &["average={ kind = 'ema', decay = 0.9 }", "train.grad_accumulation=2", "train.batch_size=8"],
        ),
        ("bf16", &["train.precision=bf16", "model.hidden_size=8", "task.label_smoothing=0.1"]),
    ] {
        let whole = format!("{name}-whole");
        let parts = format!("{name}-parts");
        let (command, whole) = train(dir.path(), &whole, extra);
        succeed(command);
        let (command, parts) = train(dir.path(), &parts, &[extra, &["train.steps=20"]].concat());
        succeed(command);
        let mut command = resume(&parts);
        command.args(["--set", "train.steps=40"]);
        succeed(command);
        assert_eq!(curve(&parts), curve(&whole), "{name}");
        assert!(weights(&parts, 40) == weights(&whole, 40), "{name}: weights or statistics differ");
        assert!(weights(&parts, 20) != weights(&whole, 40), "{name}: nothing has changed");
    }
}

#[test]
fn a_run_does_not_continue_on_other_images_or_as_another_model() {
    let dir = folder();
    let (command, out) = train(dir.path(), "run", &["train.steps=10"]);
    succeed(command);
    for (settings, section) in [
        (&["model.channels=[4, 8]"][..], "[model]"),
        (&["data.num_labels=4", "data.labels=[]"], "the shape of [data]"),
        (&["data.mean=[0.5]"], "the normalisation of [data]"),
    ] {
        let mut command = resume(&out);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let error = fail(command);
        assert!(error.contains(&format!("{section} is not what the run began with")), "{error}");
    }
    let (pixels, labels) = drawn(90, 3);
    let file = |what: &str| dir.path().join(format!("images/train-{what}-ubyte"));
    fs::write(file("images-idx3"), idx(&[90, 8, 8], &pixels)).expect("written");
    fs::write(file("labels-idx1"), idx(&[90], &labels)).expect("written");
    let mut command = resume(&out);
    command.args(["--set", "train.steps=20"]);
    let error = fail(command);
    assert!(
        error.contains("the training set of images is another one now: 90 images with checksum"),
        "{error}"
    );
    let mut command = resume(&out);
    command.args([
        "--set",
        "train.steps=20",
        "--set",
        "model.classifier_dropout=0",
        "--set",
        "data.random_crop=0",
    ]);
    let (pixels, labels) = drawn(90, 1);
    fs::write(file("images-idx3"), idx(&[90, 8, 8], &pixels)).expect("written");
    fs::write(file("labels-idx1"), idx(&[90], &labels)).expect("written");
    succeed(command);
}

#[test]
fn files_that_are_not_as_they_should_be_are_refused_by_name() {
    let dir = folder();
    let images = dir.path().join("images/train-images-idx3-ubyte");
    let labels = dir.path().join("images/train-labels-idx1-ubyte");
    let (good_images, good_labels) = (fs::read(&images).expect("read"), fs::read(&labels).expect("read"));
    let mut other_label = good_labels.clone();
    other_label[20] = 9;
    let mut type_of_floats = good_images.clone();
    type_of_floats[2] = 0x0d;
    for (number, (pixels, classes, parts)) in [
        (
            &good_images[..3000],
            &good_labels[..],
            &["train-images-idx3-ubyte", "found 2984: the file ends there"][..],
        ),
        (&type_of_floats, &good_labels, &["train-images-idx3-ubyte", "unsigned bytes", "type 0x0d"]),
        (&[0x1f, 0x8b, 1, 2, 3], &good_labels, &["train-images-idx3-ubyte"]),
        (&[], &good_labels, &["train-images-idx3-ubyte", "expected"]),
        (&good_images, &idx(&[89], &[0; 89]), &["train-labels-idx1-ubyte", "90 labels"]),
        (&good_images, &other_label, &["data.num_labels say labels below 3, found a label 9"]),
        (
            &idx(&[90, 4, 16], &good_images[16..]),
            &good_labels,
            &["data.image_size", "1 x 8 x 8", "1 x 4 x 16"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(&images, pixels).expect("written");
        fs::write(&labels, classes).expect("written");
        let (command, _) = train(dir.path(), &format!("run-{number}"), &[]);
        let error = fail(command);
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let (command, _) = train(dir.path(), "nowhere", &["data.path=/nowhere"]);
    let error = fail(command);
    for part in ["`/nowhere`", "apt-get install dataset-fashion-mnist", "data.path"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn keys_of_other_tasks_are_refused() {
    let dir = folder();
    for (setting, message) in [
        (
            "train.context=8",
            "`train.context` must be absent: tasks of the kind image-classification do not have it",
        ),
        ("train.loss_chunk=8", "`train.loss_chunk` must be absent"),
        ("sample.every=3", "`sample` must be absent: tasks of the kind image-classification write no text"),
        ("data.pth=x", "unknown key `data.pth`; did you mean `path`?"),
        ("model.n_layer=2", "unknown key `model.n_layer`"),
        ("model.channels=[4, 4, 4, 4]", "4 blocks halve images of 8 x 8 away"),
        ("data.labels=['one']", "`data.labels` must be a name for each of data.num_labels, 3, found 1 names"),
        ("task.label_smoothing=1", "`task.label_smoothing` must be in 0..1"),
        ("data.random_crop=8", "`data.random_crop` must be smaller than the images"),
    ] {
        let (command, out) = train(dir.path(), "run", &[setting]);
        let error = fail(command);
        assert!(error.contains(message), "{setting}: {error}");
        assert!(!out.exists(), "nothing is made for a recipe that is wrong");
    }
}

#[test]
fn a_step_is_planned_without_the_images() {
    let dir = folder();
    let plan = |extra: &[&str]| {
        let mut command = wgrad();
        command
            .arg("plan")
            .arg(dir.path().join("stripes.toml"))
            .args(["--device", "cpu", "--memory", "32MiB"])
            .args(extra);
        succeed(command)
    };
    let text = plan(&["--json", "--set", "data.path=/nowhere"]);
    let json: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!(json["parameters"], 9 * 4 + 8 + 9 * 4 * 6 + 12 + 6 * 4 * 3 + 3);
    assert_eq!((&json["examples_per_step"], json.get("tokens_per_step")), (&16.into(), None));
    assert_eq!(json["alternatives"], Value::Array(Vec::new()));
    // Bytes of pixels and class numbers.
    assert!(json["memory"]["batch"].as_u64() >= Some(16 * 64 + 16 * 4), "{json}");
    let text = plan(&[]);
    assert!(text.contains("images a step     16 (batch of 16)"), "{text}");
}
