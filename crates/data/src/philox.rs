//! Philox4x32-10, a counter-based random generator.
//!
//! Random numbers are a pure function of a key and a counter, so that a data loader has no state to save: step
//! `i` always draws the same windows. J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key after each round: the golden ratio and the square root of three less one, as fractions.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Four random words for the given counter and key (Philox4x32 with ten rounds).
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let (high0, low0) = multiply(MULTIPLIERS[0], counter[0]);
        let (high1, low1) = multiply(MULTIPLIERS[1], counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Maps a 64-bit random word to `0..bound` by the high half of their 128-bit product: `floor(word * bound / 2^64)`.
///
/// The bias is below `bound / 2^64`, and the result needs no rejection loop, so that one counter gives one number.
/// A bound of 0 gives 0.
pub fn below(word: u64, bound: u64) -> u64 {
    let product = u128::from(word) * u128::from(bound);
    (product >> 64) as u64
}

/// High and low half of the 64-bit product.
fn multiply(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `philox4x32 10` lines of the file `kat_vectors` that comes with Random123.
    #[test]
    fn philox_gives_the_known_answers_of_random123() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn below_covers_the_range_from_end_to_end() {
        assert_eq!(below(0, 10), 0);
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(u64::MAX / 2, 10), 4);
        assert_eq!(below(u64::MAX, u64::MAX), u64::MAX - 1);
        assert_eq!(below(123, 0), 0);
    }
}
