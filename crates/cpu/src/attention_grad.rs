//! AttentionGrad kernels: the scores are computed again, block by block.

use wgrad_ir::{AttentionGradKernel, Operand};

use crate::{
    ahead::Ahead,
    args::Args,
    attention::{
        self, Aheads, GROUP, KEYS, QUERIES, Rows, Seen, head, mask_of, range, store, stride, transpose,
    },
    scratch::Scratch,
    softmax::{self, Scores},
    threads,
    tile::Tile,
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
        let mut scratch = Scratch::new(4 * 4 * size);
        let (grads, transposed) = scratch.slice::<f32>(4 * size).split_at_mut(2 * size);
        grads.fill(0.0);
        let (grad_k, grad_v) = grads.split_at_mut(size);
        // Keys, scaled, and values: of each block of keys one matrix `[width, keys]`.
        let (kt, vt) = transposed.split_at_mut(size);
        for start in (0..dims.keys).step_by(KEYS) {
            let keys = KEYS.min(dims.keys - start);
            let part = start * width..(start + keys) * width;
            let scale = dims.spec.scale.as_f64() as f32;
            let at = |operand| head(operand, b, g).skip_rows(start);
            transpose(args.read(kernel.k.arg), at(&kernel.k), keys, width, scale, &mut kt[part.clone()]);
            transpose(args.read(kernel.v.arg), at(&kernel.v), keys, width, 1.0, &mut vt[part]);
        }
        // Of the next head's rows, those that fit the cache.
        let next = b * dims.kv_heads + g + 1;
        let mut ahead = Aheads::new();
        if next < dims.batch * dims.kv_heads {
            let (b, g) = (next / dims.kv_heads, next % dims.kv_heads);
            let (queries, keys) = ((g * group, QUERIES.min(dims.queries)), (g, KEYS.min(dims.keys)));
            let reads = [(&kernel.q, queries), (&kernel.out, queries), (&kernel.grad_out, queries)];
            let both = [(&kernel.k, keys), (&kernel.v, keys), (&kernel.grad_k, keys), (&kernel.grad_v, keys)];
            let all = reads.iter().chain(&both);
            ahead.extend(all.map(|&(x, (h, rows))| attention::ahead(args, x, (b, h), rows, width)));
        }
        for h in g * group..(g + 1) * group {
            for first in (0..dims.queries).step_by(QUERIES) {
                let last = h + 1 == (g + 1) * group && first + QUERIES >= dims.queries;
                let ahead = if last { &*ahead } else { &[] };
                self.block(args, [b, g, h], first, (kt, vt), (grad_k, grad_v), ahead);
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
        (kt, vt): (&[f32], &[f32]),
        (grad_k, grad_v): (&mut [f32], &mut [f32]),
        ahead: &[Ahead],
    ) {
        let kernel = &self.0;
        let dims = &kernel.dims;
        let (rows, width) = (QUERIES.min(dims.queries - first), dims.width);
        let (from, to) = range(dims, first, rows);
        let mask = mask_of(args, kernel.mask, dims, b);
        let scale = dims.spec.scale.as_f64() as f32;
        let lse = &args.read::<f32>(kernel.lse)[(b * dims.heads + h) * dims.queries + first..][..rows];
        let (mut q_part, mut out_part, mut k_part) = (
            Scratch::new(4 * QUERIES * width),
            Scratch::new(4 * QUERIES * width),
            Scratch::new(4 * KEYS * width),
        );
        let by_query = |operand: &Operand| head(operand, b, h).skip_rows(first);
        let q = Rows::new(args.read(kernel.q.arg), by_query(&kernel.q), rows, width, &mut q_part);
        let grad_out =
            Rows::new(args.read(kernel.grad_out.arg), by_query(&kernel.grad_out), rows, width, &mut out_part);
        let stride = stride(dims);
        let all = QUERIES * (2 * stride + width);
        let mut scratch = Scratch::new(4 * all);
        let (scores, rest) = scratch.slice::<f32>(all).split_at_mut(QUERIES * stride);
        let (dp, grad_q) = rest.split_at_mut(QUERIES * stride);
        let mut delta = [0.0; QUERIES];
        let mut part = Scratch::new(4 * QUERIES * width);
        let out = Rows::new(args.read(kernel.out.arg), by_query(&kernel.out), rows, width, &mut part);
        softmax::dots(grad_out, out, width, &mut delta[..rows]);
        let grad_q = &mut grad_q[..rows * width];
        grad_q.fill(0.0);
        // Blocks begin where those of the transposed keys do.
        for start in (from / KEYS * KEYS..to).step_by(KEYS) {
            let keys = KEYS.min(dims.keys - start);
            let seen = Seen::new(dims, first, rows, start, keys);
            let part = start * width..(start + keys) * width;
            let (kt, vt) = (&kt[part.clone()], &vt[part.clone()]);
            for (i, j) in seen.groups() {
                if start <= from {
                    ahead.iter().for_each(|ahead| ahead.fetch(i.start / GROUP, rows.div_ceil(GROUP)));
                }
                q.times(i.clone(), width, (&kt[j.start..], keys), (scores, stride), (i.clone(), j.clone()));
                grad_out.times(i.clone(), width, (&vt[j.start..], keys), (dp, stride), (i, j));
            }
            let mask = mask.map(|m| &m[start..start + keys]);
            let block = Scores { x: scores, stride, seen: &seen, mask };
            softmax::backward(block, dp, lse, &delta[..rows], scale);
            let (grad_k, grad_v) = (&mut grad_k[part.clone()], &mut grad_v[part]);
            for (j, i) in seen.key_groups() {
                // `grad_v += pᵀ grad_out`, and `grad_k += dsᵀ q`.
                for (x, rows, grad) in [(&*scores, grad_out, &mut *grad_v), (&*dp, q, &mut *grad_k)] {
                    Tile {
                        m: j.len(),
                        n: width,
                        k: i.len(),
                        a: &x[i.start * stride + j.start..],
                        a_strides: (1, stride),
                        b: rows.from(i.start),
                        b_rows: rows.stride,
                        c: &mut grad[j.start * width..],
                        c_rows: width,
                        add: true,
                    }
                    .multiply();
                }
            }
            let k_at = head(&kernel.k, b, g).skip_rows(start);
            let k = Rows::new(args.read(kernel.k.arg), k_at, keys, width, &mut k_part);
            for (i, j) in seen.groups() {
                Tile {
                    m: i.len(),
                    n: width,
                    k: j.len(),
                    a: &dp[i.start * stride + j.start..],
                    a_strides: (stride, 1),
                    b: k.from(j.start),
                    b_rows: k.stride,
                    c: &mut grad_q[i.start * width..],
                    c_rows: width,
                    add: true,
                }
                .multiply();
            }
        }
        store(args.out(kernel.grad_q.arg), by_query(&kernel.grad_q), grad_q, width);
    }
}
