//! Learning rates over time.

mod check;
mod cycle;
mod error_ratio;
mod plateau;
mod scheduler;

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

pub use cycle::{Anneal, Cyclic, CyclicMode, OneCycle};
pub use error_ratio::{ErrorRatio, Rate};
pub use plateau::{PlateauMode, ReduceLrOnPlateau, ThresholdMode};
pub use scheduler::{Feedback, LrScheduler};

/// The learning rate of each step, as a value: it is a function of the step alone, so nothing of it has to be saved. Step `i` is
/// the `i`-th update, counted from 0.
///
/// Most are PyTorch's (`torch.optim.lr_scheduler`) in closed form. Those of Hugging Face begin with a warm-up: see
/// [`Schedule::with_warmup`]. What depends on measurements is in [`LrScheduler`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// `lr` at every step.
    Constant {
        /// The learning rate.
        lr: f64,
    },
    /// `factor lr` for `total_iters` steps, then `lr` (PyTorch's `ConstantLR`).
    ConstantFactor {
        /// The learning rate.
        lr: f64,
        /// What it is multiplied by at first.
        #[serde(default = "third")]
        factor: f64,
        /// For how long.
        #[serde(default = "five")]
        total_iters: u64,
    },
    /// From `start_factor lr` to `end_factor lr` along a line over `total_iters` steps, then constant (`LinearLR`).
    Linear {
        /// The learning rate.
        lr: f64,
        /// The first factor.
        #[serde(default = "third")]
        start_factor: f64,
        /// The last factor.
        #[serde(default = "one")]
        end_factor: f64,
        /// Steps from the first to the last.
        #[serde(default = "five")]
        total_iters: u64,
    },
    /// `lr gamma^⌊i / step_size⌋` (`StepLR`).
    Step {
        /// The first rate.
        lr: f64,
        /// Steps between two falls.
        step_size: u64,
        /// The factor of each.
        #[serde(default = "tenth")]
        gamma: f64,
    },
    /// `lr gamma^n`, where `n` milestones are at or before `i` (`MultiStepLR`).
    MultiStep {
        /// The first rate.
        lr: f64,
        /// When the rate falls.
        milestones: Vec<u64>,
        /// The factor of each fall.
        #[serde(default = "tenth")]
        gamma: f64,
    },
    /// `lr gammaⁱ` (`ExponentialLR`).
    Exponential {
        /// The first rate.
        lr: f64,
        /// The factor of each step.
        gamma: f64,
    },
    /// `lr / (1 + β t)` with `t = i / steps_per_epoch` epochs (Robbins and Monro, 1951, give the conditions that it meets).
    InverseTime {
        /// The first rate, `α₀`.
        lr: f64,
        /// `β`.
        decay: f64,
        /// How many steps an epoch has.
        #[serde(default = "one_step")]
        steps_per_epoch: u64,
    },
    /// `lr √(timescale / (i + timescale))` (Hugging Face's `inverse_sqrt`, without its warm-up). `timescale = 1` gives
    /// `lr / √(i + 1)`.
    InverseSqrt {
        /// The first rate.
        lr: f64,
        /// After how many steps it has fallen by `√2`.
        timescale: u64,
    },
    /// `end_lr + (lr - end_lr) (1 - i / total_iters)^power`, then `end_lr` (`PolynomialLR`, and Hugging Face's `polynomial`; with
    /// power 1 its `linear`).
    Polynomial {
        /// The first rate.
        lr: f64,
        /// The last rate.
        #[serde(default)]
        end_lr: f64,
        /// Steps from the first to the last.
        #[serde(default = "five")]
        total_iters: u64,
        /// The exponent.
        #[serde(default = "one")]
        power: f64,
    },
    /// `eta_min + (lr - eta_min) (1 + cos(π i / t_max)) / 2` (`CosineAnnealingLR`; Loshchilov and Hutter, 2017). Beyond `t_max` the
    /// rate rises again.
    Cosine {
        /// The highest rate.
        lr: f64,
        /// Steps to the lowest.
        t_max: u64,
        /// The lowest rate.
        #[serde(default)]
        eta_min: f64,
    },
    /// As [`Schedule::Cosine`], begun anew after `t_0` steps, then after `t_0 t_mult`, and so on (`CosineAnnealingWarmRestarts`).
    CosineRestarts {
        /// The highest rate.
        lr: f64,
        /// Steps of the first cycle.
        t_0: u64,
        /// How much longer each cycle is than the one before.
        #[serde(default = "one_step")]
        t_mult: u64,
        /// The lowest rate.
        #[serde(default)]
        eta_min: f64,
    },
    /// `cycles` half cosines over `total` steps, then 0 (Hugging Face's `cosine_with_restarts`, without its warm-up).
    CosineHardRestarts {
        /// The highest rate.
        lr: f64,
        /// Steps of all cycles.
        total: u64,
        /// How many.
        #[serde(default = "one_step")]
        cycles: u64,
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
    /// `factor d_model^-½ min((i + 1)^-½, (i + 1) warmup^-1½)` (Vaswani et al., 2017, equation 3).
    Noam {
        /// The model's width.
        d_model: u64,
        /// Steps of rising.
        warmup: u64,
        /// What the paper's rate is multiplied by.
        #[serde(default = "one")]
        factor: f64,
    },
    /// Stable, then decaying: `lr` for `stable` steps, then down to `min_lr` over `decay` steps, then constant (Hu et al., 2024,
    /// "MiniCPM"; with a warm-up in front, the name's W).
    Wsd {
        /// The stable rate.
        lr: f64,
        /// Steps at that rate.
        stable: u64,
        /// Steps of falling.
        decay: u64,
        /// The last rate.
        #[serde(default)]
        min_lr: f64,
        /// How it falls.
        #[serde(default)]
        shape: DecayShape,
    },
    /// Up and down between two rates; see [`Cyclic`].
    Cyclic(Cyclic),
    /// Once up and down, far down; see [`OneCycle`].
    OneCycle(OneCycle),
    /// Rises linearly over `steps` to where `then` begins: `peak i / steps`, or `peak (i + 1) / steps` unless `from_zero`, where
    /// the first step would be lost. Then follows `then` from its beginning.
    Warmup {
        /// Steps of rising.
        steps: u64,
        /// Whether the first step's rate is 0, as Hugging Face has it.
        #[serde(default)]
        from_zero: bool,
        /// What follows.
        then: Box<Schedule>,
    },
    /// One after the other, each from its own beginning: the next one begins at each milestone (`SequentialLR`).
    Sequential {
        /// The parts, one more than milestones.
        schedules: Vec<Schedule>,
        /// The steps at which the next part begins, increasing.
        milestones: Vec<u64>,
    },
    /// The product of several: one with a rate, the others with factors for `lr` (what chained schedulers and `MultiplicativeLR`
    /// do in PyTorch).
    Product {
        /// The factors.
        schedules: Vec<Schedule>,
    },
}

/// How a rate falls from `lr` to `min_lr`, for `x` from 0 to 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayShape {
    /// `1 - x`.
    #[default]
    Linear,
    /// `(1 + cos πx) / 2`.
    Cosine,
    /// `1 - √x` (Hägele et al., 2024).
    OneMinusSqrt,
}

impl Schedule {
    /// The learning rate of step `i`, counted from 0.
    pub fn lr(&self, i: u64) -> f64 {
        let step = i as f64;
        let share = |of: u64| if of == 0 { 1.0 } else { (step / of as f64).min(1.0) };
        match self {
            Schedule::Constant { lr } => *lr,
            Schedule::ConstantFactor { lr, factor, total_iters } => {
                if i < *total_iters {
                    lr * factor
                } else {
                    *lr
                }
            }
            Schedule::Linear { lr, start_factor, end_factor, total_iters } => {
                lr * (start_factor + (end_factor - start_factor) * share(*total_iters))
            }
            Schedule::Step { lr, step_size, gamma } => lr * gamma.powf((i / (*step_size).max(1)) as f64),
            Schedule::MultiStep { lr, milestones, gamma } => {
                lr * gamma.powf(milestones.iter().filter(|m| **m <= i).count() as f64)
            }
            Schedule::Exponential { lr, gamma } => lr * gamma.powf(step),
            Schedule::InverseTime { lr, decay, steps_per_epoch } => {
                lr / (1.0 + decay * step / (*steps_per_epoch).max(1) as f64)
            }
            Schedule::InverseSqrt { lr, timescale } => {
                let scale = (*timescale).max(1) as f64;
                lr * (scale / (step + scale)).sqrt()
            }
            Schedule::Polynomial { lr, end_lr, total_iters, power } => {
                end_lr + (lr - end_lr) * (1.0 - share(*total_iters)).powf(*power)
            }
            Schedule::Cosine { lr, t_max, eta_min } => {
                half_cosine(*lr, *eta_min, step / (*t_max).max(1) as f64)
            }
            Schedule::CosineRestarts { lr, t_0, t_mult, eta_min } => {
                let (at, length) = restarted(i, (*t_0).max(1), (*t_mult).max(1));
                half_cosine(*lr, *eta_min, at as f64 / length as f64)
            }
            Schedule::CosineHardRestarts { lr, total, cycles } => match share(*total) {
                done if done >= 1.0 => 0.0,
                done => half_cosine(*lr, 0.0, (done * *cycles as f64).fract()),
            },
            Schedule::WarmupCosineTo { lr, warmup, .. } if i < *warmup => {
                lr * (i + 1) as f64 / *warmup as f64
            }
            Schedule::WarmupCosineTo { lr, min_lr, warmup, total } => {
                half_cosine(*lr, *min_lr, after(i, *warmup, *total))
            }
            Schedule::WarmupCosine { lr, warmup, .. } if i < *warmup => lr * (step / *warmup as f64),
            Schedule::WarmupCosine { lr, warmup, total } => {
                half_cosine(*lr, 0.0, after(i, *warmup, *total)).max(0.0)
            }
            Schedule::Noam { d_model, warmup, factor } => {
                let (step, warmup) = (step + 1.0, (*warmup).max(1) as f64);
                factor / (*d_model as f64).sqrt() * step.powf(-0.5).min(step * warmup.powf(-1.5))
            }
            Schedule::Wsd { lr, stable, decay, min_lr, shape } => {
                let x =
                    if i < *stable { 0.0 } else { ((i - stable) as f64 / (*decay).max(1) as f64).min(1.0) };
                let kept = match shape {
                    DecayShape::Linear => 1.0 - x,
                    DecayShape::Cosine => 0.5 * (1.0 + (PI * x).cos()),
                    DecayShape::OneMinusSqrt => 1.0 - x.sqrt(),
                };
                min_lr + (lr - min_lr) * kept
            }
            Schedule::Cyclic(cyclic) => cyclic.lr(i),
            Schedule::OneCycle(cycle) => cycle.lr(i),
            Schedule::Warmup { steps, from_zero, then } if i < *steps => {
                then.lr(0) * ((i + u64::from(!from_zero)) as f64 / *steps as f64)
            }
            Schedule::Warmup { steps, then, .. } => then.lr(i - steps),
            Schedule::Sequential { schedules, milestones } => {
                part(schedules, milestones, i).map_or(0.0, |(schedule, i)| schedule.lr(i))
            }
            Schedule::Product { schedules } => schedules.iter().map(|s| s.lr(i)).product(),
        }
    }

    /// The momentum of step `i`, where the schedule cycles it.
    pub fn momentum(&self, i: u64) -> Option<f64> {
        match self {
            Schedule::Cyclic(cyclic) => cyclic.momentum(i),
            Schedule::OneCycle(cycle) => cycle.momentum(i),
            Schedule::Warmup { steps, then, .. } => then.momentum(i.saturating_sub(*steps)),
            Schedule::Sequential { schedules, milestones } => {
                part(schedules, milestones, i).and_then(|(schedule, i)| schedule.momentum(i))
            }
            Schedule::Product { schedules } => schedules.iter().find_map(|s| s.momentum(i)),
            _ => None,
        }
    }

    /// This schedule after a linear warm-up from 0, as Hugging Face's have it: `linear` is a [`Schedule::Polynomial`] after one,
    /// `constant_with_warmup` a [`Schedule::Constant`], `cosine` a [`Schedule::Cosine`] of `total - warmup` steps, `inverse_sqrt` a
    /// [`Schedule::InverseSqrt`] whose time scale is the warm-up.
    #[must_use]
    pub fn with_warmup(self, steps: u64) -> Schedule {
        Schedule::Warmup { steps, from_zero: true, then: Box::new(self) }
    }
}

/// Half a cosine from `high` at 0 to `low` at 1, and back again beyond.
fn half_cosine(high: f64, low: f64, x: f64) -> f64 {
    low + (high - low) * (0.5 * (1.0 + (PI * x).cos()))
}

/// How far `i` is between `warmup` and `total`, at most 1.
fn after(i: u64, warmup: u64, total: u64) -> f64 {
    let length = total.saturating_sub(warmup).max(1);
    (i.saturating_sub(warmup) as f64 / length as f64).min(1.0)
}

/// The place of step `i` in its cycle, and the cycle's length.
fn restarted(i: u64, first: u64, multiple: u64) -> (u64, u64) {
    if multiple == 1 {
        return (i % first, first);
    }
    let (mut at, mut length) = (i, first);
    while at >= length {
        at -= length;
        length = length.saturating_mul(multiple);
    }
    (at, length)
}

/// The part of a sequence to which step `i` belongs, and its number there.
fn part<'a>(schedules: &'a [Schedule], milestones: &[u64], i: u64) -> Option<(&'a Schedule, u64)> {
    let number = milestones.iter().filter(|m| **m <= i).count();
    let begun = if number == 0 { 0 } else { milestones[number - 1] };
    Some((schedules.get(number).or(schedules.last())?, i - begun))
}

fn third() -> f64 {
    1.0 / 3.0
}
fn tenth() -> f64 {
    0.1
}
fn one() -> f64 {
    1.0
}
fn five() -> u64 {
    5
}
fn one_step() -> u64 {
    1
}

#[cfg(test)]
mod tests;
