//! Loads and stores of four neighbours at once.

use std::fmt::Write;

use wgrad_ir::{Expr, ExprId, ExprNode, View};

use crate::{
    KernelError,
    expr::{At, Emitter},
    index::{Axis, address, mask, stride},
};

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

/// Writes statements for four neighbours along the innermost axis: wide loads once, the rest in a block for each.
pub(crate) struct Lanes<'a> {
    pub(crate) axes: &'a [Axis],
    /// The coordinates' names; in the block of a lane the last is that lane's.
    pub(crate) names: &'a [String],
    /// The first lane's coordinate along the innermost axis.
    pub(crate) first: &'a str,
    /// The loads that fetch four neighbours.
    pub(crate) loads: &'a [usize],
}

impl Lanes<'_> {
    /// The names with the first lane's coordinate.
    pub(crate) fn first_names(&self) -> Vec<String> {
        let mut names = self.names.to_vec();
        if let Some(last) = names.last_mut() {
            self.first.clone_into(last);
        }
        names
    }

    /// Evaluates `wanted` in four blocks, each opened by what `open` says and closed by what `each` writes.
    pub(crate) fn write(
        &self,
        out: &mut String,
        emitter: &mut Emitter<'_>,
        [wanted, given]: [&[usize]; 2],
        open: impl Fn(usize) -> String,
        each: impl Fn(&mut String, usize),
    ) -> Result<(), KernelError> {
        let wanted: Vec<ExprId> = wanted.iter().map(|&i| ExprId(i as u32)).collect();
        let needed = emitter.needed(&wanted, given)?;
        let first = self.first_names();
        let exprs = emitter.exprs;
        let mut given = given.to_vec();
        let before = given.len();
        for &i in self.loads.iter().filter(|&&i| needed[i]) {
            let node = &exprs[i];
            let Expr::Load { arg, map, .. } = &node.expr else { continue };
            let buffer = emitter.fours(*arg, node.dtype, false)?;
            let _ = writeln!(out, "let w{i} = {buffer}[({}) / 4i];", address(map.outer(), self.axes, &first));
            given.push(i);
        }
        for lane in 0..4 {
            let _ = writeln!(out, "{{\n{}", open(lane));
            if let Some(name) = self.names.last() {
                let _ = writeln!(out, "let {name} = {} + {lane}i;", self.first);
            }
            for &i in &given[before..] {
                let values = emitter.unpacked(exprs[i].dtype, &format!("w{i}"));
                let _ = writeln!(out, "let v{i} = {};", values[lane]);
            }
            *out += &emitter.emit(&wanted, &given, &At { axes: self.axes, names: self.names })?;
            each(out, lane);
            out.push_str("}\n");
        }
        Ok(())
    }
}
