//! Trains a model by a recipe: the loop, checkpoints that survive anything, metrics, progress and pictures.

mod recipe;

pub use self::recipe::{
    DataRecipe, Decay, ModelKind, ModelRecipe, OptimizerKind, OptimizerRecipe, Override, Recipe, RecipeError,
    SampleRecipe, ScheduleKind, ScheduleRecipe, TrainRecipe,
};
