//! The learning-rate range test.

use wgrad_tensor::Tensor;

use crate::{OptimError, Optimizer, error::check};

/// The learning-rate range test (Smith, 2015, "Cyclical Learning Rates for Training Neural Networks"): steps with rates that
/// grow from one to the next, `start_lr (end_lr / start_lr)^(i / (steps - 1))`. Where the loss falls fastest is a good rate; where
/// it rises is too high a one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LrRangeTest {
    /// The first rate.
    pub start_lr: f64,
    /// The last rate.
    pub end_lr: f64,
    /// How many steps.
    pub steps: u64,
    /// Ends early when the smoothed loss is this many times the lowest one (above zero).
    pub stop_factor: f64,
}

impl Default for LrRangeTest {
    /// From 1e-7 to 10 in 100 steps; ends at 4 times the lowest loss.
    fn default() -> Self {
        LrRangeTest { start_lr: 1e-7, end_lr: 10.0, steps: 100, stop_factor: 4.0 }
    }
}

/// What a range test has measured.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LrCurve {
    /// The rates of its steps, growing.
    pub lr: Vec<f64>,
    /// The losses before each step.
    pub loss: Vec<f64>,
    /// An exponential moving average of them, without the pull of its start.
    pub smoothed: Vec<f64>,
    /// Whether the loss grew so far that the test was ended.
    pub diverged: bool,
}

/// How much of the average stays.
const KEEP: f64 = 0.9;

impl LrRangeTest {
    /// Runs the test: `loss` computes the loss of the next batch. It trains: load the parameters anew afterwards, and make a new
    /// optimizer.
    ///
    /// # Errors
    /// [`LrRangeTest::check`]'s, or a step fails.
    pub fn run(
        &self,
        optimizer: &mut dyn Optimizer,
        mut loss: impl FnMut(u64) -> Tensor,
    ) -> Result<LrCurve, OptimError> {
        self.check()?;
        let mut curve = LrCurve::default();
        for i in 0..self.steps {
            optimizer.set_lr(self.lr(i));
            let outcome = optimizer.step_closure(&mut || loss(i))?;
            if !self.record(&mut curve, outcome.loss.item()?) {
                break;
            }
        }
        Ok(curve)
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Rates are not positive and growing, or there are fewer than 3 steps.
    pub fn check(&self) -> Result<(), OptimError> {
        let growing = self.start_lr > 0.0 && self.end_lr > self.start_lr && self.end_lr.is_finite();
        check("rates", growing, format!("{} to {}", self.start_lr, self.end_lr), "positive and growing")?;
        check("steps", self.steps >= 3, self.steps, "3 or more")?;
        check("stop_factor", self.stop_factor > 1.0, self.stop_factor, "above 1")
    }

    /// The rate of step `i`, counted from 0.
    pub fn lr(&self, i: u64) -> f64 {
        let last = self.steps.saturating_sub(1).max(1) as f64;
        self.start_lr * (self.end_lr / self.start_lr).powf(i as f64 / last)
    }

    /// Appends the loss before the next step to a curve; `false` where the test should end. For loops of one's own.
    pub fn record(&self, curve: &mut LrCurve, loss: f64) -> bool {
        if !loss.is_finite() {
            curve.diverged = true;
            return false;
        }
        curve.lr.push(self.lr(curve.lr.len() as u64));
        curve.loss.push(loss);
        // The mean without the pull of its start, as Adam corrects it.
        let (mut mean, mut weight) = (0.0, 0.0);
        for loss in &curve.loss {
            mean = KEEP * mean + (1.0 - KEEP) * loss;
            weight = KEEP * weight + (1.0 - KEEP);
        }
        let smoothed = mean / weight;
        curve.smoothed.push(smoothed);
        let lowest = curve.smoothed.iter().copied().fold(f64::INFINITY, f64::min);
        curve.diverged = lowest > 0.0 && smoothed > self.stop_factor * lowest;
        !curve.diverged
    }
}

impl LrCurve {
    /// The rate at which the smoothed loss falls fastest over the logarithm of the rate, before it is lowest; `None` where it
    /// never falls.
    pub fn suggestion(&self) -> Option<f64> {
        let lowest =
            (0..self.smoothed.len()).min_by(|&a, &b| self.smoothed[a].total_cmp(&self.smoothed[b]))?;
        let slope =
            |i: usize| (self.smoothed[i + 1] - self.smoothed[i - 1]) / (self.lr[i + 1] / self.lr[i - 1]).ln();
        let last = lowest.min(self.smoothed.len().saturating_sub(2));
        let steepest = (1..=last).min_by(|&a, &b| slope(a).total_cmp(&slope(b)))?;
        (slope(steepest) < 0.0).then(|| self.lr[steepest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suggestion_is_where_the_loss_falls_fastest() {
        // A sigmoid that falls at 1e-3, then a rise from 1e-1 on.
        let lr: Vec<f64> = (0..81).map(|i| 1e-6 * 10f64.powf(f64::from(i) / 12.0)).collect();
        let loss: Vec<f64> = lr
            .iter()
            .map(|lr| 2.0 - 1.0 / (1.0 + (-3.0 * (lr / 1e-3).ln()).exp()) + (lr / 1e-1).powi(2))
            .collect();
        let curve = LrCurve { smoothed: loss.clone(), loss, lr, diverged: false };
        let suggestion = curve.suggestion().expect("it falls");
        assert!((suggestion / 1e-3).ln().abs() < 0.2, "{suggestion}");
        let rising = LrCurve {
            smoothed: vec![1.0, 2.0, 3.0, 4.0],
            lr: vec![1.0, 2.0, 3.0, 4.0],
            ..LrCurve::default()
        };
        assert_eq!(rising.suggestion(), None);
        assert_eq!(LrCurve::default().suggestion(), None);
    }
}
