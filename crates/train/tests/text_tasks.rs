//! Tasks of BERTs on text: they learn, go on bit for bit, and are measured as the folder that they leave.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_data::Tokenizer;
use wgrad_tensor::DeviceHandle;
use wgrad_train::{Interrupt, Metric, Outcome, Recipe, RunOptions, Split, evaluate, resume, train};

const CLASSIFIER: &str = r#"
[task]
kind = "sequence-classification"
[model]
num_hidden_layers = 1
num_attention_heads = 2
hidden_size = 16
max_position_embeddings = 24
[data]
train = { files = ["train.tsv"], columns = ["text", "label"] }
validation = { files = ["validation.tsv"], columns = ["text", "label"] }
tokenizer = { kind = "wordpiece", vocab_size = 120 }
max_length = 16
pad_to_multiple_of = 4
[optimizer]
name = "adamw"
lr = 5e-3
[train]
steps = 60
batch_size = 8
eval_every = 20
checkpoint_every = 20
"#;

const MASKED: &str = r#"
[task]
kind = "masked-lm"
masking = { whole_words = true }
[model]
num_hidden_layers = 1
num_attention_heads = 2
hidden_size = 16
[data]
train = { files = ["train.tsv"], column = "text", clean = { duplicates = true } }
validation = { files = ["validation.tsv"], column = "text" }
tokenizer = { kind = "wordpiece", vocab_size = 120 }
[optimizer]
name = "adamw"
lr = 5e-3
[train]
steps = 60
batch_size = 4
context = 16
eval_every = 20
checkpoint_every = 20
validation_windows = 6
"#;

fn options() -> RunOptions {
    let device: DeviceHandle = Arc::new(CpuDevice::new());
    RunOptions { device, interrupt: Interrupt::default(), profile: None }
}

/// Sentences that say what they are, in many lengths.
fn data(folder: &Path) {
    let sentence = |i: usize| {
        let good = i.is_multiple_of(2);
        let word = if good { ["good", "great", "lovely"] } else { ["bad", "awful", "dreadful"] }[i / 2 % 3];
        let rest = ["the film", "the food was cold", "we came here", "again and again and again"][i / 3 % 4];
        format!("{rest} {word} {i}\t{}\n", if good { "positive" } else { "negative" })
    };
    for (name, range) in [("train", 0..80), ("validation", 80..101)] {
        let rows: String = range.map(sentence).collect();
        fs::write(folder.join(format!("{name}.tsv")), format!("text\tlabel\n{rows}")).expect("written");
    }
}

fn recipe(folder: &Path, text: &str, settings: &[&str]) -> Recipe {
    let path = folder.join("task.toml");
    fs::write(&path, text).expect("written");
    let settings: Vec<_> = settings.iter().map(|text| text.parse().expect("key=value")).collect();
    Recipe::from_file(&path, &settings).unwrap_or_else(|error| panic!("{error}"))
}

fn validation(out: &Path) -> Vec<Metric> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let lines = text.lines().map(|line| serde_json::from_str::<Metric>(line).expect("a metric"));
    lines.filter(|metric| metric.split == Split::Validation).collect()
}

#[test]
fn a_classifier_learns_goes_on_and_is_measured_from_its_folder() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    data(dir.path());
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let full = recipe(dir.path(), CLASSIFIER, &[]);
    let outcome = train(full.clone(), Some(&whole), options()).expect("trained");
    assert!(matches!(outcome, Outcome::Finished { .. }));
    let lines = validation(&whole);
    let last = lines.last().expect("a validation");
    assert!(last.metrics["accuracy"] > 0.95 && last.loss < lines[0].loss, "{lines:?}");
    assert!(fs::read_to_string(whole.join("confusion.svg")).expect("a picture").contains("negative"));

    let options_of = options();
    let found = evaluate(&full, &whole, &options_of.device, |warning| panic!("{warning}")).expect("measured");
    assert_eq!((found.measured.units, found.measured.metrics.len()), (21, 3));
    assert!((found.measured.loss - last.loss).abs() < 1e-6);

    train(recipe(dir.path(), CLASSIFIER, &["train.steps=40"]), Some(&parts), options()).expect("trained");
    resume(&parts, None, &["train.steps=60".parse().expect("key=value")], options()).expect("continued");
    assert_eq!(validation(&parts).last().expect("a validation").loss, last.loss);
}

/// Sentences in which every word follows from its neighbours.
fn counting(folder: &Path) {
    let words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    let sentence = |i: usize| {
        let words: Vec<&str> = words.iter().copied().cycle().skip(i % 9).take(9 + i / 9).collect();
        format!("{}\tcount\n", words.join(" "))
    };
    for (name, range) in [("train", 0..80), ("validation", 80..90)] {
        let rows: String = range.map(sentence).collect();
        fs::write(folder.join(format!("{name}.tsv")), format!("text\tlabel\n{rows}")).expect("written");
    }
}

#[test]
fn a_masked_language_model_learns_and_starts_a_classifier() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    counting(dir.path());
    let out = dir.path().join("masked");
    train(recipe(dir.path(), MASKED, &[]), Some(&out), options()).expect("trained");
    let lines = validation(&out);
    assert!(lines.last().expect("a validation").loss < 0.9 * lines[0].loss, "{lines:?}");
    let report = fs::read_to_string(out.join("tokens/cleaning.json")).expect("a report");
    assert!(report.contains("\"texts\": 80"), "{report}");

    let folder = out.join("checkpoints/step-000060");
    data(dir.path());
    assert_eq!(Tokenizer::load(&folder).expect("a tokenizer").special_tokens().mask, Some(4));
    let text = CLASSIFIER.replace(
        "num_hidden_layers = 1\nnum_attention_heads = 2\nhidden_size = 16\nmax_position_embeddings = 24",
        &format!("pretrained = '{}'", folder.display()),
    );
    let text = text.replace("tokenizer = { kind = \"wordpiece\", vocab_size = 120 }\n", "");
    let tuned = dir.path().join("tuned");
    train(recipe(dir.path(), &text, &["train.steps=20"]), Some(&tuned), options()).expect("tuned");
    assert_eq!(validation(&tuned).len(), 1);
}

/// What is said of a recipe that cannot be trained.
fn refusal(folder: &Path, text: &str, settings: &[&str]) -> String {
    let path = folder.join("task.toml");
    fs::write(&path, text).expect("written");
    let settings: Vec<_> = settings.iter().map(|text| text.parse().expect("key=value")).collect();
    let read = Recipe::from_file(&path, &settings).map_err(|error| error.to_string());
    let trained = read.and_then(|recipe| {
        let out = tempfile::tempdir().expect("a temporary folder");
        train(recipe, Some(out.path()), options()).map_err(|error| error.to_string())
    });
    trained.expect_err("refused")
}

#[test]
fn what_does_not_fit_is_refused_before_training() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    data(dir.path());
    let error = |text: &str, settings: &[&str]| refusal(dir.path(), text, settings);
    assert!(error(CLASSIFIER, &["train.context=8"]).contains("train.context"));
    assert!(error(CLASSIFIER, &["data.labels=['positive']"]).contains("line 3"));
    let told = error(CLASSIFIER, &["data.max_length=2"]);
    assert!(told.contains("max_length"), "{told}");
    assert!(error(MASKED, &["data.tokenizer={kind='bytes'}"]).contains("[MASK]"));
    assert!(error(MASKED, &["task.masking.probability=2"]).contains("probability"));
    assert!(error(MASKED, &["train.context=600"]).contains("at most"));
}

const TRANSLATOR: &str = r#"
[task]
kind = "translation"
num_beams = 2
translated = 8
[model]
d_model = 32
encoder_layers = 1
decoder_layers = 1
encoder_attention_heads = 2
decoder_attention_heads = 2
max_position_embeddings = 32
dropout = 0.0
[data]
train = { files = ["pairs.tsv"], columns = ["en", "es"] }
validation = { files = ["pairs.tsv"], columns = ["en", "es"] }
tokenizer = { kind = "unigram", vocab_size = 80 }
max_length = 32
pad_to_multiple_of = 8
[optimizer]
name = "adamw"
lr = 4e-3
[train]
steps = 300
batch_size = 8
eval_every = 150
checkpoint_every = 150
"#;

#[test]
fn a_translator_learns_goes_on_and_is_scored_from_its_folder() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (english, spanish) = (["one", "two", "three", "four"], ["uno", "dos", "tres", "cuatro"]);
    let pair = |i: usize| {
        let all = |words: [&str; 4]| {
            [0, 1, 4, 6].map(|shift: usize| words[((i >> shift.min(4)) % 4) ^ ((i >> 2) % 4)]).join(" ")
        };
        format!("{}\t{}\n", all(english), all(spanish))
    };
    let rows: String = (0..48).map(pair).collect();
    fs::write(dir.path().join("pairs.tsv"), format!("en\tes\n{rows}")).expect("written");
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let full = recipe(dir.path(), TRANSLATOR, &[]);
    train(full.clone(), Some(&whole), options()).expect("trained");
    let lines = validation(&whole);
    let last = lines.last().expect("a validation");
    assert!(last.loss < 0.5 && last.metrics["bleu"] > 80.0 && last.metrics["copy_bleu"] < 10.0, "{lines:?}");
    let found = evaluate(&full, &whole, &options().device, |warning| panic!("{warning}")).expect("measured");
    assert!((found.measured.loss - last.loss).abs() < 1e-6);
    assert_eq!(found.measured.metrics[0].1, last.metrics["bleu"]);
    train(recipe(dir.path(), TRANSLATOR, &["train.steps=150"]), Some(&parts), options()).expect("trained");
    resume(&parts, None, &["train.steps=300".parse().expect("key=value")], options()).expect("continued");
    assert_eq!(validation(&parts).last().expect("a validation").loss, last.loss);

    fs::write(dir.path().join("pairs.tsv"), "en\tes\none\tuno\ntwo\t\n").expect("written");
    for (settings, part) in [
        (&[][..], "line 3"),
        (&["data.train.columns=['en', 'fr']"], "fr"),
        (&["data.validation.columns=['en']"], "data.validation.columns"),
        (&["data.max_length=33"], "data.max_length"),
        (&["data.tokenizer={kind='bytes'}"], "data.tokenizer"),
        (&["model.encoder_attention_heads=3"], "encoder_attention_heads"),
    ] {
        let told = refusal(dir.path(), TRANSLATOR, settings);
        assert!(told.contains(part), "{part}: {told}");
    }
}
