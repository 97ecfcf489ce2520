//! The order of nodes: what shrinks memory runs as soon as it can.
//!
//! A graph is traced from what is wanted, so that every node stands just before its first use. For the gradients of weights that is
//! the optimizer, long after the activations and cotangents they are made of: these would all stay alive. Contractions
//! and reductions whose operands were there long before therefore move to where the last operand is made; no further up than a
//! barrier, behind which values are computed again late on purpose.

use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use wgrad_ir::{Graph, IrError, NodeId, Op};

/// The graph with its nodes in a better order; `made` says which nodes kernels will write.
///
/// # Errors
/// Never for a valid graph.
pub fn schedule(graph: &Graph, made: &[bool]) -> Result<Graph, IrError> {
    let count = graph.nodes().len();
    // Where each node runs: right after the node that stood there, in the old order.
    let mut slot: Vec<u32> = (0..count as u32).collect();
    for id in graph.ids() {
        let node = graph.node(id);
        if !matches!(node.op, Op::Dot | Op::Conv(_) | Op::Reduce { .. } | Op::ScatterAdd { .. }) {
            continue;
        }
        let Some(cone) = cone(graph, made, id) else { continue };
        let given = |n: &NodeId| is_given(graph, *n);
        let bytes = |n: NodeId| graph.node(n).shape.elements() * graph.node(n).dtype.host_bytes();
        // Of what it reads a part, the other parts stay: chunks of a batch, one after the other.
        let freed = |r: &&NodeId| !given(r) && !cone.sliced.contains(r);
        let frees: usize = cone.roots.iter().filter(freed).map(|&r| bytes(r)).sum();
        let Some(ready) = cone.roots.iter().filter(|r| !given(r)).map(|r| slot[r.index()]).max() else {
            continue;
        };
        let ready = cone.roots.iter().map(|r| slot[r.index()]).max().unwrap_or(ready).max(ready);
        if bytes(id) >= frees || ready >= slot[id.index()] {
            continue;
        }
        for n in cone.virtual_nodes.iter().chain([&id]) {
            slot[n.index()] = slot[n.index()].min(ready);
        }
    }
    let mut order: Vec<NodeId> = graph.ids().collect();
    order.sort_by_key(|id| (slot[id.index()], id.0));
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = vec![NodeId(0); count];
    for id in order {
        let node = graph.node(id);
        let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
        map[id.index()] = out.push(node.op.clone(), &inputs)?;
    }
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    Ok(out)
}

/// Whether this is an input or a view of one: a parameter in its arena.
fn is_given(graph: &Graph, mut id: NodeId) -> bool {
    while graph.node(id).op.is_movement() {
        id = graph.node(id).inputs[0];
    }
    matches!(graph.node(id).op, Op::Input { .. })
}

/// What a node is computed from without kernels in between.
pub(crate) struct Cone {
    /// The nodes that other kernels make, or the caller gives; barriers.
    pub(crate) roots: Vec<NodeId>,
    /// Elementwise nodes and movements between them and the node.
    pub(crate) virtual_nodes: Vec<NodeId>,
    /// Those roots of which only parts are read.
    pub(crate) sliced: FxHashSet<NodeId>,
}

/// Larger cones stay where they are.
const MAX_CONE: usize = 200;

/// The cone of a node; nothing where it is large. Barriers end it.
pub(crate) fn cone(graph: &Graph, made: &[bool], id: NodeId) -> Option<Cone> {
    let mut cone = Cone { roots: Vec::new(), virtual_nodes: Vec::new(), sliced: FxHashSet::default() };
    let mut seen: FxHashSet<NodeId> = FxHashSet::default();
    let mut whole: FxHashSet<NodeId> = FxHashSet::default();
    let mut open: Vec<(NodeId, bool)> = graph.node(id).inputs.iter().map(|&i| (i, false)).collect();
    while let Some((n, part)) = open.pop() {
        let op = &graph.node(n).op;
        let inputs = || graph.node(n).inputs.iter();
        let mut root = |n| {
            cone.roots.push(n);
            if part {
                cone.sliced.insert(n)
            } else {
                whole.insert(n)
            };
        };
        match op {
            _ if made[n.index()] => root(n),
            Op::Barrier => root(n),
            Op::Const(_) | Op::Scalar { .. } | Op::Iota { .. } | Op::Random { .. } => {
                // Made inside of kernels; they move along.
                if seen.insert(n) {
                    cone.virtual_nodes.push(n);
                    open.extend(inputs().map(|&i| (i, part)));
                }
            }
            _ if op.is_elementwise() || op.is_movement() => {
                if seen.insert(n) {
                    cone.virtual_nodes.push(n);
                    let part = part || matches!(op, Op::Slice { .. });
                    open.extend(inputs().map(|&i| (i, part)));
                }
            }
            _ => root(n),
        }
        if cone.virtual_nodes.len() > MAX_CONE {
            return None;
        }
    }
    cone.sliced.retain(|root| !whole.contains(root));
    Some(cone)
}
