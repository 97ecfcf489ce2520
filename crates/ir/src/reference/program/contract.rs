//! Products, convolutions and attention.

use super::{Run, Write, unmasked};
use crate::{
    AttentionDims, AttentionGradKernel, AttentionKernel, ConvKernel, DType, MatMulKernel, Operand, ReduceOp,
    Shape,
    reference::{graph::conv_element, indices, reduce},
};

impl Run<'_> {
    pub(super) fn matmul(&self, k: &MatMulKernel) -> Vec<Write> {
        let mut writes = Vec::new();
        for index in indices(&k.space()) {
            let (batch, at) = index.split_at(k.batch.rank());
            let term = |l: usize| {
                let a = self.element(&k.a, k.operands[0], &[batch, &[at[0], l]].concat());
                let b = self.element(&k.b, k.operands[1], &[batch, &[l, at[1]]].concat());
                a * b
            };
            let product = self.rounded(k.dtype, reduce(ReduceOp::Sum, k.dtype, (0..k.k).map(term)));
            let values = self.values(&k.exprs, &index, product);
            writes.extend(k.stores.iter().map(|store| Write {
                arg: store.arg,
                dtype: k.exprs[store.value.index()].dtype,
                address: unmasked(&store.view, &index),
                value: values[store.value.index()],
            }));
        }
        if let Some(arg) = k.column_sums {
            let columns = k.batch.iter().copied().chain([k.n]).collect();
            for (address, index) in indices(&columns).into_iter().enumerate() {
                let (batch, n) = index.split_at(k.batch.rank());
                let terms =
                    (0..k.k).map(|l| self.element(&k.b, k.operands[1], &[batch, &[l, n[0]]].concat()));
                let value = self.rounded(k.dtype, reduce(ReduceOp::Sum, k.dtype, terms));
                writes.push(Write { arg, dtype: k.dtype, address, value });
            }
        }
        writes
    }

    pub(super) fn conv(&self, k: &ConvKernel) -> Vec<Write> {
        let (extents, taps) = (&k.x.view.shape[3..], Shape::from(&k.w.view.shape[2..]));
        let mut writes = Vec::new();
        for index in indices(&k.result()) {
            let [a, b, c] = [index[0], index[1], index[2]];
            let [n, g, o] = if k.spec.by_group { [c, a, b] } else { [a, b, c] };
            let term = |tap: Vec<usize>| {
                let seen = conv_element(&k.spec, &index[3..], &tap[1..], extents);
                let x =
                    |i: Vec<usize>| self.element(&k.x, k.operands[0], &[&[n, g, tap[0]], &i[..]].concat());
                seen.map_or(0.0, x) * self.element(&k.w, k.operands[1], &[&[g, o], &tap[..]].concat())
            };
            let terms = indices(&taps).into_iter().map(term);
            let product = self.rounded(k.dtype, reduce(ReduceOp::Sum, k.dtype, terms));
            let values = self.values(&k.exprs, &index, product);
            writes.extend(k.stores.iter().map(|store| Write {
                arg: store.arg,
                dtype: k.exprs[store.value.index()].dtype,
                address: unmasked(&store.view, &index),
                value: values[store.value.index()],
            }));
        }
        writes
    }

    pub(super) fn attention(&self, k: &AttentionKernel) -> Vec<Write> {
        let dims = &k.dims;
        let mut writes = Vec::new();
        for [b, h, i] in places([dims.batch, dims.heads, dims.queries]) {
            let scores = self.scores(dims, [&k.q, &k.k], k.mask, [b, h, i]);
            let top = scores.iter().map(|s| s.1).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s.1 - top).exp()).sum();
            let lse = if scores.is_empty() { 0.0 } else { top + sum.ln() };
            let address = (b * dims.heads + h) * dims.queries + i;
            writes.push(Write {
                arg: k.lse,
                dtype: DType::F32,
                address,
                value: self.rounded(DType::F32, lse),
            });
            for d in 0..dims.width {
                let g = h / (dims.heads / dims.kv_heads);
                let value = scores
                    .iter()
                    .map(|&(j, s)| (s - lse).exp() * self.element(&k.v, DType::F32, &[b, j, g, d]))
                    .sum();
                writes.push(self.to(&k.out, &[b, i, h, d], value));
            }
        }
        writes
    }

    pub(super) fn attention_grad(&self, k: &AttentionGradKernel) -> Vec<Write> {
        let dims = &k.dims;
        let AttentionDims { batch, heads, kv_heads, queries, keys, width, .. } = *dims;
        let scale = dims.spec.scale.as_f64();
        let element = |operand: &Operand, index: [usize; 4]| self.element(operand, DType::F32, &index);
        let shape = |time: usize, heads: usize| Shape::from([batch, time, heads, width]);
        let mut grads = [(queries, heads), (keys, kv_heads), (keys, kv_heads)]
            .map(|(t, h)| vec![0.0; shape(t, h).elements()]);
        for [b, h, i] in places([batch, heads, queries]) {
            let g = h / (heads / kv_heads);
            let lse = self.load(k.lse, DType::F32, (b * heads + h) * queries + i);
            let over = |f: &dyn Fn(usize) -> f64| (0..width).map(f).sum::<f64>();
            let delta = over(&|d| element(&k.grad_out, [b, i, h, d]) * element(&k.out, [b, i, h, d]));
            for (j, score) in self.scores(dims, [&k.q, &k.k], k.mask, [b, h, i]) {
                let p = (score - lse).exp();
                let dp = over(&|d| element(&k.grad_out, [b, i, h, d]) * element(&k.v, [b, j, g, d]));
                let ds = scale * p * (dp - delta);
                for d in 0..width {
                    let (row, column) = (
                        ((b * queries + i) * heads + h) * width + d,
                        ((b * keys + j) * kv_heads + g) * width + d,
                    );
                    grads[0][row] += ds * element(&k.k, [b, j, g, d]);
                    grads[1][column] += ds * element(&k.q, [b, i, h, d]);
                    grads[2][column] += p * element(&k.grad_out, [b, i, h, d]);
                }
            }
        }
        let operands =
            [(&k.grad_q, queries, heads), (&k.grad_k, keys, kv_heads), (&k.grad_v, keys, kv_heads)];
        let mut writes = Vec::new();
        for ((operand, time, heads), grad) in operands.into_iter().zip(grads) {
            let all = indices(&shape(time, heads)).into_iter().zip(grad);
            writes.extend(all.map(|(index, value)| self.to(operand, &index, value)));
        }
        writes
    }

    /// The keys that a query sees, with their scores.
    fn scores(
        &self,
        dims: &AttentionDims,
        [q, k]: [&Operand; 2],
        mask: Option<u32>,
        [b, h, i]: [usize; 3],
    ) -> Vec<(usize, f64)> {
        let g = h / (dims.heads / dims.kv_heads);
        let (from, to) = dims.visible(i);
        let there = |j: &usize| mask.is_none_or(|m| self.load(m, DType::Bool, b * dims.keys + j) != 0.0);
        let score = |j: usize| {
            let terms = (0..dims.width).map(|d| {
                self.element(q, DType::F32, &[b, i, h, d]) * self.element(k, DType::F32, &[b, j, g, d])
            });
            (j, terms.sum::<f64>() * dims.spec.scale.as_f64())
        };
        (from..to.max(from)).filter(there).map(score).collect()
    }
}

/// All indices of three axes, in order.
fn places(extents: [usize; 3]) -> Vec<[usize; 3]> {
    indices(&extents.into()).into_iter().map(|i| [i[0], i[1], i[2]]).collect()
}
