//! Small products whose operands are in the cache: those of one block of attention. The `gemm` crate packs its operands, which
//! pays for large ones only.

use pulp::{Arch, Simd, WithSimd};

/// `c[i, j] = Σ_l a[i, l] b[l, j]`, added to what is there if `add`.
pub(crate) struct Tile<'a> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: &'a [f32],
    /// Elements between rows and between columns of `a`.
    pub(crate) a_strides: (usize, usize),
    pub(crate) b: &'a [f32],
    /// Elements between rows of `b`, whose columns are neighbours.
    pub(crate) b_rows: usize,
    pub(crate) c: &'a mut [f32],
    /// Elements between rows of `c`, whose columns are neighbours.
    pub(crate) c_rows: usize,
    pub(crate) add: bool,
}

impl Tile<'_> {
    pub(crate) fn multiply(self) {
        if self.m * self.n == 0 {
            return;
        }
        let Tile { m, n, k, .. } = self;
        let last = |rows: usize, columns: usize, (r, c): (usize, usize)| (rows - 1) * r + (columns - 1) * c;
        // What the loops below rely on.
        assert!(k == 0 || last(m, k, self.a_strides) < self.a.len());
        assert!(k == 0 || last(k, n, (self.b_rows, 1)) < self.b.len());
        assert!(last(m, n, (self.c_rows, 1)) < self.c.len());
        Arch::new().dispatch(self);
    }

    /// Rows `[i, i + R)` of the columns from `j` on: `V` registers of them, the last of which has `tail` elements.
    #[inline(always)]
    fn part<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, i: usize, j: usize, tail: usize) {
        let lanes = S::F32_LANES;
        let (rows, columns) = self.a_strides;
        let full = tail == lanes;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for l in 0..self.k {
            let mut b = [simd.splat_f32s(0.0); V];
            for (v, b) in b.iter_mut().enumerate() {
                let at = l * self.b_rows + j + v * lanes;
                // SAFETY: rows `i..i + R`, columns `j..` up to `tail` in the last register and all `l < k` lie within
                // extents that `multiply` has compared with the slices.
                unsafe {
                    *b = if full || v + 1 < V {
                        self.b.as_ptr().add(at).cast::<S::f32s>().read_unaligned()
                    } else {
                        simd.partial_load_f32s(self.b.get_unchecked(at..at + tail))
                    };
                }
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let a = simd.splat_f32s(unsafe { *self.a.get_unchecked((i + r) * rows + l * columns) });
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    *sum = simd.mul_add_e_f32s(a, b, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let at = (i + r) * self.c_rows + j + v * lanes;
                if full || v + 1 < V {
                    // SAFETY: as above.
                    unsafe {
                        let c = self.c.as_mut_ptr().add(at).cast::<S::f32s>();
                        c.write_unaligned(if self.add {
                            simd.add_f32s(sum, c.read_unaligned())
                        } else {
                            sum
                        });
                    }
                } else {
                    // SAFETY: as above.
                    let c = unsafe { self.c.get_unchecked_mut(at..at + tail) };
                    let sum = if self.add { simd.add_f32s(sum, simd.partial_load_f32s(c)) } else { sum };
                    simd.partial_store_f32s(c, sum);
                }
            }
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, simd: S, i: usize) {
        let lanes = S::F32_LANES;
        let mut j = 0;
        while j < self.n {
            let rest = self.n - j;
            if rest > lanes {
                self.part::<S, R, 2>(simd, i, j, (rest - lanes).min(lanes));
                j += 2 * lanes;
            } else {
                self.part::<S, R, 1>(simd, i, j, rest);
                j += lanes;
            }
        }
    }
}

impl WithSimd for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut i = 0;
        // So many rows that the sums stay in registers.
        if S::REGISTER_COUNT >= 32 {
            while i + 8 <= self.m {
                self.rows::<S, 8>(simd, i);
                i += 8;
            }
        }
        while i + 4 <= self.m {
            self.rows::<S, 4>(simd, i);
            i += 4;
        }
        while i < self.m {
            self.rows::<S, 1>(simd, i);
            i += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_products_equal_their_definition() {
        let x: Vec<f32> = (0..4000).map(|i| (i * 37 % 101) as f32 * 0.01 - 0.5).collect();
        for (m, n, k) in [(1, 1, 1), (8, 32, 5), (13, 33, 7), (9, 47, 16), (3, 16, 0), (20, 15, 3)] {
            for (transposed, add) in [(false, false), (true, false), (false, true)] {
                let a_strides = if transposed { (1, m + 1) } else { (k + 1, 1) };
                let mut c = vec![2.0f32; m * (n + 3)];
                let tile = Tile {
                    m,
                    n,
                    k,
                    a: &x,
                    a_strides,
                    b: &x[1000..],
                    b_rows: n + 2,
                    c: &mut c,
                    c_rows: n + 3,
                    add,
                };
                tile.multiply();
                for (at, &got) in c.iter().enumerate() {
                    let (i, j) = (at / (n + 3), at % (n + 3));
                    let term = |l: usize| {
                        f64::from(x[i * a_strides.0 + l * a_strides.1]) * f64::from(x[1000 + l * (n + 2) + j])
                    };
                    let sum: f64 = (0..k).map(term).sum();
                    let want = if j >= n { 2.0 } else { sum + if add { 2.0 } else { 0.0 } };
                    assert!(
                        (f64::from(got) - want).abs() < 1e-5,
                        "{m} {n} {k} [{i}, {j}]: {got}, not {want}"
                    );
                }
            }
        }
    }
}
