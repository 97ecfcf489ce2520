//! Kernels: what a device computes in one go. They say *what*, and name no shader.

use crate::{CumulateOp, DType, ReduceOp, Shape};

mod attention;
mod expr;
mod product;

pub use attention::{AttentionDims, AttentionGradKernel, AttentionKernel};
pub use expr::{Expr, ExprId, ExprNode, Operand, Store};
pub use product::{ConvKernel, MatMulKernel, SplitK};

/// A tree of elementwise work over one iteration space, with one or several results.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MapKernel {
    /// The iteration space.
    pub space: Shape,
    /// The expressions, operands first.
    pub exprs: Vec<ExprNode>,
    /// The results. A stored buffer is loaded, if at all, at the very address that is stored: an update in place.
    pub stores: Vec<Store>,
}

/// Reductions along rows with elementwise work before, between and after them: softmax, norms, cross-entropy and their input
/// gradients. For each index of `outer`, the expressions span the row `inner`; [`Expr::Row`] combines a value over it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RowKernel {
    /// The rows.
    pub outer: Shape,
    /// The extents of one row, not empty.
    pub inner: Shape,
    /// The expressions, operands first; maps span `outer ++ inner`.
    pub exprs: Vec<ExprNode>,
    /// The results: over `outer ++ inner`, or over `outer` alone for a value that is the same along the row. No stored
    /// buffer is also loaded.
    pub stores: Vec<Store>,
}

/// One result of a [`ReduceKernel`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reduction {
    /// The combination.
    pub op: ReduceOp,
    /// What is combined.
    pub value: ExprId,
    /// The buffer that gets the results, row-major over `outer`.
    pub arg: u32,
}

/// Reductions of elementwise work: for each index of `outer`, combines values over all of `inner`, in a fixed order.
/// The expressions' maps span `outer ++ inner`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReduceKernel {
    /// Extents that stay.
    pub outer: Shape,
    /// Extents that are combined. Empty extents give the identity of a sum.
    pub inner: Shape,
    /// The expressions, operands first.
    pub exprs: Vec<ExprNode>,
    /// The results, at least one; all of them are sums where `inner` is empty.
    pub outs: Vec<Reduction>,
}

/// Sums rows by id: `out[r, :] = Σ_{i: ids[i] = r} src[i, :]`, in ascending `i`. Arguments: 0 `out`, 1 `ids`, 2 `src`,
/// 3 scratch of `2 * count` words.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ScatterAddKernel {
    /// Rows of the result.
    pub rows: usize,
    /// Elements per row.
    pub row_len: usize,
    /// Number of ids.
    pub count: usize,
    /// Element type of source and result.
    pub dtype: DType,
    /// Element type of the ids.
    pub ids_dtype: DType,
}

/// Sums so far, or first-order linear recurrences, along lines: see [`CumulateOp`]. Views span `lines ++ [len]`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CumulateKernel {
    /// The combination.
    pub op: CumulateOp,
    /// Extents that number the lines.
    pub lines: Shape,
    /// Elements of a line.
    pub len: usize,
    /// Element type of operands and result.
    pub dtype: DType,
    /// What is added.
    pub terms: Operand,
    /// What the result so far is multiplied by before, for linear recurrences.
    pub factors: Option<Operand>,
    /// The result.
    pub out: Operand,
}

/// Stable sorts of rows: `out[r, i]` is the position in row `r` of its element of rank `i`, NaN counting as largest. Arguments: 0 `out`
/// (`i32`), 1 `src`, 2 scratch of `rows * len` words.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SortKernel {
    /// Number of rows.
    pub rows: usize,
    /// Elements per row.
    pub len: usize,
    /// Element type of the source.
    pub dtype: DType,
    /// From the largest to the smallest.
    pub descending: bool,
}

/// What one step of a program computes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
// A program holds kernels behind `Arc`, each once: their size does not matter, boxes would only be in the way.
#[allow(clippy::large_enum_variant)]
pub enum Kernel {
    /// Elementwise work (copies and fills too).
    Map(MapKernel),
    /// Reductions along rows, fused with what surrounds them.
    Row(RowKernel),
    /// Reductions with elementwise work before them.
    Reduce(ReduceKernel),
    /// A batched matrix product with elementwise work after it.
    MatMul(MatMulKernel),
    /// A convolution with elementwise work after it.
    Conv(ConvKernel),
    /// A sum of rows by id.
    ScatterAdd(ScatterAddKernel),
    /// Positions that put rows in order.
    Sort(SortKernel),
    /// Sums so far and linear recurrences.
    Cumulate(CumulateKernel),
    /// Flash attention.
    Attention(AttentionKernel),
    /// Its gradient.
    AttentionGrad(AttentionGradKernel),
}

impl Kernel {
    /// The kind's name, for labels and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Map(_) => "map",
            Kernel::Row(_) => "row",
            Kernel::Reduce(_) => "reduce",
            Kernel::MatMul(_) => "matmul",
            Kernel::Conv(_) => "conv",
            Kernel::ScatterAdd(_) => "scatter_add",
            Kernel::Sort(_) => "sort",
            Kernel::Cumulate(_) => "cumulate",
            Kernel::Attention(_) => "attention",
            Kernel::AttentionGrad(_) => "attention_grad",
        }
    }

    /// Which arguments the kernel writes (scratch included), ascending.
    pub fn writes(&self) -> Vec<u32> {
        let mut args: Vec<u32> = match self {
            Kernel::Map(k) => k.stores.iter().map(|s| s.arg).collect(),
            Kernel::Row(k) => k.stores.iter().map(|s| s.arg).collect(),
            Kernel::Reduce(k) => k.outs.iter().map(|o| o.arg).collect(),
            Kernel::MatMul(k) => {
                let scratch = k.split.iter().flat_map(SplitK::scratch);
                k.stores.iter().map(|s| s.arg).chain(k.column_sums).chain(scratch).collect()
            }
            Kernel::Conv(k) => k.stores.iter().map(|s| s.arg).collect(),
            Kernel::ScatterAdd(_) => vec![0, 3],
            Kernel::Sort(_) => vec![0, 2],
            Kernel::Cumulate(k) => vec![k.out.arg],
            Kernel::Attention(k) => vec![k.out.arg, k.lse],
            Kernel::AttentionGrad(k) => vec![k.grad_q.arg, k.grad_k.arg, k.grad_v.arg, k.delta],
        };
        args.sort_unstable();
        args.dedup();
        args
    }

    /// Whether the kernel reads an argument (which it may write too).
    pub fn reads(&self, arg: u32) -> bool {
        let loads = self.exprs().iter().any(|node| match &node.expr {
            Expr::Load { arg: a, .. } => *a == arg,
            Expr::Gather { table, ids, .. } => *table == arg || *ids == arg,
            _ => false,
        });
        loads
            || match self {
                Kernel::Map(_) | Kernel::Row(_) | Kernel::Reduce(_) => false,
                Kernel::MatMul(k) => [k.a.arg, k.b.arg].contains(&arg),
                Kernel::Conv(k) => [k.x.arg, k.w.arg].contains(&arg),
                Kernel::ScatterAdd(_) => [1, 2].contains(&arg),
                Kernel::Sort(_) => arg == 1,
                Kernel::Cumulate(k) => {
                    [Some(&k.terms), k.factors.as_ref()].into_iter().flatten().any(|o| o.arg == arg)
                }
                Kernel::Attention(k) => [k.q.arg, k.k.arg, k.v.arg].contains(&arg) || k.mask == Some(arg),
                Kernel::AttentionGrad(k) => {
                    let read = [k.q.arg, k.k.arg, k.v.arg, k.out.arg, k.lse, k.grad_out.arg];
                    read.contains(&arg) || k.mask == Some(arg)
                }
            }
    }

    /// The elementwise expressions, if the kernel has any.
    pub fn exprs(&self) -> &[ExprNode] {
        match self {
            Kernel::Map(k) => &k.exprs,
            Kernel::Row(k) => &k.exprs,
            Kernel::Reduce(k) => &k.exprs,
            Kernel::MatMul(k) => &k.exprs,
            Kernel::Conv(k) => &k.exprs,
            Kernel::ScatterAdd(_)
            | Kernel::Sort(_)
            | Kernel::Cumulate(_)
            | Kernel::Attention(_)
            | Kernel::AttentionGrad(_) => &[],
        }
    }

    /// Floating-point operations of contractions (2·m·n·k per product, the zeros of a padding counted; for attention those of visible pairs); 0 for all other
    /// kernels.
    pub fn flops(&self) -> u64 {
        match self {
            Kernel::MatMul(k) => 2 * (k.batch.elements() * k.m * k.n * k.k) as u64,
            Kernel::Conv(k) => 2 * (k.result().elements() * k.terms()) as u64,
            // Two products forward; backward those of the scores again, and four more.
            Kernel::Attention(k) => 4 * k.dims.pairs() * k.dims.width as u64,
            Kernel::AttentionGrad(k) => 10 * k.dims.pairs() * k.dims.width as u64,
            Kernel::Map(_)
            | Kernel::Row(_)
            | Kernel::Reduce(_)
            | Kernel::ScatterAdd(_)
            | Kernel::Sort(_)
            | Kernel::Cumulate(_) => 0,
        }
    }
}
