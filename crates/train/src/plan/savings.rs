//! Settings that save memory, and what a step would need with each of them.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{LargestBatch, Planner, StepPlan};
use crate::error::Result;

/// The settings of `[train]` that trade work or kernels for memory: a step's result is the same to rounding with any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Savings {
    /// `train.gradient_checkpointing`
    pub gradient_checkpointing: bool,
    /// `train.loss_chunk`
    pub loss_chunk: usize,
}

impl Savings {
    /// What `--set` must say to get from `from` to these: `train.loss_chunk=512`.
    pub fn changes(&self, from: &Savings) -> Vec<String> {
        let mut changes = Vec::new();
        if self.gradient_checkpointing != from.gradient_checkpointing {
            changes.push(format!("train.gradient_checkpointing={}", self.gradient_checkpointing));
        }
        if self.loss_chunk != from.loss_chunk {
            changes.push(format!("train.loss_chunk={}", self.loss_chunk));
        }
        changes
    }
}

impl fmt::Display for Savings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.gradient_checkpointing, self.loss_chunk) {
            (false, 0) => write!(f, "nothing that saves memory"),
            (true, 0) => write!(f, "gradient_checkpointing"),
            (false, chunk) => write!(f, "loss_chunk = {chunk}"),
            (true, chunk) => write!(f, "gradient_checkpointing, loss_chunk = {chunk}"),
        }
    }
}

/// A step of the recipe's batch with other settings than the recipe's, planned as the recipe's own is.
#[derive(Clone, Debug, Serialize)]
pub struct Alternative {
    /// The settings.
    #[serde(flatten)]
    pub savings: Savings,
    /// Bytes at the fullest moment; absent where a tensor is beyond the device's limits.
    pub peak_bytes: Option<u64>,
    /// Floating-point operations of contractions per step, for each one of the recipe's own step; absent where either has no plan.
    pub work: Option<f64>,
    /// Whether the step fits.
    pub fits: bool,
    /// The largest batch.
    pub largest_batch: LargestBatch,
}

impl Planner {
    /// What steps are planned with: the recipe's settings at first.
    pub fn savings(&self) -> Savings {
        self.savings
    }

    /// Plans with other settings from now on.
    pub fn set_savings(&mut self, savings: Savings) {
        self.savings = savings;
        self.learner.task_mut().set_savings(savings);
    }

    /// Plans the recipe's batch with every other combination of these settings, and looks for the largest batch of each for about
    /// `limit`. `own` is the recipe's own step, where it has a plan; `tried` hears what is being planned.
    ///
    /// # Errors
    /// A step cannot be planned for another reason than its size.
    pub fn alternatives(
        &mut self,
        own: Option<&StepPlan>,
        limit: Duration,
        mut tried: impl FnMut(Savings, usize),
    ) -> Result<Vec<Alternative>> {
        let recipes = self.savings;
        let mut found = Vec::new();
        for savings in self.combinations() {
            self.set_savings(savings);
            let alternative = self.alternative(own, limit, |windows| tried(savings, windows));
            self.set_savings(recipes);
            found.push(alternative?);
        }
        Ok(found)
    }

    fn alternative(
        &mut self,
        own: Option<&StepPlan>,
        limit: Duration,
        mut tried: impl FnMut(usize),
    ) -> Result<Alternative> {
        let windows = self.recipe.train.batch_size;
        tried(windows);
        let plan = match self.plan() {
            Ok(plan) => Some(plan),
            Err(error) if error.is_too_large() => None,
            Err(error) => return Err(error),
        };
        let largest_batch = self.search(plan.as_ref(), limit, tried)?;
        let work = plan.as_ref().zip(own).map(|(plan, own)| plan.flops as f64 / own.flops.max(1) as f64);
        Ok(Alternative {
            savings: self.savings,
            peak_bytes: plan.as_ref().map(|plan| plan.memory.peak),
            work,
            fits: plan.as_ref().is_some_and(StepPlan::fits),
            largest_batch,
        })
    }

    /// All but the present one.
    fn combinations(&self) -> Vec<Savings> {
        let offers = self.learner.task().offers(self.recipe.train.batch_size);
        let chunk = match self.savings.loss_chunk {
            0 => offers.loss_chunk,
            chunk => Some(chunk),
        };
        let checkpointing = [Some(false), offers.gradient_checkpointing.then_some(true)];
        let chunks = [Some(0), chunk].into_iter().flatten();
        let all = chunks.flat_map(|loss_chunk| {
            let with = move |gradient_checkpointing| Savings { gradient_checkpointing, loss_chunk };
            checkpointing.into_iter().flatten().map(with)
        });
        all.filter(|savings| *savings != self.savings).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_what_the_command_takes() {
        let plain = Savings::default();
        let both = Savings { gradient_checkpointing: true, loss_chunk: 64 };
        assert_eq!(both.changes(&plain), ["train.gradient_checkpointing=true", "train.loss_chunk=64"]);
        assert_eq!(plain.changes(&both), ["train.gradient_checkpointing=false", "train.loss_chunk=0"]);
        assert!(both.changes(&both).is_empty());
        assert_eq!(both.to_string(), "gradient_checkpointing, loss_chunk = 64");
    }
}
