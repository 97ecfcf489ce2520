//! Small products whose operands are in the cache: those of one block of attention, and those that large products are made of.

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
        let Tile { m, n, k, .. } = self;
        if m * n == 0 {
            return;
        }
        let last = |rows: usize, columns: usize, (r, c): (usize, usize)| (rows - 1) * r + (columns - 1) * c;
        assert!(k == 0 || last(m, k, self.a_strides) < self.a.len());
        assert!(k == 0 || last(k, n, (self.b_rows, 1)) < self.b.len());
        assert!(last(m, n, (self.c_rows, 1)) < self.c.len());
        let raw = RawTile {
            m,
            n,
            k,
            a: self.a.as_ptr(),
            a_strides: self.a_strides,
            b: self.b.as_ptr(),
            b_rows: self.b_rows,
            c: self.c.as_mut_ptr(),
            c_rows: self.c_rows,
            add: self.add,
        };
        // SAFETY: all addresses lie within the slices, as asserted, and the result is borrowed exclusively.
        unsafe { raw.multiply() }
    }
}

/// A [`Tile`] by addresses.
#[derive(Clone, Copy)]
pub(crate) struct RawTile {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: *const f32,
    pub(crate) a_strides: (usize, usize),
    pub(crate) b: *const f32,
    pub(crate) b_rows: usize,
    pub(crate) c: *mut f32,
    pub(crate) c_rows: usize,
    pub(crate) add: bool,
}

impl RawTile {
    /// # Safety
    /// The addresses that extents and strides form are those of `f32`s that nothing writes meanwhile, and in `c` nothing reads either.
    pub(crate) unsafe fn multiply(self) {
        Arch::new().dispatch(Loops(self));
    }
}

/// A [`RawTile`] whose addresses somebody has vouched for.
struct Loops(RawTile);

impl Loops {
    /// Rows `[i, i + R)` of the columns from `j` on: `V` registers of them, the last of which has `tail` elements if not all
    /// are `FULL`. The loops over sums are so plain that the compiler keeps these in registers.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "an index stands for a register here")]
    fn part<S: Simd, const R: usize, const V: usize, const FULL: bool>(
        &self,
        simd: S,
        (i, j): (usize, usize),
        tail: usize,
    ) {
        let lanes = S::F32_LANES;
        let RawTile { k, a_strides: (rows, columns), b_rows, c_rows, .. } = self.0;
        // SAFETY: `RawTile::multiply` was promised that rows `i..i + R`, columns `j..` up to `tail` in the last register and all
        // `l < k` are there; addresses one step beyond the last are formed, but not used.
        unsafe {
            let load = |from: *const f32, v: usize| {
                let from = from.add(v * lanes);
                if FULL || v + 1 < V {
                    from.cast::<S::f32s>().read_unaligned()
                } else {
                    simd.partial_load_f32s(std::slice::from_raw_parts(from, tail))
                }
            };
            let c = self.0.c.add(i * c_rows + j);
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            if self.0.add {
                for r in 0..R {
                    for v in 0..V {
                        sums[r][v] = load(c.add(r * c_rows), v);
                    }
                }
            }
            let (mut a, mut b) = (self.0.a.add(i * rows), self.0.b.add(j));
            for _ in 0..k {
                let mut parts = [simd.splat_f32s(0.0); V];
                for v in 0..V {
                    parts[v] = load(b, v);
                }
                for r in 0..R {
                    let x = simd.splat_f32s(*a.add(r * rows));
                    for v in 0..V {
                        sums[r][v] = simd.mul_add_e_f32s(x, parts[v], sums[r][v]);
                    }
                }
                (a, b) = (a.wrapping_add(columns), b.wrapping_add(b_rows));
            }
            for r in 0..R {
                for v in 0..V {
                    let to = c.add(r * c_rows + v * lanes);
                    if FULL || v + 1 < V {
                        to.cast::<S::f32s>().write_unaligned(sums[r][v]);
                    } else {
                        simd.partial_store_f32s(std::slice::from_raw_parts_mut(to, tail), sums[r][v]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&self, simd: S, i: usize) {
        let (lanes, n) = (S::F32_LANES, self.0.n);
        let mut j = 0;
        while j + 2 * lanes <= n {
            self.part::<S, R, 2, true>(simd, (i, j), lanes);
            j += 2 * lanes;
        }
        match n - j {
            0 => {}
            rest if rest > lanes => self.part::<S, R, 2, false>(simd, (i, j), rest - lanes),
            rest => self.part::<S, R, 1, false>(simd, (i, j), rest),
        }
    }
}

impl WithSimd for Loops {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let m = self.0.m;
        let mut i = 0;
        // So many rows that the sums stay in registers.
        if S::REGISTER_COUNT >= 32 {
            // Twice eight is better than twelve and four.
            while i + 12 <= m && i + 16 != m {
                self.rows::<S, 12>(simd, i);
                i += 12;
            }
            while i + 8 <= m {
                self.rows::<S, 8>(simd, i);
                i += 8;
            }
        } else {
            while i + 6 <= m {
                self.rows::<S, 6>(simd, i);
                i += 6;
            }
        }
        while i + 4 <= m {
            self.rows::<S, 4>(simd, i);
            i += 4;
        }
        while i < m {
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
