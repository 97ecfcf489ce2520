//! Loads and stores of four neighbours at once.

use wgrad_ir::{Expr, ExprNode, View};

use crate::index::{Axis, mask, stride};

/// Whether four neighbours along the innermost axis are one aligned `vec4`, wherever they start.
pub(crate) fn is_wide(view: &View, axes: &[Axis]) -> bool {
    let Some((inner, outer)) = axes.split_last() else { return false };
    let aligned = view.offset % 4 == 0 && outer.iter().all(|a| stride(view, a) % 4 == 0);
    aligned && stride(view, inner) == 1 && mask(view, inner).is_none()
}

/// The live loads of buffers that are loaded through unmasked wide views alone: such buffers are bound as `vec4`.
pub(crate) fn wide_loads(exprs: &[ExprNode], live: &[bool], axes: &[Axis]) -> Vec<usize> {
    let (mut wide, mut single) = (Vec::new(), Vec::new());
    for (i, node) in exprs.iter().enumerate().filter(|(i, _)| live[*i]) {
        match &node.expr {
            Expr::Load { arg, map, .. } => match map.single() {
                Some(v) if v.mask.is_none() && is_wide(v, axes) => wide.push((i, *arg)),
                _ => single.push(*arg),
            },
            Expr::Gather { table, ids, .. } => single.extend([*table, *ids]),
            _ => {}
        }
    }
    wide.retain(|(_, arg)| !single.contains(arg));
    wide.into_iter().map(|(i, _)| i).collect()
}
