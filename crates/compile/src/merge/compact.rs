//! What is left after merging: expressions, arguments and results that something needs.

use rustc_hash::FxHashMap;
use wgrad_ir::{Expr, ExprId, ExprNode, Kernel, NodeId};

use crate::lower::{NodeKernel, Work};

/// Drops results of nodes that no other kernel reads and nobody wants.
pub fn drop_dead_stores(kernels: &mut [NodeKernel], wanted: impl Fn(NodeId) -> bool) {
    let mut readers: FxHashMap<NodeId, usize> = FxHashMap::default();
    for kernel in kernels.iter() {
        for node in kernel.read() {
            *readers.entry(node).or_default() += 1;
        }
    }
    for kernel in kernels {
        let args = &kernel.args;
        let needed =
            |arg: u32| args[arg as usize].node().is_none_or(|n| wanted(n) || readers.contains_key(&n));
        let Work::Kernel(work) = &mut kernel.work else { continue };
        match work {
            Kernel::Map(k) if k.stores.iter().any(|s| needed(s.arg)) => k.stores.retain(|s| needed(s.arg)),
            Kernel::Row(k) if k.stores.iter().any(|s| needed(s.arg)) => k.stores.retain(|s| needed(s.arg)),
            Kernel::MatMul(k) if k.stores.iter().any(|s| needed(s.arg)) => k.stores.retain(|s| needed(s.arg)),
            Kernel::Conv(k) if k.stores.iter().any(|s| needed(s.arg)) => k.stores.retain(|s| needed(s.arg)),
            _ => continue,
        }
        compact(kernel);
    }
}

/// Drops expressions that no result needs, and arguments that nothing names.
fn compact(kernel: &mut NodeKernel) {
    let Work::Kernel(work) = &mut kernel.work else { return };
    let (exprs, stores, operands) = match work {
        Kernel::Map(k) => (&mut k.exprs, &mut k.stores, Vec::new()),
        Kernel::Row(k) => (&mut k.exprs, &mut k.stores, Vec::new()),
        Kernel::MatMul(k) => {
            let mut operands = vec![&mut k.a.arg, &mut k.b.arg];
            operands.extend(k.column_sums.as_mut());
            if let Some(split) = &mut k.split {
                operands.push(&mut split.products);
                operands.extend(split.sums.as_mut());
            }
            (&mut k.exprs, &mut k.stores, operands)
        }
        Kernel::Conv(k) => (&mut k.exprs, &mut k.stores, vec![&mut k.x.arg, &mut k.w.arg]),
        _ => return,
    };
    let mut live = vec![false; exprs.len()];
    for store in stores.iter() {
        live[store.value.index()] = true;
    }
    for i in (0..exprs.len()).rev() {
        if live[i] {
            exprs[i].expr.operands().for_each(|o| live[o.index()] = true);
        }
    }
    let mut kept: Vec<ExprNode> = Vec::new();
    let mut new_id: Vec<ExprId> = Vec::with_capacity(live.len());
    let mut new_arg: FxHashMap<u32, u32> = FxHashMap::default();
    let mut args = Vec::new();
    let old_args = &kernel.args;
    let mut arg_of = |arg: u32| {
        *new_arg.entry(arg).or_insert_with(|| {
            args.push(old_args[arg as usize]);
            args.len() as u32 - 1
        })
    };
    for store in stores.iter_mut() {
        store.arg = arg_of(store.arg);
    }
    for operand in operands {
        *operand = arg_of(*operand);
    }
    for (node, live) in exprs.iter().zip(&live) {
        new_id.push(ExprId(kept.len() as u32));
        if !live {
            continue;
        }
        let mut node = node.clone();
        match &mut node.expr {
            Expr::Load { arg, .. } => *arg = arg_of(*arg),
            Expr::Gather { table, ids, .. } => {
                *table = arg_of(*table);
                *ids = arg_of(*ids);
            }
            Expr::Random { key, .. } => key.iter_mut().for_each(|k| *k = new_id[k.index()]),
            Expr::Unary(_, a) | Expr::Cast(a) | Expr::Row(_, a) => *a = new_id[a.index()],
            Expr::Binary(_, a, b) | Expr::Compare(_, a, b) => {
                *a = new_id[a.index()];
                *b = new_id[b.index()];
            }
            Expr::Select(c, a, b) => [c, a, b].into_iter().for_each(|x| *x = new_id[x.index()]),
            Expr::Const(_) | Expr::Scalar(_) | Expr::Index { .. } | Expr::Product => {}
        }
        kept.push(node);
    }
    for store in stores {
        store.value = new_id[store.value.index()];
    }
    *exprs = kept;
    kernel.args = args;
}
