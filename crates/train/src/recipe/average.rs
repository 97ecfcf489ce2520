//! `[average]`: averages of the weights along the way.

use serde::{Deserialize, Serialize};
use wgrad_optim::Averaging;

use super::{Recipe, RecipeError, check};

/// Which average of the weights is kept beside them. Validation, samples and `model.safetensors` are of the average, once there is
/// one; training goes on with the weights themselves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AverageRecipe {
    /// The kind.
    pub kind: AverageKind,
    /// How much of an exponential moving average stays.
    #[serde(default = "decay")]
    pub decay: f64,
    /// The first update whose weights are taken, counted from 1; the first one taken is copied.
    #[serde(default = "one")]
    pub start: u64,
    /// Updates between two that are taken.
    #[serde(default = "one")]
    pub every: u64,
}

/// How weights are averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AverageKind {
    /// Exponential moving average.
    Ema,
    /// Stochastic weight averaging: the plain mean.
    Swa,
}

impl AverageRecipe {
    /// The rule.
    pub(crate) fn averaging(&self) -> Averaging {
        match self.kind {
            AverageKind::Ema => Averaging::Ema { decay: self.decay },
            AverageKind::Swa => Averaging::Swa,
        }
    }

    /// Whether the weights after update `step`, counted from 1, are taken.
    pub(crate) fn takes(&self, step: u64) -> bool {
        step >= self.start && (step - self.start).is_multiple_of(self.every)
    }
}

impl Recipe {
    pub(super) fn validate_average(&self) -> Result<(), RecipeError> {
        let Some(average) = self.average else { return Ok(()) };
        let checks = [
            ("average.decay", (0.0..1.0).contains(&average.decay), average.decay.to_string(), "in 0..1"),
            ("average.start", average.start > 0, average.start.to_string(), "1 or more"),
            ("average.every", average.every > 0, average.every.to_string(), "1 or more"),
        ];
        checks
            .into_iter()
            .try_for_each(|(key, good, found, expected)| check(key, good, found, || expected.into()))
    }
}

fn decay() -> f64 {
    0.999
}
fn one() -> u64 {
    1
}
