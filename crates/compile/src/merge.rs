//! Kernels that share elements become one: maps over one space, reductions and the work around them as rows, elementwise work after
//! a product as its epilogue.
//!
//! A kernel joins an earlier one if everything else that it reads was there before the earlier one ran. Values that pass
//! between the two stay in registers; a result that nothing else reads is not stored at all.

use rustc_hash::FxHashMap;
use wgrad_ir::{DeviceCaps, Expr, ExprNode, IndexMap, Kernel, NodeId, Op};

use crate::{
    Options,
    layout::Layout,
    lower::{NodeArg, NodeKernel, Work},
};

mod body;
mod compact;

use body::{Body, Kind, Level, absorb, extents, join_column_sums, join_reductions, over};
pub use compact::drop_dead_stores;

/// Kernels of more expressions than this do not grow further.
const MAX_EXPRS: usize = 160;
/// Nor do kernels of more buffers than this, or than the device binds.
const MAX_ARGS: usize = 16;
/// How far back to look for a kernel to join.
const LOOK_BACK: usize = 64;
/// Rows longer than this are left to reductions.
const MAX_ROW: usize = 1 << 17;

/// The merged kernels, in a valid order.
pub fn merge(
    kernels: Vec<NodeKernel>,
    layout: &Layout<'_>,
    caps: &DeviceCaps,
    options: &Options,
    donated: &[u32],
) -> Vec<NodeKernel> {
    let mut m = Merger {
        layout,
        donated,
        options,
        max_args: caps.max_bindings.saturating_sub(2).min(MAX_ARGS),
        out: Vec::with_capacity(kernels.len()),
        writer: FxHashMap::default(),
    };
    for kernel in kernels {
        let written: Vec<NodeId> = kernel.written().collect();
        let at = match m.joined(&kernel) {
            Some((at, merged)) => {
                m.out[at] = merged;
                at
            }
            None => {
                m.out.push(kernel);
                m.out.len() - 1
            }
        };
        for node in written {
            // Several kernels may write a concatenation: it is there after the last of them.
            let mut next = Some(node);
            while let Some(id) = next {
                let last = m.writer.entry(id).or_insert(at);
                *last = at.max(*last);
                next = layout.holder(id);
            }
        }
    }
    m.out
}

struct Merger<'a> {
    layout: &'a Layout<'a>,
    donated: &'a [u32],
    options: &'a Options,
    max_args: usize,
    out: Vec<NodeKernel>,
    writer: FxHashMap<NodeId, usize>,
}

impl Merger<'_> {
    /// The earlier kernel to join, and the two as one.
    fn joined(&self, kernel: &NodeKernel) -> Option<(usize, NodeKernel)> {
        let guest =
            Body::of(kernel.work.kernel()?).filter(|b| b.kind != Kind::MatMul && b.space.elements() > 0)?;
        if matches!(kernel.work, Work::Kernel(Kernel::Map(_))) && !self.options.merge {
            return None;
        }
        // Everything it reads must be there before the host runs, or come from the host itself.
        let after = |node: NodeId| self.writer.get(&node).copied();
        let earliest = kernel.read().filter_map(after).max().unwrap_or(0);
        let first = earliest.max(self.out.len().saturating_sub(LOOK_BACK));
        // The latest one, so that values live shortly; but rather a product that it follows than a map beside it.
        let products =
            |at: &usize| matches!(self.out[*at].work, Work::Kernel(Kernel::MatMul(_) | Kernel::Conv(_)));
        let latest = (first..self.out.len()).rev();
        for at in latest.clone().filter(products).chain(latest.filter(|at| !products(at))) {
            let host = &self.out[at];
            let shares = kernel.read().any(|n| host.args.iter().any(|a| a.node() == Some(n)));
            if !shares || self.collides(host, kernel) {
                continue;
            }
            if let Some(merged) = self.join(host, kernel, &guest) {
                return Some((at, merged));
            }
        }
        None
    }

    /// Whether one of the two writes a buffer of which the other reads another part.
    fn collides(&self, host: &NodeKernel, guest: &NodeKernel) -> bool {
        let clash = |written: NodeId, read: NodeId| {
            written != read && self.layout.owner(written).0 == self.layout.owner(read).0
        };
        // Two parts of one buffer are two bindings, which must not overlap.
        host.written()
            .any(|w| guest.read().any(|r| clash(w, r)) || guest.written().any(|g| self.layout.overlap(w, g)))
            || guest.written().any(|w| host.read().any(|r| clash(w, r) || w == r))
    }

    fn join(&self, host: &NodeKernel, kernel: &NodeKernel, guest: &Body) -> Option<NodeKernel> {
        if self.options.epilogues
            && let Some(merged) = join_column_sums(host, kernel)
        {
            return (merged.args.len() <= self.max_args).then_some(merged);
        }
        if self.options.rows
            && let Some(merged) = join_reductions(host, kernel)
        {
            return (merged.args.len() <= self.max_args).then_some(merged);
        }
        let host_kernel = host.work.kernel()?;
        let body = Body::of(host_kernel)?;
        // Column sums are no value of the epilogue.
        let at_hand = |n: NodeId| body.stores.iter().any(|s| host.args[s.arg as usize].node() == Some(n));
        if kernel.read().any(|n| host.written().any(|w| w == n) && !at_hand(n)) {
            return None;
        }
        if body.exprs.len() + guest.exprs.len() > MAX_EXPRS {
            return None;
        }
        let (elements, guest_elements) = (body.space.elements(), guest.space.elements());
        let rows = |b: &Body| b.outer().elements();
        let (body, level) = match (body.kind, guest.kind) {
            (Kind::Map, Kind::Map) if elements == guest_elements => {
                let in_order = |b: &Body| b.stores.iter().all(|s| s.view.is_contiguous());
                // Parts of a concatenation write one buffer from several kernels: leave them alone.
                (in_order(&body) && in_order(guest)).then_some((body, Level::Whole))?
            }
            (Kind::MatMul, Kind::Map) if self.options.epilogues && elements == guest_elements => {
                // It follows the product, or needs nothing but what the epilogue has at hand.
                let product = kernel.read().any(|n| host.written().any(|w| w == n));
                (product || self.knows_all(host, kernel, &body, guest)).then_some((body, Level::Whole))?
            }
            (Kind::Row(_), Kind::Map) if self.options.rows && elements == guest_elements => {
                (body, Level::Whole)
            }
            (Kind::Row(_), Kind::Map) if self.options.rows && rows(&body) == guest_elements => {
                (body, Level::PerRow)
            }
            (Kind::Row(x), Kind::Row(y))
                if self.options.rows
                    && extents(&body.space[..x]) == extents(&guest.space[..y])
                    && extents(&body.space[x..]) == extents(&guest.space[y..]) =>
            {
                (body, Level::Whole)
            }
            (Kind::Map, Kind::Row(_)) if self.options.rows && elements == guest_elements => {
                (body.reshaped(guest.kind, &guest.space)?, Level::Whole)
            }
            _ => return None,
        };
        // Only maps update in place.
        if guest.kind == Kind::Map && body.kind != Kind::Map && self.updates(kernel, guest_elements) {
            return None;
        }
        if let Kind::Row(rank) = body.kind {
            let (outer, inner): (usize, usize) =
                (body.space[..rank].iter().product(), body.space[rank..].iter().product());
            // One long row would keep one workgroup busy.
            if inner > MAX_ROW || outer < 8 && inner > 4096 || !self.in_order(host, kernel, &body, guest) {
                return None;
            }
        }
        let (merged, args) = absorb(&body, &host.args, guest, &kernel.args, level)?;
        if args.len() > self.max_args {
            return None;
        }
        let ops = host.ops.iter().chain(&kernel.ops).copied().collect();
        Some(NodeKernel { work: merged.into_kernel(host_kernel).into(), args, ops })
    }

    /// Whether a kernel reads all of a donated input, which it may then update in place.
    fn updates(&self, kernel: &NodeKernel, elements: usize) -> bool {
        let graph = self.layout.graph;
        kernel.read().any(|n| {
            let node = graph.node(n);
            let donated = matches!(node.op, Op::Input { index, .. } if self.donated.contains(&index));
            donated && node.shape.elements() == elements
        })
    }

    /// Whether rows of the two lie in the same order in memory: the guest reads a value of the host's, or both read one buffer
    /// at the same addresses. Else a merged kernel might walk one of them across its rows.
    fn in_order(&self, host: &NodeKernel, kernel: &NodeKernel, body: &Body, guest: &Body) -> bool {
        if kernel.read().any(|n| host.written().any(|w| w == n)) {
            return true;
        }
        let known = loads(body, &host.args, body);
        loads(guest, &kernel.args, body).iter().any(|load| known.contains(load))
    }

    /// Whether the host loads all that the guest does.
    fn knows_all(&self, host: &NodeKernel, kernel: &NodeKernel, body: &Body, guest: &Body) -> bool {
        let (known, wanted) = (loads(body, &host.args, body), loads(guest, &kernel.args, body));
        let others = guest.exprs.iter().any(|e| matches!(e.expr, Expr::Gather { .. } | Expr::Random { .. }));
        !others && !wanted.is_empty() && wanted.iter().all(|load| known.contains(load))
    }
}

/// What a body loads, and where, over the space of another.
fn loads(body: &Body, args: &[NodeArg], host: &Body) -> Vec<(NodeId, IndexMap)> {
    let load = |node: &ExprNode| match &node.expr {
        Expr::Load { arg, map, .. } => Some((args[*arg as usize].node()?, over(map, &host.space)?)),
        _ => None,
    };
    body.exprs.iter().filter_map(load).collect()
}
