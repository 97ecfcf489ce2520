//! A contraction in parts: the partial products as a larger batch, then their sums with what follows.
//!
//! No body of its own: the parts are one more axis of the batch, along which the operands' strides skip a part of `k`; and a map adds up
//! the partial products in the order of the parts where the epilogue names the product. So results do not depend on timing.

use wgrad_ir::{
    BinaryOp, DeviceCaps, Expr, ExprId, ExprNode, Literal, MapKernel, MatMulKernel, Operand, Shape, SplitK,
    Store, View,
};

use super::MatMulVariant;
use crate::{Dispatch, KernelError, map};

/// The partial products by a variant (or the one that suits), their sums, and those of the columns.
pub(super) fn generate(
    kernel: &MatMulKernel,
    split: SplitK,
    caps: &DeviceCaps,
    variant: Option<MatMulVariant>,
) -> Result<Vec<Dispatch>, KernelError> {
    let partial = partial(kernel, split);
    let mut dispatches = match variant {
        Some(variant) => super::generate_as(&partial, caps, variant)?,
        None => super::generate(&partial, caps)?,
    };
    dispatches.extend(map::generate(&epilogue(kernel, split), caps)?);
    if let Some((sums, to)) = split.sums.zip(kernel.column_sums) {
        let space: Shape = kernel.batch.iter().copied().chain([kernel.n]).collect();
        let exprs = total(kernel, split.parts, sums, &space);
        let (value, view) = (ExprId(exprs.len() as u32 - 1), View::contiguous(space.clone()));
        let sums = MapKernel { space, exprs, stores: vec![Store { arg: to, value, view }] };
        dispatches.extend(map::generate(&sums, caps)?);
    }
    Ok(dispatches)
}

/// All partial products as one batched product `[parts, batch.., m, n]`.
pub(super) fn partial(kernel: &MatMulKernel, split: SplitK) -> MatMulKernel {
    let (parts, length) = (split.parts, kernel.k / split.parts);
    // Axis `k` of a view, so many from the last, in parts.
    let apart = |operand: &Operand, from_last: usize| {
        let View { shape, strides, offset, .. } = &operand.view;
        let k = shape.rank() - 1 - from_last;
        let mut extents = shape.to_vec();
        extents[k] = length;
        let view = View {
            shape: [parts].into_iter().chain(extents).collect(),
            strides: [length as i64 * strides[k]].into_iter().chain(strides.iter().copied()).collect(),
            offset: *offset,
            mask: None,
        };
        Operand { arg: operand.arg, view }
    };
    let batch: Shape = [parts].into_iter().chain(kernel.batch.iter().copied()).collect();
    let space: Shape = batch.iter().copied().chain([kernel.m, kernel.n]).collect();
    MatMulKernel {
        batch,
        k: length,
        a: apart(&kernel.a, 0),
        b: apart(&kernel.b, 1),
        exprs: vec![ExprNode { expr: Expr::Product, dtype: kernel.dtype }],
        stores: vec![Store { arg: split.products, value: ExprId(0), view: View::contiguous(space) }],
        column_sums: split.sums,
        split: None,
        ..kernel.clone()
    }
}

/// What follows the product, with the sum of the parts in its place.
fn epilogue(kernel: &MatMulKernel, split: SplitK) -> MapKernel {
    let space = kernel.space();
    let mut exprs = total(kernel, split.parts, split.products, &space);
    let sum = exprs.len() as u32 - 1;
    let moved = |id: ExprId| ExprId(id.0 + sum + 1);
    let is_product = |id: ExprId| matches!(kernel.exprs[id.index()].expr, Expr::Product);
    let new = |id: ExprId| if is_product(id) { ExprId(sum) } else { moved(id) };
    // The product's own places stay, unused, so that all others move by as much.
    exprs.extend(kernel.exprs.iter().map(|node| match node.expr {
        Expr::Product => ExprNode { expr: Expr::Const(Literal::zero(node.dtype)), dtype: node.dtype },
        _ => ExprNode { expr: node.expr.with_operands(new), dtype: node.dtype },
    }));
    let stores = kernel.stores.iter().map(|s| Store { value: new(s.value), ..s.clone() }).collect();
    MapKernel { space, exprs, stores }
}

/// `((part 0 + part 1) + part 2) + ...` over a space of which a buffer holds `parts` one after the other.
fn total(kernel: &MatMulKernel, parts: usize, arg: u32, space: &Shape) -> Vec<ExprNode> {
    let dtype = kernel.dtype;
    let load = |part: usize| {
        let view = View { offset: (part * space.elements()) as i64, ..View::contiguous(space.clone()) };
        Expr::Load { arg, map: view.into(), fill: Literal::zero(dtype) }
    };
    let adds = (1..parts as u32).map(|part| {
        let before = if part == 1 { 0 } else { parts as u32 + part - 2 };
        Expr::Binary(BinaryOp::Add, ExprId(before), ExprId(part))
    });
    (0..parts).map(load).chain(adds).map(|expr| ExprNode { expr, dtype }).collect()
}
