//! Sums so far and linear recurrences.

use smallvec::SmallVec;
use wgrad_ir::{CumulateKernel, CumulateOp, IrError, Kernel, NodeId, Op, Operand, View};

use super::{NodeArg, NodeKernel, operand, place};
use crate::layout::Layout;

/// The kernel of a cumulation along `axis`.
///
/// # Errors
/// An operand cannot be read through strides, which fusion rules out.
pub(super) fn lower(
    layout: &Layout<'_>,
    id: NodeId,
    op: CumulateOp,
    axis: usize,
) -> Result<NodeKernel, IrError> {
    let node = layout.graph.node(id);
    let lines = (0..node.shape.rank()).filter(|&d| d != axis);
    let perm: SmallVec<[usize; 6]> = lines.clone().chain([axis]).collect();
    let along = |view: View| {
        view.apply(&Op::Permute(perm.clone())).ok_or_else(|| IrError::Inconsistent {
            what: "program",
            message: format!("the lines of %{} have no strides", id.0),
        })
    };
    let (target, view) = layout.target(id);
    let mut args = vec![NodeArg::Node(target)];
    let out = Operand { arg: 0, view: along(view)? };
    let mut operands: SmallVec<[Operand; 2]> = SmallVec::new();
    for &input in &node.inputs {
        let (base, view) = operand(layout, input)?;
        operands.push(Operand { arg: place(&mut args, base), view: along(view)? });
    }
    let (terms, factors) = match (op, operands.as_slice()) {
        (CumulateOp::Sum, [terms]) => (terms.clone(), None),
        (CumulateOp::Linear, [factors, terms]) => (terms.clone(), Some(factors.clone())),
        _ => {
            let message = format!("%{} has {} operands", id.0, operands.len());
            return Err(IrError::Inconsistent { what: "graph", message });
        }
    };
    let kernel = CumulateKernel {
        op,
        lines: lines.map(|d| node.shape[d]).collect(),
        len: node.shape[axis],
        dtype: node.dtype,
        terms,
        factors,
        out,
    };
    Ok(NodeKernel { work: Kernel::Cumulate(kernel).into(), args, ops: vec![node.op.name()] })
}
