//! The section `[model]` of recipes for BERTs.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wgrad_data::TokenizerSpec;
use wgrad_models::{BertConfig, ModelError};
use wgrad_nn::Activation;

use crate::error::{Result, TrainError};
use crate::recipe::{RecipeError, check};

/// A BERT: one that has been trained before, or a new one. Names are those of Hugging Face's `config.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BertRecipe {
    /// The folder of a trained model, relative to `data.root`; then no other key is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<PathBuf>,
    /// Number of blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_hidden_layers: Option<usize>,
    /// Heads per block; divides `hidden_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_attention_heads: Option<usize>,
    /// Width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    /// Width inside the feed-forward part. Default: `4 * hidden_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// Longest text in tokens. Default: 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_position_embeddings: Option<usize>,
    /// Default: `gelu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_act: Option<Activation>,
    /// Dropout after the embeddings and each part of a block. Default: 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_dropout_prob: Option<f64>,
    /// Dropout of attention weights. Default: 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_probs_dropout_prob: Option<f64>,
}

impl BertRecipe {
    /// Checks that it is one or the other.
    pub(super) fn validate(&self) -> Result<(), RecipeError> {
        if self.pretrained.is_some() {
            let alone = *self == BertRecipe { pretrained: self.pretrained.clone(), ..BertRecipe::default() };
            return check("model.pretrained", alone, "other keys beside it", || {
                "alone: the folder's config.json holds all others".into()
            });
        }
        let sizes = [
            ("model.num_hidden_layers", self.num_hidden_layers),
            ("model.num_attention_heads", self.num_attention_heads),
            ("model.hidden_size", self.hidden_size),
        ];
        for (key, size) in sizes {
            let found = size.map_or("nothing".into(), |size| size.to_string());
            check(key, size.is_some_and(|size| size > 0), found, || {
                "1 or more, or model.pretrained with the folder of a model".into()
            })?;
        }
        self.config(1).validate().map_err(|error| RecipeError::Value {
            key: "model",
            expected: "a model that is possible".into(),
            found: error.to_string(),
        })
    }

    /// The folder of the trained model.
    pub(super) fn folder(&self, root: &Path) -> Option<PathBuf> {
        self.pretrained.as_ref().map(|folder| root.join(folder))
    }

    /// What makes a new model smaller.
    pub(super) const ADVICE: &str = "model.num_hidden_layers, model.hidden_size, the vocabulary";

    /// The configuration to plan with: the trained model's, or a new one's for as many tokens as the tokenizer will have.
    pub(super) fn planned(&self, tokenizer: &TokenizerSpec, root: &Path) -> Result<BertConfig> {
        match self.folder(root) {
            Some(folder) => config_of(&folder),
            None => Ok(self.config(tokenizer.vocab_size(root)?.unwrap_or(1 << 15))),
        }
    }

    /// The configuration of a new model.
    pub(super) fn config(&self, vocab_size: usize) -> BertConfig {
        let usual = BertConfig::default();
        let width = self.hidden_size.unwrap_or(usual.hidden_size);
        BertConfig {
            vocab_size,
            hidden_size: width,
            num_hidden_layers: self.num_hidden_layers.unwrap_or(usual.num_hidden_layers),
            num_attention_heads: self.num_attention_heads.unwrap_or(usual.num_attention_heads),
            intermediate_size: self.intermediate_size.unwrap_or(4 * width),
            max_position_embeddings: self.max_position_embeddings.unwrap_or(usual.max_position_embeddings),
            hidden_act: self.hidden_act.unwrap_or(usual.hidden_act),
            hidden_dropout_prob: self.hidden_dropout_prob.unwrap_or(usual.hidden_dropout_prob),
            attention_probs_dropout_prob: self
                .attention_probs_dropout_prob
                .unwrap_or(usual.attention_probs_dropout_prob),
            ..usual
        }
    }
}

/// The configuration in a model's folder.
pub(super) fn config_of(folder: &Path) -> Result<BertConfig> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(TrainError::io("read", &path))?;
    let config: BertConfig = serde_json::from_str(&text).map_err(|error| TrainError::RunFolder {
        path,
        reason: format!("expected the config.json of a BERT: {error}"),
    })?;
    config.validate().map_err(TrainError::Model)?;
    match config.model_type.as_str() {
        "bert" => Ok(config),
        other => Err(TrainError::Model(ModelError::Config {
            model: "BERT",
            message: format!("`model_type` is `{other}`, expected `bert`: recipes train this kind"),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_a_folder_or_sizes_but_not_both() {
        let validate = |text: &str| {
            let recipe: BertRecipe = toml::from_str(text).expect("keys of a model");
            recipe.validate().map_err(|error| error.to_string())
        };
        assert_eq!(validate("pretrained = 'minilm'"), Ok(()));
        assert_eq!(validate("num_hidden_layers = 2\nnum_attention_heads = 2\nhidden_size = 8"), Ok(()));
        let error = validate("pretrained = 'minilm'\nhidden_size = 8").expect_err("both");
        assert!(error.contains("model.pretrained"), "{error}");
        assert!(validate("hidden_size = 8").expect_err("too little").contains("num_hidden_layers"));
        let odd =
            validate("num_hidden_layers = 2\nnum_attention_heads = 3\nhidden_size = 8").expect_err("odd");
        assert!(odd.contains("does not divide"), "{odd}");
    }
}
