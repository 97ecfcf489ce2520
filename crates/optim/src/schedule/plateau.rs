//! A rate that falls when a metric no longer improves.

use serde::{Deserialize, Serialize};

/// PyTorch's `ReduceLROnPlateau`: the rate is multiplied by `factor` when a metric has not improved for more than `patience`
/// measurements.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReduceLrOnPlateau {
    /// Whether the metric should fall or rise.
    pub mode: PlateauMode,
    /// What the rate is multiplied by.
    pub factor: f64,
    /// Measurements without improvement that are borne.
    pub patience: u64,
    /// Improvements must be larger than this.
    pub threshold: f64,
    /// Whether the threshold is a share of the best value.
    pub threshold_mode: ThresholdMode,
    /// Measurements after a fall that do not count.
    pub cooldown: u64,
    /// The lowest rate.
    pub min_lr: f64,
    /// Falls smaller than this are left out.
    pub eps: f64,
}

/// Which way a metric should go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlateauMode {
    /// Down, as losses.
    #[default]
    Min,
    /// Up, as accuracies.
    Max,
}

/// What a threshold is a share of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThresholdMode {
    /// Of the best value so far.
    #[default]
    Rel,
    /// It is the difference itself.
    Abs,
}

impl Default for ReduceLrOnPlateau {
    /// PyTorch's: falls to a tenth after 10 measurements without an improvement of 1e-4 of the best one.
    fn default() -> Self {
        ReduceLrOnPlateau {
            mode: PlateauMode::Min,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            threshold_mode: ThresholdMode::Rel,
            cooldown: 0,
            min_lr: 0.0,
            eps: 1e-8,
        }
    }
}

/// What is remembered between measurements.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct PlateauState {
    /// The rate now, for the rate that it began with.
    #[serde(with = "crate::bits")]
    pub(super) lr: f64,
    #[serde(with = "crate::bits")]
    best: f64,
    num_bad_epochs: u64,
    cooldown_counter: u64,
}

impl ReduceLrOnPlateau {
    /// Before any measurement.
    pub(super) fn begin(&self, lr: f64) -> PlateauState {
        let worst = match self.mode {
            PlateauMode::Min => f64::INFINITY,
            PlateauMode::Max => f64::NEG_INFINITY,
        };
        PlateauState { lr, best: worst, num_bad_epochs: 0, cooldown_counter: 0 }
    }

    fn is_better(&self, metric: f64, best: f64) -> bool {
        let t = self.threshold;
        match (self.mode, self.threshold_mode) {
            (PlateauMode::Min, ThresholdMode::Rel) => metric < best * (1.0 - t),
            (PlateauMode::Min, ThresholdMode::Abs) => metric < best - t,
            (PlateauMode::Max, ThresholdMode::Rel) => metric > best * (1.0 + t),
            (PlateauMode::Max, ThresholdMode::Abs) => metric > best + t,
        }
    }

    /// Takes a measurement. A metric that is not a number is no improvement.
    pub(super) fn observe(&self, state: &mut PlateauState, metric: f64) {
        if self.is_better(metric, state.best) {
            (state.best, state.num_bad_epochs) = (metric, 0);
        } else {
            state.num_bad_epochs += 1;
        }
        if state.cooldown_counter > 0 {
            state.cooldown_counter -= 1;
            state.num_bad_epochs = 0;
        }
        if state.num_bad_epochs > self.patience {
            let lower = (state.lr * self.factor).max(self.min_lr);
            if state.lr - lower > self.eps {
                state.lr = lower;
            }
            (state.cooldown_counter, state.num_bad_epochs) = (self.cooldown, 0);
        }
    }
}
