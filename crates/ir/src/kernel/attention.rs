//! Attention and its gradient.

use super::Operand;
use crate::AttentionSpec;

/// Extents and visibility of scaled dot-product attention.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AttentionDims {
    /// Sequences.
    pub batch: usize,
    /// Query heads, a multiple of `kv_heads`; head `h` uses key head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Length of the queries.
    pub queries: usize,
    /// Length of keys and values.
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
    /// What is seen, and the scale.
    pub spec: AttentionSpec,
}

impl AttentionDims {
    /// Keys `[first, end)` that query `i` sees, apart from the mask.
    pub fn visible(&self, i: usize) -> (usize, usize) {
        let end = if self.spec.causal { (i + 1).min(self.keys) } else { self.keys };
        match self.spec.window {
            None => (0, end),
            Some(w) => ((i + 1).saturating_sub(w).min(end), end.min(i.saturating_add(w)).min(self.keys)),
        }
    }

    /// Pairs of a query and a key that it sees, over all heads and sequences, apart from the mask.
    pub fn pairs(&self) -> u64 {
        let one: usize =
            (0..self.queries).map(|i| self.visible(i)).map(|(from, to)| to.saturating_sub(from)).sum();
        (one * self.batch * self.heads) as u64
    }
}

/// Flash attention (Dao et al., 2022): `out = softmax(scale q kᵀ) v` over the visible keys, without a matrix of scores in memory,
/// and the logarithm of each query's sum of exponentials. A query that sees no key gives zeros, and a logarithm of 0.
/// All operands' views span `[batch, time, heads, width]`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AttentionKernel {
    /// Extents.
    pub dims: AttentionDims,
    /// `[batch, queries, heads, width]`.
    pub q: Operand,
    /// `[batch, keys, kv_heads, width]`.
    pub k: Operand,
    /// `[batch, keys, kv_heads, width]`.
    pub v: Operand,
    /// Which keys are there: bool, row-major `[batch, keys]`.
    pub mask: Option<u32>,
    /// The result, `[batch, queries, heads, width]`.
    pub out: Operand,
    /// The logarithms, natural, row-major `[batch, heads, queries]`.
    pub lse: u32,
}

/// The gradient of [`AttentionKernel`]: with `p = exp(scale q kᵀ - lse)` over visible keys and `delta = Σ grad_out · out`,
/// `grad_v = pᵀ grad_out`, `ds = scale p (grad_out vᵀ - delta)`, `grad_q = ds k`, `grad_k = dsᵀ q`; the query heads of one key
/// head add up, in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AttentionGradKernel {
    /// Extents.
    pub dims: AttentionDims,
    /// As in the forward kernel.
    pub q: Operand,
    /// As in the forward kernel.
    pub k: Operand,
    /// As in the forward kernel.
    pub v: Operand,
    /// As in the forward kernel.
    pub mask: Option<u32>,
    /// What the forward kernel gave.
    pub out: Operand,
    /// What the forward kernel gave.
    pub lse: u32,
    /// The cotangent of `out`.
    pub grad_out: Operand,
    /// Result, of the shape of `q`. The three results may be parts of one buffer, but do not overlap.
    pub grad_q: Operand,
    /// Result, of the shape of `k`.
    pub grad_k: Operand,
    /// Result, of the shape of `v`.
    pub grad_v: Operand,
    /// Scratch: `batch * heads * queries` words.
    pub delta: u32,
}
