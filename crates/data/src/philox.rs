//! Counter-based random integers, on the generator that all of wgrad draws from.
//!
//! Random numbers are a pure function of a key and a counter, so that a data loader has no state to save: step
//! `i` always draws the same windows. J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011.

pub use wgrad_ir::philox::philox4x32;

/// Maps a 64-bit random word to `0..bound` by the high half of their 128-bit product: `floor(word * bound / 2^64)`.
///
/// The bias is below `bound / 2^64`, and the result needs no rejection loop, so that one counter gives one number.
/// A bound of 0 gives 0.
pub fn below(word: u64, bound: u64) -> u64 {
    let product = u128::from(word) * u128::from(bound);
    (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_covers_the_range_from_end_to_end() {
        assert_eq!(below(0, 10), 0);
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(u64::MAX / 2, 10), 4);
        assert_eq!(below(u64::MAX, u64::MAX), u64::MAX - 1);
        assert_eq!(below(123, 0), 0);
    }
}
