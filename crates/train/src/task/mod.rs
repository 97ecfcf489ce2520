//! What is learnt: a task owns a model and its data, and says what a batch is and what its loss.
//!
//! The loop, checkpoints, schedules, averages, precision, plans, metrics and progress know tasks only by the trait [`Task`]. A new one is a
//! file here with the sections of its recipe and its implementation of [`TaskSpec`] and [`Task`], and a line in the list below.

pub(crate) mod batch;
pub(crate) mod causal_lm;
pub(crate) mod image_classification;
pub(crate) mod text;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wgrad_nn::{Context, Module};
use wgrad_optim::OptimizerSpec;
use wgrad_runtime::{DeviceHandle, DeviceKind, available_memory};
use wgrad_tensor::Tensor;

use crate::error::{Result, TrainError};
use crate::plan::Savings;
use crate::recipe::{Precision, Recipe, RecipeError, SampleRecipe, Source, TrainRecipe, check};
use crate::sample::SampleOptions;

use self::batch::{Batch, Column, HostBatch};

/// The model's file in a checkpoint.
pub(crate) const MODEL_FILE: &str = "model.safetensors";

macro_rules! tasks {
    ($($(#[doc = $doc:literal])* $name:literal => $variant:ident($recipe:ty)),* $(,)?) => {
        /// The task of a recipe, with the sections that are its own.
        #[derive(Clone, Debug, PartialEq)]
        pub enum TaskRecipe {
            $($(#[doc = $doc])* $variant($recipe),)*
        }

        /// `task.kind`
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum TaskKind {
            #[default]
            $($(#[doc = $doc])* #[serde(rename = $name)] $variant,)*
        }

        impl TaskKind {
            /// What recipes call it.
            pub fn name(self) -> &'static str {
                match self {
                    $(TaskKind::$variant => $name,)*
                }
            }

            /// Reads a recipe of this kind.
            pub(crate) fn read(self, source: &Source<'_>) -> Result<Recipe, RecipeError> {
                match self {
                    $(TaskKind::$variant => source.recipe(TaskRecipe::$variant),)*
                }
            }
        }

        impl TaskRecipe {
            /// Which task it is.
            pub fn kind(&self) -> TaskKind {
                match self {
                    $(TaskRecipe::$variant(_) => TaskKind::$variant,)*
                }
            }

            pub(crate) fn spec(&self) -> &dyn TaskSpec {
                match self {
                    $(TaskRecipe::$variant(recipe) => recipe,)*
                }
            }

            pub(crate) fn spec_mut(&mut self) -> &mut dyn TaskSpec {
                match self {
                    $(TaskRecipe::$variant(recipe) => recipe,)*
                }
            }

            /// The whole recipe as TOML.
            pub(crate) fn to_toml(&self, recipe: &Recipe) -> Result<String, toml::ser::Error> {
                match self {
                    $(TaskRecipe::$variant(sections) => sections.to_toml(recipe),)*
                }
            }
        }
    };
}

// The first one is what a recipe without `[task]` means.
tasks! {
    /// Predicting the next token of a text.
    "causal-lm" => CausalLm(causal_lm::CausalLmRecipe),
    /// Guessing hidden tokens of a text.
    "masked-lm" => MaskedLm(text::MaskedLmRecipe),
    /// Telling classes of texts.
    "sequence-classification" => SequenceClassification(text::SequenceClassificationRecipe),
    /// Writing a text in another language.
    "translation" => Translation(text::TranslationRecipe),
    /// Telling what an image shows.
    "image-classification" => ImageClassification(image_classification::ImageClassificationRecipe),
}

/// `[task]` of a task that has no keys of its own there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskOptions {
    /// Which task it is.
    #[serde(default)]
    pub kind: TaskKind,
}

/// What a recipe says of its task.
pub(crate) trait TaskSpec {
    /// Checks the task's sections, and fills in what follows from others: in `train` and `sample` the keys that the task has and that
    /// are absent. Keys that it does not have are refused ([`TrainRecipe::allow`]).
    fn validate(
        &mut self,
        train: &mut TrainRecipe,
        sample: &mut Option<SampleRecipe>,
    ) -> Result<(), RecipeError>;

    /// `data.root`: the folder that paths are relative to.
    fn root(&mut self) -> &mut Option<PathBuf>;

    /// The model's width, by which some schedules scale their rates.
    fn width(&self) -> Option<usize> {
        None
    }

    /// The pre-trained model to which `[lora]` adds adapters; nothing where the task cannot have any.
    fn adapts(&self) -> Option<PathBuf> {
        None
    }

    /// The section by which a run of this task could not go on as one of the other: where the weights would mean something else.
    fn changed(&self, other: &TaskRecipe) -> Option<&'static str>;

    /// The task itself. `warn` gets a sentence about each thing that was not as it should be and did not matter.
    fn open(
        &self,
        recipe: &Recipe,
        opening: &Opening<'_>,
        device: &DeviceHandle,
        warn: &mut dyn FnMut(String),
    ) -> Result<Box<dyn Task>>;
}

/// What a task is opened for, which decides what of it is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Opening<'a> {
    /// To tell what a step needs: weights are zeros, and there is no data.
    Plan,
    /// To train from the beginning.
    Begin {
        /// Where what is derived from the data may be kept.
        cache: Option<&'a Path>,
    },
    /// To go on from a checkpoint, from which the weights are loaded afterwards ([`Task::load`]).
    Resume {
        /// As above.
        cache: &'a Path,
        /// The checkpoint's folder.
        checkpoint: &'a Path,
    },
    /// To measure the model in a folder on the validation data; there is no training data.
    Evaluate {
        /// The folder, whose configuration holds, and not the recipe's.
        folder: &'a Path,
    },
}

impl<'a> Opening<'a> {
    /// Where what is derived from the data may be kept.
    pub(crate) fn cache(&self) -> Option<&'a Path> {
        match *self {
            Opening::Begin { cache } => cache,
            Opening::Resume { cache, .. } => Some(cache),
            Opening::Plan | Opening::Evaluate { .. } => None,
        }
    }
}

/// A model and its data.
pub(crate) trait Task {
    /// The model.
    fn module(&self) -> &dyn Module;

    /// What is counted.
    fn units(&self) -> Units;

    /// What an example consists of.
    fn columns(&self) -> Vec<Column>;

    /// The loss of one pass, rank 0: the mean over its examples.
    fn loss(&self, batch: &Batch, ctx: &Context) -> Tensor;

    /// Writes the model's files into a folder: with those of [`Task::save_beside`], what [`Opening::Evaluate`] reads.
    fn save(&self, folder: &Path) -> Result<()>;

    /// Writes what belongs to the model besides its weights: a tokenizer.
    fn save_beside(&self, folder: &Path) -> Result<()> {
        let _ = folder;
        Ok(())
    }

    /// Loads the weights that [`Task::save`] wrote.
    fn load(&self, folder: &Path) -> Result<()> {
        Ok(self.module().load_safetensors(&folder.join(MODEL_FILE), true)?)
    }

    /// What makes the batch of `examples` examples of a step, on a thread of its own: a pure function of the seed and the step, so that a
    /// run goes on from a step's number.
    fn batches(&self, examples: usize, seed: u64) -> Result<BatchMaker>;

    /// Size and checksum of the training data: a run goes on with the same data only.
    fn fingerprint(&self) -> Result<(u64, u32)>;

    /// How much data there is, for people.
    fn describe(&self) -> String;

    /// Measures the model on the validation data, `examples` at a time, with products computed as in training.
    fn evaluate(&self, examples: usize, precision: Precision) -> Result<Measured>;

    /// What `wgrad evaluate` prints: names and values.
    fn report(&self, measured: &Measured) -> Vec<(String, String)>;

    /// Draws what the last evaluation found into a run's folder.
    fn draw(&self, folder: &Path) -> Result<()> {
        let _ = folder;
        Ok(())
    }

    /// What shows by texts what has been learnt; recipes of such tasks have a section `[sample]`.
    fn writer(&self) -> Option<&dyn Writer> {
        None
    }

    /// Which settings of [`Savings`] it has, for passes of `examples` examples.
    fn offers(&self, examples: usize) -> Offers {
        let _ = examples;
        Offers::default()
    }

    /// Computes from now on with other settings of what saves memory.
    fn set_savings(&mut self, savings: Savings) {
        let _ = savings;
    }
}

/// Makes the batch of a step.
pub(crate) type BatchMaker = Box<dyn FnMut(u64) -> wgrad_data::Result<HostBatch> + Send>;

/// Writes text.
pub(crate) trait Writer {
    /// Continues a prompt (or answers it); `each` gets the text piece by piece, without the prompt, and says whether to go on.
    fn write(&self, prompt: &str, options: &SampleOptions, each: &mut dyn FnMut(&str) -> bool) -> Result<()>;
}

/// What a task counts, in the singular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// A row of a batch: `window`, `image`.
    pub example: &'static str,
    /// What a loss is per, and speeds count: `token`, `image`.
    pub unit: &'static str,
    /// Units of an example.
    pub per_example: usize,
    /// All of the data: `text`.
    pub data: &'static str,
}

impl Units {
    /// Whether speeds are of tokens.
    pub fn are_tokens(&self) -> bool {
        self.unit == "token"
    }
}

/// What memory a task can save.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offers {
    /// `train.gradient_checkpointing`
    pub(crate) gradient_checkpointing: bool,
    /// A `train.loss_chunk` that is worth trying.
    pub(crate) loss_chunk: Option<usize>,
}

/// What an evaluation found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// The mean loss.
    pub loss: f64,
    /// Everything else, by name: `accuracy`, `f1`.
    pub metrics: Vec<(&'static str, f64)>,
    /// How many units it was measured on.
    pub units: usize,
}

/// Refuses a section `[sample]` for a task that writes no text.
pub(crate) fn refuse_sample(task: TaskKind, sample: &Option<SampleRecipe>) -> Result<(), RecipeError> {
    check("sample", sample.is_none(), "a section", || {
        format!("absent: tasks of the kind {} write no text", task.name())
    })
}

/// Refuses a model whose weights, gradients and optimizer state are more than there is room for: no batch would make it fit. `advice` says
/// what makes the model smaller.
pub(crate) fn check_room(
    recipe: &Recipe,
    parameters: usize,
    advice: &'static str,
    device: &DeviceHandle,
) -> Result<()> {
    if !matches!(device.info().kind, DeviceKind::Cpu | DeviceKind::SoftwareGpu) {
        return Ok(());
    }
    // A twentieth stays free.
    let available = available_memory();
    check_model(recipe, parameters, advice, &device.info().id, available - available / 20)
}

fn check_model(
    recipe: &Recipe,
    parameters: usize,
    advice: &'static str,
    device: &str,
    available: u64,
) -> Result<()> {
    // Others keep less, or what depends on shapes.
    let (what, states) = match recipe.optimizer.spec {
        OptimizerSpec::Adam(_) | OptimizerSpec::AdamW(_) => ("weights, gradients and two states of each", 2),
        _ => ("weights and gradients", 0),
    };
    // How many of them are trained is not known before there is a model.
    let partly = recipe.lora.is_some() || !recipe.train.freeze.is_empty();
    let (what, kept) = if partly { ("weights", 1) } else { (what, 2 + states) };
    let needed = (parameters as u64).saturating_mul(kept * size_of::<f32>() as u64);
    if needed > available {
        let device = device.to_owned();
        return Err(TrainError::ModelTooLarge { device, parameters, what, needed, available, advice });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What 380,000 bytes say to a tiny model of so many settings.
    fn check(settings: &[&str]) -> Result<()> {
        let text = include_str!("../../../../recipes/gpt-tiny.toml");
        let overrides: Vec<_> = settings.iter().map(|s| s.parse().expect("key=value")).collect();
        let recipe = Recipe::from_toml(text, "tiny", &overrides).expect("valid");
        let device: DeviceHandle = std::sync::Arc::new(wgrad_cpu::CpuDevice::new());
        let task = recipe.task.spec().open(&recipe, &Opening::Plan, &device, &mut |_| {}).expect("a model");
        check_model(&recipe, task.module().num_parameters(), "model.n_layer", "cpu", 380_000)
    }

    #[test]
    fn a_model_that_no_batch_makes_fit_is_refused_without_a_word_of_the_batch() {
        let needed = |settings: &[&str]| {
            let error = check(settings).err().map(|e| e.to_string());
            error.unwrap_or_default()
        };
        // 30,176 parameters of 4 bytes: weights, gradients, and two states or none.
        let error = needed(&[]);
        assert!(
            error.contains("30176 parameters takes 471.5 KiB") && error.contains("two states"),
            "{error}"
        );
        assert!(error.contains("smaller model") && !error.contains("smaller batch"), "{error}");
        assert_eq!(needed(&["optimizer.name=sgd"]), "");
        let error = needed(&["optimizer.name=sgd", "model.n_embd=64"]);
        assert!(error.contains("663.5 KiB for weights and gradients, whatever the batch"), "{error}");
    }
}
