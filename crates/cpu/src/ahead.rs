//! Memory that is asked for before it is needed, so that it arrives while something else is computed.

use crate::product::Matrix;

/// Rows of memory that will be read or written.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// The first byte, as an address that is never followed.
    first: *const u8,
    /// Bytes of a row, and from one row to the next.
    row: usize,
    stride: usize,
    rows: usize,
}

/// Bytes that arrive together.
const LINE: usize = 64;

impl Ahead {
    /// `rows` rows of `columns` elements of a buffer; nothing if they are not neighbours.
    pub(crate) fn new<T>(buffer: *const T, at: Matrix, rows: usize, columns: usize) -> Ahead {
        let size = size_of::<T>();
        let first = buffer.wrapping_offset(at.offset as isize).cast();
        if at.columns != 1 || at.rows < 0 {
            return Ahead { first, row: 0, stride: 0, rows: 0 };
        }
        if at.rows as usize == columns {
            return Ahead { first, row: rows * columns * size, stride: 0, rows: 1 };
        }
        Ahead { first, row: columns * size, stride: at.rows as usize * size, rows }
    }

    /// Asks for the `part`th of `parts` equal parts.
    pub(crate) fn fetch(self, part: usize, parts: usize) {
        let lines = self.row.div_ceil(LINE);
        let all = lines * self.rows;
        let (from, to) = (all * part / parts, all * (part + 1) / parts);
        if from == to {
            return;
        }
        let (mut row, mut line) = (from / lines, from % lines);
        let mut left = to - from;
        while left > 0 {
            let first = self.first.wrapping_add(row * self.stride);
            let count = left.min(lines - line);
            (line..line + count).for_each(|line| fetch(first.wrapping_add(line * LINE)));
            left -= count;
            (row, line) = (row + 1, 0);
        }
    }
}

/// Asks for the cache line at an address, which need not be valid.
#[inline(always)]
pub(crate) fn fetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it has no effect on memory, and none at all where the address is not valid.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
