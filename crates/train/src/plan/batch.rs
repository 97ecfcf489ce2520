//! The largest batch that fits: where memory will be all taken, then closing in.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Planner, StepPlan};
use crate::error::Result;

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
        tried: impl FnMut(usize),
    ) -> Result<LargestBatch> {
        self.search(Some(known), limit, tried)
    }

    /// As [`Planner::largest_batch`]; without a plan where the recipe's batch is beyond a limit of the device.
    pub(super) fn search(
        &mut self,
        known: Option<&StepPlan>,
        limit: Duration,
        mut tried: impl FnMut(usize),
    ) -> Result<LargestBatch> {
        let begun = Instant::now();
        // What no window takes: with it, the first plan tells how memory grows.
        let fixed = known.map(|k| k.memory.peak - k.memory.activations - k.memory.batch);
        let mut fits = Attempt { windows: 0, bytes: fixed };
        let (mut below, mut fails) = (fits, None);
        match known {
            Some(plan) if plan.fits() => {
                fits = Attempt { windows: plan.batch_size, bytes: Some(plan.memory.peak) }
            }
            Some(plan) => fails = Some(Attempt { windows: plan.batch_size, bytes: Some(plan.memory.peak) }),
            None => fails = Some(Attempt { windows: self.recipe.train.batch_size, bytes: None }),
        }
        loop {
            let exact = fails.is_some_and(|f: Attempt| f.windows <= fits.windows + 1);
            if exact || fits.windows >= MOST || begun.elapsed() > limit {
                let peak_bytes = if fits.windows == 0 { 0 } else { fits.bytes.unwrap_or(0) };
                return Ok(LargestBatch { batch_size: fits.windows, peak_bytes, exact });
            }
            let next = match fails {
                None => beyond(below, fits, self.available).min(MOST),
                Some(fails) => between(fits, fails, self.available),
            };
            tried(next);
            let attempt = |bytes| Attempt { windows: next, bytes };
            match self.plan_batch(next) {
                Ok(plan) if plan.fits() => (below, fits) = (fits, attempt(Some(plan.memory.peak))),
                Ok(plan) => fails = Some(attempt(Some(plan.memory.peak))),
                Err(error) if error.is_too_large() => fails = Some(attempt(None)),
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

/// The next batch to try above one that fits: where memory, which grows in proportion to the batch or nearly so, will be all
/// taken; where it is not known how much there is, twice as many.
fn beyond(below: Attempt, fits: Attempt, available: Option<u64>) -> usize {
    let next = match (below.bytes, fits.bytes, available) {
        (Some(small), Some(large), Some(available)) if small < large => {
            let each = (large - small) as f64 / (fits.windows - below.windows).max(1) as f64;
            fits.windows.saturating_add((available.saturating_sub(large) as f64 / each) as usize)
        }
        _ => 2 * fits.windows,
    };
    next.max(fits.windows + 1)
}

/// The next batch to try, strictly between one that fits and one that does not: by the memory they take, as above; where nothing
/// is known of it, the middle.
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

#[cfg(test)]
mod tests {
    use super::{Attempt, between, beyond};

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

    #[test]
    fn the_next_attempt_above_one_that_fits_takes_all_memory() {
        let at = |windows, bytes| Attempt { windows, bytes };
        let fits = at(8, Some(900));
        assert_eq!(beyond(at(0, Some(100)), fits, Some(10_150)), 100);
        assert_eq!(beyond(at(0, Some(100)), fits, Some(950)), 9);
        assert_eq!(beyond(at(0, None), fits, Some(10_000)), 16);
        assert_eq!(beyond(at(0, Some(100)), fits, None), 16);
    }
}
