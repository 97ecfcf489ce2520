//! Sums of padded pieces become concatenations.
//!
//! The gradient of a tensor that was cut in slices (queries, keys and values of one projection) is a sum of its slices' gradients, each
//! padded with zeros. Where the pieces tile an axis, the sum is their concatenation, whose parts are written in place.

use smallvec::SmallVec;
use wgrad_ir::{BinaryOp, Graph, IrError, NodeId, Op};

/// The graph with such sums replaced.
///
/// # Errors
/// A rewrite broke the graph, which is a defect.
pub fn concat_pieces(graph: &Graph) -> Result<Graph, IrError> {
    let is_add = |id: NodeId| matches!(graph.node(id).op, Op::Binary(BinaryOp::Add));
    if !graph.nodes().iter().any(|n| matches!(n.op, Op::Pad { .. })) {
        return Ok(graph.clone());
    }
    let mut uses = vec![0u32; graph.nodes().len()];
    let mut inner = vec![false; graph.nodes().len()];
    for id in graph.outputs() {
        uses[id.index()] += 1;
    }
    for id in graph.ids() {
        for i in &graph.node(id).inputs {
            uses[i.index()] += 1;
            inner[i.index()] |= is_add(id);
        }
    }
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes().len());
    for id in graph.ids() {
        let node = graph.node(id);
        // A sum that is not itself a term of a sum.
        let root = is_add(id) && !(inner[id.index()] && uses[id.index()] == 1);
        let pieces = if root { pieces(graph, &uses, id) } else { None };
        let new = match pieces {
            Some((axis, pieces, terms)) => {
                let pieces: SmallVec<[NodeId; 3]> = pieces.iter().map(|p| map[p.index()]).collect();
                let joined = out.push(Op::Concat { axis }, &pieces)?;
                terms
                    .iter()
                    .try_fold(joined, |sum, t| out.push(Op::Binary(BinaryOp::Add), &[sum, map[t.index()]]))?
            }
            None => {
                let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
                out.push(node.op.clone(), &inputs)?
            }
        };
        map.push(new);
    }
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    Ok(out)
}

/// The axis that padded terms of a sum tile, their operands in order along it, and the other terms.
fn pieces(graph: &Graph, uses: &[u32], root: NodeId) -> Option<(usize, Vec<NodeId>, Vec<NodeId>)> {
    let mut terms: Vec<NodeId> = Vec::new();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        let node = graph.node(id);
        let splits = matches!(node.op, Op::Binary(BinaryOp::Add)) && (id == root || uses[id.index()] == 1);
        if splits {
            open.extend(node.inputs.iter().rev());
        } else {
            terms.push(id);
        }
    }
    let shape = &graph.node(root).shape;
    (0..shape.rank()).find_map(|axis| {
        let along = |id: &NodeId| match &graph.node(*id).op {
            Op::Pad { widths, fill } if fill.is(0.0) && uses[id.index()] == 1 => {
                let others = widths.iter().enumerate().all(|(d, &w)| d == axis || w == (0, 0));
                others.then_some((widths[axis].0, graph.node(*id).inputs[0]))
            }
            _ => None,
        };
        let mut found: Vec<(usize, NodeId)> = terms.iter().filter_map(along).collect();
        found.sort_unstable();
        let mut end = 0;
        for &(start, piece) in &found {
            if start != end {
                return None;
            }
            end += graph.node(piece).shape[axis];
        }
        let rest = terms.iter().copied().filter(|t| along(t).is_none()).collect();
        (found.len() > 1 && end == shape[axis])
            .then(|| (axis, found.into_iter().map(|f| f.1).collect(), rest))
    })
}
