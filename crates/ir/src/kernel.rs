//! Kernels: what a device computes in one go. They say *what*, and name no shader.

use crate::{BinaryOp, CompareOp, DType, IndexMap, Literal, RandomKind, ReduceOp, Shape, UnaryOp, View};

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
}

impl Expr {
    /// The expressions this one reads.
    pub fn operands(&self) -> impl Iterator<Item = ExprId> + use<> {
        let list: [Option<ExprId>; 3] = match *self {
            Expr::Const(_)
            | Expr::Scalar(_)
            | Expr::Load { .. }
            | Expr::Index { .. }
            | Expr::Gather { .. } => [None; 3],
            Expr::Random { key, .. } => key.map(Some),
            Expr::Unary(_, a) | Expr::Cast(a) => [Some(a), None, None],
            Expr::Binary(_, a, b) | Expr::Compare(_, a, b) => [Some(a), Some(b), None],
            Expr::Select(c, a, b) => [Some(c), Some(a), Some(b)],
        };
        list.into_iter().flatten()
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

/// A tree of elementwise work over one iteration space, with one or several results.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MapKernel {
    /// The iteration space.
    pub space: Shape,
    /// The expressions, operands first.
    pub exprs: Vec<ExprNode>,
    /// The results. No stored buffer is also loaded.
    pub stores: Vec<Store>,
}

/// A reduction of elementwise work: for each index of `outer`, combines the value over all of `inner`, in a fixed order.
/// The expressions' maps span `outer ++ inner`; the result is stored row-major over `outer`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReduceKernel {
    /// Extents that stay.
    pub outer: Shape,
    /// Extents that are combined. Empty extents give the identity of a sum.
    pub inner: Shape,
    /// The combination.
    pub op: ReduceOp,
    /// The expressions, operands first.
    pub exprs: Vec<ExprNode>,
    /// What is combined.
    pub value: ExprId,
    /// The buffer that gets the results.
    pub out: u32,
}

/// A batched matrix product; argument 0 is the row-major result `[batch.., m, n]`, 1 and 2 are the operands' buffers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MatMulKernel {
    /// Batch extents.
    pub batch: Shape,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of the contraction; 0 gives zeros.
    pub k: usize,
    /// Element type of operands and result.
    pub dtype: DType,
    /// Where `[batch.., m, k]` lies in argument 1 (any strides, no mask).
    pub a: View,
    /// Where `[batch.., k, n]` lies in argument 2 (any strides, no mask).
    pub b: View,
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

/// What one step of a program computes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
// A program holds kernels behind `Arc`, each once: their size does not matter, boxes would only be in the way.
#[allow(clippy::large_enum_variant)]
pub enum Kernel {
    /// Elementwise work (copies and fills too).
    Map(MapKernel),
    /// A reduction with elementwise work before it.
    Reduce(ReduceKernel),
    /// A batched matrix product.
    MatMul(MatMulKernel),
    /// A sum of rows by id.
    ScatterAdd(ScatterAddKernel),
}

impl Kernel {
    /// The kind's name, for labels and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Map(_) => "map",
            Kernel::Reduce(_) => "reduce",
            Kernel::MatMul(_) => "matmul",
            Kernel::ScatterAdd(_) => "scatter_add",
        }
    }

    /// Which arguments the kernel writes (the scratch of a scatter included).
    pub fn writes(&self) -> Vec<u32> {
        match self {
            Kernel::Map(k) => {
                let mut args: Vec<u32> = k.stores.iter().map(|s| s.arg).collect();
                args.sort_unstable();
                args.dedup();
                args
            }
            Kernel::Reduce(k) => vec![k.out],
            Kernel::MatMul(_) => vec![0],
            Kernel::ScatterAdd(_) => vec![0, 3],
        }
    }

    /// The elementwise expressions, if the kernel has any.
    pub fn exprs(&self) -> &[ExprNode] {
        match self {
            Kernel::Map(k) => &k.exprs,
            Kernel::Reduce(k) => &k.exprs,
            Kernel::MatMul(_) | Kernel::ScatterAdd(_) => &[],
        }
    }

    /// Floating-point operations of the contraction (2·m·n·k per product); 0 for all other kernels.
    pub fn flops(&self) -> u64 {
        match self {
            Kernel::MatMul(k) => 2 * (k.batch.elements() * k.m * k.n * k.k) as u64,
            _ => 0,
        }
    }
}
