//! A recipe as it is in a file: sections that all tasks have, and those of its task.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    AverageRecipe, LoraRecipe, OptimizerRecipe, Recipe, RecipeError, SampleRecipe, ScheduleRecipe,
    TrainRecipe, load::Source,
};
use crate::task::TaskRecipe;

/// The sections of a recipe that are its task's: `[task]`, `[model]` and `[data]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sections<O, M, D> {
    /// Which task it is, and its settings.
    pub task: O,
    /// The network.
    pub model: M,
    /// What it learns from.
    pub data: D,
}

/// The file. The order of its fields is that of the sections in a run folder's recipe.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<O, M, D> {
    #[serde(default)]
    name: String,
    #[serde(default)]
    task: O,
    model: M,
    data: D,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lora: Option<LoraRecipe>,
    optimizer: OptimizerRecipe,
    #[serde(default)]
    schedule: ScheduleRecipe,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    average: Option<AverageRecipe>,
    train: TrainRecipe,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sample: Option<SampleRecipe>,
}

impl Source<'_> {
    /// The recipe with the sections of one task, which `wrap` makes a [`TaskRecipe`] of.
    pub(crate) fn recipe<O, M, D>(
        &self,
        wrap: fn(Sections<O, M, D>) -> TaskRecipe,
    ) -> Result<Recipe, RecipeError>
    where
        O: DeserializeOwned + Default,
        M: DeserializeOwned,
        D: DeserializeOwned,
    {
        let File { name, task, model, data, lora, optimizer, schedule, average, train, sample } =
            self.read()?;
        let task = wrap(Sections { task, model, data });
        Ok(Recipe { name, task, lora, optimizer, schedule, average, train, sample })
    }
}

impl<O, M, D> Sections<O, M, D>
where
    O: Serialize + Clone,
    M: Serialize + Clone,
    D: Serialize + Clone,
{
    /// The recipe with these sections as TOML.
    pub(crate) fn to_toml(&self, recipe: &Recipe) -> Result<String, toml::ser::Error> {
        let Sections { task, model, data } = self.clone();
        let Recipe { name, lora, optimizer, schedule, average, train, sample, .. } = recipe.clone();
        toml::to_string(&File { name, task, model, data, lora, optimizer, schedule, average, train, sample })
    }
}
