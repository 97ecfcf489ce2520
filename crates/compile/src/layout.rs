//! Where nodes lie in memory: in a buffer of their own, in a part of another's, or nowhere.
//!
//! An aligned contiguous `Slice` of an input is a range of the input's buffer, and the operands of a `Concat` may be written
//! where the `Concat` wants them. So parameters and gradients in flat arenas cost no copies.

use smallvec::SmallVec;
use wgrad_ir::{Arg, DType, Graph, IndexMap, NodeId, Op, View};

/// A node that is a range of another's buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Whose buffer.
    pub owner: NodeId,
    /// First element.
    pub offset: usize,
}

/// Where the nodes of a graph lie.
#[derive(Clone, Debug)]
pub struct Layout<'g> {
    /// The graph.
    pub graph: &'g Graph,
    /// For each node whether a kernel (or the caller) gives it memory.
    pub realized: Vec<bool>,
    /// Realized nodes that are ranges of other nodes' buffers.
    pub parts: Vec<Option<Part>>,
    /// Whether products convert 16-bit operands as they load them.
    pub half_operands: bool,
    /// Realized nodes that are written through a view into another's buffer, and read by nobody else.
    pub scattered: Vec<Option<(NodeId, View)>>,
}

impl<'g> Layout<'g> {
    /// Nothing is realized but inputs and, unless `in_place` is off, their aligned contiguous slices.
    pub fn new(graph: &'g Graph, in_place: bool, half_operands: bool) -> Self {
        let count = graph.nodes().len();
        let mut layout = Layout {
            graph,
            realized: vec![false; count],
            parts: vec![None; count],
            half_operands,
            scattered: vec![None; count],
        };
        for id in graph.ids() {
            let node = graph.node(id);
            match &node.op {
                Op::Input { .. } => layout.realized[id.index()] = true,
                Op::Slice { .. } if in_place && !is_wanted(graph, id) => {
                    let base = layout.contiguous_base(node.inputs[0]);
                    let part = layout.parts[base.index()].unwrap_or(Part { owner: base, offset: 0 });
                    let view = View::contiguous(graph.node(node.inputs[0]).shape.clone()).apply(&node.op);
                    if let (true, Some(offset)) =
                        (layout.realized[base.index()], view.and_then(|v| range(&v)))
                    {
                        let offset = part.offset + offset;
                        if aligned(node.dtype, offset) {
                            layout.realized[id.index()] = true;
                            layout.parts[id.index()] = Some(Part { owner: part.owner, offset });
                        }
                    }
                }
                _ => {}
            }
        }
        layout
    }

    /// The node whose buffer, in order, is `id`'s: reshapes do not move elements.
    pub fn contiguous_base(&self, mut id: NodeId) -> NodeId {
        while let Op::Reshape(_) = self.graph.node(id).op {
            id = self.graph.node(id).inputs[0];
        }
        id
    }

    /// The first node below movements, and where `id`'s elements lie in it.
    pub fn movement_base(&self, id: NodeId) -> (NodeId, IndexMap) {
        let (base, path) = self.movements(id);
        let map = IndexMap::contiguous(self.graph.node(base).shape.clone());
        (base, self.moved(map, &path))
    }

    /// The first node below movements, and those movements, the last one first.
    fn movements(&self, id: NodeId) -> (NodeId, SmallVec<[NodeId; 8]>) {
        let mut path = SmallVec::new();
        let mut base = id;
        while self.graph.node(base).op.is_movement() && self.parts[base.index()].is_none() {
            path.push(base);
            base = self.graph.node(base).inputs[0];
        }
        (base, path)
    }

    /// A map after movements, the last one first.
    fn moved(&self, map: IndexMap, path: &[NodeId]) -> IndexMap {
        path.iter().rev().fold(map, |map, step| map.apply(&self.graph.node(*step).op))
    }

    /// The node that a contraction or attention reads `id` from, and the strided view it reads it through.
    pub fn operand(&self, id: NodeId) -> (NodeId, IndexMap) {
        let (base, map) = self.movement_base(id);
        if map.single().is_some() && !map.is_masked() {
            return (base, map);
        }
        // A reshape that strides cannot express: read from a copy made just before it, where strides suffice.
        let base = self.contiguous_base(id);
        (base, IndexMap::contiguous(self.graph.node(id).shape.clone()))
    }

    /// As [`Layout::operand`], for a product or a convolution: where the device can, from the 16-bit floats that `id` is a conversion of.
    pub fn product_operand(&self, id: NodeId) -> (NodeId, IndexMap) {
        let (cast, path) = self.movements(id);
        let node = self.graph.node(cast);
        if self.half_operands
            && matches!(node.op, Op::Cast(DType::F32))
            && self.graph.node(node.inputs[0]).dtype.is_half()
        {
            let (base, map) = self.movement_base(node.inputs[0]);
            let map = self.moved(map, &path);
            if map.single().is_some() && !map.is_masked() {
                return (base, map);
            }
        }
        self.operand(id)
    }

    /// Whether two different nodes share elements of one buffer.
    pub fn overlap(&self, a: NodeId, b: NodeId) -> bool {
        let range = |id: NodeId| {
            let (owner, start) = self.owner(id);
            (owner, start, start + self.graph.node(id).shape.elements())
        };
        let (x, y) = (range(a), range(b));
        a != b && x.0 == y.0 && x.1 < y.2 && y.1 < x.2
    }

    /// Whether the node is a range of an input: nothing computes it.
    pub fn is_given(&self, id: NodeId) -> bool {
        self.parts[id.index()].is_some() && matches!(self.graph.node(self.owner(id).0).op, Op::Input { .. })
    }

    /// The node of which `id` is a part, if it has no buffer of its own.
    pub fn holder(&self, id: NodeId) -> Option<NodeId> {
        let part = self.parts[id.index()].map(|p| p.owner);
        part.or_else(|| self.scattered[id.index()].as_ref().map(|s| s.0))
    }

    /// The node whose buffer holds `id`, and its first element there.
    pub fn owner(&self, id: NodeId) -> (NodeId, usize) {
        // A part's owner may itself be a part of a larger one.
        let offset = self.parts[id.index()].map_or(0, |p| p.offset);
        self.holder(id).map_or((id, 0), |holder| {
            let (owner, first) = self.owner(holder);
            (owner, first + offset)
        })
    }

    /// Where a kernel stores the node `id`: the argument that stands for its buffer, and the view into it.
    pub fn target(&self, id: NodeId) -> (NodeId, View) {
        match &self.scattered[id.index()] {
            Some((owner, view)) => (*owner, view.clone()),
            None => (id, View::contiguous(self.graph.node(id).shape.clone())),
        }
    }

    /// Lets the operands of realized `Concat`s be written in place, where nothing else claims them; `blocked` ones are copied.
    pub fn place_concats(&mut self, uses: &[u32], blocked: &[NodeId]) {
        let graph = self.graph;
        for id in graph.ids() {
            let node = graph.node(id);
            let Op::Concat { axis } = node.op else { continue };
            if !self.realized[id.index()] || matches!(node.dtype, DType::Bool | DType::U8) {
                continue;
            }
            let mut at = 0;
            for &operand in &node.inputs {
                let shape = graph.node(operand).shape.clone();
                let ranges = node.shape.iter().enumerate();
                let ranges =
                    ranges.map(|(d, &n)| if d == axis { (at, shape[axis], 1) } else { (0, n, 1) }).collect();
                at += shape[axis];
                let part = self.contiguous_base(operand);
                let claimed = self.parts[part.index()].is_some()
                    || self.scattered[part.index()].is_some()
                    || is_wanted(graph, part)
                    || blocked.contains(&part)
                    || !self.realized[part.index()]
                    || matches!(graph.node(part).op, Op::Input { .. })
                    || shape.elements() == 0;
                if claimed {
                    continue;
                }
                let view = View::contiguous(node.shape.clone()).apply(&Op::Slice { ranges });
                let Some(view) = view.and_then(|v| v.apply(&Op::Reshape(graph.node(part).shape.clone())))
                else {
                    continue;
                };
                match range(&view) {
                    Some(offset) if aligned(node.dtype, offset) => {
                        self.parts[part.index()] = Some(Part { owner: id, offset });
                    }
                    _ if uses[part.index()] == 1 && stores_through_views(&graph.node(part).op) => {
                        self.scattered[part.index()] = Some((id, view));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Whether the caller gets the node's buffer.
pub fn is_wanted(graph: &Graph, id: NodeId) -> bool {
    graph.outputs().iter().any(|&o| {
        let mut base = o;
        while base != id && matches!(graph.node(base).op, Op::Reshape(_)) {
            base = graph.node(base).inputs[0];
        }
        base == id
    })
}

/// Whether the kernel of an operation can store its result anywhere in a larger buffer.
fn stores_through_views(op: &Op) -> bool {
    op.is_elementwise() || matches!(op, Op::Dot | Op::Conv(_) | Op::Cumulate { .. } | Op::Call { .. })
}

/// The first element, if the view is a range of a buffer in order.
fn range(view: &View) -> Option<usize> {
    let start = View { offset: 0, ..view.clone() };
    (start.is_contiguous() && view.offset >= 0).then_some(view.offset as usize)
}

fn aligned(dtype: DType, offset: usize) -> bool {
    !matches!(dtype, DType::Bool | DType::U8)
        && (offset * dtype.host_bytes()).is_multiple_of(Arg::ALIGNMENT as usize)
}
