//! Kernels: what a device computes in one go. They say *what*, and name no shader.

use crate::{
    AttentionSpec, BinaryOp, CompareOp, ConvSpec, CumulateOp, DType, IndexMap, Literal, RandomKind, ReduceOp,
    Shape, UnaryOp, View,
};

/// A value within one kernel, in topological order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ExprId(pub u32);

impl ExprId {
    /// The position in the kernel's `exprs`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A scalar expression evaluated at each index of a kernel's iteration space. `arg` numbers the buffers of the
/// [`Step`](crate::Step) that runs the kernel.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Expr {
    /// A constant.
    Const(Literal),
    /// A scalar parameter of the program.
    Scalar(u32),
    /// The element of a buffer at the mapped address; `fill` where a mask excludes the index.
    Load {
        /// Which buffer.
        arg: u32,
        /// Where in it.
        map: IndexMap,
        /// The value outside of the mask.
        fill: Literal,
    },
    /// The mapped address itself, as `i32` (an `Iota` seen through movements); 0 outside of the mask.
    Index {
        /// The address.
        map: IndexMap,
    },
    /// Element `address` of a random stream (see [`Op::Random`](crate::Op::Random)); 0 outside of the mask.
    Random {
        /// Stream id.
        stream: u32,
        /// Words or uniforms.
        kind: RandomKind,
        /// The address.
        map: IndexMap,
        /// Key low, key high, step: values that do not depend on the index.
        key: [ExprId; 3],
    },
    /// `table[clamp(ids[address / row_len], 0, rows - 1) * row_len + address % row_len]`; 0 outside of the mask. An id
    /// out of range raises the device's status.
    Gather {
        /// The table's buffer, row-major `[rows, row_len]`.
        table: u32,
        /// The ids' buffer, row-major.
        ids: u32,
        /// Element type of the ids.
        ids_dtype: DType,
        /// Rows of the table.
        rows: usize,
        /// Elements per row.
        row_len: usize,
        /// The address in `[ids.., row_len]`.
        map: IndexMap,
    },
    /// Elementwise, one operand.
    Unary(UnaryOp, ExprId),
    /// Elementwise, two operands of one dtype.
    Binary(BinaryOp, ExprId, ExprId),
    /// Comparison of two operands of one dtype.
    Compare(CompareOp, ExprId, ExprId),
    /// `c ? a : b`.
    Select(ExprId, ExprId, ExprId),
    /// Conversion to the node's dtype.
    Cast(ExprId),
    /// The element of the product; in the epilogue of a [`MatMulKernel`] or [`ConvKernel`] only.
    Product,
    /// The combination of a value over the inner axes of the row, the same for all its elements; in a [`RowKernel`] only.
    Row(ReduceOp, ExprId),
}

impl Expr {
    /// The expressions this one reads.
    pub fn operands(&self) -> impl Iterator<Item = ExprId> + use<> {
        let list: [Option<ExprId>; 3] = match *self {
            Expr::Const(_)
            | Expr::Scalar(_)
            | Expr::Load { .. }
            | Expr::Index { .. }
            | Expr::Gather { .. }
            | Expr::Product => [None; 3],
            Expr::Random { key, .. } => key.map(Some),
            Expr::Unary(_, a) | Expr::Cast(a) | Expr::Row(_, a) => [Some(a), None, None],
            Expr::Binary(_, a, b) | Expr::Compare(_, a, b) => [Some(a), Some(b), None],
            Expr::Select(c, a, b) => [Some(c), Some(a), Some(b)],
        };
        list.into_iter().flatten()
    }

    /// The same expression of other values: `new` says which.
    #[must_use]
    pub fn with_operands(&self, new: impl Fn(ExprId) -> ExprId) -> Expr {
        let mut expr = self.clone();
        match &mut expr {
            Expr::Const(_)
            | Expr::Scalar(_)
            | Expr::Load { .. }
            | Expr::Index { .. }
            | Expr::Gather { .. }
            | Expr::Product => {}
            Expr::Random { key, .. } => *key = key.map(new),
            Expr::Unary(_, a) | Expr::Cast(a) | Expr::Row(_, a) => *a = new(*a),
            Expr::Binary(_, a, b) | Expr::Compare(_, a, b) => (*a, *b) = (new(*a), new(*b)),
            Expr::Select(c, a, b) => (*c, *a, *b) = (new(*c), new(*a), new(*b)),
        }
        expr
    }
}

/// An expression and the dtype of its value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ExprNode {
    /// The expression.
    pub expr: Expr,
    /// The value's dtype.
    pub dtype: DType,
}

/// Writes one value per index.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Store {
    /// Which buffer.
    pub arg: u32,
    /// What.
    pub value: ExprId,
    /// Where: over the iteration space, unmasked, and no two indices at one address.
    pub view: View,
}

/// A tensor within a buffer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Operand {
    /// Which buffer.
    pub arg: u32,
    /// Where in it: any strides, no mask.
    pub view: View,
}

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

/// A batched matrix product and what follows it elementwise: bias, activation, the activation's gradient, residuals.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MatMulKernel {
    /// Batch extents.
    pub batch: Shape,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of the contraction; a product of length 0 is 0.
    pub k: usize,
    /// Element type of the product and its terms.
    pub dtype: DType,
    /// Element types of `a` and `b` in memory: `dtype`, or a 16-bit float that is converted to it when it is loaded.
    pub operands: [DType; 2],
    /// `[batch.., m, k]`.
    pub a: Operand,
    /// `[batch.., k, n]`.
    pub b: Operand,
    /// The epilogue over `[batch.., m, n]`, operands first; [`Expr::Product`] is the product's element.
    pub exprs: Vec<ExprNode>,
    /// The results, at least one. No stored buffer is also loaded or an operand.
    pub stores: Vec<Store>,
    /// A buffer for `Σ_k b[k, n]`, row-major `[batch.., n]`, in a fixed order: where `b` is the cotangent of a product with a bias, the
    /// bias's gradient, for which `b` need not be read again.
    pub column_sums: Option<u32>,
    /// How a device that would idle over few results may share the contraction out; what is computed is the same.
    pub split: Option<SplitK>,
}

/// A contraction in parts of equal length: partial products first, then their sums in the order of the parts, and what follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SplitK {
    /// How many, at least two; they divide the length.
    pub parts: usize,
    /// Scratch for the partial products, row-major `[parts, batch.., m, n]`.
    pub products: u32,
    /// Scratch for the column sums of the parts, row-major `[parts, batch.., n]`, where column sums are wanted.
    pub sums: Option<u32>,
}

impl SplitK {
    /// The scratch arguments.
    pub fn scratch(&self) -> impl Iterator<Item = u32> + use<> {
        [Some(self.products), self.sums].into_iter().flatten()
    }
}

impl MatMulKernel {
    /// The extents of the product.
    pub fn space(&self) -> Shape {
        self.batch.iter().copied().chain([self.m, self.n]).collect()
    }

    /// Whether the product itself is the only result, stored row-major: nothing is fused.
    pub fn is_plain(&self) -> bool {
        let [store] = self.stores.as_slice() else { return false };
        if self.column_sums.is_some() {
            return false;
        }
        matches!(self.exprs[store.value.index()].expr, Expr::Product) && store.view.is_contiguous()
    }
}

/// A convolution and what follows it elementwise. The matrix of all windows that the product would need never exists in memory:
/// devices form it a tile at a time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConvKernel {
    /// Strides, paddings (not negative) and dilations; every `spread` is 1.
    pub spec: ConvSpec,
    /// Element type of operands and product.
    pub dtype: DType,
    /// `[n, g, c, sp..]`.
    pub x: Operand,
    /// `[g, o, c, taps..]`.
    pub w: Operand,
    /// The epilogue over the result's shape, operands first; [`Expr::Product`] is the element of the convolution.
    pub exprs: Vec<ExprNode>,
    /// The results, at least one. No stored buffer is also loaded or an operand.
    pub stores: Vec<Store>,
}

impl ConvKernel {
    /// The extents of the result; empty where the operands do not fit.
    pub fn result(&self) -> Shape {
        self.spec.result(&self.x.view.shape, &self.w.view.shape).unwrap_or_default()
    }

    /// Terms of one result: channels times taps.
    pub fn terms(&self) -> usize {
        self.w.view.shape[2..].iter().product()
    }

    /// Results of one channel of one image.
    pub fn places(&self) -> usize {
        self.result()[3..].iter().product()
    }

    /// Whether the convolution itself is the only result, stored row-major: nothing is fused.
    pub fn is_plain(&self) -> bool {
        let [store] = self.stores.as_slice() else { return false };
        matches!(self.exprs[store.value.index()].expr, Expr::Product) && store.view.is_contiguous()
    }
}

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
