//! Which reductions of a row kernel run together.

use wgrad_ir::{DType, Expr, ExprId, ReduceOp, RowKernel, row_constant};

use crate::KernelError;

/// One reduction along the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sum {
    /// The expression that it is.
    pub(super) id: usize,
    /// How values combine.
    pub(super) op: ReduceOp,
    /// What is combined.
    pub(super) value: ExprId,
}

/// The order of a row kernel: reductions whose values need no other go first, those that need these second, and so on.
#[derive(Debug)]
pub(super) struct Phases {
    /// The live reductions of each phase.
    pub(super) list: Vec<Vec<Sum>>,
    /// Whether each expression is the same along a row.
    pub(super) constant: Vec<bool>,
    /// How many phases must be over before each expression can be computed.
    pub(super) level: Vec<usize>,
}

impl Phases {
    pub(super) fn new(kernel: &RowKernel, live: &[bool]) -> Result<Phases, KernelError> {
        let constant = row_constant(&kernel.exprs, kernel.outer.rank());
        let mut level: Vec<usize> = Vec::with_capacity(kernel.exprs.len());
        let mut list: Vec<Vec<Sum>> = Vec::new();
        for (i, node) in kernel.exprs.iter().enumerate() {
            let before = node.expr.operands().map(|o| level.get(o.index()).copied().unwrap_or(0)).max();
            let mut at = before.unwrap_or(0);
            if let Expr::Row(op, value) = node.expr {
                if node.dtype == DType::Bool {
                    return Err(KernelError::Inconsistent("a reduction of bool".into()));
                }
                if live[i] {
                    list.resize(list.len().max(at + 1), Vec::new());
                    list[at].push(Sum { id: i, op, value });
                }
                at += 1;
            }
            level.push(at);
        }
        Ok(Phases { list, constant, level })
    }
}
