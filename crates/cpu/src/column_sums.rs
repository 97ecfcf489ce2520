//! Sums over the rows of a product's right operand, taken beside the product while the operand is in the cache.

use crate::{args::Out, fold::Fold, product::Matrix, threads};
use wgrad_ir::ReduceOp;

/// Rows whose sums are added up one after the other, before these sums are added to those of other rows: bounds the rounding error.
const ROWS: usize = 32;
/// Columns of one task, so that its sums stay in registers and the first-level cache.
const COLUMNS: usize = 128;

/// `out[i][c] = Σ_r b_i[r, c]` for matrices of `k` rows and `n` columns, in an order fixed by the extents.
pub(crate) fn column_sums<T: Fold>(out: Out<T>, b: &[T], matrices: &[Matrix], (k, n): (usize, usize)) {
    let tiles = n.div_ceil(COLUMNS);
    let items = matrices.len() * tiles;
    let tasks = threads::tasks_for((matrices.len() * k * n) as f64 * 0.1).min(items);
    threads::for_each(tasks, &|task| {
        let mut part = [T::identity(ReduceOp::Sum); COLUMNS];
        for item in items * task / tasks..items * (task + 1) / tasks {
            let (matrix, first) = (&matrices[item / tiles], item % tiles * COLUMNS);
            let count = COLUMNS.min(n - first);
            // SAFETY: one task per tile of a matrix.
            let sums = unsafe { out.slice(item / tiles * n + first, count) };
            sums.fill(T::identity(ReduceOp::Sum));
            let at = |row: usize, column: usize| {
                (matrix.offset + row as i64 * matrix.rows + (first + column) as i64 * matrix.columns) as usize
            };
            for from in (0..k).step_by(ROWS) {
                let part = &mut part[..count];
                part.fill(T::identity(ReduceOp::Sum));
                for row in from..k.min(from + ROWS) {
                    if matrix.columns == 1 {
                        T::accumulate(ReduceOp::Sum, part, &b[at(row, 0)..][..count]);
                    } else {
                        for (column, sum) in part.iter_mut().enumerate() {
                            *sum = T::combine(ReduceOp::Sum, *sum, b[at(row, column)]);
                        }
                    }
                }
                T::accumulate(ReduceOp::Sum, sums, part);
            }
        }
    });
}
