//! Low-rank adapters (Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021): beside a frozen [`Linear`] a product of two
//! thin matrices is trained. Files are laid out as Hugging Face's PEFT lays them out.

use std::{
    fs,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wgrad_tensor::{RandomKey, Tensor, eval};

use crate::{
    Context, Init, Initializer, Linear, Module, NnError, Param, Visitor,
    files::io,
    functional::dropout_by,
    name_matches,
    safetensors::{load_into, load_weights, save, write_atomically},
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of a model.
const PREFIX: &str = "base_model.model.";

/// What is adapted and how; keys of `adapter_config.json`. Keys that do not matter here are kept in `other` and written back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// `LORA`.
    pub peft_type: String,
    /// The rank of the products.
    pub r: usize,
    /// Products are multiplied by this over the rank.
    pub lora_alpha: f64,
    /// Whether it is the root of the rank instead.
    pub use_rslora: bool,
    /// The last names of the layers to adapt (`q_proj`), or more of their paths. A pattern with `*`, which stands for any characters,
    /// means whole paths; PEFT does not know it: see [`LoraConfig::expanded`].
    pub target_modules: Vec<String>,
    /// `none`; others are not supported.
    pub bias: String,
    /// In training, with what probability an element of an adapter's input is dropped: see [`draw_lora_dropout`].
    pub lora_dropout: f64,
    /// The other keys.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for LoraConfig {
    /// Rank 8 with a factor of 1, for the queries and values of attention.
    fn default() -> Self {
        LoraConfig {
            peft_type: "LORA".into(),
            r: 8,
            lora_alpha: 8.0,
            use_rslora: false,
            target_modules: vec!["q_proj".into(), "v_proj".into()],
            bias: "none".into(),
            lora_dropout: 0.0,
            other: Map::from_iter([
                ("task_type".to_owned(), json!("CAUSAL_LM")),
                ("base_model_name_or_path".to_owned(), Value::Null),
                ("fan_in_fan_out".to_owned(), json!(false)),
                ("inference_mode".to_owned(), json!(true)),
                ("modules_to_save".to_owned(), Value::Null),
            ]),
        }
    }
}

impl LoraConfig {
    /// What products are multiplied by.
    pub fn scale(&self) -> f64 {
        let r = self.r as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }

    fn check(&self) -> Result<(), NnError> {
        let message = if self.peft_type != "LORA" {
            format!("`peft_type` is `{}`, expected `LORA`", self.peft_type)
        } else if self.r == 0 {
            "the rank `r` is 0, expected 1 or more".to_owned()
        } else if !self.lora_alpha.is_finite() {
            format!("`lora_alpha` is {}", self.lora_alpha)
        } else if !(0.0..1.0).contains(&self.lora_dropout) {
            format!("`lora_dropout` is {}, expected a probability in 0..1", self.lora_dropout)
        } else if self.bias != "none" {
            format!("`bias` is `{}`, which is not supported; set it to `none`", self.bias)
        } else {
            return Ok(());
        };
        Err(NnError::Invalid { op: "lora", message })
    }

    fn wants(&self, path: &str) -> bool {
        let ends = |target: &str| {
            path.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let named = |target: &String| match target.contains('*') {
            true => name_matches(target, path),
            false => ends(target),
        };
        self.target_modules.iter().any(named)
    }

    /// The same with the paths in `module` that patterns mean instead of them, so that PEFT understands it.
    #[must_use]
    pub fn expanded(mut self, module: &(impl Module + ?Sized)) -> Self {
        if self.target_modules.iter().any(|target| target.contains('*')) {
            let paths: Vec<String> =
                linears(module).into_iter().map(|(path, _)| path).filter(|path| self.wants(path)).collect();
            if !paths.is_empty() {
                self.target_modules = paths;
            }
        }
        self
    }
}

/// The two matrices beside a [`Linear`], `y += scale (dropout(x) Aᵀ) Bᵀ`.
#[derive(Clone, Debug)]
pub(crate) struct Lora {
    /// `[r, in]`
    pub(crate) a: Param,
    /// `[out, r]`, zeros at first.
    pub(crate) b: Param,
    pub(crate) scale: f64,
    dropout: f64,
    /// Of this training pass; nothing is dropped without one.
    key: Arc<RwLock<Option<RandomKey>>>,
}

impl Lora {
    /// What is added to the layer's result.
    #[track_caller]
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let x = match self.key.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(key) => dropout_by(x, self.dropout, key),
            None => x.clone(),
        };
        x.matmul(&self.a.tensor().t()).matmul(&self.b.tensor().t()).mul(self.scale)
    }
}

/// Every [`Linear`] of a module with its path.
fn linears(module: &(impl Module + ?Sized)) -> Vec<(String, Linear)> {
    let mut list: Vec<(String, Linear)> = Vec::new();
    let mut each = |path: &str, linear: &Linear| list.push((path.to_owned(), linear.clone()));
    module.visit(&mut Visitor::of_linears(&mut |_, _| (), &mut each));
    list
}

/// Freezes all parameters and puts adapters beside the layers that the configuration names. Returns how many there are. The model computes
/// what it computed before until they are trained; [`merge_lora`] makes them part of its weights.
///
/// # Errors
/// The configuration cannot be, or names no layer of the model.
pub fn add_lora(module: &(impl Module + ?Sized), config: &LoraConfig, init: &Init) -> Result<usize, NnError> {
    config.check()?;
    let mut targets = linears(module);
    targets.retain(|(path, _)| config.wants(path));
    if targets.is_empty() {
        return Err(NnError::Unknown {
            what: "layers to adapt",
            name: config.target_modules.join(", "),
            known: linears(module).into_iter().map(|(path, _)| path).take(20).collect::<Vec<_>>().join(", "),
        });
    }
    module.freeze("*");
    for (_, linear) in &targets {
        let &[out, width] = linear.weight.tensor().shape().dims() else { continue };
        linear.adapt(Some(Lora {
            a: init.param([config.r, width], Initializer::linear_default(width)),
            b: init.param([out, config.r], Initializer::Zeros),
            scale: config.scale(),
            dropout: config.lora_dropout,
            key: Arc::default(),
        }));
    }
    Ok(targets.len())
}

/// Gives every adapter the random numbers of its dropout for the passes from now on: layers know no [`Context`]. Nothing is dropped after
/// a call with [`Context::eval`], and before the first call. A training loop calls it before each pass.
pub fn draw_lora_dropout(module: &(impl Module + ?Sized), ctx: &Context) {
    for (_, linear) in linears(module) {
        let Some(lora) = linear.adapter() else { continue };
        let key = (ctx.is_training() && lora.dropout > 0.0).then(|| ctx.next_key());
        *lora.key.write().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

/// Adds the adapters' products to the weights and takes the adapters away; parameters are then trained again. Returns how many there were.
///
/// # Errors
/// The sums cannot be computed.
pub fn merge_lora(module: &(impl Module + ?Sized)) -> Result<usize, NnError> {
    let adapted: Vec<(Linear, Lora)> = linears(module)
        .into_iter()
        .filter_map(|(_, linear)| linear.adapter().map(|lora| (linear, lora)))
        .collect();
    let merged: Vec<_> = adapted
        .iter()
        .map(|(linear, lora)| {
            let product = lora.b.tensor().matmul(&lora.a.tensor()).mul(lora.scale);
            let weight = linear.weight.tensor();
            weight.add(product.cast(weight.dtype())).detach()
        })
        .collect();
    eval(&merged.iter().collect::<Vec<_>>())?;
    for ((linear, _), weight) in adapted.iter().zip(merged) {
        linear.weight.set(weight.detach_realized());
        linear.adapt(None);
    }
    module.unfreeze("*");
    Ok(adapted.len())
}

/// The adapters' matrices, named as PEFT names them.
fn adapters(module: &(impl Module + ?Sized)) -> Vec<(String, Param)> {
    let adapter = |name: &str| name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight");
    let named = module.named_parameters().into_iter().filter(|(name, _)| adapter(name));
    named.map(|(name, param)| (format!("{PREFIX}{name}"), param)).collect()
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` into a folder, as PEFT's `from_pretrained` reads them.
///
/// # Errors
/// There are no adapters, they cannot be read back, or the files cannot be written.
pub fn save_lora(module: &(impl Module + ?Sized), config: &LoraConfig, dir: &Path) -> Result<(), NnError> {
    let tensors: Vec<_> = adapters(module).into_iter().map(|(name, p)| (name, p.tensor())).collect();
    if tensors.is_empty() {
        return Err(NnError::Invalid { op: "lora", message: "the model has no adapters to save".into() });
    }
    fs::create_dir_all(dir).map_err(|source| io("create", dir, source))?;
    let path = dir.join(CONFIG);
    let text = serde_json::to_string_pretty(config).map_err(|e| io("write", &path, e.into()))?;
    write_atomically(&path, text.as_bytes())?;
    save(&dir.join(WEIGHTS), &tensors, &[("format", "pt")])
}

/// Puts the adapters of a folder that PEFT or [`save_lora`] wrote beside a model's layers; see [`add_lora`].
///
/// # Errors
/// A file is missing or damaged, or does not fit the model.
pub fn load_lora(module: &(impl Module + ?Sized), dir: &Path, init: &Init) -> Result<LoraConfig, NnError> {
    let path = dir.join(CONFIG);
    let text = fs::read(&path).map_err(|source| io("read", &path, source))?;
    let config: LoraConfig = serde_json::from_slice(&text).map_err(|e| io("understand", &path, e.into()))?;
    add_lora(module, &config, init)?;
    let loaded = load_adapters(module, dir, init);
    if loaded.is_err() {
        for (_, linear) in linears(module) {
            linear.adapt(None);
        }
        module.unfreeze("*");
    }
    loaded.map(|()| config)
}

/// As [`load_lora`], for adapters that are there already, which keep their places in an optimizer.
///
/// # Errors
/// The file is missing or damaged, or does not fit them.
pub fn load_adapters(module: &(impl Module + ?Sized), dir: &Path, init: &Init) -> Result<(), NnError> {
    let path = dir.join(WEIGHTS);
    let tensors = load_weights(&path, init.device())?;
    load_into(&path.display().to_string(), &adapters(module), &tensors, true)
}

/// Whether a folder holds adapters instead of a whole model.
pub fn is_lora(dir: &Path) -> bool {
    dir.join(CONFIG).is_file()
}

/// The model that the adapters of a folder belong to, as they name it: a folder or a file here, unless it is a name on a hub.
///
/// # Errors
/// The configuration is missing or damaged.
pub fn lora_base(dir: &Path) -> Result<Option<String>, NnError> {
    let path = dir.join(CONFIG);
    let text = fs::read(&path).map_err(|source| io("read", &path, source))?;
    let config: Value = serde_json::from_slice(&text).map_err(|e| io("understand", &path, e.into()))?;
    Ok(config["base_model_name_or_path"].as_str().map(str::to_owned))
}
