//! Sums of outer products of vectors that lie in memory one after the other.

use pulp::{Arch, Simd, WithSimd};

use crate::panels::COLUMNS;

/// Vectors that are multiplied before the sums go back to memory, at most: what a tile reads of them stays in the first-level cache.
const DEPTH: usize = 160;

/// `c[i, j] += Σ a[run + l * step + i] b[l, j]` over all runs and their `l` in `0..len`.
pub(crate) struct Outer<'a> {
    pub(crate) a: &'a [f32],
    /// Elements between vectors of a run.
    pub(crate) step: usize,
    pub(crate) len: usize,
    /// Where runs begin.
    pub(crate) runs: &'a [u32],
    /// Which elements of the vectors count: the first, counted from the run's, and how many.
    pub(crate) rows: &'a [(u32, u32)],
    /// Panels of [`COLUMNS`] columns, each `[l, column]` over all runs.
    pub(crate) b: &'a [f32],
    pub(crate) columns: usize,
    /// Row-major, rows of whole panels.
    pub(crate) c: &'a mut [f32],
}

impl Outer<'_> {
    pub(crate) fn add(self) {
        let (vectors, panels) = (self.len * self.runs.len(), self.columns.div_ceil(COLUMNS));
        let rows: usize = self.rows.iter().map(|&(_, n)| n as usize).sum();
        if vectors * rows * panels == 0 {
            return;
        }
        let last = self.rows.iter().map(|&(first, n)| (first + n) as usize).max().unwrap_or(0);
        let run = self.runs.iter().max().map_or(0, |&r| r as usize);
        assert!(run + (self.len - 1) * self.step + last <= self.a.len(), "vectors leave their buffer");
        assert!(panels * vectors * COLUMNS <= self.b.len() && rows * panels * COLUMNS <= self.c.len());
        Arch::new().dispatch(self);
    }

    /// Rows `[row, row + R)` of `V` registers of columns from `column` on; `a` is the first run's element of the first row, counted
    /// from the start of the run, and `l` the first vector's number.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "an index stands for a register here")]
    fn part<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        runs: &[u32],
        (a, l): (usize, usize),
        (row, column): (usize, usize),
    ) {
        let lanes = S::F32_LANES;
        let (vectors, stride) = (self.len * self.runs.len(), self.columns.next_multiple_of(COLUMNS));
        // SAFETY: `add` has asserted that all runs and rows lie within `a`, all vectors and columns within `b` and all rows and
        // columns within `c`; addresses one step beyond the last are formed, but not used.
        unsafe {
            let panel = column / COLUMNS * COLUMNS * vectors + column % COLUMNS;
            let mut b = self.b.as_ptr().add(panel + l * COLUMNS);
            let c = self.c.as_mut_ptr().add(row * stride + column);
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = c.add(r * stride + v * lanes).cast::<S::f32s>().read_unaligned();
                }
            }
            for &run in runs {
                let mut a = self.a.as_ptr().add(run as usize + a);
                for _ in 0..self.len {
                    let mut parts = [simd.splat_f32s(0.0); V];
                    for v in 0..V {
                        parts[v] = b.add(v * lanes).cast::<S::f32s>().read_unaligned();
                    }
                    for r in 0..R {
                        let x = simd.splat_f32s(*a.add(r));
                        for v in 0..V {
                            sums[r][v] = simd.mul_add_e_f32s(x, parts[v], sums[r][v]);
                        }
                    }
                    (a, b) = (a.wrapping_add(self.step), b.wrapping_add(COLUMNS));
                }
            }
            for r in 0..R {
                for v in 0..V {
                    c.add(r * stride + v * lanes).cast::<S::f32s>().write_unaligned(sums[r][v]);
                }
            }
        }
    }

    #[inline(always)]
    fn all_rows<S: Simd, const V: usize>(&mut self, simd: S, runs: &[u32], l: usize, column: usize) {
        let mut row = 0;
        for &(first, count) in self.rows {
            let (first, end) = (first as usize, row + count as usize);
            let start = row;
            macro_rules! tiles {
                ($n:literal, $more:expr) => {
                    while end - row >= $n && $more(end - row) {
                        self.part::<S, $n, V>(simd, runs, (first + row - start, l), (row, column));
                        row += $n;
                    }
                };
            }
            if S::REGISTER_COUNT >= 32 {
                // Twice eight is better than twelve and four.
                tiles!(12, |rest| rest != 16);
                tiles!(8, |_| true);
            } else {
                tiles!(6, |_| true);
            }
            tiles!(4, |_| true);
            tiles!(3, |_| true);
            tiles!(1, |_| true);
        }
    }
}

impl WithSimd for Outer<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let lanes = S::F32_LANES;
        let some = (DEPTH / self.len).max(1);
        let all = self.runs;
        for (i, runs) in all.chunks(some).enumerate() {
            let l = i * some * self.len;
            let mut column = 0;
            while column < self.columns {
                if self.columns - column > lanes {
                    self.all_rows::<S, 2>(simd, runs, l, column);
                } else {
                    self.all_rows::<S, 1>(simd, runs, l, column);
                }
                column += 2 * lanes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_outer_products_equal_their_definition() {
        let x: Vec<f32> = (0..20_000).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        type Case = (&'static [u32], &'static [(u32, u32)], usize, usize);
        let all: [Case; 3] = [
            (&[0, 100, 40], &[(0, 3), (7, 29)], 33, 5),
            (&[8, 8], &[(0, 16)], 16, 100),
            (&[1], &[(2, 1)], 70, 3),
        ];
        for (runs, rows, columns, len) in all {
            let (step, vectors, panels) = (11, runs.len() * len, columns.div_ceil(COLUMNS));
            let count: usize = rows.iter().map(|r| r.1 as usize).sum();
            let mut c = vec![2.0; count * panels * COLUMNS];
            let b = &x[4000..];
            Outer { a: &x, step, len, runs, rows, b: &x[4000..], columns, c: &mut c }.add();
            let elements = rows.iter().flat_map(|&(first, n)| first..first + n);
            for (i, element) in elements.enumerate() {
                for j in 0..columns {
                    let term = |at: usize| {
                        let (run, l) = (runs[at / len], at % len);
                        let panel = j / COLUMNS * COLUMNS * vectors + j % COLUMNS;
                        x[run as usize + l * step + element as usize] * b[panel + at * COLUMNS]
                    };
                    let want = 2.0 + (0..vectors).map(term).sum::<f32>();
                    assert_eq!(c[i * panels * COLUMNS + j], want, "[{i}, {j}] of {count} x {columns}");
                }
            }
        }
    }
}
