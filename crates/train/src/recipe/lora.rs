//! `[lora]`: adapters that are trained instead of the model's weights.

use std::path::Path;

use serde::{Deserialize, Serialize};
use wgrad_nn::lora::LoraConfig;

use super::{Recipe, RecipeError, check};

/// Low-rank adapters beside a pre-trained model's layers, with PEFT's names. The weights themselves stay as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraRecipe {
    /// Rank of the products.
    pub r: usize,
    /// Products are multiplied by this over the rank.
    pub lora_alpha: f64,
    /// In training, with what probability an element of an adapter's input is dropped.
    pub lora_dropout: f64,
    /// Whether products are multiplied by `lora_alpha / sqrt(r)` instead.
    pub use_rslora: bool,
    /// Which layers get adapters: last names (`q_proj`), or patterns of whole paths in which `*` stands for any characters.
    pub target_modules: Vec<String>,
}

impl Default for LoraRecipe {
    fn default() -> Self {
        let LoraConfig { r, lora_alpha, lora_dropout, use_rslora, target_modules, .. } =
            LoraConfig::default();
        LoraRecipe { r, lora_alpha, lora_dropout, use_rslora, target_modules }
    }
}

impl LoraRecipe {
    /// As PEFT's `adapter_config.json` has it, for the model in `base`.
    pub(crate) fn config(&self, base: Option<&Path>) -> LoraConfig {
        let LoraRecipe { r, lora_alpha, lora_dropout, use_rslora, target_modules } = self.clone();
        let mut config =
            LoraConfig { r, lora_alpha, lora_dropout, use_rslora, target_modules, ..LoraConfig::default() };
        let base = base.map(|base| base.display().to_string());
        config.other.insert("base_model_name_or_path".into(), base.into());
        config
    }
}

impl Recipe {
    pub(super) fn validate_lora(&self) -> Result<(), RecipeError> {
        let Some(lora) = &self.lora else { return Ok(()) };
        let base = self.task.spec().adapts().is_some();
        let dropout = lora.lora_dropout;
        let checks = [
            (
                "lora",
                base,
                "a section".to_owned(),
                "absent: only language models with `model.pretrained` are adapted",
            ),
            ("lora.r", lora.r > 0, lora.r.to_string(), "1 or more"),
            ("lora.lora_alpha", lora.lora_alpha.is_finite(), lora.lora_alpha.to_string(), "finite"),
            ("lora.lora_dropout", (0.0..1.0).contains(&dropout), dropout.to_string(), "in 0..1"),
            (
                "lora.target_modules",
                !lora.target_modules.is_empty(),
                "none".to_owned(),
                "one name of a layer or more",
            ),
            ("average", self.average.is_none(), "a section".to_owned(), "absent where there is `[lora]`"),
        ];
        checks
            .into_iter()
            .try_for_each(|(key, good, found, expected)| check(key, good, found, || expected.into()))
    }
}
