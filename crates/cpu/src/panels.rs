//! Matrices in the order in which tiles read them.

use pulp::{Arch, Simd, WithSimd};

use crate::{
    ahead::fetch,
    product::Matrix,
    square::{SQUARE, transposed},
};

/// Columns of a panel of a right operand: two of the widest SIMD registers.
pub(crate) const COLUMNS: usize = 32;
/// Rows of a tile.
pub(crate) const ROWS: usize = 12;

/// Elements of a cache line.
const LINE: usize = 16;
/// A row is asked for so many rows before it is copied.
const AHEAD: i64 = 16;
/// Rows whose sums are added up one after the other, before these sums are added to those of other rows: bounds the rounding error.
const SUMMED: usize = 32;

/// `to[l, j] = from[l, j]` for `k` rows of `n <= W` columns; the columns up to `W` are zero.
///
/// # Panics
/// The matrix leaves its buffer.
pub(crate) fn pack<const W: usize>(from: &[f32], at: Matrix, (k, n): (usize, usize), to: &mut [f32]) {
    if k * n == 0 {
        return;
    }
    assert!(at.fits(k, n, from.len()) && n <= W && k * W <= to.len(), "a matrix leaves its buffer");
    let (rows, _) = to.as_chunks_mut::<W>();
    Arch::new().dispatch(Pack { from, at, n, to: &mut rows[..k] });
}

struct Pack<'a, const W: usize> {
    from: &'a [f32],
    at: Matrix,
    n: usize,
    to: &'a mut [[f32; W]],
}

impl<const W: usize> WithSimd for Pack<'_, W> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Pack { from, at, n, to } = self;
        if at.columns == 1 {
            for (l, row) in to.iter_mut().enumerate() {
                let first = (at.offset + l as i64 * at.rows) as usize;
                let next = from.as_ptr().wrapping_offset(first as isize + (AHEAD * at.rows) as isize);
                (0..W).step_by(LINE).for_each(|part| fetch(next.wrapping_add(part)));
                let from = &from[first..][..n];
                if let Ok(from) = <&[f32; W]>::try_from(from) {
                    *row = *from;
                } else {
                    // Whole registers, then single elements: a call for so few would take longer.
                    let (lines, rest) = from.as_chunks::<LINE>();
                    let whole = lines.len() * LINE;
                    for (to, line) in row.as_chunks_mut::<LINE>().0.iter_mut().zip(lines) {
                        *to = *line;
                    }
                    row[whole..n].iter_mut().zip(rest).for_each(|(to, &x)| *to = x);
                    row[n..].fill(0.0);
                }
            }
            return;
        }
        // Rows that share a cache line of each column are filled together.
        for (part, rows) in to.chunks_mut(LINE).enumerate() {
            let at = at.skip_rows(LINE * part);
            let mut first = 0;
            if rows.len() == LINE && at.rows == 1 {
                while first + SQUARE <= n {
                    let column = |j: usize| {
                        let at = at.skip_columns(first + j).offset as usize;
                        from[at..at + LINE].as_chunks::<SQUARE>().0
                    };
                    let columns = [column(0), column(1), column(2), column(3)];
                    for (q, rows) in rows.as_chunks_mut::<SQUARE>().0.iter_mut().enumerate() {
                        for (row, x) in rows.iter_mut().zip(transposed(columns.map(|column| column[q]))) {
                            row[first..first + SQUARE].copy_from_slice(&x);
                        }
                    }
                    first += SQUARE;
                }
            }
            for (l, row) in rows.iter_mut().enumerate() {
                for (j, x) in row[..n].iter_mut().enumerate().skip(first) {
                    *x = from[(at.offset + l as i64 * at.rows + j as i64 * at.columns) as usize];
                }
                row[n..].fill(0.0);
            }
        }
    }
}

/// The sums of a panel's columns, in an order that its length fixes.
pub(crate) fn sums(panel: &[f32]) -> [f32; COLUMNS] {
    struct Sums<'a>(&'a [[f32; COLUMNS]]);
    impl WithSimd for Sums<'_> {
        type Output = [f32; COLUMNS];
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> [f32; COLUMNS] {
            let mut sums = [0.0; COLUMNS];
            let add = |sums: &mut [f32; COLUMNS], x: &[f32; COLUMNS]| {
                sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x);
            };
            for rows in self.0.chunks(SUMMED) {
                let mut part = [0.0; COLUMNS];
                rows.iter().for_each(|row| add(&mut part, row));
                add(&mut sums, &part);
            }
            sums
        }
    }
    Arch::new().dispatch(Sums(panel.as_chunks().0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_holds_the_matrix_and_zeros() {
        let from: Vec<f32> = (0..20_000).map(|i| (i * 31 % 977) as f32).collect();
        for (k, n) in [(1, 1), (16, 32), (35, 32), (32, 16), (40, 17), (5, 12)] {
            for (rows, columns) in [(n + 3, 1), (1, k + 5), (2, 2 * k + 1)] {
                let at = Matrix { offset: 7, rows: rows as i64, columns: columns as i64 };
                let mut panel = vec![-1.0; k * COLUMNS];
                pack::<COLUMNS>(&from, at, (k, n), &mut panel);
                for (i, &got) in panel.iter().enumerate() {
                    let (l, j) = (i / COLUMNS, i % COLUMNS);
                    let want = if j < n { from[7 + l * rows + j * columns] } else { 0.0 };
                    assert_eq!(got, want, "[{l}, {j}] of {k} x {n}, strides {rows} and {columns}");
                }
                let want: Vec<f32> =
                    (0..COLUMNS).map(|j| panel.iter().skip(j).step_by(COLUMNS).sum()).collect();
                // Integers below 2^24: exact in any order.
                assert_eq!(sums(&panel).to_vec(), want);
            }
        }
    }
}
