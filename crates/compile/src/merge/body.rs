//! Kernels of elementwise work in one form, and how two become one.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use wgrad_ir::{
    Expr, ExprId, ExprNode, IndexMap, Kernel, MapKernel, NodeId, Op, ReduceKernel, RowKernel, Shape, Store,
    View,
};

use crate::lower::{NodeArg, NodeKernel};

/// What a body's elements are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A map.
    Map,
    /// Rows; so many leading axes number them.
    Row(usize),
    /// What follows a product.
    MatMul,
}

/// Expressions over a space, and their results.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) kind: Kind,
    pub(super) space: Shape,
    pub(super) exprs: Vec<ExprNode>,
    pub(super) stores: Vec<Store>,
}

/// How a guest's iteration space maps onto the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level {
    /// Element by element.
    Whole,
    /// One of the guest's elements per row of the host.
    PerRow,
}

impl Body {
    /// The elementwise part of a kernel; a reduction counts as rows.
    pub(super) fn of(kernel: &Kernel) -> Option<Body> {
        Some(match kernel {
            Kernel::Map(k) => Body {
                kind: Kind::Map,
                space: k.space.clone(),
                exprs: k.exprs.clone(),
                stores: k.stores.clone(),
            },
            Kernel::Row(k) => Body {
                kind: Kind::Row(k.outer.rank()),
                space: k.outer.iter().chain(k.inner.iter()).copied().collect(),
                exprs: k.exprs.clone(),
                stores: k.stores.clone(),
            },
            Kernel::Reduce(k) => Body::of_reduction(k)?,
            Kernel::MatMul(k) => Body {
                kind: Kind::MatMul,
                space: k.space(),
                exprs: k.exprs.clone(),
                stores: k.stores.clone(),
            },
            Kernel::Conv(k) => Body {
                kind: Kind::MatMul,
                space: k.result(),
                exprs: k.exprs.clone(),
                stores: k.stores.clone(),
            },
            Kernel::ScatterAdd(_)
            | Kernel::Sort(_)
            | Kernel::Cumulate(_)
            | Kernel::Attention(_)
            | Kernel::AttentionGrad(_) => {
                return None;
            }
        })
    }

    fn of_reduction(k: &ReduceKernel) -> Option<Body> {
        if k.inner.elements() == 0 || k.outer.elements() == 0 {
            return None;
        }
        let mut exprs = k.exprs.clone();
        let mut stores = Vec::with_capacity(k.outs.len());
        for out in &k.outs {
            let dtype = exprs[out.value.index()].dtype;
            exprs.push(ExprNode { expr: Expr::Row(out.op, out.value), dtype });
            let value = ExprId(exprs.len() as u32 - 1);
            stores.push(Store { arg: out.arg, value, view: View::contiguous(k.outer.clone()) });
        }
        let space = k.outer.iter().chain(k.inner.iter()).copied().collect();
        Some(Body { kind: Kind::Row(k.outer.rank()), space, exprs, stores })
    }

    /// The kernel again; `host` is where a product's operands come from.
    pub(super) fn into_kernel(self, host: &Kernel) -> Kernel {
        let Body { kind, space, exprs, stores } = self;
        match (kind, host) {
            (Kind::Row(rank), _) => Kernel::Row(RowKernel {
                outer: space[..rank].into(),
                inner: space[rank..].into(),
                exprs,
                stores,
            }),
            (Kind::MatMul, Kernel::MatMul(k)) => {
                Kernel::MatMul(wgrad_ir::MatMulKernel { exprs, stores, ..k.clone() })
            }
            (Kind::MatMul, Kernel::Conv(k)) => {
                Kernel::Conv(wgrad_ir::ConvKernel { exprs, stores, ..k.clone() })
            }
            (Kind::Map | Kind::MatMul, _) => Kernel::Map(MapKernel { space, exprs, stores }),
        }
    }

    /// Extents that number the rows.
    pub(super) fn outer(&self) -> Shape {
        match self.kind {
            Kind::Row(rank) => self.space[..rank].into(),
            Kind::Map | Kind::MatMul => self.space.clone(),
        }
    }

    /// Whether a result is one per row.
    fn is_per_row(&self, store: &Store) -> bool {
        matches!(self.kind, Kind::Row(rank) if store.view.shape.rank() == rank && rank < self.space.rank())
    }

    /// The same elements in the same order over another shape of the space, as another kind.
    pub(super) fn reshaped(&self, kind: Kind, space: &Shape) -> Option<Body> {
        let mut body = self.clone();
        for node in &mut body.exprs {
            if let Expr::Load { map, .. }
            | Expr::Index { map }
            | Expr::Random { map, .. }
            | Expr::Gather { map, .. } = &mut node.expr
            {
                *map = over(map, space)?;
            }
        }
        for store in &mut body.stores {
            if !self.is_per_row(store) {
                store.view = store.view.apply(&Op::Reshape(space.clone()))?;
            }
        }
        body.kind = kind;
        body.space = space.clone();
        Some(body)
    }
}

/// Adds a guest's expressions and results to the host's. Nothing where the guest reads what the host writes at another place, or
/// where index arithmetic would need a second view.
pub(super) fn absorb(
    host: &Body,
    host_args: &[NodeArg],
    guest: &Body,
    guest_args: &[NodeArg],
    level: Level,
) -> Option<(Body, Vec<NodeArg>)> {
    let mut merged = host.clone();
    let mut args = host_args.to_vec();
    let mut known: FxHashMap<ExprNode, ExprId> =
        host.exprs.iter().enumerate().map(|(i, e)| (e.clone(), ExprId(i as u32))).collect();
    let mut ids: Vec<ExprId> = Vec::with_capacity(guest.exprs.len());
    let place = |args: &mut Vec<NodeArg>, arg: u32| -> u32 {
        let node: Option<NodeId> = guest_args[arg as usize].node();
        let found = args.iter().position(|n| node.is_some() && n.node() == node);
        found.unwrap_or_else(|| {
            args.push(guest_args[arg as usize]);
            args.len() - 1
        }) as u32
    };
    let outer = host.outer();
    let moved = |map: &IndexMap| -> Option<IndexMap> {
        match level {
            Level::Whole => over(map, &host.space),
            Level::PerRow => Some(per_row(&over(map, &outer)?, &outer, &host.space)),
        }
    };
    for node in &guest.exprs {
        let expr = match &node.expr {
            Expr::Load { arg, map, fill } => {
                let (to, map) = (place(&mut args, *arg), moved(map)?);
                if let Some(store) = host.stores.iter().find(|s| s.arg == to) {
                    // Written by the host: the value is at hand, if it is read where it was written.
                    let written = if host.is_per_row(store) {
                        per_row(&store.view.clone().into(), &outer, &host.space)
                    } else {
                        store.view.clone().into()
                    };
                    if !same_addresses(&map, &written) {
                        return None;
                    }
                    ids.push(store.value);
                    continue;
                }
                Expr::Load { arg: to, map, fill: *fill }
            }
            Expr::Gather { table, ids: id_arg, ids_dtype, rows, row_len, map } => {
                let (table, id_arg) = (place(&mut args, *table), place(&mut args, *id_arg));
                if host.stores.iter().any(|s| s.arg == table || s.arg == id_arg) {
                    return None;
                }
                let (ids_dtype, rows, row_len, map) = (*ids_dtype, *rows, *row_len, moved(map)?);
                Expr::Gather { table, ids: id_arg, ids_dtype, rows, row_len, map }
            }
            Expr::Index { map } => Expr::Index { map: moved(map)? },
            Expr::Random { stream, kind, map, key } => Expr::Random {
                stream: *stream,
                kind: *kind,
                map: moved(map)?,
                key: key.map(|k| ids[k.index()]),
            },
            Expr::Const(_) | Expr::Scalar(_) => node.expr.clone(),
            Expr::Unary(op, x) => Expr::Unary(*op, ids[x.index()]),
            Expr::Cast(x) => Expr::Cast(ids[x.index()]),
            Expr::Binary(op, x, y) => Expr::Binary(*op, ids[x.index()], ids[y.index()]),
            Expr::Compare(op, x, y) => Expr::Compare(*op, ids[x.index()], ids[y.index()]),
            Expr::Select(c, x, y) => Expr::Select(ids[c.index()], ids[x.index()], ids[y.index()]),
            Expr::Row(op, x) => Expr::Row(*op, ids[x.index()]),
            Expr::Product => return None,
        };
        let node = ExprNode { expr, dtype: node.dtype };
        let id = *known.entry(node.clone()).or_insert_with(|| {
            merged.exprs.push(node);
            ExprId(merged.exprs.len() as u32 - 1)
        });
        ids.push(id);
    }
    for store in &guest.stores {
        let view = match level {
            Level::Whole if guest.is_per_row(store) => store.view.apply(&Op::Reshape(outer.clone()))?,
            Level::Whole => store.view.apply(&Op::Reshape(host.space.clone()))?,
            Level::PerRow => store.view.apply(&Op::Reshape(outer.clone()))?,
        };
        merged.stores.push(Store { arg: place(&mut args, store.arg), value: ids[store.value.index()], view });
    }
    Some((merged, args))
}

/// A map over the rows as one over all of their elements.
fn per_row(map: &IndexMap, outer: &Shape, space: &Shape) -> IndexMap {
    let ones: Shape = outer.iter().copied().chain((outer.rank()..space.rank()).map(|_| 1)).collect();
    map.apply(&Op::Reshape(ones)).apply(&Op::Expand(space.clone()))
}

/// Whether two maps find the same elements, everywhere.
fn same_addresses(a: &IndexMap, b: &IndexMap) -> bool {
    let (Some(a), Some(b)) = (a.single(), b.single()) else { return false };
    let stride = |v: &View, d: usize| if v.shape[d] == 1 { 0 } else { v.strides[d] };
    a.shape == b.shape
        && a.mask.is_none()
        && b.mask.is_none()
        && a.offset == b.offset
        && (0..a.shape.rank()).all(|d| stride(a, d) == stride(b, d))
}

/// The same elements in the same order, over another shape of the space; `None` where strides cannot say it.
pub(super) fn over(map: &IndexMap, space: &Shape) -> Option<IndexMap> {
    if map.outer().shape == *space {
        return Some(map.clone());
    }
    let moved = map.apply(&Op::Reshape(space.clone()));
    (moved.views().len() == map.views().len()).then_some(moved)
}

/// Two reductions over one space as one with both results.
pub(super) fn join_reductions(a: &NodeKernel, b: &NodeKernel) -> Option<NodeKernel> {
    let (Kernel::Reduce(x), Kernel::Reduce(y)) = (a.work.kernel()?, b.work.kernel()?) else { return None };
    if x.outer != y.outer || x.inner != y.inner || b.read().any(|n| a.written().any(|w| w == n)) {
        return None;
    }
    let space: Shape = x.outer.iter().chain(x.inner.iter()).copied().collect();
    let body = |k: &ReduceKernel| Body {
        kind: Kind::Map,
        space: space.clone(),
        exprs: k.exprs.clone(),
        stores: Vec::new(),
    };
    // The results travel as stores over the whole space, which say where the values went.
    let mut guest = body(y);
    guest.stores = y
        .outs
        .iter()
        .map(|o| Store { arg: o.arg, value: o.value, view: View::contiguous(space.clone()) })
        .collect();
    let (merged, args) = absorb(&body(x), &a.args, &guest, &b.args, Level::Whole)?;
    let mut outs = x.outs.clone();
    outs.extend(merged.stores.iter().zip(&y.outs).map(|(s, o)| wgrad_ir::Reduction {
        op: o.op,
        value: s.value,
        arg: s.arg,
    }));
    let kernel = ReduceKernel { outer: x.outer.clone(), inner: x.inner.clone(), exprs: merged.exprs, outs };
    let ops: Vec<&'static str> = a.ops.iter().chain(&b.ops).copied().collect();
    Some(NodeKernel { work: Kernel::Reduce(kernel).into(), args, ops })
}

/// A sum over the rows of a product's right operand, joined to the product: the gradient of a bias beside that of its weight.
pub(super) fn join_column_sums(host: &NodeKernel, guest: &NodeKernel) -> Option<NodeKernel> {
    let (Kernel::MatMul(product), Kernel::Reduce(sum)) = (host.work.kernel()?, guest.work.kernel()?) else {
        return None;
    };
    let ([out], None) = (sum.outs.as_slice(), product.column_sums) else { return None };
    let Expr::Load { arg, map, .. } = &sum.exprs[out.value.index()].expr else { return None };
    let (node, b) = (guest.args[*arg as usize].node(), &product.b);
    if out.op != wgrad_ir::ReduceOp::Sum || node.is_none() || node != host.args[b.arg as usize].node() {
        return None;
    }
    // The reduction's space as `[n, k]`, which finds the elements where the operand as `[k, n]` does.
    let outer = sum.outer.rank();
    let (columns, rows) = (product.n * product.batch.elements(), product.k);
    if product.batch.elements() != 1
        || sum.outer.elements() != columns
        || sum.inner.elements() != rows
        || outer > map.outer().shape.rank()
    {
        return None;
    }
    let found = over(map, &[columns, rows].into())?;
    let (found, rank) = (found.single()?, b.view.shape.rank());
    let wanted = (b.view.strides[rank - 1], b.view.strides[rank - 2]);
    let same = |extent: usize, x: i64, y: i64| extent == 1 || x == y;
    if found.mask.is_some()
        || found.offset != b.view.offset
        || !same(columns, found.strides[0], wanted.0)
        || !same(rows, found.strides[1], wanted.1)
    {
        return None;
    }
    let mut args = host.args.clone();
    args.push(guest.args[out.arg as usize]);
    let kernel = wgrad_ir::MatMulKernel { column_sums: Some(args.len() as u32 - 1), ..product.clone() };
    let ops = host.ops.iter().chain(&guest.ops).copied().collect();
    Some(NodeKernel { work: Kernel::MatMul(kernel).into(), args, ops })
}

/// A space's extents without those of one, for comparing spaces that differ in nothing else.
pub(super) fn extents(space: &[usize]) -> SmallVec<[usize; 6]> {
    space.iter().copied().filter(|&d| d != 1).collect()
}
