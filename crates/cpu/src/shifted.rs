//! Products whose right operand's rows lie anywhere in memory, each at a distance of its own.

use pulp::{Arch, Simd, WithSimd};

/// Rows of a panel of the left operand: with three registers of columns, their sums stay in registers.
pub(crate) const ROWS: usize = 8;
/// Columns are computed in multiples of this many: the widest SIMD register.
pub(crate) const COLUMNS: usize = 16;

/// `c[i, j] (+)= Σ_l a[i, l] b[offsets[l] + j]` for all rows and columns.
pub(crate) struct Shifted<'a> {
    pub(crate) rows: usize,
    /// A multiple of [`COLUMNS`].
    pub(crate) columns: usize,
    /// Panels of [`ROWS`] rows, each `[l, row]`.
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
    /// None is larger than `furthest`.
    pub(crate) offsets: &'a [u32],
    pub(crate) furthest: usize,
    pub(crate) c: &'a mut [f32],
    /// Elements between rows of `c`.
    pub(crate) stride: usize,
    /// Whether the product is added to what is there.
    pub(crate) add: bool,
}

impl Shifted<'_> {
    pub(crate) fn multiply(self) {
        let (panels, k) = (self.rows.div_ceil(ROWS), self.offsets.len());
        if self.rows * self.columns == 0 {
            return;
        }
        assert!(self.columns.is_multiple_of(COLUMNS) && self.columns <= self.stride);
        assert!(panels * ROWS * k <= self.a.len() && self.rows * self.stride <= self.c.len());
        assert!(self.furthest + self.columns <= self.b.len());
        debug_assert!(self.offsets.iter().all(|&o| o as usize <= self.furthest));
        Arch::new().dispatch(self);
    }

    /// Rows `[row, row + R)` of `V` registers of columns from `column` on.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "an index stands for a register here")]
    fn part<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, row: usize, column: usize) {
        let (lanes, k) = (S::F32_LANES, self.offsets.len());
        let panel = row / ROWS * ROWS * k + row % ROWS;
        // SAFETY: `multiply` has asserted that all rows and columns are there; offsets are those that the plan of a convolution
        // has computed with `furthest`, their largest.
        unsafe {
            let (mut a, b) = (self.a.as_ptr().add(panel), self.b.as_ptr().add(column));
            let c = self.c.as_mut_ptr().add(row * self.stride + column);
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            if self.add {
                for r in 0..R {
                    for v in 0..V {
                        sums[r][v] = c.add(r * self.stride + v * lanes).cast::<S::f32s>().read_unaligned();
                    }
                }
            }
            for &offset in self.offsets {
                let b = b.add(offset as usize);
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
                a = a.wrapping_add(ROWS);
            }
            for r in 0..R {
                for v in 0..V {
                    c.add(r * self.stride + v * lanes).cast::<S::f32s>().write_unaligned(sums[r][v]);
                }
            }
        }
    }

    #[inline(always)]
    fn all_rows<S: Simd, const V: usize>(&mut self, simd: S, column: usize) {
        let mut row = 0;
        if S::REGISTER_COUNT >= 32 {
            while row + 8 <= self.rows {
                self.part::<S, 8, V>(simd, row, column);
                row += 8;
            }
        }
        while row + 4 <= self.rows {
            self.part::<S, 4, V>(simd, row, column);
            row += 4;
        }
        if row + 2 <= self.rows {
            self.part::<S, 2, V>(simd, row, column);
            row += 2;
        }
        if row < self.rows {
            self.part::<S, 1, V>(simd, row, column);
        }
    }
}

impl WithSimd for Shifted<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let lanes = S::F32_LANES;
        let mut column = 0;
        while column < self.columns {
            match (self.columns - column) / lanes {
                0 => break,
                1 => self.all_rows::<S, 1>(simd, column),
                2 => self.all_rows::<S, 2>(simd, column),
                _ => self.all_rows::<S, 3>(simd, column),
            }
            column += 3 * lanes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifted_products_equal_their_definition() {
        let x: Vec<f32> = (0..3000).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        for (rows, columns, k, add) in
            [(1, 16, 1, false), (8, 48, 9, true), (23, 80, 5, false), (3, 32, 0, false)]
        {
            let offsets: Vec<u32> = (0..k).map(|l| (l * l * 7 % 60) as u32).collect();
            let stride = columns + 16;
            let mut c = vec![3.0; rows * stride];
            Shifted {
                rows,
                columns,
                a: &x,
                b: &x[1500..],
                offsets: &offsets,
                furthest: 60,
                c: &mut c,
                stride,
                add,
            }
            .multiply();
            for (at, &got) in c.iter().enumerate() {
                let (i, j) = (at / stride, at % stride);
                let a = |l: usize| x[i / ROWS * ROWS * k + l * ROWS + i % ROWS];
                let sum: f32 = (0..k).map(|l| a(l) * x[1500 + offsets[l] as usize + j]).sum();
                let want = if j >= columns { 3.0 } else { sum + if add { 3.0 } else { 0.0 } };
                assert_eq!(got, want, "[{i}, {j}] of {rows} {columns} {k}");
            }
        }
    }
}
