//! Low-rank adapters (Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021): beside a frozen [`Linear`] a product of two
//! thin matrices is trained. Files are laid out as Hugging Face's PEFT lays them out.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wgrad_tensor::eval;

use crate::{
    Init, Initializer, Linear, Module, NnError, Param, Visitor,
    files::io,
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
    /// The last names of the layers to adapt (`q_proj`), or more of their paths.
    pub target_modules: Vec<String>,
    /// `none`; others are not supported.
    pub bias: String,
    /// Not supported; must be 0.
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
        } else if self.lora_dropout != 0.0 {
            format!("`lora_dropout` is {}, which is not supported; set it to 0", self.lora_dropout)
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
        self.target_modules.iter().any(|target| ends(target))
    }
}

/// The two matrices beside a [`Linear`], `y += scale (x Aᵀ) Bᵀ`.
#[derive(Clone, Debug)]
pub(crate) struct Lora {
    /// `[r, in]`
    pub(crate) a: Param,
    /// `[out, r]`, zeros at first.
    pub(crate) b: Param,
    pub(crate) scale: f64,
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
        }));
    }
    Ok(targets.len())
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
    let tensors = load_weights(&dir.join(WEIGHTS), init.device())?;
    add_lora(module, &config, init)?;
    let loaded = load_into(&dir.join(WEIGHTS).display().to_string(), &adapters(module), &tensors, true);
    if loaded.is_err() {
        for (_, linear) in linears(module) {
            linear.adapt(None);
        }
        module.unfreeze("*");
    }
    loaded.map(|()| config)
}
