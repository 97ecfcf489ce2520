//! The sections of a recipe for language models.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wgrad_data::{TextSource, TokenizerSpec};
use wgrad_models::Gpt2Config;
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

/// The network, with the names of Hugging Face's `config.json`. The vocabulary comes from the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpt2Recipe {
    /// The kind of network.
    #[serde(rename = "type")]
    pub kind: ModelKind,
    /// Number of blocks.
    pub n_layer: usize,
    /// Attention heads per block; divides `n_embd`.
    pub n_head: usize,
    /// Width.
    pub n_embd: usize,
    /// Longest context in tokens.
    pub n_positions: usize,
    /// Width inside the feed-forward part. Default: `4 * n_embd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_inner: Option<usize>,
    /// `gelu` (exact), `gelu_new` (tanh), `relu`, `silu`, `sigmoid`, `tanh`.
    #[serde(default = "gelu_new")]
    pub activation_function: Activation,
    /// Whether the output projection is the token embedding.
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// Added to the variance in LayerNorm.
    #[serde(default = "layer_norm_epsilon")]
    pub layer_norm_epsilon: f64,
    /// Standard deviation of the initial weights.
    #[serde(default = "initializer_range")]
    pub initializer_range: f64,
    /// Whether the projections onto the residual stream start `1 / sqrt(2 n_layer)` times smaller, as GPT-2's do.
    #[serde(default = "yes")]
    pub rescale_residual_init: bool,
    /// Dropout after each block's projections.
    #[serde(default)]
    pub resid_pdrop: f64,
    /// Dropout after the embeddings.
    #[serde(default)]
    pub embd_pdrop: f64,
    /// Dropout of attention weights.
    #[serde(default)]
    pub attn_pdrop: f64,
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

impl Gpt2Recipe {
    /// The model's configuration, in Hugging Face's terms.
    pub(super) fn config(&self, vocab_size: usize) -> Gpt2Config {
        Gpt2Config {
            vocab_size,
            n_positions: self.n_positions,
            n_embd: self.n_embd,
            n_layer: self.n_layer,
            n_head: self.n_head,
            n_inner: self.n_inner,
            activation_function: self.activation_function,
            resid_pdrop: self.resid_pdrop,
            embd_pdrop: self.embd_pdrop,
            attn_pdrop: self.attn_pdrop,
            layer_norm_epsilon: self.layer_norm_epsilon,
            initializer_range: self.initializer_range,
            tie_word_embeddings: self.tie_word_embeddings,
            ..Gpt2Config::default()
        }
    }

    pub(super) fn validate(&self) -> Result<(), RecipeError> {
        positive("model.n_layer", self.n_layer)?;
        positive("model.n_head", self.n_head)?;
        positive("model.n_embd", self.n_embd)?;
        positive("model.n_positions", self.n_positions)?;
        positive("model.n_inner", self.n_inner.unwrap_or(1))?;
        check("model.n_head", self.n_embd.is_multiple_of(self.n_head), self.n_head, || {
            format!("a divisor of model.n_embd, {}", self.n_embd)
        })?;
        for (key, p) in [
            ("model.resid_pdrop", self.resid_pdrop),
            ("model.embd_pdrop", self.embd_pdrop),
            ("model.attn_pdrop", self.attn_pdrop),
        ] {
            check(key, (0.0..1.0).contains(&p), p, || "in 0..1".into())?;
        }
        let epsilon = self.layer_norm_epsilon;
        check("model.layer_norm_epsilon", epsilon > 0.0, epsilon, || "above 0".into())?;
        let range = self.initializer_range;
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
        let longest = self.n_positions;
        let context = train.context.filter(|&context| context > 0).unwrap_or(longest);
        train.context = Some(context);
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

fn yes() -> bool {
    true
}
fn gelu_new() -> Activation {
    Activation::GeluTanh
}
fn layer_norm_epsilon() -> f64 {
    1e-5
}
fn initializer_range() -> f64 {
    0.02
}
