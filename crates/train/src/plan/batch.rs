//! The largest batch that fits: doubling, then closing in.

use std::time::{Duration, Instant};

use serde::Serialize;
use wgrad_optim::OptimError;
use wgrad_runtime::DeviceError;
use wgrad_tensor::TensorError;

use super::{Planner, StepPlan};
use crate::error::{Result, TrainError};

/// More windows than this are not tried.
const MOST: usize = 1 << 24;

/// The largest batch whose step the device can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LargestBatch {
    /// Windows per forward pass; 0 where not even one fits.
    pub batch_size: usize,
    /// What its step holds at the fullest moment.
    pub peak_bytes: u64,
    /// Whether one more window is known not to fit; else time was up.
    pub exact: bool,
}

impl Planner {
    /// Looks for the largest batch that fits into the available memory and the device's limits, beginning with a plan that has
    /// been made. `tried` hears of each attempt. Ends after about `limit` with the best that was found.
    ///
    /// # Errors
    /// A step cannot be planned for another reason than its size.
    pub fn largest_batch(
        &mut self,
        known: &StepPlan,
        limit: Duration,
        mut tried: impl FnMut(usize),
    ) -> Result<LargestBatch> {
        let begun = Instant::now();
        let given = Attempt { windows: known.batch_size, bytes: Some(known.memory.peak) };
        let (mut fits, mut fails) =
            if known.fits() { (given, None) } else { (Attempt { windows: 0, bytes: None }, Some(given)) };
        loop {
            let exact = fails.is_some_and(|f: Attempt| f.windows <= fits.windows + 1);
            if exact || fits.windows >= MOST || begun.elapsed() > limit {
                let (batch_size, peak_bytes) = (fits.windows, fits.bytes.unwrap_or(0));
                return Ok(LargestBatch { batch_size, peak_bytes, exact });
            }
            let next = match fails {
                None => (2 * fits.windows).min(MOST),
                Some(fails) => between(fits, fails, known.available_bytes),
            };
            tried(next);
            let attempt = |bytes| Attempt { windows: next, bytes };
            match self.plan_batch(next) {
                Ok(plan) if plan.fits() => fits = attempt(Some(plan.memory.peak)),
                Ok(plan) => fails = Some(attempt(Some(plan.memory.peak))),
                Err(error) if is_too_large(&error) => fails = Some(attempt(None)),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A batch and what its step holds, where that is known: a batch beyond a limit has no plan.
#[derive(Clone, Copy)]
struct Attempt {
    windows: usize,
    bytes: Option<u64>,
}

/// The next batch to try, strictly between one that fits and one that does not: memory grows in proportion to the batch, or
/// nearly so; where nothing is known of it, the middle.
fn between(fits: Attempt, fails: Attempt, available: Option<u64>) -> usize {
    let (low, high) = (fits.windows + 1, fails.windows - 1);
    let guess = match (fits.bytes, fails.bytes, available) {
        (Some(small), Some(large), Some(available)) if small < large => {
            let share = available.saturating_sub(small) as f64 / (large - small) as f64;
            fits.windows + ((fails.windows - fits.windows) as f64 * share) as usize
        }
        _ => low + (high - low) / 2,
    };
    guess.clamp(low, high)
}

/// Whether a smaller batch might do.
fn is_too_large(error: &TrainError) -> bool {
    let (TrainError::Tensor(error) | TrainError::Optim(OptimError::Tensor(error))) = error else {
        return false;
    };
    matches!(error, TensorError::Device(DeviceError::OutOfMemory { .. } | DeviceError::TooLarge { .. }))
}

#[cfg(test)]
mod tests {
    use super::{Attempt, between};

    #[test]
    fn the_next_attempt_lies_between_and_follows_the_memory() {
        let at = |windows, bytes| Attempt { windows, bytes };
        let fits = at(8, Some(800));
        assert_eq!(between(fits, at(16, Some(1600)), Some(1000)), 10);
        assert_eq!(between(fits, at(10, Some(1000)), Some(999)), 9);
        assert_eq!(between(fits, at(16, None), Some(1000)), 12);
        assert_eq!(between(at(0, None), at(8, Some(1600)), Some(1000)), 4);
        assert_eq!(between(fits, at(16, Some(1600)), Some(1590)), 15);
    }
}
