//! Values that no run can have, refused before anything is read or computed.

use wgrad_optim::OptimizerSpec;

use super::{Precision, Recipe, RecipeError, SampleRecipe, TrainRecipe};
use crate::task::TaskKind;

impl Recipe {
    /// Checks every value, and fills in what follows from others.
    ///
    /// # Errors
    /// [`RecipeError::Value`] names the first key whose value is out of range, and what it may be.
    pub fn validate(&mut self) -> Result<(), RecipeError> {
        self.task.spec_mut().validate(&mut self.train, &mut self.sample)?;
        self.optimizer.validate(self.train.clipping().is_some())?;
        let t = &self.train;
        positive("train.batch_size", t.batch_size)?;
        positive("train.grad_accumulation", t.grad_accumulation)?;
        let scales = !matches!(self.optimizer.spec, OptimizerSpec::Lbfgs(_));
        check("train.precision", scales || t.precision != Precision::F16, "f16", || {
            "f32 or bf16 with lbfgs, which cannot scale the loss".into()
        })?;
        positive("train.keep_checkpoints", t.keep_checkpoints)?;
        // The random streams count steps in 32 bits.
        for (key, steps) in [
            ("train.steps", t.steps),
            ("train.eval_every", t.eval_every),
            ("train.checkpoint_every", t.checkpoint_every),
        ] {
            check(key, (1..1 << 32).contains(&steps), steps, || "in 1..2^32".into())?;
        }
        check("train.seed", i64::try_from(t.seed).is_ok(), t.seed, || "below 2^63".into())?;
        let clips = [
            ("train.clip_grad_norm", t.clip_grad_norm),
            ("train.clip_grad_value", t.clip_grad_value),
            ("train.clip_grad_adaptive", t.clip_grad_adaptive),
        ];
        let given = clips.iter().filter_map(|(key, most)| Some((*key, (*most)?)));
        for (number, (key, most)) in given.enumerate() {
            check(key, most > 0.0, most, || "above 0, or absent for no clipping".into())?;
            check(key, number == 0, most, || "absent where gradients are clipped in another way".into())?;
        }
        self.validate_schedule()?;
        self.validate_average()?;
        self.validate_lora()?;
        if let Some(sample) = &self.sample {
            sample.validate()?;
        }
        let name_ok = !self.name.contains(['/', '\\']) && !self.name.starts_with('.');
        check("name", name_ok, &self.name, || "a file name without `/` that does not begin with a dot".into())
    }
}

impl SampleRecipe {
    fn validate(&self) -> Result<(), RecipeError> {
        let warmth = self.temperature;
        check("sample.temperature", warmth >= 0.0 && warmth.is_finite(), warmth, || "0 or more".into())?;
        // A sample is written between two steps: nothing else happens meanwhile.
        check("sample.length", (1..=100_000).contains(&self.length), self.length, || "in 1..=100000".into())?;
        check("sample.prompts", self.prompts.iter().all(|p| !p.is_empty()), "an empty one", || {
            "texts of at least one character".into()
        })?;
        positive("sample.top_k", self.top_k.unwrap_or(1))
    }
}

impl TrainRecipe {
    /// Refuses those of the keys that not every task has, except the ones named here, which `task` has.
    ///
    /// # Errors
    /// [`RecipeError::Value`] names the key.
    pub(crate) fn allow(&self, task: TaskKind, keys: &[&str]) -> Result<(), RecipeError> {
        let some_have = [
            ("train.context", self.context.is_some()),
            ("train.gradient_checkpointing", self.gradient_checkpointing.is_some()),
            ("train.loss_chunk", self.loss_chunk.is_some()),
            ("train.validation_windows", self.validation_windows.is_some()),
        ];
        for (key, given) in some_have {
            let allowed = keys.iter().any(|k| key.strip_prefix("train.") == Some(k));
            check(key, !given || allowed, "a value", || {
                format!("absent: tasks of the kind {} do not have it", task.name())
            })?;
        }
        Ok(())
    }
}

pub(crate) fn positive(key: &'static str, found: usize) -> Result<(), RecipeError> {
    check(key, found > 0, found, || "1 or more".into())
}

/// NaN fails every comparison and is thereby refused.
pub(crate) fn check(
    key: &'static str,
    good: bool,
    found: impl std::fmt::Display,
    expected: impl FnOnce() -> String,
) -> Result<(), RecipeError> {
    if good {
        Ok(())
    } else {
        Err(RecipeError::Value { key, expected: expected(), found: found.to_string() })
    }
}
