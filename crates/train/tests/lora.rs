//! Adapters, frozen parameters and learning rates by name: what is trained, what stays, and what is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_data::Tokenizer;
use wgrad_models::{AutoModelForCausalLM, CausalLanguageModel, InitScheme, LlamaConfig, LlamaForCausalLM};
use wgrad_nn::{Context, Init, safetensors};
use wgrad_tensor::{DeviceHandle, Tensor};
use wgrad_train::{
    Interrupt, Metric, Pretrained, Recipe, RunOptions, SampleOptions, Split, evaluate, resume, train,
};

const ADAPTED: &str = r#"
[model]
pretrained = "base"
[data]
train = { files = ["text.txt"] }
validation = { files = ["text.txt"] }
[lora]
r = 4
lora_alpha = 8
lora_dropout = 0.1
target_modules = ["q_proj", "v_proj", "*mlp.*"]
[optimizer]
name = "adamw"
lr = 2e-2
[train]
steps = 30
batch_size = 4
context = 16
eval_every = 10
checkpoint_every = 15
validation_windows = 8
[sample]
every = 0
length = 4
"#;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

fn options() -> RunOptions {
    RunOptions { device: device(), interrupt: Interrupt::default(), profile: None }
}

/// A tiny LLaMA that has learnt nothing, and a text.
fn setting() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let base = dir.path().join("base");
    let config = LlamaConfig {
        vocab_size: 256,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        max_position_embeddings: 64,
        initializer_range: 0.3,
        tie_word_embeddings: true,
        ..LlamaConfig::of_type("llama")
    };
    let model = LlamaForCausalLM::new(&config, &Init::new(&device(), 5), InitScheme::Plain).expect("a model");
    model.save_pretrained(&base).expect("saved");
    Tokenizer::Bytes.save(&base).expect("saved");
    fs::write(dir.path().join("text.txt"), "the cat sat on the mat. ".repeat(40)).expect("written");
    (dir, base)
}

fn recipe(folder: &Path, settings: &[&str]) -> Recipe {
    fs::write(folder.join("r.toml"), ADAPTED).expect("written");
    let settings: Vec<_> = settings.iter().map(|text| text.parse().expect("key=value")).collect();
    Recipe::from_file(&folder.join("r.toml"), &settings).unwrap_or_else(|error| panic!("{error}"))
}

fn validation(out: &Path) -> Vec<f64> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let lines = text.lines().map(|line| serde_json::from_str::<Metric>(line).expect("a metric"));
    lines.filter(|metric| metric.split == Split::Validation).map(|metric| metric.loss).collect()
}

fn logits(model: &dyn CausalLanguageModel) -> Vec<f32> {
    let ids = Tensor::from_vec(b"the cat".map(i32::from).to_vec(), [1, 7], &model.device());
    model.forward(&ids, None, &Context::eval()).to_vec().expect("logits")
}

#[test]
fn adapters_alone_are_trained_kept_continued_and_exported() {
    let (dir, base) = setting();
    let (whole, parts, out) = (dir.path().join("whole"), dir.path().join("parts"), dir.path().join("export"));
    train(recipe(dir.path(), &[]), Some(&whole), options()).expect("trained");
    let losses = validation(&whole);
    assert!(losses[2] < 0.95 * losses[0], "{losses:?}");

    let folder = whole.join("checkpoints/step-000030");
    assert!(folder.join("adapter_config.json").is_file() && !folder.join("model.safetensors").exists());
    let state = safetensors::load(&folder.join("optimizer.safetensors"), &device()).expect("a state");
    assert!(!state.is_empty() && state.iter().all(|(name, _)| name.contains(".lora_")), "{state:?}");

    train(recipe(dir.path(), &["train.steps=15"]), Some(&parts), options()).expect("trained");
    resume(&parts, None, &["train.steps=30".parse().expect("key=value")], options()).expect("continued");
    assert_eq!(validation(&parts).last(), losses.last());
    let refused = resume(&parts, None, &["lora.r=2".parse().expect("key=value")], options());
    assert!(refused.expect_err("other adapters").to_string().contains("[lora]"));

    let found = evaluate(&recipe(dir.path(), &[]), &whole, &device(), |warning| panic!("{warning}"));
    assert!((found.expect("measured").measured.loss - losses[2]).abs() < 1e-6);
    let adapted = Pretrained::load(&whole, &device(), |warning| panic!("{warning}")).expect("loaded");
    let expected = logits(adapted.model());
    let mut written = String::new();
    let options = SampleOptions { tokens: 3, ..SampleOptions::default() };
    let each = |piece: &str| {
        written.push_str(piece);
        true
    };
    adapted.generate("the", &options, each).expect("written");
    adapted.export(&out).expect("exported");
    let merged = AutoModelForCausalLM::from_pretrained(&out, &device()).expect("a whole model");
    for (a, b) in logits(&*merged).iter().zip(&expected) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
    let before = AutoModelForCausalLM::from_pretrained(&base, &device()).expect("the base");
    assert!(logits(&*before).iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-3));
}

#[test]
fn names_decide_what_is_frozen_and_how_fast_the_rest_learns() {
    let (dir, base) = setting();
    let text = ADAPTED
        .replace("[lora]\nr = 4\nlora_alpha = 8\nlora_dropout = 0.1\n", "")
        .replace("target_modules = [\"q_proj\", \"v_proj\", \"*mlp.*\"]\n", "");
    fs::write(dir.path().join("full.toml"), text).expect("written");
    let open = |settings: &[&str]| {
        let settings: Vec<_> = settings.iter().map(|text| text.parse().expect("key=value")).collect();
        Recipe::from_file(&dir.path().join("full.toml"), &settings)
    };
    let settings = [
        "train.steps=3",
        "train.freeze=['*']",
        "train.unfreeze=['*.mlp.*']",
        "optimizer.groups=[{ params = ['model.layers.0.*'], lr = 1e-6, weight_decay = 0.0 }]",
    ];
    let out = dir.path().join("run");
    train(open(&settings).expect("valid"), Some(&out), options()).expect("trained");
    let load =
        |folder: &Path| safetensors::load(&folder.join("model.safetensors"), &device()).expect("weights");
    let after = load(&out.join("checkpoints/step-000003"));
    for ((name, then), (_, now)) in load(&base).iter().zip(&after) {
        let (then, now) = (then.to_vec::<f32>().expect("values"), now.to_vec::<f32>().expect("values"));
        let moved = then.iter().zip(&now).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let (low, high) = match (name.contains(".mlp."), name.contains("layers.0")) {
            (false, _) => (0.0, 0.0),
            (true, true) => (1e-7, 1e-5),
            (true, false) => (1e-2, 1.0),
        };
        assert!((low..=high).contains(&moved), "{name} moved by {moved}");
    }
    for (setting, key) in [
        ("train.freeze=['nothing.*']", "train.freeze"),
        ("optimizer.groups=[{ params = ['nothing'], lr = 1e-3 }]", "optimizer.groups[0].params"),
    ] {
        let out = tempfile::tempdir().expect("a temporary folder");
        let error = train(open(&[setting]).expect("readable"), Some(out.path()), options());
        let error = error.expect_err("refused").to_string();
        assert!(error.contains(key) && error.contains("model.embed_tokens.weight"), "{error}");
    }
    for (setting, key) in [
        ("lora={r=0}", "lora.r"),
        ("lora={lora_dropout=1.0}", "lora.lora_dropout"),
        ("lora={rank=4}", "rank"),
        ("optimizer.groups=[{ params = [], lr = 1e-3 }]", "optimizer.groups[0].params"),
        ("model.n_layer=2", "model.pretrained"),
        ("train.context=0", "train.context"),
    ] {
        let error = open(&[setting]).expect_err("refused").to_string();
        assert!(error.contains(key), "{error}");
    }
    let error =
        train(open(&["train.context=65"]).expect("readable"), Some(&dir.path().join("long")), options());
    assert!(error.expect_err("too long").to_string().contains("train.context"));
}
