//! Products of few rows with a matrix, as in the decoding of single tokens: the matrix is read once, in the order of its memory, and
//! nothing is packed.

use pulp::{Arch, Simd, WithSimd};

use crate::{lanes::has_fma, padded::strided, panels, product::Matrix};

/// Rows that are computed together.
const ROWS: usize = 4;
/// Columns of a block, at most.
pub(crate) const COLUMNS: usize = 128;

/// How many columns to take at once: neighbours in memory, or few enough that tasks have equal shares.
pub(crate) fn block(b: &Matrix) -> usize {
    if b.columns == 1 { COLUMNS } else { COLUMNS / 4 }
}
/// Columns that are read side by side where each of them lies in a row of its own.
const BESIDE: usize = 4;

/// Whether a product with `m` rows, sums of `k` terms and a right operand like this is one of these.
pub(crate) fn pays(m: usize, k: usize, b: &Matrix) -> bool {
    m < panels::ROWS && k > 0 && (b.rows == 1 || b.columns == 1)
}

/// Columns `[first, first + count)` of `m` rows: `to[i, j] = Σ_l a[i, l] b[l, first + j]`; `count` is at most [`COLUMNS`].
pub(crate) struct FewRows<'a> {
    /// Row-major `[m, k]`.
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
    pub(crate) b_at: Matrix,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// Row-major `[m, COLUMNS]`.
    pub(crate) to: &'a mut [f32],
}

impl FewRows<'_> {
    pub(crate) fn multiply(self) {
        assert!(
            self.m * self.k <= self.a.len() && self.m * COLUMNS <= self.to.len() && self.count <= COLUMNS
        );
        let b = self.b_at.skip_columns(self.first);
        assert!(b.fits(self.k, self.count, self.b.len()), "a matrix leaves its buffer");
        Arch::new().dispatch(FewRows { b_at: b, ..self });
    }

    /// Columns whose elements are neighbours: scalar products.
    #[inline(always)]
    fn dots<S: Simd, const R: usize, const C: usize>(&mut self, simd: S, row: usize, column: usize) {
        let k = self.k;
        let a: [&[f32]; R] = std::array::from_fn(|r| &self.a[(row + r) * k..][..k]);
        let b: [&[f32]; C] =
            std::array::from_fn(|c| &self.b[self.b_at.skip_columns(column + c).offset as usize..][..k]);
        let whole = k / S::F32_LANES;
        let (left, right) =
            (a.map(|a| &S::as_simd_f32s(a).0[..whole]), b.map(|b| &S::as_simd_f32s(b).0[..whole]));
        let mut sums = [[simd.splat_f32s(0.0); C]; R];
        for l in 0..whole {
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = simd.mul_add_e_f32s(left[r][l], right[c][l], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                let rest = |x: &[f32]| simd.partial_load_f32s(&x[whole * S::F32_LANES..]);
                let sum = simd.mul_add_e_f32s(rest(a[r]), rest(b[c]), sums[r][c]);
                self.to[(row + r) * COLUMNS + column + c] = simd.reduce_sum_f32s(sum);
            }
        }
    }

    /// Rows whose elements are neighbours: sums of multiples of rows.
    #[inline(always)]
    fn sums<const R: usize, const FMA: bool>(&mut self, row: usize) {
        let k = self.k;
        let mut sums = [[0.0f32; COLUMNS]; R];
        let fma = |x: f32, y: f32, sum: f32| if FMA { x.mul_add(y, sum) } else { x * y + sum };
        for l in 0..k {
            let b = &self.b[self.b_at.skip_rows(l).offset as usize..][..self.count];
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = self.a[(row + r) * k + l];
                if let Ok(b) = <&[f32; COLUMNS]>::try_from(b) {
                    for (sum, &y) in sums.iter_mut().zip(b) {
                        *sum = fma(x, y, *sum);
                    }
                } else {
                    for (sum, &y) in sums.iter_mut().zip(b) {
                        *sum = fma(x, y, *sum);
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            self.to[(row + r) * COLUMNS..][..COLUMNS].copy_from_slice(sums);
        }
    }

    #[inline(always)]
    fn by_rows<const FMA: bool>(&mut self) {
        let mut row = 0;
        while row + 2 <= self.m {
            self.sums::<2, FMA>(row);
            row += 2;
        }
        if row < self.m {
            self.sums::<1, FMA>(row);
        }
    }

    #[inline(always)]
    fn by_columns<S: Simd, const C: usize>(&mut self, simd: S, column: usize) {
        let mut row = 0;
        while row + ROWS <= self.m {
            self.dots::<S, ROWS, C>(simd, row, column);
            row += ROWS;
        }
        while row < self.m {
            self.dots::<S, 1, C>(simd, row, column);
            row += 1;
        }
    }
}

impl WithSimd for FewRows<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if self.b_at.columns == 1 {
            return if has_fma::<S>() { self.by_rows::<true>() } else { self.by_rows::<false>() };
        }
        let mut column = 0;
        while column + BESIDE <= self.count {
            self.by_columns::<S, BESIDE>(simd, column);
            column += BESIDE;
        }
        while column < self.count {
            self.by_columns::<S, 1>(simd, column);
            column += 1;
        }
    }
}

/// A copy of `m` rows of `k` elements, row-major.
pub(crate) fn rows(from: &[f32], at: Matrix, (m, k): (usize, usize), to: &mut [f32]) {
    for (i, to) in to.chunks_exact_mut(k.max(1)).take(m).enumerate() {
        strided(from, at.skip_rows(i).offset, at.columns, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_few_rows_equal_their_definition() {
        let x: Vec<f32> = (0..40_000).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        for (m, k, n) in [(1, 100, 128), (3, 37, 9), (11, 16, 100), (5, 130, 1)] {
            for (rows, columns) in [(n as i64 + 1, 1), (1, k as i64 + 2)] {
                let b_at = Matrix { offset: 9, rows, columns };
                let mut to = vec![f32::NAN; m * COLUMNS];
                FewRows { a: &x[77..], b: &x, b_at, m, k, first: 0, count: n, to: &mut to }.multiply();
                for i in 0..m {
                    for j in 0..n {
                        let b = |l: usize| x[(9 + l as i64 * rows + j as i64 * columns) as usize];
                        let want: f32 = (0..k).map(|l| x[77 + i * k + l] * b(l)).sum();
                        assert_eq!(to[i * COLUMNS + j], want, "[{i}, {j}] of {m} {k} {n}");
                    }
                }
            }
        }
    }
}
