//! Rates that rise and fall, and momenta that fall and rise with them.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// Up and down between two rates (Smith, 2017), PyTorch's `CyclicLR`.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cyclic {
    /// The lowest rate.
    pub base_lr: f64,
    /// The highest rate.
    pub max_lr: f64,
    /// Steps of rising.
    #[serde(default = "two_thousand")]
    pub step_size_up: u64,
    /// Steps of falling; as many as of rising where absent.
    #[serde(default)]
    pub step_size_down: Option<u64>,
    /// How the height of cycles changes.
    #[serde(default)]
    pub mode: CyclicMode,
    /// The factor per step of [`CyclicMode::ExpRange`].
    #[serde(default = "one")]
    pub gamma: f64,
    /// Momentum at the highest and at the lowest rate, if it is cycled.
    #[serde(default)]
    pub momentum: Option<(f64, f64)>,
}

/// How the height of cycles changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CyclicMode {
    /// Not at all.
    #[default]
    Triangular,
    /// Each is half as high as the one before.
    Triangular2,
    /// By `gammaⁱ`.
    ExpRange,
}

impl Cyclic {
    /// How far from the lowest to the highest rate, from 0 to 1.
    fn height(&self, i: u64) -> f64 {
        let up = self.step_size_up.max(1) as f64;
        let total = up + self.step_size_down.map_or(up, |down| down.max(1) as f64);
        let cycle = (1.0 + i as f64 / total).floor();
        let (x, peak) = (1.0 + i as f64 / total - cycle, up / total);
        let height = if x <= peak { x / peak } else { (x - 1.0) / (peak - 1.0) };
        height
            * match self.mode {
                CyclicMode::Triangular => 1.0,
                CyclicMode::Triangular2 => 0.5f64.powf(cycle - 1.0),
                CyclicMode::ExpRange => self.gamma.powf(i as f64),
            }
    }

    pub(super) fn lr(&self, i: u64) -> f64 {
        self.base_lr + (self.max_lr - self.base_lr) * self.height(i)
    }

    pub(super) fn momentum(&self, i: u64) -> Option<f64> {
        self.momentum.map(|(base, max)| max - (max - base) * self.height(i))
    }
}

/// Once up and down, and in the end far down (Smith and Topin, 2018), PyTorch's `OneCycleLR`. From
/// `max_lr / div_factor` to `max_lr` over `pct_start` of the steps, then down to `max_lr / div_factor / final_div_factor`; in
/// three phases, first back to where it began.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneCycle {
    /// The highest rate.
    pub max_lr: f64,
    /// Steps in all.
    pub total_steps: u64,
    /// The share of rising.
    #[serde(default = "three_tenths")]
    pub pct_start: f64,
    /// How it rises and falls.
    #[serde(default)]
    pub anneal_strategy: Anneal,
    /// Momentum at the highest and at the lowest rate, if it is cycled; PyTorch's are 0.85 and 0.95.
    #[serde(default)]
    pub momentum: Option<(f64, f64)>,
    /// The first rate is the highest divided by this.
    #[serde(default = "twenty_five")]
    pub div_factor: f64,
    /// The last rate is the first divided by this.
    #[serde(default = "ten_thousand")]
    pub final_div_factor: f64,
    /// Whether it falls as it has risen, and then on in a phase of its own.
    #[serde(default)]
    pub three_phase: bool,
}

/// The way between two rates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anneal {
    /// Half a cosine.
    #[default]
    Cos,
    /// A line.
    Linear,
}

impl OneCycle {
    /// The value of step `i` on the way from the first over the highest to the last; `middle` is where the second phase of three
    /// ends.
    fn value(&self, i: u64, [first, highest, middle, last]: [f64; 4]) -> f64 {
        let total = self.total_steps as f64;
        let rise = self.pct_start * total - 1.0;
        let phases = if self.three_phase {
            vec![
                (rise, first, highest),
                (2.0 * self.pct_start * total - 2.0, highest, middle),
                (total - 1.0, middle, last),
            ]
        } else {
            vec![(rise, first, highest), (total - 1.0, highest, last)]
        };
        let mut begun = 0.0;
        for (number, (end, from, to)) in phases.iter().enumerate() {
            if i as f64 <= *end || number + 1 == phases.len() {
                let length = end - begun;
                let x = if length > 0.0 { ((i as f64 - begun) / length).min(1.0) } else { 1.0 };
                return match self.anneal_strategy {
                    Anneal::Cos => to + (from - to) / 2.0 * (1.0 + (PI * x).cos()),
                    Anneal::Linear => (to - from) * x + from,
                };
            }
            begun = *end;
        }
        last
    }

    pub(super) fn lr(&self, i: u64) -> f64 {
        let first = self.max_lr / self.div_factor;
        self.value(i, [first, self.max_lr, first, first / self.final_div_factor])
    }

    pub(super) fn momentum(&self, i: u64) -> Option<f64> {
        self.momentum.map(|(base, max)| self.value(i, [max, base, max, max]))
    }
}

fn two_thousand() -> u64 {
    2000
}
fn one() -> f64 {
    1.0
}
fn three_tenths() -> f64 {
    0.3
}
fn twenty_five() -> f64 {
    25.0
}
fn ten_thousand() -> f64 {
    1e4
}
