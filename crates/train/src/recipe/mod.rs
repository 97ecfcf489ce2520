//! What to train, on what, and how: the TOML file that `wgrad train` takes.

mod average;
mod load;
mod optimizer;
mod schedule;
mod validate;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wgrad_data::{TextSource, TokenizerSpec};
use wgrad_nn::Activation;
use wgrad_optim::Clipping;
use wgrad_tensor::DType;

pub use self::average::{AverageKind, AverageRecipe};
pub use self::load::{Override, RecipeError};
pub use self::optimizer::{Decay, LookaheadRecipe, OptimizerRecipe, RestRecipe};
pub use self::schedule::ScheduleRecipe;

/// A complete description of a training run.
///
/// Keys that this build does not know are refused with the nearest one that it does, so that a misspelt setting never
/// trains another model than the one that was meant. A run folder holds the recipe as it was run, defaults included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Names the run folder. Default: the recipe file's name.
    #[serde(default)]
    pub name: String,
    /// The network.
    pub model: ModelRecipe,
    /// The text.
    pub data: DataRecipe,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// The learning rate over the steps.
    #[serde(default)]
    pub schedule: ScheduleRecipe,
    /// An average of the weights, if one is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<AverageRecipe>,
    /// The loop.
    pub train: TrainRecipe,
    /// Text that is generated along the way.
    #[serde(default)]
    pub sample: SampleRecipe,
}

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
pub struct ModelRecipe {
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
pub struct DataRecipe {
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

/// What matrix products are computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Operands rounded to bf16.
    Bf16,
    /// Operands rounded to f16, and a loss that is scaled so that small gradients survive.
    F16,
}

impl Precision {
    /// The dtype of the operands.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        }
    }
}

/// The loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// Updates in all.
    pub steps: u64,
    /// Windows per forward pass.
    pub batch_size: usize,
    /// Tokens per window. Default: the model's `n_positions`.
    #[serde(default)]
    pub context: usize,
    /// `f32`, `bf16` or `f16`: what matrix products are computed from; weights, sums and everything else are f32.
    #[serde(default)]
    pub precision: Precision,
    /// Forward passes whose gradients are averaged into one update.
    #[serde(default = "one")]
    pub grad_accumulation: usize,
    /// Whether the backward pass computes each block again instead of keeping its activations: less memory for about a third
    /// more work.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Tokens for which logits exist at one time, in training and validation; 0 for all of a pass.
    #[serde(default)]
    pub loss_chunk: usize,
    /// Largest global gradient norm; longer gradients are scaled down to it. Absent: no clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad_norm: Option<f64>,
    /// Largest element of a gradient; larger ones are cut. Absent: no clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad_value: Option<f64>,
    /// Largest gradient of a unit (a row) as a share of the unit's weights: adaptive clipping. Absent: no clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad_adaptive: Option<f64>,
    /// Decides initial weights, data order and dropout masks.
    #[serde(default)]
    pub seed: u64,
    /// Steps between two validations; there is one after the last step in any case.
    #[serde(default = "eval_every")]
    pub eval_every: u64,
    /// Windows of the validation text, spread evenly.
    #[serde(default = "validation_windows")]
    pub validation_windows: usize,
    /// Steps between two checkpoints; there is one after the last step in any case.
    #[serde(default = "checkpoint_every")]
    pub checkpoint_every: u64,
    /// Checkpoints that are kept; older ones are deleted.
    #[serde(default = "keep_checkpoints")]
    pub keep_checkpoints: usize,
}

impl TrainRecipe {
    /// How gradients are clipped.
    pub(crate) fn clipping(&self) -> Option<Clipping> {
        let adaptive = |clip_factor| Clipping::Adaptive { clip_factor, eps: 1e-3 };
        let (norm, value) =
            (self.clip_grad_norm.map(Clipping::Norm), self.clip_grad_value.map(Clipping::Value));
        norm.or(value).or(self.clip_grad_adaptive.map(adaptive))
    }
}

/// Text that is generated while training, so that one sees what the loss means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleRecipe {
    /// Steps between two samples; 0 for one at the end only.
    #[serde(default = "sample_every")]
    pub every: u64,
    /// What the text goes on from.
    #[serde(default = "prompts")]
    pub prompts: Vec<String>,
    /// Tokens per sample.
    #[serde(default = "sample_length")]
    pub length: usize,
    /// Divides the logits: below 1 more cautious, 0 takes the likeliest token.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Draws among that many likeliest tokens; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
}

impl Default for SampleRecipe {
    fn default() -> Self {
        SampleRecipe {
            every: sample_every(),
            prompts: prompts(),
            length: sample_length(),
            temperature: temperature(),
            top_k: None,
        }
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
fn one() -> usize {
    1
}
fn eval_every() -> u64 {
    200
}
fn validation_windows() -> usize {
    200
}
fn checkpoint_every() -> u64 {
    500
}
fn keep_checkpoints() -> usize {
    3
}
fn sample_every() -> u64 {
    500
}
fn prompts() -> Vec<String> {
    vec!["\n".into()]
}
fn sample_length() -> usize {
    200
}
fn temperature() -> f64 {
    0.8
}
