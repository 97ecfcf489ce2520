//! The sections of a recipe for language models.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wgrad_data::{TextSource, TokenizerSpec};
use wgrad_models::{Gpt2Config, Gpt2Init};
use wgrad_nn::Activation;

use crate::recipe::{RecipeError, SampleRecipe, TrainRecipe, check, positive};
use crate::task::TaskKind;

/// The network's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// GPT-2: learned positions, pre-LayerNorm blocks.
    Gpt2,
}

/// A model that has been trained before, or a new GPT-2 with the names of Hugging Face's `config.json`, whose vocabulary comes from the
/// tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderRecipe {
    /// The folder of a trained model, or a GGUF file, relative to `data.root`; then no other key is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<PathBuf>,
    /// The kind of network.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ModelKind>,
    /// Number of blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_layer: Option<usize>,
    /// Attention heads per block; divides `n_embd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_head: Option<usize>,
    /// Width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_embd: Option<usize>,
    /// Longest context in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_positions: Option<usize>,
    /// Width inside the feed-forward part. Default: `4 * n_embd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_inner: Option<usize>,
    /// `gelu` (exact), `gelu_new` (tanh), `relu`, `silu`, `sigmoid`, `tanh`. Default: `gelu_new`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_function: Option<Activation>,
    /// Whether the output projection is the token embedding. Default: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie_word_embeddings: Option<bool>,
    /// Added to the variance in LayerNorm. Default: 1e-5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_norm_epsilon: Option<f64>,
    /// Standard deviation of the initial weights. Default: 0.02.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initializer_range: Option<f64>,
    /// Whether the projections onto the residual stream start `1 / sqrt(2 n_layer)` times smaller, as GPT-2's do. Default: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescale_residual_init: Option<bool>,
    /// Dropout after each block's projections. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resid_pdrop: Option<f64>,
    /// Dropout after the embeddings. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embd_pdrop: Option<f64>,
    /// Dropout of attention weights. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attn_pdrop: Option<f64>,
}

/// The text: a training and a validation split, and the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRecipe {
    /// Folder to which file patterns are relative. Default: the recipe's own; in a run folder's recipe it is absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// What to train on.
    pub train: TextSource,
    /// What to measure the loss on.
    pub validation: TextSource,
    /// How text becomes tokens.
    #[serde(default)]
    pub tokenizer: TokenizerSpec,
}

impl TextRecipe {
    /// The folder that patterns are relative to.
    pub(in crate::task) fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new(""))
    }
}

impl TrainRecipe {
    /// Tokens per window.
    pub(super) fn context(&self) -> usize {
        // `complete` has filled it in.
        self.context.unwrap_or_default()
    }

    /// Windows of the validation text.
    pub(super) fn validation_windows(&self) -> usize {
        self.validation_windows.unwrap_or_default()
    }
}

impl DecoderRecipe {
    /// The configuration of a new model, in Hugging Face's terms.
    pub(super) fn config(&self, vocab_size: usize) -> Gpt2Config {
        let usual = Gpt2Config::default();
        Gpt2Config {
            vocab_size,
            n_positions: self.n_positions.unwrap_or(usual.n_positions),
            n_embd: self.n_embd.unwrap_or(usual.n_embd),
            n_layer: self.n_layer.unwrap_or(usual.n_layer),
            n_head: self.n_head.unwrap_or(usual.n_head),
            n_inner: self.n_inner,
            activation_function: self.activation_function.unwrap_or(Activation::GeluTanh),
            resid_pdrop: self.resid_pdrop.unwrap_or(0.0),
            embd_pdrop: self.embd_pdrop.unwrap_or(0.0),
            attn_pdrop: self.attn_pdrop.unwrap_or(0.0),
            layer_norm_epsilon: self.layer_norm_epsilon.unwrap_or(1e-5),
            initializer_range: self.initializer_range.unwrap_or(0.02),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(true),
            ..usual
        }
    }

    /// The folder or file of the trained model.
    pub(super) fn folder(&self, root: &Path) -> Option<PathBuf> {
        self.pretrained.as_ref().map(|folder| root.join(folder))
    }

    /// How the weights of a new model are drawn.
    pub(super) fn scheme(&self) -> Gpt2Init {
        if self.rescale_residual_init.unwrap_or(true) { Gpt2Init::ScaledResiduals } else { Gpt2Init::Plain }
    }

    /// Checks that it is one or the other, and fills in what a new model lacks.
    pub(super) fn validate(&mut self) -> Result<(), RecipeError> {
        if self.pretrained.is_some() {
            let alone =
                *self == DecoderRecipe { pretrained: self.pretrained.clone(), ..DecoderRecipe::default() };
            return check("model.pretrained", alone, "other keys beside it", || {
                "alone: the model's own configuration holds all others".into()
            });
        }
        check("model.type", self.kind.is_some(), "nothing", || {
            "`gpt2`, or model.pretrained with the folder of a model".into()
        })?;
        for (key, size) in [
            ("model.n_layer", self.n_layer),
            ("model.n_head", self.n_head),
            ("model.n_embd", self.n_embd),
            ("model.n_positions", self.n_positions),
        ] {
            check(key, size.is_some(), "nothing", || "1 or more".into())?;
            positive(key, size.unwrap_or_default())?;
        }
        positive("model.n_inner", self.n_inner.unwrap_or(1))?;
        let config = self.config(1);
        check("model.n_head", config.n_embd.is_multiple_of(config.n_head), config.n_head, || {
            format!("a divisor of model.n_embd, {}", config.n_embd)
        })?;
        for (key, p) in [
            ("model.resid_pdrop", *self.resid_pdrop.get_or_insert(0.0)),
            ("model.embd_pdrop", *self.embd_pdrop.get_or_insert(0.0)),
            ("model.attn_pdrop", *self.attn_pdrop.get_or_insert(0.0)),
        ] {
            check(key, (0.0..1.0).contains(&p), p, || "in 0..1".into())?;
        }
        self.activation_function.get_or_insert(config.activation_function);
        self.tie_word_embeddings.get_or_insert(config.tie_word_embeddings);
        self.rescale_residual_init.get_or_insert(true);
        let epsilon = *self.layer_norm_epsilon.get_or_insert(config.layer_norm_epsilon);
        check("model.layer_norm_epsilon", epsilon > 0.0, epsilon, || "above 0".into())?;
        let range = *self.initializer_range.get_or_insert(config.initializer_range);
        check("model.initializer_range", range >= 0.0 && range.is_finite(), range, || "0 or more".into())
    }

    /// Checks the keys of `[train]` that language models have, and fills in those that are absent.
    pub(super) fn complete(
        &self,
        train: &mut TrainRecipe,
        sample: &mut Option<SampleRecipe>,
    ) -> Result<(), RecipeError> {
        train.allow(
            TaskKind::CausalLm,
            &["context", "gradient_checkpointing", "loss_chunk", "validation_windows"],
        )?;
        // A trained model's longest context may be more than anybody has memory for.
        let context = *train.context.get_or_insert(self.n_positions.unwrap_or(256));
        positive("train.context", context)?;
        let longest = self.n_positions.unwrap_or(context);
        check("train.context", context <= longest, context, || {
            format!("at most model.n_positions, {longest}")
        })?;
        train.gradient_checkpointing.get_or_insert(false);
        train.loss_chunk.get_or_insert(0);
        positive("train.validation_windows", *train.validation_windows.get_or_insert(200))?;
        sample.get_or_insert_default();
        Ok(())
    }
}
