//! What to train, on what, and how: the TOML file that `wgrad train` takes.

mod average;
mod file;
mod load;
mod lora;
mod optimizer;
mod schedule;
mod validate;

use serde::{Deserialize, Serialize};
use wgrad_nn::Module;
use wgrad_optim::Clipping;
use wgrad_tensor::DType;

use crate::task::TaskRecipe;

pub use self::average::{AverageKind, AverageRecipe};
pub use self::file::Sections;
pub(crate) use self::load::Source;
pub use self::load::{Override, RecipeError};
pub use self::lora::LoraRecipe;
use self::optimizer::unmatched;
pub use self::optimizer::{Decay, GroupRecipe, LookaheadRecipe, OptimizerRecipe, RestRecipe};
pub use self::schedule::ScheduleRecipe;
pub(crate) use self::validate::{check, positive};

/// A complete description of a training run.
///
/// Keys that this build does not know are refused with the nearest one that it does, so that a misspelt setting never
/// trains another model than the one that was meant. A run folder holds the recipe as it was run, defaults included.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Names the run folder. Default: the recipe file's name.
    pub name: String,
    /// What is learnt: `[task]`, `[model]` and `[data]`, whose keys depend on `task.kind`.
    pub task: TaskRecipe,
    /// Adapters that are trained instead of the model's weights.
    pub lora: Option<LoraRecipe>,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// The learning rate over the steps.
    pub schedule: ScheduleRecipe,
    /// An average of the weights, if one is kept.
    pub average: Option<AverageRecipe>,
    /// The loop.
    pub train: TrainRecipe,
    /// Text that is generated along the way, by tasks that generate text.
    pub sample: Option<SampleRecipe>,
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
    /// Examples (windows of text, images) per forward pass.
    pub batch_size: usize,
    /// Of language models: tokens per window. Default: the model's `n_positions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// `f32`, `bf16` or `f16`: what matrix products are computed from; weights, sums and everything else are f32.
    #[serde(default)]
    pub precision: Precision,
    /// Forward passes whose gradients are averaged into one update.
    #[serde(default = "one")]
    pub grad_accumulation: usize,
    /// Whether the backward pass computes each block again instead of keeping its activations: less memory for about a third
    /// more work. Of models with blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_checkpointing: Option<bool>,
    /// Of language models: tokens for which logits exist at one time, in training and validation; 0 for all of a pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_chunk: Option<usize>,
    /// Largest global gradient norm; longer gradients are scaled down to it. Absent: no clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad_norm: Option<f64>,
    /// Largest element of a gradient; larger ones are cut. Absent: no clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad_value: Option<f64>,
    /// Largest gradient of a unit (a row) as a share of the unit's weights: adaptive clipping. Absent: no clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad_adaptive: Option<f64>,
    /// Names of parameters that stay as they are, `*` standing for any characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// Names of parameters that are trained although `freeze` names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfreeze: Vec<String>,
    /// Decides initial weights, data order and dropout masks.
    #[serde(default)]
    pub seed: u64,
    /// Steps between two validations; there is one after the last step in any case.
    #[serde(default = "eval_every")]
    pub eval_every: u64,
    /// Of language models: windows of the validation text, spread evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_windows: Option<usize>,
    /// Steps between two checkpoints; there is one after the last step in any case.
    #[serde(default = "checkpoint_every")]
    pub checkpoint_every: u64,
    /// Checkpoints that are kept; older ones are deleted.
    #[serde(default = "keep_checkpoints")]
    pub keep_checkpoints: usize,
}

impl TrainRecipe {
    /// Freezes and unfreezes parameters by their names.
    ///
    /// # Errors
    /// [`RecipeError::Setting`] names the key whose patterns name nothing.
    pub(crate) fn apply_freezing(&self, model: &dyn Module) -> Result<(), RecipeError> {
        for (key, patterns, freeze) in
            [("train.freeze", &self.freeze, true), ("train.unfreeze", &self.unfreeze, false)]
        {
            for pattern in patterns {
                let named = if freeze { model.freeze(pattern) } else { model.unfreeze(pattern) };
                if named == 0 {
                    return Err(unmatched(key.to_owned(), std::slice::from_ref(pattern), model));
                }
            }
        }
        Ok(())
    }

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

fn one() -> usize {
    1
}
fn eval_every() -> u64 {
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
