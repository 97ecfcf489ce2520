//! One matrix product, through the `gemm` crate.

use bytemuck::Pod;
use gemm::Parallelism;

use crate::args::Out;

/// A matrix within a buffer: `[i, j]` lies at `offset + i * rows + j * columns`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Matrix {
    pub(crate) offset: i64,
    pub(crate) rows: i64,
    pub(crate) columns: i64,
}

impl Matrix {
    /// Row-major from the start of its buffer.
    pub(crate) fn row_major(columns: usize) -> Matrix {
        Matrix { offset: 0, rows: columns as i64, columns: 1 }
    }

    /// The rows from `first` on.
    pub(crate) fn skip_rows(self, first: usize) -> Matrix {
        Matrix { offset: self.offset + first as i64 * self.rows, ..self }
    }

    /// The columns from `first` on.
    pub(crate) fn skip_columns(self, first: usize) -> Matrix {
        Matrix { offset: self.offset + first as i64 * self.columns, ..self }
    }

    pub(crate) fn transposed(self) -> Matrix {
        Matrix { rows: self.columns, columns: self.rows, ..self }
    }

    /// Whether `rows` by `columns` elements lie within `len`.
    pub(crate) fn fits(&self, rows: usize, columns: usize, len: usize) -> bool {
        let (r, c) = (self.rows * (rows as i64 - 1), self.columns * (columns as i64 - 1));
        self.offset + r.min(0) + c.min(0) >= 0 && ((self.offset + r.max(0) + c.max(0)) as usize) < len
    }
}

/// How a product is combined with what is there.
#[derive(Clone, Copy)]
pub(crate) struct Combine<T> {
    /// What is there is multiplied by this; `None`: it is overwritten, whatever it is.
    pub(crate) keep: Option<T>,
    /// The product is multiplied by this.
    pub(crate) scale: T,
}

/// `out[i, j] = keep out[i, j] + scale Σ a[i, l] b[l, j]`. Extents are not zero.
///
/// # Safety
/// Nothing else accesses these elements of `out` meanwhile, its buffer is alive, and no two of them have one address.
pub(crate) unsafe fn product<T: Pod>(
    (out, out_at): (Out<T>, Matrix),
    (a, a_at): (&[T], Matrix),
    (b, b_at): (&[T], Matrix),
    (m, n, k): (usize, usize, usize),
    combine: Combine<T>,
    parallelism: Parallelism,
) {
    assert!(m * n * k > 0, "a product of extent zero");
    assert!(a_at.fits(m, k, a.len()) && b_at.fits(k, n, b.len()), "a matrix leaves its buffer");
    assert!(out_at.fits(m, n, out.len()), "a product leaves its buffer");
    // SAFETY: every address that the extents and strides form lies within the buffers, as asserted; extents are not zero;
    // the result is exclusive by the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_ptr().offset(out_at.offset as isize),
            out_at.columns as isize,
            out_at.rows as isize,
            combine.keep.is_some(),
            a.as_ptr().offset(a_at.offset as isize),
            a_at.columns as isize,
            a_at.rows as isize,
            b.as_ptr().offset(b_at.offset as isize),
            b_at.columns as isize,
            b_at.rows as isize,
            combine.keep.unwrap_or(combine.scale),
            combine.scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
