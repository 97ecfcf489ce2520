//! Philox over consecutive elements, several counters at a time.

use pulp::{Arch, Simd, WithSimd};
use wgrad_ir::philox;

/// Counters that are computed side by side.
const LANES: usize = 16;

/// `out[i] = finish(word(first + i))`: the same words as [`philox::word`].
pub(crate) fn words<R>(
    first: u32,
    stream: u32,
    step: u32,
    key: [u32; 2],
    out: &mut [R],
    finish: impl Fn(u32) -> R + Copy,
) {
    // Up to the first whole counter one by one, then whole ones, then the rest.
    let head = ((4 - first % 4) % 4).min(out.len() as u32) as usize;
    let (head, body) = out.split_at_mut(head);
    let mut index = first;
    for out in head {
        *out = finish(philox::word(index, stream, step, key));
        index = index.wrapping_add(1);
    }
    let mut chunks = body.chunks_exact_mut(4 * LANES);
    for chunk in &mut chunks {
        let mut lanes = [[0; LANES]; 4];
        Arch::new().dispatch(Counters { counter: index / 4, stream, step, key, lanes: &mut lanes });
        for (j, out) in chunk.iter_mut().enumerate() {
            *out = finish(lanes[j % 4][j / 4]);
        }
        index = index.wrapping_add(4 * LANES as u32);
    }
    for out in chunks.into_remainder() {
        *out = finish(philox::word(index, stream, step, key));
        index = index.wrapping_add(1);
    }
}

struct Counters<'a> {
    counter: u32,
    stream: u32,
    step: u32,
    key: [u32; 2],
    lanes: &'a mut [[u32; LANES]; 4],
}

impl WithSimd for Counters<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Counters { counter, stream, step, key, lanes } = self;
        for j in 0..LANES {
            let words = philox::philox4x32([(counter + j as u32) & (u32::MAX / 4), stream, step, 0], key);
            for (lane, word) in lanes.iter_mut().zip(words) {
                lane[j] = word;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_side_by_side_equal_words_one_by_one() {
        for first in [0, 1, 2, 3, 17, u32::MAX - 200] {
            let mut out = vec![0; 333];
            words(first, 7, 8, [9, 10], &mut out, |w| w);
            for (i, &word) in out.iter().enumerate() {
                assert_eq!(word, philox::word(first.wrapping_add(i as u32), 7, 8, [9, 10]), "{first} + {i}");
            }
        }
    }
}
