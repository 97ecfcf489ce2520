//! Elementwise work within a kernel, and where its operands and results lie.

use crate::{BinaryOp, CompareOp, DType, IndexMap, Literal, RandomKind, ReduceOp, UnaryOp, View};

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
    /// The element of the product; in the epilogue of a [`MatMulKernel`](crate::MatMulKernel) or [`ConvKernel`](crate::ConvKernel) only.
    Product,
    /// The combination of a value over the inner axes of the row, the same for all its elements; in a [`RowKernel`](crate::RowKernel) only.
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
