//! AttentionGrad kernels: the scores are computed again, block by block.

use gemm::Parallelism;
use wgrad_ir::AttentionGradKernel;

use crate::{
    args::{Args, Out},
    attention::{KEYS, QUERIES, head, mask_of, range, seen, store},
    fold::Fold,
    product::{Combine, Matrix, product},
    scratch::Scratch,
    softmax::{self, Scores},
    threads,
};

/// An AttentionGrad kernel, compiled.
#[derive(Debug)]
pub(crate) struct AttentionGradPlan(AttentionGradKernel);

impl AttentionGradPlan {
    pub(crate) fn new(kernel: &AttentionGradKernel) -> AttentionGradPlan {
        AttentionGradPlan(kernel.clone())
    }

    /// Nanoseconds on one core, roughly.
    pub(crate) fn cost(&self) -> f64 {
        let dims = &self.0.dims;
        dims.pairs() as f64 * (10.0 * dims.width as f64 / 60.0 + 0.6)
    }

    /// One task has all queries of a key head, so that its sums over queries have one order.
    pub(crate) fn run(&self, args: &Args<'_>) {
        let dims = &self.0.dims;
        if dims.width == 0 {
            return;
        }
        let items = dims.batch * dims.kv_heads;
        let tasks = threads::tasks_for(self.cost()).min(items);
        threads::for_each(tasks, &|task| {
            for item in items * task / tasks..items * (task + 1) / tasks {
                self.key_head(args, item / dims.kv_heads, item % dims.kv_heads);
            }
        });
    }

    fn key_head(&self, args: &Args<'_>, b: usize, g: usize) {
        let kernel = &self.0;
        let dims = &kernel.dims;
        let (width, group) = (dims.width, dims.heads / dims.kv_heads);
        let size = dims.keys * width;
        let mut scratch = Scratch::new(4 * 2 * size);
        let (grad_k, grad_v) = scratch.slice::<f32>(2 * size).split_at_mut(size);
        grad_k.fill(0.0);
        grad_v.fill(0.0);
        for h in g * group..(g + 1) * group {
            for first in (0..dims.queries).step_by(QUERIES) {
                self.block(args, [b, g, h], first, grad_k, grad_v);
            }
        }
        store(args.out(kernel.grad_k.arg), head(&kernel.grad_k, b, g), grad_k, width);
        store(args.out(kernel.grad_v.arg), head(&kernel.grad_v, b, g), grad_v, width);
    }

    /// Queries `[first, first + QUERIES)` of one head.
    fn block(
        &self,
        args: &Args<'_>,
        [b, g, h]: [usize; 3],
        first: usize,
        grad_k: &mut [f32],
        grad_v: &mut [f32],
    ) {
        let kernel = &self.0;
        let dims = &kernel.dims;
        let (rows, width) = (QUERIES.min(dims.queries - first), dims.width);
        let (from, to) = range(dims, first, rows);
        let mask = mask_of(args, kernel.mask, dims, b);
        let scale = dims.spec.scale.as_f64() as f32;
        let at_row = |operand| head(operand, b, h).from_row(first);
        let (q_at, k_at, v_at) = (at_row(&kernel.q), head(&kernel.k, b, g), head(&kernel.v, b, g));
        let (q, k, v) =
            (args.read::<f32>(kernel.q.arg), args.read::<f32>(kernel.k.arg), args.read::<f32>(kernel.v.arg));
        let (dout, dout_at) = (args.read::<f32>(kernel.grad_out.arg), at_row(&kernel.grad_out));
        let lse = &args.read::<f32>(kernel.lse)[(b * dims.heads + h) * dims.queries + first..][..rows];
        let mut scratch = Scratch::new(4 * QUERIES * (2 * KEYS + width));
        let (scores, rest) = scratch.slice::<f32>(QUERIES * (2 * KEYS + width)).split_at_mut(QUERIES * KEYS);
        let (dp, grad_q) = rest.split_at_mut(QUERIES * KEYS);
        let mut delta = [0.0; QUERIES];
        self.deltas(args, [b, h], first, &mut delta[..rows], &mut grad_q[..width]);
        let grad_q = &mut grad_q[..rows * width];
        grad_q.fill(0.0);
        let add = Combine { keep: Some(1.0), scale: 1.0 };
        let (wide, none) = (Matrix::row_major(width), Parallelism::None);
        let mut start = from;
        while start < to {
            let keys = KEYS.min(to - start);
            let seen = seen(dims, first, rows, start, keys);
            let (x, dp) = (&mut scores[..rows * keys], &mut dp[..rows * keys]);
            let square = Matrix::row_major(keys);
            let (k_at, v_at) = (k_at.from_row(start), v_at.from_row(start));
            // SAFETY: scratch of this task alone.
            unsafe {
                let (k, v) = ((k, k_at.transposed()), (v, v_at.transposed()));
                let combine = Combine { keep: None, scale };
                product((Out::of(x), square), (q, q_at), k, (rows, keys, width), combine, none);
                let combine = Combine { keep: None, scale: 1.0 };
                product((Out::of(dp), square), (dout, dout_at), v, (rows, keys, width), combine, none);
            }
            let mask = mask.map(|m| &m[start..start + keys]);
            let block = Scores { x, stride: keys, seen: &seen[..rows], mask };
            softmax::backward(block, dp, lse, &delta[..rows], scale);
            let part = start * width..(start + keys) * width;
            let (p, ds) = (&scores[..rows * keys], &*dp);
            // SAFETY: as above.
            unsafe {
                let to = (Out::of(&mut grad_v[part.clone()]), wide);
                product(to, (p, square.transposed()), (dout, dout_at), (keys, width, rows), add, none);
                let to = (Out::of(&mut grad_k[part]), wide);
                product(to, (ds, square.transposed()), (q, q_at), (keys, width, rows), add, none);
                product((Out::of(grad_q), wide), (ds, square), (k, k_at), (rows, width, keys), add, none);
            }
            start += keys;
        }
        store(args.out(kernel.grad_q.arg), at_row(&kernel.grad_q), grad_q, width);
    }

    /// `Σ grad_out · out` of each query; `row` is scratch.
    fn deltas(&self, args: &Args<'_>, [b, h]: [usize; 2], first: usize, delta: &mut [f32], row: &mut [f32]) {
        let kernel = &self.0;
        let at = |operand| head(operand, b, h).from_row(first);
        let (x, y) = (args.read::<f32>(kernel.out.arg), args.read::<f32>(kernel.grad_out.arg));
        let (x_at, y_at) = (at(&kernel.out), at(&kernel.grad_out));
        for (i, delta) in delta.iter_mut().enumerate() {
            let address =
                |m: &Matrix, d: usize| (m.offset + i as i64 * m.rows + d as i64 * m.columns) as usize;
            for (d, term) in row.iter_mut().enumerate() {
                *term = x[address(&x_at, d)] * y[address(&y_at, d)];
            }
            *delta = f32::fold(wgrad_ir::ReduceOp::Sum, row);
        }
    }
}
