//! Cheap functions of a product are computed again for the backward pass instead of kept.
//!
//! An activation (GELU of a product) is an operand of the next product, and again of that one's weight gradient, a whole backward pass
//! later. Its gradient reads the product itself then; the kernel that does can store the activation as well, so that
//! it need not live in between. The largest intermediates of a transformer are of this kind.

use smallvec::SmallVec;
use wgrad_ir::{Graph, IrError, NodeId, Op};

use crate::schedule::{Cone, cone};

/// As many contractions must lie between two uses to be worth it.
const FAR: usize = 4;

/// The graph with such activations computed twice; `made` says which nodes kernels will write.
///
/// # Errors
/// Never for a valid graph.
pub fn rematerialize(graph: &Graph, made: &[bool]) -> Result<Graph, IrError> {
    let index = Index::new(graph, made);
    let mut plans: Vec<Plan> = graph.ids().filter_map(|id| plan(graph, made, &index, id)).collect();
    if plans.is_empty() {
        return Ok(graph.clone());
    }
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes().len());
    for id in graph.ids() {
        let node = graph.node(id);
        let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
        map.push(out.push(node.op.clone(), &inputs)?);
        // From here on, users find the copies.
        for plan in plans.iter_mut().filter(|p| p.partner == id) {
            let product = out.push(Op::Barrier, &[map[plan.product.index()]])?;
            let mut copies: Vec<(NodeId, NodeId)> = vec![(plan.product, product)];
            for &n in &plan.copied {
                let node = graph.node(n);
                let copied = |i: &NodeId| copies.iter().find(|c| c.0 == *i).map_or(map[i.index()], |c| c.1);
                let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(copied).collect();
                copies.push((n, out.push(node.op.clone(), &inputs)?));
            }
            if let Some(&(_, copy)) = copies.last() {
                map[plan.activation.index()] = copy;
            }
            for &n in plan.moved.iter().filter(|n| n.0 <= id.0) {
                let node = graph.node(n);
                map[n.index()] = out.push(node.op.clone(), &[map[node.inputs[0].index()]])?;
            }
        }
    }
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    Ok(out)
}

/// What to compute again.
struct Plan {
    activation: NodeId,
    /// The product of which it is a function.
    product: NodeId,
    /// The nodes between the two, the activation last.
    copied: Vec<NodeId>,
    /// The activation's movements, ascending.
    moved: Vec<NodeId>,
    /// The node that reads the product again, beside another product of the same size.
    partner: NodeId,
}

/// What the search needs of the whole graph, gathered once.
struct Index {
    /// For each node, the contractions whose results it is an elementwise function of.
    products: Vec<SmallVec<[NodeId; 2]>>,
    /// For each contraction, the elementwise functions of its result, ascending.
    functions: Vec<Vec<NodeId>>,
    /// For each node, the contractions that read it, through movements at most, ascending.
    readers: Vec<SmallVec<[NodeId; 2]>>,
    /// For each node, its movements, ascending.
    moved: Vec<SmallVec<[NodeId; 2]>>,
    /// Contractions before each node.
    dots: Vec<usize>,
}

/// Functions of more products than this are not looked at.
const MAX_PRODUCTS: usize = 4;

impl Index {
    fn new(graph: &Graph, made: &[bool]) -> Self {
        let count = graph.nodes().len();
        let mut index = Index {
            products: vec![SmallVec::new(); count],
            functions: vec![Vec::new(); count],
            readers: vec![SmallVec::new(); count],
            moved: vec![SmallVec::new(); count],
            dots: Vec::with_capacity(count),
        };
        let mut dots = 0;
        for id in graph.ids() {
            index.dots.push(dots);
            let node = graph.node(id);
            if matches!(node.op, Op::Dot) {
                dots += 1;
                index.products[id.index()].push(id);
                for &operand in &node.inputs {
                    index.readers[base(graph, operand).index()].push(id);
                }
            } else if node.op.is_elementwise() || node.op.is_movement() {
                if node.op.is_movement() {
                    index.moved[base(graph, id).index()].push(id);
                }
                let mut all: SmallVec<[NodeId; 2]> = SmallVec::new();
                for i in &node.inputs {
                    // What a kernel writes is read, not computed again.
                    let is_dot = matches!(graph.node(*i).op, Op::Dot);
                    if made[i.index()] && !is_dot {
                        continue;
                    }
                    for &p in &index.products[i.index()] {
                        if !all.contains(&p) && all.len() < MAX_PRODUCTS {
                            all.push(p);
                        }
                    }
                }
                if node.op.is_elementwise() {
                    all.iter().for_each(|p| index.functions[p.index()].push(id));
                }
                index.products[id.index()] = all;
            }
        }
        index
    }

    fn dots_between(&self, from: NodeId, to: NodeId) -> usize {
        self.dots[to.index()].saturating_sub(self.dots[from.index()])
    }
}

/// The first node below movements.
fn base(graph: &Graph, mut id: NodeId) -> NodeId {
    while graph.node(id).op.is_movement() {
        id = graph.node(id).inputs[0];
    }
    id
}

fn plan(graph: &Graph, made: &[bool], index: &Index, id: NodeId) -> Option<Plan> {
    let node = graph.node(id);
    let readers = &index.readers[id.index()];
    let (&first, &last) = (readers.first()?, readers.last()?);
    let wanted = graph.outputs().contains(&id);
    if !node.op.is_elementwise() || !node.dtype.is_float() || wanted || index.dots_between(first, last) < FAR
    {
        return None;
    }
    let elements = node.shape.elements();
    let Cone { roots, virtual_nodes, .. } = cone(graph, made, id)?;
    let mut whole = roots.iter().filter(|r| 2 * graph.node(**r).shape.elements() > elements);
    let (&product, None) = (whole.next()?, whole.next()) else { return None };
    let is_dot = |n: NodeId| matches!(graph.node(n).op, Op::Dot);
    if !is_dot(product) || virtual_nodes.iter().any(|n| matches!(graph.node(*n).op, Op::Random { .. })) {
        return None;
    }
    // Where the product is read again, beside the product of the cotangent.
    let partner = index.functions[product.index()].iter().copied().find(|&n| {
        let newer =
            |p: &NodeId| *p != product && p.0 > first.0 && graph.node(*p).shape.elements() == elements;
        first.0 < n.0
            && n.0 < last.0
            && made[n.index()]
            && graph.node(n).shape.elements() == elements
            && index.products[n.index()].iter().any(newer)
    })?;
    let depends = |n: &NodeId| index.products[n.index()].contains(&product);
    let mut copied: Vec<NodeId> = virtual_nodes.into_iter().filter(depends).collect();
    copied.push(id);
    copied.sort_unstable();
    Some(Plan { activation: id, product, copied, moved: index.moved[id.index()].to_vec(), partner })
}
