//! Trains a model by a recipe: the loop, checkpoints that survive anything, metrics, progress and pictures.

mod checkpoint;
mod curve;
mod durable;
mod error;
mod metrics;
mod recipe;

pub use self::checkpoint::{Checkpoint, CheckpointStore, TrainState};
pub use self::curve::draw_loss_curve;
pub use self::error::{Result, TrainError};
pub use self::metrics::{Metric, MetricsFile, Split};
pub use self::recipe::{
    DataRecipe, Decay, ModelKind, ModelRecipe, OptimizerKind, OptimizerRecipe, Override, Recipe, RecipeError,
    SampleRecipe, ScheduleKind, ScheduleRecipe, TrainRecipe,
};
