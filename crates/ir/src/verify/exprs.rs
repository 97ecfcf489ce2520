//! What expressions and addresses must keep.

use super::kernel::Bytes;
use crate::{DType, Expr, ExprNode, IndexMap, Shape, View};

/// For each expression of a [`RowKernel`](crate::RowKernel) with `outer` leading axes, whether it has one value per row.
pub fn row_constant(exprs: &[ExprNode], outer: usize) -> Vec<bool> {
    let mut constant: Vec<bool> = Vec::with_capacity(exprs.len());
    for node in exprs {
        let map_is_constant = |map: &IndexMap| {
            let view = map.outer();
            let still = (outer..view.shape.rank()).all(|d| view.strides[d] == 0 || view.shape[d] == 1);
            still && view.mask.as_ref().is_none_or(|m| (outer..m.len()).all(|d| m[d] == (0, view.shape[d])))
        };
        let is = match &node.expr {
            Expr::Const(_) | Expr::Scalar(_) | Expr::Row(..) => true,
            Expr::Load { map, .. }
            | Expr::Index { map }
            | Expr::Random { map, .. }
            | Expr::Gather { map, .. } => map_is_constant(map),
            Expr::Product => false,
            _ => node.expr.operands().all(|o| constant.get(o.index()) == Some(&true)),
        };
        constant.push(is);
    }
    constant
}

pub(super) fn verify_exprs(exprs: &[ExprNode], space: &Shape, bytes: Bytes<'_>) -> Result<(), String> {
    for (i, node) in exprs.iter().enumerate() {
        if node.expr.operands().any(|o| o.index() >= i) {
            return Err(format!("v{i} uses a value that comes after it"));
        }
        let dtype = |id: crate::ExprId| exprs[id.index()].dtype;
        let typed = match &node.expr {
            Expr::Const(value) => value.dtype() == node.dtype,
            Expr::Scalar(_) => true,
            Expr::Cast(a) => {
                let half = |x: DType, y: DType| !x.is_half() || y == DType::F32 || y == x;
                half(dtype(*a), node.dtype) && half(node.dtype, dtype(*a))
            }
            Expr::Load { arg, map, fill } => {
                check_map(map, space)?;
                fits(map, node.dtype, bytes(*arg))?;
                fill.dtype() == node.dtype
            }
            Expr::Index { map } => {
                check_map(map, space)?;
                node.dtype == DType::I32
            }
            Expr::Random { map, key, .. } => {
                check_map(map, space)?;
                key.iter().all(|&k| dtype(k) == DType::U32)
            }
            Expr::Gather { table, ids, ids_dtype, rows, row_len, map } => {
                check_map(map, space)?;
                fits(&IndexMap::contiguous([*rows, *row_len].into()), node.dtype, bytes(*table))?;
                // Addresses lie in `[ids.., row_len]`, the shape nearest to memory; empty rows read no id.
                let last = extremes(&map.views()[0]).map(|(_, high)| high.max(0) as usize);
                let count = last.map_or(0, |address| address / (*row_len).max(1) + 1);
                fits(&IndexMap::contiguous([count].into()), *ids_dtype, bytes(*ids))?;
                ids_dtype.is_int() && !ids_dtype.is_narrow()
            }
            // What is kept in a narrow dtype is moved, chosen and converted, but not computed with.
            Expr::Unary(_, a) => dtype(*a) == node.dtype && !node.dtype.is_narrow(),
            Expr::Binary(_, a, b) => {
                dtype(*a) == node.dtype && dtype(*b) == node.dtype && !node.dtype.is_narrow()
            }
            Expr::Compare(_, a, b) => {
                dtype(*a) == dtype(*b) && node.dtype == DType::Bool && !dtype(*a).is_narrow()
            }
            Expr::Select(c, a, b) => {
                dtype(*c) == DType::Bool && dtype(*a) == node.dtype && dtype(*b) == node.dtype
            }
            Expr::Product => node.dtype.is_float() && !node.dtype.is_narrow(),
            Expr::Row(_, a) => {
                dtype(*a) == node.dtype && node.dtype != DType::Bool && !node.dtype.is_narrow()
            }
        };
        if !typed {
            return Err(format!("v{i} ({:?}) is ill-typed", node.expr));
        }
    }
    Ok(())
}

fn check_map(map: &IndexMap, space: &Shape) -> Result<(), String> {
    if map.outer().shape == *space { Ok(()) } else { Err(format!("map {map} does not span {space}")) }
}

/// Whether every address that the map can form lies within the buffer.
pub(super) fn fits(map: &IndexMap, dtype: DType, bytes: Option<u64>) -> Result<(), String> {
    let Some(bytes) = bytes else { return Err("an argument is missing".into()) };
    for (i, view) in map.views().iter().enumerate() {
        let Some((low, high)) = extremes(view) else { continue };
        let limit = if i == 0 {
            // A stored bool takes one byte or more; the exact size is the device's.
            bytes / dtype.host_bytes() as u64
        } else {
            map.views()[i - 1].shape.elements() as u64
        };
        if low < 0 || high as u64 >= limit {
            return Err(format!("view {view} reaches {low}..={high} of {limit} elements"));
        }
    }
    Ok(())
}

/// Smallest and largest address inside the mask, `None` if there is none.
fn extremes(view: &View) -> Option<(i64, i64)> {
    let (mut low, mut high) = (view.offset, view.offset);
    for d in 0..view.shape.rank() {
        let (from, to) = view.mask.as_ref().map_or((0, view.shape[d]), |m| m[d]);
        if from >= to {
            return None;
        }
        let (x, y) = (view.strides[d] * from as i64, view.strides[d] * (to as i64 - 1));
        low += x.min(y);
        high += x.max(y);
    }
    Some((low, high))
}
