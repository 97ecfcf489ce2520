//! What every kernel of a program must keep.

use super::exprs::{fits, row_constant, verify_exprs};
use crate::{
    AttentionDims, CumulateOp, DType, Expr, ExprNode, IndexMap, Kernel, MatMulKernel, Operand, Shape, SplitK,
    Store,
};

pub(super) type Bytes<'a> = &'a dyn Fn(u32) -> Option<u64>;

pub(super) fn verify_kernel(kernel: &Kernel, bytes: Bytes<'_>) -> Result<(), String> {
    let foreign = kernel.exprs().iter().find(|node| match node.expr {
        Expr::Product => !matches!(kernel, Kernel::MatMul(_) | Kernel::Conv(_)),
        Expr::Row(..) => !matches!(kernel, Kernel::Row(_)),
        _ => false,
    });
    if let Some(node) = foreign {
        return Err(format!("{:?} has no meaning in a {} kernel", node.expr, kernel.name()));
    }
    match kernel {
        Kernel::Map(k) => {
            verify_exprs(&k.exprs, &k.space, bytes)?;
            for store in &k.stores {
                verify_store(store, &k.exprs, &k.space, bytes)?;
                for node in &k.exprs {
                    match &node.expr {
                        Expr::Load { arg, map, .. }
                            if *arg == store.arg && map.single() != Some(&store.view) =>
                        {
                            return Err(format!("updates a{arg} in place, but not where it reads it"));
                        }
                        Expr::Gather { table, ids, .. } if [*table, *ids].contains(&store.arg) => {
                            return Err(format!("gathers from a{}, which it writes", store.arg));
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        }
        Kernel::Row(k) => {
            let space: Shape = k.outer.iter().chain(k.inner.iter()).copied().collect();
            if k.inner.elements() == 0 {
                return Err("rows are empty".into());
            }
            verify_exprs(&k.exprs, &space, bytes)?;
            let constant = row_constant(&k.exprs, k.outer.rank());
            for store in &k.stores {
                if store.view.shape == k.outer && constant.get(store.value.index()) == Some(&true) {
                    verify_store(store, &k.exprs, &k.outer, bytes)?;
                } else {
                    verify_store(store, &k.exprs, &space, bytes)?;
                }
                if kernel.reads(store.arg) {
                    return Err(format!("reads a{}, which it writes", store.arg));
                }
            }
            Ok(())
        }
        Kernel::Reduce(k) => {
            let space: Shape = k.outer.iter().chain(k.inner.iter()).copied().collect();
            verify_exprs(&k.exprs, &space, bytes)?;
            if k.outs.is_empty() {
                return Err("reduces nothing".into());
            }
            for out in &k.outs {
                let Some(value) = k.exprs.get(out.value.index()) else {
                    return Err("reduces a missing value".into());
                };
                if value.dtype.is_narrow() {
                    return Err(format!("reduces {} values", value.dtype));
                }
                fits(&IndexMap::contiguous(k.outer.clone()), value.dtype, bytes(out.arg))?;
                if kernel.reads(out.arg) {
                    return Err(format!("reads a{}, which it writes", out.arg));
                }
            }
            Ok(())
        }
        Kernel::MatMul(k) => {
            let shape = |x: usize, y: usize| -> Shape { k.batch.iter().copied().chain([x, y]).collect() };
            if k.operands.iter().any(|&d| d != k.dtype && !(d.is_half() && k.dtype == DType::F32)) {
                return Err(format!("multiplies {:?} in {}", k.operands, k.dtype));
            }
            verify_operand(&k.a, &shape(k.m, k.k), k.operands[0], bytes)?;
            verify_operand(&k.b, &shape(k.k, k.n), k.operands[1], bytes)?;
            let space = k.space();
            if let Some(sums) = k.column_sums {
                let columns: Shape = k.batch.iter().copied().chain([k.n]).collect();
                fits(&IndexMap::contiguous(columns), k.dtype, bytes(sums))?;
                if kernel.reads(sums) || k.stores.iter().any(|s| s.arg == sums) {
                    return Err(format!("uses a{sums}, which gets the column sums"));
                }
            }
            if let Some(split) = k.split {
                verify_split(k, split, bytes)?;
            }
            verify_exprs(&k.exprs, &space, bytes)?;
            if k.exprs.iter().any(|e| matches!(e.expr, Expr::Product) && e.dtype != k.dtype)
                || k.stores.is_empty()
            {
                return Err("the product is of another dtype, or nothing is stored".into());
            }
            for store in &k.stores {
                verify_store(store, &k.exprs, &space, bytes)?;
                if kernel.reads(store.arg) {
                    return Err(format!("reads a{}, which it writes", store.arg));
                }
            }
            Ok(())
        }
        Kernel::Conv(k) => {
            let Some(space) = k.spec.result(&k.x.view.shape, &k.w.view.shape) else {
                return Err(format!("the filters {} do not fit {}", k.w, k.x));
            };
            if k.dtype.is_narrow() || k.spec.axes.iter().any(|a| a.spread != 1 || a.before < 0 || a.after < 0)
            {
                return Err(format!("convolves with{}, which kernels do not", k.spec));
            }
            if k.operands.iter().any(|&d| d != k.dtype && !(d.is_half() && k.dtype == DType::F32)) {
                return Err(format!("convolves {:?} in {}", k.operands, k.dtype));
            }
            verify_operand(&k.x, &k.x.view.shape, k.operands[0], bytes)?;
            verify_operand(&k.w, &k.w.view.shape, k.operands[1], bytes)?;
            verify_exprs(&k.exprs, &space, bytes)?;
            if k.exprs.iter().any(|e| matches!(e.expr, Expr::Product) && e.dtype != k.dtype)
                || k.stores.is_empty()
            {
                return Err("the convolution is of another dtype, or nothing is stored".into());
            }
            for store in &k.stores {
                verify_store(store, &k.exprs, &space, bytes)?;
                if kernel.reads(store.arg) {
                    return Err(format!("reads a{}, which it writes", store.arg));
                }
            }
            Ok(())
        }
        Kernel::ScatterAdd(k) => {
            if k.dtype.is_narrow() || k.ids_dtype.is_narrow() {
                return Err(format!("sums {} rows by {} ids", k.dtype, k.ids_dtype));
            }
            fits(&IndexMap::contiguous([k.rows, k.row_len].into()), k.dtype, bytes(0))?;
            fits(&IndexMap::contiguous([k.count].into()), k.ids_dtype, bytes(1))?;
            fits(&IndexMap::contiguous([k.count, k.row_len].into()), k.dtype, bytes(2))?;
            fits(&IndexMap::contiguous([2 * k.count].into()), DType::U32, bytes(3))
        }
        Kernel::Cumulate(k) => {
            let space: Shape = k.lines.iter().copied().chain([k.len]).collect();
            for operand in [Some(&k.terms), k.factors.as_ref(), Some(&k.out)].into_iter().flatten() {
                verify_operand(operand, &space, k.dtype, bytes)?;
            }
            if k.dtype.is_narrow() {
                return Err(format!("accumulates {} values", k.dtype));
            }
            if kernel.reads(k.out.arg) || k.factors.is_some() != (k.op == CumulateOp::Linear) {
                return Err(format!("{} reads a{}, or has the wrong operands", k.op.name(), k.out.arg));
            }
            Ok(())
        }
        Kernel::Sort(k) => {
            if k.dtype.is_half() {
                return Err("sorts 16-bit floats".into());
            }
            let rows = IndexMap::contiguous([k.rows, k.len].into());
            fits(&rows, DType::I32, bytes(0))?;
            fits(&rows, k.dtype, bytes(1))?;
            fits(&rows, DType::U32, bytes(2))
        }
        Kernel::Attention(k) => verify_attention(&k.dims, [&k.q, &k.out], [&k.k, &k.v], k.mask, k.lse, bytes),
        Kernel::AttentionGrad(k) => {
            let rows = [&k.q, &k.out, &k.grad_out, &k.grad_q];
            verify_attention(&k.dims, rows, [&k.k, &k.v, &k.grad_k, &k.grad_v], k.mask, k.lse, bytes)?;
            let words = k.dims.batch * k.dims.heads * k.dims.queries;
            fits(&IndexMap::contiguous([words].into()), DType::F32, bytes(k.delta))
        }
    }
}

fn verify_split(k: &MatMulKernel, split: SplitK, bytes: Bytes<'_>) -> Result<(), String> {
    let SplitK { parts, products, sums } = split;
    if parts < 2 || k.k == 0 || !k.k.is_multiple_of(parts) || sums.is_some() != k.column_sums.is_some() {
        return Err(format!("a contraction of {} in {parts} parts is inconsistent", k.k));
    }
    let of =
        |last: &[usize]| -> Shape { [parts].iter().chain(k.batch.iter()).chain(last).copied().collect() };
    fits(&IndexMap::contiguous(of(&[k.m, k.n])), k.dtype, bytes(products))?;
    if let Some(sums) = sums {
        fits(&IndexMap::contiguous(of(&[k.n])), k.dtype, bytes(sums))?;
    }
    let used = |arg: u32| {
        let stored = k.stores.iter().any(|s| s.arg == arg) || k.column_sums == Some(arg);
        stored || Kernel::MatMul(k.clone()).reads(arg)
    };
    match split.scratch().find(|&arg| used(arg)) {
        Some(arg) => Err(format!("uses a{arg}, which is scratch")),
        None => Ok(()),
    }
}

/// Operands by the length of their sequences, the mask, and the logarithms.
fn verify_attention<const Q: usize, const K: usize>(
    dims: &AttentionDims,
    by_query: [&Operand; Q],
    by_key: [&Operand; K],
    mask: Option<u32>,
    lse: u32,
    bytes: Bytes<'_>,
) -> Result<(), String> {
    let AttentionDims { batch, heads, kv_heads, queries, keys, width, spec } = *dims;
    if kv_heads == 0 || heads % kv_heads != 0 || spec.masked != mask.is_some() || spec.window == Some(0) {
        return Err(format!("attention {dims} is inconsistent"));
    }
    for operand in by_query {
        verify_operand(operand, &[batch, queries, heads, width].into(), DType::F32, bytes)?;
    }
    for operand in by_key {
        verify_operand(operand, &[batch, keys, kv_heads, width].into(), DType::F32, bytes)?;
    }
    if let Some(mask) = mask {
        fits(&IndexMap::contiguous([batch, keys].into()), DType::Bool, bytes(mask))?;
    }
    fits(&IndexMap::contiguous([batch, heads, queries].into()), DType::F32, bytes(lse))
}

fn verify_operand(operand: &Operand, shape: &Shape, dtype: DType, bytes: Bytes<'_>) -> Result<(), String> {
    if operand.view.shape != *shape || operand.view.mask.is_some() {
        return Err(format!("operand {operand} does not span {shape}"));
    }
    fits(&operand.view.clone().into(), dtype, bytes(operand.arg))
}

fn verify_store(store: &Store, exprs: &[ExprNode], space: &Shape, bytes: Bytes<'_>) -> Result<(), String> {
    let Some(value) = exprs.get(store.value.index()) else {
        return Err("stores a missing value".into());
    };
    if store.view.mask.is_some() || store.view.shape != *space {
        return Err("stores through a mask or over another space".into());
    }
    fits(&store.view.clone().into(), value.dtype, bytes(store.arg))
}
