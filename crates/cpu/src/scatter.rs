//! ScatterAdd kernels: sums of rows by id, each sum in ascending order of the source rows.

use std::sync::atomic::Ordering;

use wgrad_ir::{ReduceOp, ScatterAddKernel};

use crate::{args::Args, fold::Fold, frame::clamp_id, ops::by_dtype, threads};

/// Nanoseconds on one core, roughly.
pub(crate) fn cost(kernel: &ScatterAddKernel) -> f64 {
    0.1 * (kernel.rows * kernel.row_len) as f64 + kernel.count as f64 * (10.0 + 0.15 * kernel.row_len as f64)
}

pub(crate) fn run(kernel: &ScatterAddKernel, args: &Args<'_>) {
    let ids = &args.read::<u32>(1)[..kernel.count];
    let rows: Vec<usize> = ids
        .iter()
        .map(|&id| {
            let (row, ok) = clamp_id(id, kernel.ids_dtype, kernel.rows);
            if !ok {
                args.status.store(true, Ordering::Relaxed);
            }
            row
        })
        .collect();
    by_dtype!(kernel.dtype, T => typed::<T>(kernel, args, &rows));
}

/// Each task owns a range of columns, and walks all source rows in order.
fn typed<T: Fold>(kernel: &ScatterAddKernel, args: &Args<'_>, rows: &[usize]) {
    let (out, source, width) = (args.out::<T>(0), args.read::<T>(2), kernel.row_len);
    // Cache lines are not shared between tasks.
    let lines = (width * size_of::<T>()).div_ceil(64).max(1);
    let per_line = 64 / size_of::<T>();
    let tasks = threads::tasks_for(cost(kernel)).min(lines).min(rayon::current_num_threads());
    threads::for_each(tasks, &|task| {
        let from = (lines * task / tasks * per_line).min(width);
        let to = (lines * (task + 1) / tasks * per_line).min(width);
        for row in 0..kernel.rows {
            // SAFETY: one task per range of columns.
            unsafe { out.slice(row * width + from, to - from) }.fill(T::identity(ReduceOp::Sum));
        }
        for (i, &row) in rows.iter().enumerate() {
            // SAFETY: as above.
            let sum = unsafe { out.slice(row * width + from, to - from) };
            T::accumulate(ReduceOp::Sum, sum, &source[i * width + from..i * width + to]);
        }
    });
}
