//! Which nodes get memory of their own.
//!
//! A node is *realized* when a kernel writes it to a buffer; every other node is *virtual* and computed inside of the
//! kernels that use it, movements as index arithmetic. What must be realized: what is wanted, what contractions and
//! scatters read and write, reductions. What should be: shared work that costs more than a load, results that an `Expand`
//! repeats, and what keeps index arithmetic down to one strided view per load.

use wgrad_ir::{BinaryOp, DeviceCaps, Graph, IndexMap, NodeId, Op, UnaryOp};

use crate::{Options, layout::Layout};

/// Virtual nodes above this cost (operations, weighted) are realized even for one user: kernels stay of a size that
/// compiles fast and keeps its values in registers.
const MAX_COST: u32 = 96;
/// Cost above which work that an `Expand` repeats is done once instead.
const MAX_REPEATED_COST: u32 = 2;
/// Cost above which work with several users is done once instead.
const MAX_SHARED_COST: u32 = 16;

/// Longest chain of virtual nodes: kernels are built by recursion along it.
const MAX_DEPTH: u32 = 100;

/// Where the nodes lie: which are realized, and which of them in parts of others' buffers. `blocked` nodes get buffers of their
/// own.
pub fn realized<'g>(
    graph: &'g Graph,
    caps: &DeviceCaps,
    options: &Options,
    blocked: &[NodeId],
) -> Layout<'g> {
    let mut f = Fuser {
        graph,
        layout: Layout::new(graph, options.in_place, caps.half_operands),
        info: Vec::with_capacity(graph.nodes().len()),
        uses: uses(graph),
        max_leaves: caps.max_bindings.saturating_sub(4).clamp(3, 12),
    };
    f.mark_required();
    for id in graph.ids() {
        if !options.fuse && graph.node(id).op.is_elementwise() {
            f.layout.realized[id.index()] = true;
        }
        if f.layout.parts[id.index()].is_some() {
            f.info.push(Info::leaf(graph, id));
            continue;
        }
        let info = f.visit(id);
        f.layout.realized[id.index()] |= info.depth > MAX_DEPTH;
        f.info.push(if f.layout.realized[id.index()] { Info::leaf(graph, id) } else { info });
    }
    if options.in_place {
        f.layout.place_concats(&f.uses, blocked);
    }
    f.layout
}

/// How often each node is used by something that computes; movements pass their uses on.
fn uses(graph: &Graph) -> Vec<u32> {
    let mut uses = vec![0u32; graph.nodes().len()];
    for o in graph.outputs() {
        uses[o.index()] += 1;
    }
    for id in graph.ids().rev() {
        let node = graph.node(id);
        let passed = if node.op.is_movement() { uses[id.index()] } else { 1 };
        for i in &node.inputs {
            uses[i.index()] = uses[i.index()].saturating_add(passed);
        }
    }
    uses
}

/// What computing a virtual node inside of a kernel takes.
#[derive(Clone)]
struct Info {
    /// What is loaded, and through which map onto this node's shape.
    leaves: Vec<(NodeId, IndexMap)>,
    /// Weighted operations per element.
    cost: u32,
    /// Longest chain of virtual nodes down to what is loaded.
    depth: u32,
}

impl Info {
    fn leaf(graph: &Graph, id: NodeId) -> Self {
        Info { leaves: vec![(id, IndexMap::contiguous(graph.node(id).shape.clone()))], cost: 0, depth: 0 }
    }
}

struct Fuser<'g> {
    graph: &'g Graph,
    layout: Layout<'g>,
    info: Vec<Info>,
    uses: Vec<u32>,
    max_leaves: usize,
}

impl Fuser<'_> {
    fn mark_required(&mut self) {
        let graph = self.graph;
        for o in graph.outputs() {
            let base = self.layout.contiguous_base(*o);
            self.layout.realized[base.index()] = true;
        }
        for id in graph.ids() {
            let node = graph.node(id);
            match &node.op {
                Op::Input { .. } | Op::Reduce { .. } | Op::Concat { .. } => {
                    self.layout.realized[id.index()] = true
                }
                Op::Dot | Op::Conv(_) | Op::Cumulate { .. } => {
                    self.layout.realized[id.index()] = true;
                    for &operand in &node.inputs {
                        // Only products convert what they load.
                        let (base, _) = match node.op {
                            Op::Dot | Op::Conv(_) => self.layout.product_operand(operand),
                            _ => self.layout.operand(operand),
                        };
                        self.layout.realized[base.index()] = true;
                    }
                }
                Op::Call { .. } => {
                    self.layout.realized[id.index()] = true;
                    for &operand in &node.inputs {
                        let base = if graph.node(operand).shape.rank() == 4 {
                            self.layout.operand(operand).0
                        } else {
                            self.layout.contiguous_base(operand)
                        };
                        self.layout.realized[base.index()] = true;
                    }
                }
                Op::ScatterAdd { .. } | Op::Sort { .. } | Op::Loop { .. } | Op::Gather => {
                    self.layout.realized[id.index()] |= !matches!(node.op, Op::Gather);
                    for &operand in &node.inputs {
                        let base = self.layout.contiguous_base(operand);
                        self.layout.realized[base.index()] = true;
                    }
                }
                _ => {}
            }
        }
    }

    fn realize(&mut self, id: NodeId) {
        self.layout.realized[id.index()] = true;
        self.info[id.index()] = Info::leaf(self.graph, id);
    }

    /// Decides about the operands of `id`, and about `id` itself.
    fn visit(&mut self, id: NodeId) -> Info {
        let graph = self.graph;
        let node = graph.node(id);
        match &node.op {
            Op::Scalar { .. } | Op::Const(_) => Info { leaves: Vec::new(), cost: 0, depth: 0 },
            Op::Random { .. } => Info { cost: 40, ..Info::leaf(graph, id) },
            op if op.is_movement() => self.visit_movement(op, node.inputs[0]),
            op if op.is_elementwise() => {
                if matches!(op, Op::Binary(BinaryOp::Add)) {
                    self.add_up_in_turn(node.inputs[0], node.inputs[1]);
                }
                let mut info = self.union(&node.inputs);
                while info.leaves.len() > self.max_leaves || info.cost > MAX_COST {
                    // Realize the operand that brings most, and count again.
                    let virtual_operand =
                        |i: &&NodeId| !self.layout.realized[i.index()] && self.info[i.index()].cost > 0;
                    let Some(&largest) = node.inputs.iter().filter(virtual_operand).max_by_key(|i| {
                        let info = &self.info[i.index()];
                        (info.leaves.len(), info.cost)
                    }) else {
                        break;
                    };
                    self.realize(largest);
                    info = self.union(&node.inputs);
                }
                info.cost += cost(op);
                let shared = self.uses[id.index()] > 1;
                // Values per row or column are cheap to load again; it is whole tensors that count.
                let elements = node.shape.elements();
                let whole =
                    info.leaves.iter().filter(|(leaf, _)| 8 * graph.node(*leaf).shape.elements() > elements);
                if shared && !info.leaves.is_empty() && (whole.count() > 1 || info.cost > MAX_SHARED_COST) {
                    self.layout.realized[id.index()] = true;
                }
                info
            }
            _ => Info::leaf(graph, id),
        }
    }

    /// Of a sum of many products, realizes what has been added up before the last one: each product then adds itself to the sum so
    /// far, and none waits for the others.
    fn add_up_in_turn(&mut self, x: NodeId, y: NodeId) {
        let graph = self.graph;
        let product = |id: NodeId| matches!(graph.node(id).op, Op::Dot) && self.uses[id.index()] == 1;
        let sum = |id: NodeId| {
            let leaves = &self.info[id.index()].leaves;
            matches!(graph.node(id).op, Op::Binary(BinaryOp::Add))
                && !self.layout.realized[id.index()]
                && leaves.len() > 1
                && leaves.iter().any(|(leaf, _)| product(*leaf))
        };
        for (so_far, last) in [(x, y), (y, x)] {
            if sum(so_far) && product(last) {
                return self.realize(so_far);
            }
        }
    }

    fn visit_movement(&mut self, op: &Op, x: NodeId) -> Info {
        let graph = self.graph;
        match op {
            Op::Expand(to) => {
                let repeats = to.elements() > graph.node(x).shape.elements();
                let info = &self.info[x.index()];
                if repeats && info.cost > MAX_REPEATED_COST {
                    self.realize(x);
                }
            }
            Op::Window { .. } if self.info[x.index()].cost > MAX_REPEATED_COST => self.realize(x),
            Op::Pad { fill, .. } => {
                let mut base = x;
                let mut fills_agree = true;
                while graph.node(base).op.is_movement() && !self.layout.realized[base.index()] {
                    if let Op::Pad { fill: inner, .. } = &graph.node(base).op {
                        fills_agree &= inner == fill;
                    }
                    base = graph.node(base).inputs[0];
                }
                if !fills_agree || !self.layout.realized[base.index()] {
                    self.realize(x);
                }
            }
            _ => {}
        }
        let moved = |info: &Info| -> Vec<(NodeId, IndexMap)> {
            info.leaves.iter().map(|(leaf, map)| (*leaf, map.apply(op))).collect()
        };
        let mut leaves = moved(&self.info[x.index()]);
        if leaves.iter().any(|(_, map)| map.single().is_none()) && !self.layout.realized[x.index()] {
            self.realize(x);
            leaves = moved(&self.info[x.index()]);
        }
        Info { leaves, cost: self.info[x.index()].cost, depth: self.info[x.index()].depth + 1 }
    }

    fn union(&self, inputs: &[NodeId]) -> Info {
        let mut all = Info { leaves: Vec::new(), cost: 0, depth: 0 };
        for (n, i) in inputs.iter().enumerate() {
            if inputs[..n].contains(i) {
                continue;
            }
            let info = &self.info[i.index()];
            all.cost = all.cost.saturating_add(info.cost);
            all.depth = all.depth.max(info.depth + 1);
            for leaf in &info.leaves {
                if !all.leaves.contains(leaf) {
                    all.leaves.push(leaf.clone());
                }
            }
        }
        all
    }
}

/// Roughly how many additions an operation is worth.
fn cost(op: &Op) -> u32 {
    match op {
        Op::Unary(op) => match op {
            UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Not | UnaryOp::Floor => 1,
            UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Recip => 3,
            UnaryOp::Exp | UnaryOp::Log => 6,
            UnaryOp::Tanh | UnaryOp::Erf | UnaryOp::Sin | UnaryOp::Cos => 10,
        },
        Op::Binary(BinaryOp::Div | BinaryOp::Rem) => 2,
        Op::Binary(BinaryOp::Pow) => 12,
        _ => 1,
    }
}
