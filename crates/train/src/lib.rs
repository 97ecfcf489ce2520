//! Trains a model by a recipe: the loop, checkpoints that survive anything, metrics, progress and pictures.
#![forbid(unsafe_code)]

mod chat;
mod checkpoint;
mod curve;
mod durable;
mod error;
mod evaluate;
mod interrupt;
mod learner;
mod lr_find;
mod metrics;
mod plan;
mod pretrained;
mod profile;
mod progress;
mod recipe;
mod run_folder;
mod sample;
mod scores;
mod task;
mod trainer;

pub use self::chat::{ChatTemplate, Message};
pub use self::checkpoint::{Checkpoint, CheckpointStore, TrainState};
pub use self::curve::draw_loss_curve;
pub use self::error::{Result, TrainError};
pub use self::evaluate::{Evaluation, evaluate};
pub use self::interrupt::Interrupt;
pub use self::lr_find::{draw_lr_curve, find_lr};
pub use self::metrics::{Metric, MetricsFile, Speed, Split};
pub use self::plan::{Alternative, LargestBatch, LargestTensor, MemoryPlan, Planner, Savings, StepPlan};
pub use self::pretrained::Pretrained;
pub use self::profile::{KernelTime, Profile};
pub use self::progress::Waiting;
pub use self::recipe::{
    AverageKind, AverageRecipe, Decay, GroupRecipe, LookaheadRecipe, LoraRecipe, OptimizerRecipe, Override,
    Precision, Recipe, RecipeError, RestRecipe, SampleRecipe, ScheduleRecipe, Sections, TrainRecipe,
};
pub use self::run_folder::RunFolder;
pub use self::sample::SampleOptions;
pub use self::scores::{
    AnswerScore, Bleu, BleuScore, Chrf, Confusion, answer_score, bits_per_byte, draw_confusion,
    normalize_answer, perplexity,
};
pub use self::task::causal_lm::{CausalLmRecipe, DecoderRecipe, ModelKind, TextRecipe};
pub use self::task::image_classification::{
    CnnRecipe, ImageClassificationRecipe, ImageDataRecipe, ImageModelKind, ImageTask,
};
pub use self::task::text::{
    BertRecipe, LabelledTextRecipe, MaskedLmOptions, MaskedLmRecipe, SequenceClassificationRecipe,
};
pub use self::task::text::{MarianRecipe, PairsRecipe, TranslationOptions, TranslationRecipe};
pub use self::task::{Measured, TaskKind, TaskOptions, TaskRecipe, Units};
pub use self::trainer::{Outcome, ProfileOptions, RunOptions, resume, train};
