//! Learning rates over time.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The learning rate of each step, as a value: it is a function of the step alone, so nothing of it has to be saved.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Schedule {
    /// `lr` at every step.
    Constant {
        /// The learning rate.
        lr: f64,
    },
    /// Rises linearly, `lr (i + 1) / warmup` for `i < warmup`, so that the first step is not lost; then falls along half a cosine,
    /// `min_lr + (lr - min_lr) (1 + cos(π (i - warmup) / (total - warmup))) / 2`, and stays at `min_lr` from `total` on.
    WarmupCosineTo {
        /// The highest rate.
        lr: f64,
        /// The rate at the end.
        min_lr: f64,
        /// Steps of rising.
        warmup: u64,
        /// Steps in all.
        total: u64,
    },
    /// Hugging Face's `get_cosine_schedule_with_warmup`: `lr i / warmup` for `i < warmup` (the first step's rate is 0), then
    /// `lr (1 + cos(π (i - warmup) / (total - warmup))) / 2`, and 0 from `total` on.
    WarmupCosine {
        /// The highest rate.
        lr: f64,
        /// Steps of rising.
        warmup: u64,
        /// Steps in all.
        total: u64,
    },
}

impl Schedule {
    /// The learning rate of step `i`, counted from 0.
    pub fn lr(&self, i: u64) -> f64 {
        let fraction = |warmup: u64, total: u64| {
            let length = total.saturating_sub(warmup).max(1);
            (i.saturating_sub(warmup) as f64 / length as f64).min(1.0)
        };
        match *self {
            Schedule::Constant { lr } => lr,
            Schedule::WarmupCosineTo { lr, warmup, .. } if i < warmup => lr * (i + 1) as f64 / warmup as f64,
            Schedule::WarmupCosineTo { lr, min_lr, warmup, total } => {
                min_lr + 0.5 * (lr - min_lr) * (1.0 + (PI * fraction(warmup, total)).cos())
            }
            Schedule::WarmupCosine { lr, warmup, .. } if i < warmup => lr * (i as f64 / warmup as f64),
            Schedule::WarmupCosine { lr, warmup, total } => {
                lr * (0.5 * (1.0 + (PI * fraction(warmup, total)).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12, "{found} instead of {expected}");
    }

    #[test]
    fn warm_up_to_a_minimum_starts_above_zero_and_ends_at_the_minimum() {
        let s = Schedule::WarmupCosineTo { lr: 1e-3, min_lr: 1e-4, warmup: 100, total: 2000 };
        near(s.lr(0), 1e-5);
        near(s.lr(99), 1e-3);
        near(s.lr(100), 1e-3);
        near(s.lr(1050), 5.5e-4);
        near(s.lr(2000), 1e-4);
        near(s.lr(9000), 1e-4);
    }

    #[test]
    fn hugging_face_warm_up_starts_at_zero_and_ends_at_zero() {
        let s = Schedule::WarmupCosine { lr: 5e-3, warmup: 5, total: 20 };
        near(s.lr(0), 0.0);
        near(s.lr(4), 4e-3);
        near(s.lr(5), 5e-3);
        // A third of the way down: (1 + cos 60°) / 2 = 3/4.
        near(s.lr(10), 3.75e-3);
        near(s.lr(20), 0.0);
    }

    #[test]
    fn schedules_without_length_are_defined_everywhere() {
        near(Schedule::WarmupCosineTo { lr: 1.0, min_lr: 0.5, warmup: 0, total: 0 }.lr(0), 1.0);
        near(Schedule::WarmupCosine { lr: 1.0, warmup: 0, total: 0 }.lr(3), 0.0);
    }
}
