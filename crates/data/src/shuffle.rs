//! Examples in another order in each epoch.

use crate::philox::{below, philox4x32};
use crate::{DataError, Result};

/// Last word of the counter, the letters `SHUF`: keeps these draws apart from others with the same seed.
const DOMAIN: u32 = 0x5348_5546;

/// Draws the examples of each training step: every example once in an epoch, epoch after epoch, each in an order of its own, cut into
/// batches without regard to where epochs end.
///
/// The examples of a step are a pure function of the seed and the step (Philox4x32-10, and the shuffle of Fisher and Yates), so that a run
/// resumed at step `k` sees what an uninterrupted run sees. What is kept of an epoch's order is only there to be fast.
#[derive(Clone, Debug)]
pub struct EpochSampler {
    len: usize,
    batch: usize,
    seed: u64,
    /// The epoch whose order is known.
    epoch: Option<u64>,
    order: Vec<u32>,
}

impl EpochSampler {
    /// A sampler of `batch` examples at a time out of `len`.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if either is 0 or above 2^31.
    pub fn new(len: usize, batch: usize, seed: u64) -> Result<Self> {
        for (name, value) in [("examples", len), ("batch", batch)] {
            if !(1..=1 << 31).contains(&value) {
                let (expected, found) = ("1 to 2147483648".into(), value.to_string());
                return Err(DataError::Invalid { name, expected, found });
            }
        }
        Ok(EpochSampler { len, batch, seed, epoch: None, order: Vec::new() })
    }

    /// The examples of `step`, each with its position in the sequence of all epochs, which no other draw has.
    pub fn draws(&mut self, step: u64) -> Vec<(u64, usize)> {
        let first = step.wrapping_mul(self.batch as u64);
        let mut draws = Vec::with_capacity(self.batch);
        for position in (0..self.batch as u64).map(|row| first.wrapping_add(row)) {
            let (epoch, place) = (position / self.len as u64, (position % self.len as u64) as usize);
            if self.epoch != Some(epoch) {
                self.order = order(self.len, epoch, self.seed);
                self.epoch = Some(epoch);
            }
            draws.push((position, self.order[place] as usize));
        }
        draws
    }
}

/// The order of one epoch.
fn order(len: usize, epoch: u64, seed: u64) -> Vec<u32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let mut order: Vec<u32> = (0..len as u32).collect();
    for last in (1..len).rev() {
        let [low, high, ..] = philox4x32([last as u32, epoch as u32, (epoch >> 32) as u32, DOMAIN], key);
        let other = below(u64::from(high) << 32 | u64::from(low), last as u64 + 1) as usize;
        order.swap(last, other);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(sampler: &mut EpochSampler, steps: std::ops::Range<u64>) -> Vec<usize> {
        steps.flat_map(|step| sampler.draws(step)).map(|(_, example)| example).collect()
    }

    #[test]
    fn every_example_comes_once_in_an_epoch_and_orders_differ() {
        let mut sampler = EpochSampler::new(10, 4, 7).expect("valid");
        let examples = all(&mut sampler, 0..5);
        let (first, second) = examples.split_at(10);
        assert_ne!(first, second);
        for epoch in [first, second] {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        let mut other = EpochSampler::new(10, 4, 8).expect("valid");
        assert_ne!(all(&mut other, 0..5), examples);
    }

    #[test]
    fn a_step_draws_the_same_examples_whatever_was_drawn_before() {
        let mut whole = EpochSampler::new(7, 3, 1).expect("valid");
        let steps: Vec<_> = (0..20).map(|step| whole.draws(step)).collect();
        for step in [19, 3, 11, 3, 0] {
            let mut fresh = EpochSampler::new(7, 3, 1).expect("valid");
            assert_eq!(fresh.draws(step), steps[step as usize]);
            assert_eq!(whole.draws(step), steps[step as usize]);
        }
        let positions: Vec<u64> = steps.iter().flatten().map(|(position, _)| *position).collect();
        assert_eq!(positions, (0..60).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_may_be_larger_than_an_epoch() {
        let mut sampler = EpochSampler::new(2, 7, 0).expect("valid");
        let examples = all(&mut sampler, 0..2);
        assert!(examples.chunks(2).all(|pair| pair[0] != pair[1]), "{examples:?}");
        assert!(EpochSampler::new(0, 1, 0).is_err() && EpochSampler::new(1, 0, 0).is_err());
    }

    /// Chi-square over the 24 orders of 4 examples, 23 degrees of freedom: 49.7 is exceeded by one generator in a thousand.
    #[test]
    fn all_orders_are_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..24_000 {
            *counts.entry(order(4, epoch, 3)).or_insert(0_u32) += 1;
        }
        let chi_square: f64 = counts.values().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(counts.len() == 24 && chi_square < 49.7, "{chi_square} {counts:?}");
    }
}
