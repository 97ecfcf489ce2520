//! Elementwise kernels over one space become one kernel with several results.
//!
//! A kernel joins an earlier one if everything else that it reads was there before the earlier one ran. Values that pass
//! between the two stay in registers; a result that nothing else reads is not stored at all.

use rustc_hash::FxHashMap;
use wgrad_ir::{
    DeviceCaps, Expr, ExprId, ExprNode, IndexMap, Kernel, MapKernel, NodeId, Op, Shape, Store, View,
};

use crate::lower::NodeKernel;

/// Kernels of more expressions than this do not grow further.
const MAX_EXPRS: usize = 160;
/// Nor do kernels of more buffers than this, or than the device binds.
const MAX_ARGS: usize = 16;
/// How far back to look for a kernel to join.
const LOOK_BACK: usize = 64;

/// The merged kernels, in a valid order.
pub fn merge(kernels: Vec<NodeKernel>, caps: &DeviceCaps) -> Vec<NodeKernel> {
    let max_args = caps.max_bindings.saturating_sub(2).min(MAX_ARGS);
    let mut out: Vec<NodeKernel> = Vec::with_capacity(kernels.len());
    let mut writer: FxHashMap<NodeId, usize> = FxHashMap::default();
    for kernel in kernels {
        let place = joined(&out, &writer, &kernel, max_args);
        let at = match place {
            Some((at, merged)) => {
                out[at] = merged;
                at
            }
            None => {
                out.push(kernel.clone());
                out.len() - 1
            }
        };
        for node in kernel.written() {
            writer.insert(node, at);
        }
    }
    out
}

/// Drops stores of nodes that no other kernel reads and nobody wants.
pub fn drop_dead_stores(kernels: &mut [NodeKernel], wanted: impl Fn(NodeId) -> bool) {
    let mut readers: FxHashMap<NodeId, usize> = FxHashMap::default();
    for kernel in kernels.iter() {
        for node in kernel.read() {
            *readers.entry(node).or_default() += 1;
        }
    }
    for kernel in kernels {
        let args = &kernel.args;
        let Kernel::Map(map) = &mut kernel.kernel else { continue };
        if map.stores.len() < 2 {
            continue;
        }
        map.stores.retain(|s| args[s.arg as usize].is_none_or(|n| wanted(n) || readers.contains_key(&n)));
        compact(kernel);
    }
}

/// The earlier kernel to join, and the two as one.
fn joined(
    out: &[NodeKernel],
    writer: &FxHashMap<NodeId, usize>,
    kernel: &NodeKernel,
    max_args: usize,
) -> Option<(usize, NodeKernel)> {
    let Kernel::Map(map) = &kernel.kernel else { return None };
    // Parts of a concatenation write one buffer from several kernels: leave them alone.
    if map.stores.len() != 1 || !map.stores[0].view.is_contiguous() || map.space.elements() == 0 {
        return None;
    }
    let elements = map.space.elements();
    let mut reads: Vec<(usize, NodeId)> = kernel.read().filter_map(|n| Some((*writer.get(&n)?, n))).collect();
    reads.sort_unstable();
    // The latest kernel it depends on is the earliest it can join; joining an even later one is fine too.
    let earliest = reads.last().map_or(0, |(at, _)| *at);
    let first = earliest.max(out.len().saturating_sub(LOOK_BACK));
    for (at, candidate) in out.iter().enumerate().skip(first) {
        let Kernel::Map(host) = &candidate.kernel else { continue };
        if host.space.elements() != elements || host.stores.iter().any(|s| !s.view.is_contiguous()) {
            continue;
        }
        let shares = kernel.read().any(|n| candidate.args.contains(&Some(n)));
        if !shares {
            continue;
        }
        if let Some(merged) = join(candidate, host, kernel, map, max_args) {
            return Some((at, merged));
        }
    }
    None
}

fn join(
    a: &NodeKernel,
    host: &MapKernel,
    b: &NodeKernel,
    guest: &MapKernel,
    max_args: usize,
) -> Option<NodeKernel> {
    if host.exprs.len() + guest.exprs.len() > MAX_EXPRS {
        return None;
    }
    let mut args = a.args.clone();
    let mut known: FxHashMap<ExprNode, ExprId> =
        host.exprs.iter().enumerate().map(|(i, e)| (e.clone(), ExprId(i as u32))).collect();
    let mut exprs = host.exprs.clone();
    let mut ids: Vec<ExprId> = Vec::with_capacity(guest.exprs.len());
    let place = |args: &mut Vec<Option<NodeId>>, arg: u32| -> u32 {
        let node = b.args[arg as usize];
        args.iter().position(|n| *n == node).unwrap_or_else(|| {
            args.push(node);
            args.len() - 1
        }) as u32
    };
    for node in &guest.exprs {
        let expr = match &node.expr {
            Expr::Load { arg, map, fill } => {
                let to = place(&mut args, *arg);
                if let Some(store) = host.stores.iter().find(|s| s.arg == to) {
                    // Written by the host: the value is at hand, if it is read where it was written.
                    if !map.is_contiguous() {
                        return None;
                    }
                    ids.push(store.value);
                    continue;
                }
                Expr::Load { arg: to, map: over(map, &host.space)?, fill: *fill }
            }
            Expr::Gather { table, ids: id_arg, ids_dtype, rows, row_len, map } => {
                let (table, id_arg) = (place(&mut args, *table), place(&mut args, *id_arg));
                if host.stores.iter().any(|s| s.arg == table || s.arg == id_arg) {
                    return None;
                }
                let map = over(map, &host.space)?;
                Expr::Gather {
                    table,
                    ids: id_arg,
                    ids_dtype: *ids_dtype,
                    rows: *rows,
                    row_len: *row_len,
                    map,
                }
            }
            Expr::Index { map } => Expr::Index { map: over(map, &host.space)? },
            Expr::Random { stream, kind, map, key } => Expr::Random {
                stream: *stream,
                kind: *kind,
                map: over(map, &host.space)?,
                key: key.map(|k| ids[k.index()]),
            },
            Expr::Const(_) | Expr::Scalar(_) => node.expr.clone(),
            Expr::Unary(op, x) => Expr::Unary(*op, ids[x.index()]),
            Expr::Cast(x) => Expr::Cast(ids[x.index()]),
            Expr::Binary(op, x, y) => Expr::Binary(*op, ids[x.index()], ids[y.index()]),
            Expr::Compare(op, x, y) => Expr::Compare(*op, ids[x.index()], ids[y.index()]),
            Expr::Select(c, x, y) => Expr::Select(ids[c.index()], ids[x.index()], ids[y.index()]),
            Expr::Product => Expr::Product,
            Expr::Row(op, x) => Expr::Row(*op, ids[x.index()]),
        };
        let node = ExprNode { expr, dtype: node.dtype };
        let id = *known.entry(node.clone()).or_insert_with(|| {
            exprs.push(node);
            ExprId(exprs.len() as u32 - 1)
        });
        ids.push(id);
    }
    let mut stores = host.stores.clone();
    for store in &guest.stores {
        let arg = place(&mut args, store.arg);
        stores.push(Store {
            arg,
            value: ids[store.value.index()],
            view: View::contiguous(host.space.clone()),
        });
    }
    if args.len() > max_args {
        return None;
    }
    let kernel = Kernel::Map(MapKernel { space: host.space.clone(), exprs, stores });
    let ops = a.ops.iter().chain(&b.ops).copied().collect();
    Some(NodeKernel { kernel, args, scratch_words: 0, ops })
}

/// The same elements in the same order, over another shape of the space; `None` where strides cannot say it.
fn over(map: &IndexMap, space: &Shape) -> Option<IndexMap> {
    if map.outer().shape == *space {
        return Some(map.clone());
    }
    let moved = map.apply(&Op::Reshape(space.clone()));
    (moved.views().len() == map.views().len()).then_some(moved)
}

/// Drops expressions that no store needs, and arguments that no expression or store names.
fn compact(kernel: &mut NodeKernel) {
    let Kernel::Map(map) = &mut kernel.kernel else { return };
    let mut live = vec![false; map.exprs.len()];
    for store in &map.stores {
        live[store.value.index()] = true;
    }
    for i in (0..map.exprs.len()).rev() {
        if live[i] {
            map.exprs[i].expr.operands().for_each(|o| live[o.index()] = true);
        }
    }
    let mut exprs = Vec::new();
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
    for store in &mut map.stores {
        store.arg = arg_of(store.arg);
    }
    for (node, live) in map.exprs.iter().zip(&live) {
        new_id.push(ExprId(exprs.len() as u32));
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
        exprs.push(node);
    }
    for store in &mut map.stores {
        store.value = new_id[store.value.index()];
    }
    map.exprs = exprs;
    kernel.args = args;
}
