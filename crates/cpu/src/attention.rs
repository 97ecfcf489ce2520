//! Attention kernels: blocks of queries against blocks of keys, so that no matrix of all scores exists.

use gemm::Parallelism;
use wgrad_ir::{AttentionDims, AttentionKernel, Operand};

use crate::{
    args::{Args, Out},
    product::{Combine, Matrix, product},
    scratch::Scratch,
    softmax::{self, Scores},
    threads,
};

/// Queries per block.
pub(crate) const QUERIES: usize = 64;
/// Keys per block: with as many queries, two blocks of scores fit the second-level cache beside what they are made of.
pub(crate) const KEYS: usize = 256;

/// An Attention kernel, compiled.
#[derive(Debug)]
pub(crate) struct AttentionPlan(AttentionKernel);

impl AttentionPlan {
    pub(crate) fn new(kernel: &AttentionKernel) -> AttentionPlan {
        AttentionPlan(kernel.clone())
    }

    /// Nanoseconds on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        let dims = &self.0.dims;
        dims.pairs() as f64 * (4.0 * dims.width as f64 / 60.0 + 0.6)
    }

    pub(crate) fn run(&self, args: &Args<'_>) {
        let dims = &self.0.dims;
        if dims.width == 0 || dims.batch * dims.heads * dims.queries == 0 {
            // Results without elements; what has a logarithm still has it, of a sum of equal scores.
            return self.lse_of_nothing(args);
        }
        let blocks = dims.queries.div_ceil(QUERIES);
        let items = dims.batch * dims.heads * blocks;
        let tasks = threads::tasks_for(self.cost()).min(items);
        threads::for_each(tasks, &|task| {
            for item in items * task / tasks..items * (task + 1) / tasks {
                let (head, block) = (item / blocks, item % blocks);
                self.block(args, head / dims.heads, head % dims.heads, block * QUERIES);
            }
        });
    }

    /// Queries of width 0: all scores are zero.
    fn lse_of_nothing(&self, args: &Args<'_>) {
        let dims = &self.0.dims;
        let out = args.out::<f32>(self.0.lse);
        for b in 0..dims.batch {
            let mask = mask_of(args, self.0.mask, dims, b);
            for row in 0..dims.heads * dims.queries {
                let (from, to) = dims.visible(row % dims.queries);
                let seen = (from..to).filter(|&j| mask.is_none_or(|m| m[j] != 0)).count();
                let lse = if seen == 0 { 0.0 } else { (seen as f32).ln() };
                // SAFETY: no task runs.
                unsafe { out.set(b * dims.heads * dims.queries + row, lse) };
            }
        }
    }

    /// Queries `[first, first + QUERIES)` of one head.
    fn block(&self, args: &Args<'_>, b: usize, h: usize, first: usize) {
        let AttentionKernel { dims, q, k, v, mask, out, lse } = &self.0;
        let rows = QUERIES.min(dims.queries - first);
        let width = dims.width;
        let g = h / (dims.heads / dims.kv_heads);
        let (from, to) = range(dims, first, rows);
        let mask = mask_of(args, *mask, dims, b);
        let (q_at, k_at, v_at) = (head(q, b, h).from_row(first), head(k, b, g), head(v, b, g));
        let (q, k, v) = (args.read::<f32>(q.arg), args.read::<f32>(k.arg), args.read::<f32>(v.arg));
        let mut scratch = Scratch::new(4 * (QUERIES * (KEYS + width)));
        let (scores, sums) = scratch.slice::<f32>(QUERIES * (KEYS + width)).split_at_mut(QUERIES * KEYS);
        let (mut top, mut sum, mut shrink) = ([f32::NEG_INFINITY; QUERIES], [0.0; QUERIES], [0.0; QUERIES]);
        sums.fill(0.0);
        let mut start = from;
        while start < to {
            let keys = KEYS.min(to - start);
            let seen = seen(dims, first, rows, start, keys);
            let scale = Combine { keep: None, scale: dims.spec.scale.as_f64() as f32 };
            let x = &mut scores[..rows * keys];
            // SAFETY: scratch of this task alone.
            unsafe {
                let to = (Out::of(x), Matrix::row_major(keys));
                let k_at = k_at.from_row(start).transposed();
                product(to, (q, q_at), (k, k_at), (rows, keys, width), scale, Parallelism::None);
            }
            let mask = mask.map(|m| &m[start..start + keys]);
            let block = Scores { x, stride: keys, seen: &seen[..rows], mask };
            softmax::online(block, &mut top, &mut sum, &mut shrink);
            if start > from {
                for (row, &shrink) in sums.chunks_exact_mut(width).zip(&shrink[..rows]) {
                    row.iter_mut().for_each(|x| *x *= shrink);
                }
            }
            // SAFETY: scratch of this task alone.
            unsafe {
                let to = (Out::of(sums), Matrix::row_major(width));
                let p = (&scores[..rows * keys], Matrix::row_major(keys));
                let add = Combine { keep: Some(1.0), scale: 1.0 };
                product(to, p, (v, v_at.from_row(start)), (rows, width, keys), add, Parallelism::None);
            }
            start += keys;
        }
        let lse = args.out::<f32>(*lse);
        for i in 0..rows {
            let (log, part) = if sum[i] > 0.0 { (top[i] + sum[i].ln(), 1.0 / sum[i]) } else { (0.0, 0.0) };
            sums[i * width..(i + 1) * width].iter_mut().for_each(|x| *x *= part);
            // SAFETY: one task per query.
            unsafe { lse.set((b * dims.heads + h) * dims.queries + first + i, log) };
        }
        store(args.out(out.arg), head(out, b, h).from_row(first), &sums[..rows * width], width);
    }
}

/// The matrix `[time, width]` of one head.
pub(crate) fn head(operand: &Operand, b: usize, h: usize) -> Matrix {
    let view = &operand.view;
    let offset = view.offset + b as i64 * view.strides[0] + h as i64 * view.strides[2];
    Matrix { offset, rows: view.strides[1], columns: view.strides[3] }
}

/// Which keys of a sequence are there.
pub(crate) fn mask_of<'a>(
    args: &'a Args<'_>,
    mask: Option<u32>,
    dims: &AttentionDims,
    b: usize,
) -> Option<&'a [u8]> {
    mask.map(|m| &args.read::<u8>(m)[b * dims.keys..(b + 1) * dims.keys])
}

/// The keys that some of `rows` queries from `first` on see, apart from the mask.
pub(crate) fn range(dims: &AttentionDims, first: usize, rows: usize) -> (usize, usize) {
    // Both bounds grow with the query.
    (dims.visible(first).0, dims.visible(first + rows - 1).1)
}

/// For each query of a block the keys that it sees within `[start, start + keys)`, counted from `start`.
pub(crate) fn seen(
    dims: &AttentionDims,
    first: usize,
    rows: usize,
    start: usize,
    keys: usize,
) -> [(usize, usize); QUERIES] {
    let mut seen = [(0, 0); QUERIES];
    for (i, seen) in seen[..rows].iter_mut().enumerate() {
        let (from, to) = dims.visible(first + i);
        let from = from.clamp(start, start + keys) - start;
        *seen = (from, (to.clamp(start, start + keys) - start).max(from));
    }
    seen
}

/// Writes rows of `width` elements where the matrix lies.
pub(crate) fn store(out: Out<f32>, at: Matrix, rows: &[f32], width: usize) {
    for (i, row) in rows.chunks_exact(width).enumerate() {
        let first = at.offset + i as i64 * at.rows;
        if at.columns == 1 {
            // SAFETY: one task per row of a result, and no two elements have one address.
            unsafe { out.slice(first as usize, width) }.copy_from_slice(row);
        } else {
            for (d, &x) in row.iter().enumerate() {
                // SAFETY: as above.
                unsafe { out.set((first + d as i64 * at.columns) as usize, x) };
            }
        }
    }
}
