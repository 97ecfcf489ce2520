//! Matrices in the order in which tiles read them.

use crate::product::Matrix;

/// Columns of a panel of a right operand: two of the widest SIMD registers.
pub(crate) const COLUMNS: usize = 32;
/// Rows of a panel of a left operand: as many as a tile has.
pub(crate) const ROWS: usize = 12;

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
    let rows = &mut rows[..k];
    if at.columns == 1 {
        for (l, row) in rows.iter_mut().enumerate() {
            let from = &from[(at.offset + l as i64 * at.rows) as usize..][..n];
            if let Ok(from) = <&[f32; W]>::try_from(from) {
                *row = *from;
            } else {
                row[..n].copy_from_slice(from);
                row[n..].fill(0.0);
            }
        }
        return;
    }
    // Rows that share a cache line of each column are filled together.
    for (part, rows) in rows.chunks_mut(16).enumerate() {
        let at = at.skip_rows(16 * part);
        if let (Ok(rows), 1) = (<&mut [[f32; W]; 16]>::try_from(&mut *rows), at.rows) {
            let mut first = at.offset as usize;
            let step = at.columns;
            for j in 0..n {
                let column = &from[first..first + 16];
                for (row, &x) in rows.iter_mut().zip(column) {
                    row[j] = x;
                }
                first = (first as i64 + step) as usize;
            }
        } else {
            for (l, row) in rows.iter_mut().enumerate() {
                for (j, x) in row[..n].iter_mut().enumerate() {
                    *x = from[(at.offset + l as i64 * at.rows + j as i64 * at.columns) as usize];
                }
            }
        }
        rows.iter_mut().for_each(|row| row[n..].fill(0.0));
    }
}
