//! Gradients of loops: loops the other way.
//!
//! An iteration of the gradient computes its forward iteration again from the carries that went into it, which the forward loop
//! stacks, and goes back through it. Products, calls and inner loops are not computed again: their results are stacked, too.
//!
//! Cotangents of carries are carries. Those of constants are sums over the iterations, taken after the loop: where a product with a
//! constant matrix gives `Σ aₜᵀ gₜ`, that is one product of what was stacked, not one more per iteration.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use smallvec::SmallVec;
use wgrad_ir::{BinaryOp, Graph, IrError, Loop, LoopOutput, LoopRole, NodeId, Op, ReduceOp, Shape};

use crate::{AutogradError, Axes, Cotangents, build::Builder};

/// Adds to the cotangents of a loop's operands; `nodes` are its outputs as far as the graph has them.
pub(crate) fn vjp(
    b: &mut Builder<'_>,
    body: &Arc<Loop>,
    nodes: &[NodeId],
    reaches: &[bool],
    cotangents: &mut Cotangents,
) -> Result<(), AutogradError> {
    let operands: Vec<NodeId> = b.graph.node(nodes[0]).inputs.to_vec();
    let mut given: BTreeMap<LoopOutput, NodeId> = BTreeMap::new();
    for &node in nodes {
        let Op::Loop { output, .. } = b.graph.node(node).op else { continue };
        if let Some(cotangent) = cotangents.of(node) {
            let sum = match given.get(&output) {
                Some(&so_far) => b.add(so_far, cotangent)?,
                None => cotangent,
            };
            given.insert(output, sum);
        }
    }
    if given.is_empty() {
        return Ok(());
    }
    if body.length == 0 {
        for (output, cotangent) in given {
            if let LoopOutput::Final(n) = output
                && reaches[operands[n as usize].index()]
            {
                cotangents.add(b, operands[n as usize], cotangent)?;
            }
        }
        return Ok(());
    }
    let reached: Vec<bool> = operands.iter().map(|o| reaches[o.index()]).collect();
    let gradient = derived(body, given.keys().copied().collect(), reached)?;
    let applied = gradient.apply(b, body, &operands, &given)?;
    for (n, &carry) in gradient.carries.iter().enumerate() {
        if reaches[operands[carry].index()] {
            let part = applied.push(b, LoopOutput::Final(n as u32))?;
            cotangents.add(b, operands[carry], part)?;
        }
    }
    for &(operand, node) in &gradient.sequences {
        let part = applied.push(b, LoopOutput::Each(node))?;
        cotangents.add(b, operands[operand], part)?;
    }
    for &(operand, node) in &gradient.constants {
        let part = applied.summed(b, node)?;
        cotangents.add(b, operands[operand], part)?;
    }
    Ok(())
}

/// Where a sequence of the gradient's loop comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    /// What went into each iteration as this carry.
    Carry(usize),
    /// A sequence of the forward loop, by operand.
    Sequence(usize),
    /// A node of the forward body.
    Node(NodeId),
    /// The cotangent of a node of the forward body.
    Cotangent(NodeId),
}

/// The gradient of a loop for some of its outputs and operands.
struct Gradient {
    body: Arc<Loop>,
    /// The forward carries whose cotangents are the carries.
    carries: Vec<usize>,
    /// Operands of the forward loop that are sequences here, and other sequences.
    sources: Vec<Source>,
    /// Operands of the forward loop that are constants here.
    shared: Vec<usize>,
    /// Sequences of the forward loop, by operand, and the nodes that give their slices' cotangents.
    sequences: Vec<(usize, NodeId)>,
    /// Constants of the forward loop, by operand, and the nodes that give an iteration's part of their cotangents.
    constants: Vec<(usize, NodeId)>,
}

/// How many derived gradients are kept.
const KEPT: usize = 256;

/// A loop, the outputs that have cotangents, the operands that want them, and the gradient.
type Derived = (Arc<Loop>, Vec<LoopOutput>, Vec<bool>, Arc<Gradient>);

/// The gradient that follows from a loop's body. A training step asks for it again and again, and gets the same one.
fn derived(
    body: &Arc<Loop>,
    given: Vec<LoopOutput>,
    reached: Vec<bool>,
) -> Result<Arc<Gradient>, AutogradError> {
    static DERIVED: Mutex<Vec<Derived>> = Mutex::new(Vec::new());
    let lock = || DERIVED.lock().unwrap_or_else(PoisonError::into_inner);
    let find = |list: &mut Vec<Derived>| {
        let same = |d: &Derived| Arc::ptr_eq(&d.0, body) && d.1 == given && d.2 == reached;
        let at = list.iter().rposition(same)?;
        list[at..].rotate_left(1);
        list.last().map(|d| d.3.clone())
    };
    if let Some(found) = find(&mut lock()) {
        return Ok(found);
    }
    // Without the lock: the body may hold loops that are derived in turn.
    let gradient = Arc::new(derive(body, &given, &reached)?);
    let mut list = lock();
    if let Some(found) = find(&mut list) {
        return Ok(found);
    }
    if list.len() >= KEPT {
        list.remove(0);
    }
    list.push((body.clone(), given, reached, gradient.clone()));
    Ok(gradient)
}

/// A forward body under construction as part of its gradient.
struct Forward {
    graph: Graph,
    /// From nodes of the body to nodes of the graph.
    map: Vec<NodeId>,
    /// By operand.
    inputs: Vec<NodeId>,
    next: Vec<NodeId>,
}

impl Forward {
    fn new(body: &Loop, operands: usize) -> Result<Self, IrError> {
        let mut graph = Graph::new();
        let mut inputs: BTreeMap<u32, NodeId> = BTreeMap::new();
        let mut map: Vec<NodeId> = Vec::with_capacity(body.body.nodes().len());
        for node in body.body.nodes() {
            let mapped: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
            let known = match &node.op {
                Op::Input { index, .. } => inputs.get(index).copied(),
                _ => None,
            };
            let id = match known {
                Some(id) => id,
                None => graph.push(node.op.clone(), &mapped)?,
            };
            if let Op::Input { index, .. } = &node.op {
                inputs.insert(*index, id);
            }
            map.push(id);
        }
        let next: Vec<NodeId> = body.body.outputs().iter().map(|o| map[o.index()]).collect();
        // Carries that nothing reads have cotangents all the same.
        for (index, id) in next.iter().enumerate() {
            let (shape, dtype) = (graph.node(*id).shape.clone(), graph.node(*id).dtype);
            if let std::collections::btree_map::Entry::Vacant(entry) = inputs.entry(index as u32) {
                entry.insert(graph.push(Op::Input { index: index as u32, shape, dtype }, &[])?);
            }
        }
        let missing = NodeId(u32::MAX);
        let inputs = (0..operands as u32).map(|i| inputs.get(&i).copied().unwrap_or(missing)).collect();
        Ok(Forward { graph, map, inputs, next })
    }

    /// Which nodes depend differentiably on one of `from`.
    fn reached(&self, from: &[NodeId]) -> Vec<bool> {
        crate::reaches(&self.graph, NodeId(self.graph.nodes().len() as u32 - 1), from)
    }

    fn is_float(&self, id: NodeId) -> bool {
        self.graph.nodes().get(id.index()).is_some_and(|node| node.dtype.is_float())
    }

    /// The carries through which cotangents pass: they lead to something that has one, and depend on something that wants one.
    fn carries(&self, given: &[NodeId], finals: &[usize], wanted: &[NodeId], reached: &[bool]) -> Vec<usize> {
        let floats: Vec<usize> = (0..self.next.len()).filter(|&n| self.is_float(self.next[n])).collect();
        let mut active: Vec<usize> = floats.iter().copied().filter(|&n| reached[n]).collect();
        loop {
            let from: Vec<NodeId> =
                active.iter().map(|&n| self.inputs[n]).chain(wanted.iter().copied()).collect();
            let flags = self.reached(&from);
            let more = floats.iter().copied().filter(|n| !active.contains(n) && flags[self.next[*n].index()]);
            let more: Vec<usize> = more.collect();
            if more.is_empty() {
                break;
            }
            active.extend(more);
        }
        let leads: Vec<Vec<bool>> = active.iter().map(|&n| self.reached(&[self.inputs[n]])).collect();
        let mut useful: Vec<usize> = active.iter().copied().filter(|n| finals.contains(n)).collect();
        loop {
            let seeds: Vec<NodeId> =
                useful.iter().map(|&n| self.next[n]).chain(given.iter().copied()).collect();
            let more = active
                .iter()
                .zip(&leads)
                .filter(|(n, leads)| !useful.contains(n) && seeds.iter().any(|s| leads[s.index()]));
            let more: Vec<usize> = more.map(|(&n, _)| n).collect();
            if more.is_empty() {
                break;
            }
            useful.extend(more);
        }
        useful.sort_unstable();
        useful
    }
}

fn derive(body: &Loop, given: &[LoopOutput], reached: &[bool]) -> Result<Gradient, AutogradError> {
    let mut forward = Forward::new(body, reached.len())?;
    let forward_len = forward.graph.nodes().len();
    let wanted: Vec<(usize, NodeId)> = (body.carries..reached.len())
        .map(|operand| (operand, forward.inputs[operand]))
        .filter(|&(operand, input)| reached[operand] && forward.is_float(input))
        .collect();
    let wanted_nodes: Vec<NodeId> = wanted.iter().map(|w| w.1).collect();
    let each = |o: &LoopOutput| if let LoopOutput::Each(id) = o { Some(*id) } else { None };
    let given_each: Vec<NodeId> = given.iter().filter_map(each).collect();
    let given_nodes: Vec<NodeId> = given_each.iter().map(|id| forward.map[id.index()]).collect();
    let finals: Vec<usize> = given
        .iter()
        .filter_map(|o| if let LoopOutput::Final(n) = o { Some(*n as usize) } else { None })
        .collect();
    let carries = forward.carries(&given_nodes, &finals, &wanted_nodes, reached);

    // Go back through one iteration.
    let mut sources: BTreeMap<NodeId, Source> = BTreeMap::new();
    let mut seeds: Vec<(NodeId, NodeId)> = Vec::new();
    let seed = |graph: &mut Graph, y: NodeId| -> Result<NodeId, IrError> {
        let (shape, dtype) = (graph.node(y).shape.clone(), graph.node(y).dtype);
        graph.push(Op::Input { index: 0, shape, dtype }, &[])
    };
    let mut carried: Vec<NodeId> = Vec::new();
    for &n in &carries {
        let cotangent = seed(&mut forward.graph, forward.next[n])?;
        carried.push(cotangent);
        seeds.push((forward.next[n], cotangent));
    }
    for (&id, &node) in given_each.iter().zip(&given_nodes) {
        let cotangent = seed(&mut forward.graph, node)?;
        sources.insert(cotangent, Source::Cotangent(id));
        seeds.push((node, cotangent));
    }
    let wrt: Vec<NodeId> = carries.iter().map(|&n| forward.inputs[n]).chain(wanted_nodes).collect();
    let gradients = crate::vjp(&mut forward.graph, &seeds, &wrt)?;
    let (of_carries, of_wanted) = gradients.split_at(carries.len());
    let mut b = Builder::new(&mut forward.graph);
    let mut roots: Vec<NodeId> = Vec::new();
    for (gradient, &n) in of_carries.iter().zip(&carries) {
        roots.push(match gradient {
            Some(gradient) => *gradient,
            None => b.constant_like(forward.inputs[n], 0.0)?,
        });
    }
    let found =
        wanted.iter().zip(of_wanted).filter_map(|(&(operand, _), gradient)| Some((operand, (*gradient)?)));
    let found: Vec<(usize, NodeId)> = found.collect();
    roots.extend(found.iter().map(|f| f.1));

    // What is needed of the forward iteration: its inputs, and what is not to be computed again.
    let graph = forward.graph;
    let varies = varying(&graph, |id| {
        let operand = forward.inputs.iter().position(|&i| i == id);
        operand.is_none_or(|o| !matches!(body.role(o as u32), LoopRole::Constant(_)))
    });
    let mut shared: Vec<usize> = Vec::new();
    let mut live = vec![false; graph.nodes().len()];
    roots.iter().for_each(|r| live[r.index()] = true);
    for id in graph.ids().rev() {
        if !live[id.index()] {
            continue;
        }
        let node = graph.node(id);
        if let Some(operand) = forward.inputs.iter().position(|&i| i == id) {
            match body.role(operand as u32) {
                LoopRole::Carry(n) => drop(sources.insert(id, Source::Carry(n))),
                LoopRole::Sequence(_) => drop(sources.insert(id, Source::Sequence(operand))),
                LoopRole::Constant(_) => shared.push(operand),
            }
        }
        let costly = matches!(
            node.op,
            Op::Dot | Op::Conv(_) | Op::Call { .. } | Op::Loop { .. } | Op::ScatterAdd { .. }
        );
        if id.index() < forward_len && costly && varies[id.index()] {
            // Several nodes of the body may have become one; any of them will do.
            if let Some(original) = forward.map.iter().position(|&m| m == id) {
                sources.insert(id, Source::Node(NodeId(original as u32)));
                continue;
            }
        }
        node.inputs.iter().for_each(|i| live[i.index()] = true);
    }
    shared.sort_unstable();
    sources.retain(|id, _| live[id.index()]);
    let sequence_nodes: Vec<NodeId> = sources.keys().copied().collect();
    let index_of = |id: NodeId| -> Option<usize> {
        let operand = || forward.inputs.iter().position(|&i| i == id);
        let carry = carried.iter().position(|&c| c == id);
        let sequence = || sequence_nodes.iter().position(|&s| s == id).map(|n| carries.len() + n);
        let constant = || {
            let n = shared.iter().position(|&s| Some(s) == operand())?;
            Some(carries.len() + sequence_nodes.len() + n)
        };
        carry.or_else(sequence).or_else(constant)
    };
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = vec![NodeId(u32::MAX); graph.nodes().len()];
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        map[id.index()] = match index_of(id) {
            Some(index) => {
                let (shape, dtype) = (node.shape.clone(), node.dtype);
                out.push(Op::Input { index: index as u32, shape, dtype }, &[])?
            }
            None => {
                let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
                out.push(node.op.clone(), &inputs)?
            }
        };
    }
    out.set_outputs(roots[..carries.len()].iter().map(|r| map[r.index()]).collect());
    let is_sequence = |operand: usize| matches!(body.role(operand as u32), LoopRole::Sequence(_));
    let mapped = found.iter().map(|&(operand, node)| (operand, map[node.index()]));
    let (sequences, constants) = mapped.partition(|&(operand, _)| is_sequence(operand));
    let body = Loop {
        body: out,
        carries: carries.len(),
        sequences: sources.len(),
        length: body.length,
        reverse: !body.reverse,
    };
    let sources = sources.into_values().collect();
    Ok(Gradient { body: Arc::new(body), carries, sources, shared, sequences, constants })
}

/// Which nodes depend on inputs that change from iteration to iteration.
fn varying(graph: &Graph, changes: impl Fn(NodeId) -> bool) -> Vec<bool> {
    let mut varies: Vec<bool> = Vec::with_capacity(graph.nodes().len());
    for id in graph.ids() {
        let node = graph.node(id);
        varies.push(match node.op {
            Op::Input { .. } => changes(id),
            _ => node.inputs.iter().any(|i| varies[i.index()]),
        });
    }
    varies
}

impl Gradient {
    /// The gradient's loop on the operands of the forward loop and the cotangents of its outputs.
    fn apply<'a>(
        &'a self,
        b: &mut Builder<'_>,
        forward: &Arc<Loop>,
        operands: &[NodeId],
        given: &BTreeMap<LoopOutput, NodeId>,
    ) -> Result<Applied<'a>, IrError> {
        let mut inputs: Vec<NodeId> = Vec::new();
        for &n in &self.carries {
            inputs.push(match given.get(&LoopOutput::Final(n as u32)) {
                Some(&cotangent) => cotangent,
                None => b.constant_like(operands[n], 0.0)?,
            });
        }
        let each = |b: &mut Builder<'_>, id: NodeId| {
            b.graph.push(Op::Loop { body: forward.clone(), output: LoopOutput::Each(id) }, operands)
        };
        for source in &self.sources {
            inputs.push(match *source {
                Source::Sequence(operand) => operands[operand],
                Source::Node(id) => each(b, id)?,
                Source::Cotangent(id) => match given.get(&LoopOutput::Each(id)) {
                    Some(&cotangent) => cotangent,
                    None => return Err(broken("a cotangent of a loop is missing")),
                },
                Source::Carry(n) => {
                    let next = each(b, forward.body.outputs()[n])?;
                    history(b, operands[n], next, forward.reverse)?
                }
            });
        }
        inputs.extend(self.shared.iter().map(|&operand| operands[operand]));
        let carries = self.body.carries;
        let varies = varying(&self.body.body, |id| match self.body.body.node(id).op {
            Op::Input { index, .. } => !matches!(self.body.role(index), LoopRole::Constant(_)),
            _ => true,
        });
        Ok(Applied { body: &self.body, operands: inputs, carries, varies })
    }
}

fn broken(message: &str) -> IrError {
    IrError::Inconsistent { what: "graph", message: message.into() }
}

/// What went into each iteration as a carry, from what was there at first and what came out of each.
fn history(b: &mut Builder<'_>, first: NodeId, next: NodeId, reverse: bool) -> Result<NodeId, IrError> {
    let shape = b.shape(next);
    let one: Shape = [1].into_iter().chain(shape[1..].iter().copied()).collect();
    let first = b.reshape(first, one)?;
    if shape[0] == 1 {
        return Ok(first);
    }
    let mut ranges: Vec<(usize, usize, usize)> = shape.iter().map(|&n| (0, n, 1)).collect();
    ranges[0] = (usize::from(reverse), shape[0] - 1, 1);
    let rest = b.slice(next, &ranges)?;
    let parts = if reverse { [rest, first] } else { [first, rest] };
    b.graph.push(Op::Concat { axis: 0 }, &parts)
}

/// A gradient's loop within the graph.
struct Applied<'a> {
    body: &'a Arc<Loop>,
    operands: Vec<NodeId>,
    carries: usize,
    varies: Vec<bool>,
}

impl Applied<'_> {
    fn push(&self, b: &mut Builder<'_>, output: LoopOutput) -> Result<NodeId, IrError> {
        b.graph.push(Op::Loop { body: self.body.clone(), output }, &self.operands)
    }

    /// The sum over all iterations of a node of the body. Linear operations are applied to the sum; products become one.
    fn summed(&self, b: &mut Builder<'_>, id: NodeId) -> Result<NodeId, IrError> {
        let node = self.body.body.node(id);
        match &node.op {
            Op::Binary(BinaryOp::Add) if self.gains(id) => {
                let parts = [self.summed(b, node.inputs[0])?, self.summed(b, node.inputs[1])?];
                b.add(parts[0], parts[1])
            }
            Op::Dot if self.gains(id) => {
                let left = self.stacked(b, node.inputs[0])?;
                let right = self.stacked(b, node.inputs[1])?;
                let rank = node.shape.rank();
                // [t, b.., m, k] as [b.., m, t k], and [t, b.., k, n] as [b.., t k, n].
                let mut perm: Axes = (1..=rank).collect();
                perm.insert(rank - 1, 0);
                let left = self.joined(b, left, perm, rank - 1)?;
                let mut perm: Axes = (1..=rank).collect();
                perm.insert(rank - 2, 0);
                let right = self.joined(b, right, perm, rank - 2)?;
                b.dot(left, right)
            }
            Op::ScatterAdd { rows } if self.gains(id) => {
                let ids = self.stacked(b, node.inputs[0])?;
                let source = self.stacked(b, node.inputs[1])?;
                b.graph.push(Op::ScatterAdd { rows: *rows }, &[ids, source])
            }
            Op::Reduce { op: ReduceOp::Sum, axes } if !self.gains(node.inputs[0]) => {
                let stacked = self.stacked(b, node.inputs[0])?;
                let axes: Axes = [0].into_iter().chain(axes.iter().map(|a| a + 1)).collect();
                let sum = b.sum(stacked, axes)?;
                b.reshape(sum, node.shape.clone())
            }
            op if op.is_movement() || matches!(op, Op::Reduce { op: ReduceOp::Sum, .. }) => {
                let sum = self.summed(b, node.inputs[0])?;
                b.graph.push(op.clone(), &[sum])
            }
            _ => {
                let stacked = self.stacked(b, id)?;
                let sum = b.sum(stacked, Axes::from_slice(&[0]))?;
                b.reshape(sum, node.shape.clone())
            }
        }
    }

    /// Moves the axis of the iterations by `perm`, and joins it with the axis behind it, which is then `at`.
    fn joined(&self, b: &mut Builder<'_>, x: NodeId, perm: Axes, at: usize) -> Result<NodeId, IrError> {
        let moved = b.permute(x, perm)?;
        let shape = b.shape(moved);
        let (before, rest) = (&shape[..at], &shape[at + 2..]);
        let joined = before.iter().copied().chain([shape[at] * shape[at + 1]]).chain(rest.iter().copied());
        b.reshape(moved, joined.collect())
    }

    /// Whether a sum over the iterations is better taken of a node's operands.
    fn gains(&self, id: NodeId) -> bool {
        let node = self.body.body.node(id);
        match &node.op {
            Op::Dot | Op::ScatterAdd { .. } => node.inputs.iter().all(|i| self.varies[i.index()]),
            Op::Binary(BinaryOp::Add) | Op::Reduce { op: ReduceOp::Sum, .. } => {
                node.inputs.iter().any(|&i| self.gains(i))
            }
            op if op.is_movement() => self.gains(node.inputs[0]),
            _ => false,
        }
    }

    /// A node of the body in every iteration, along a new leading axis.
    fn stacked(&self, b: &mut Builder<'_>, id: NodeId) -> Result<NodeId, IrError> {
        let node = self.body.body.node(id);
        let length = self.body.length;
        let long = |shape: &Shape| -> Shape { [length].into_iter().chain(shape.iter().copied()).collect() };
        let lifted = match &node.op {
            Op::Input { index, .. } if matches!(self.body.role(*index), LoopRole::Sequence(_)) => {
                return Ok(self.operands[*index as usize]);
            }
            Op::Input { index, .. } if *index as usize >= self.carries => {
                let one = [1].into_iter().chain(node.shape.iter().copied()).collect();
                let one = b.reshape(self.operands[*index as usize], one)?;
                return b.expand(one, long(&node.shape));
            }
            Op::Reshape(to) => Op::Reshape(long(to)),
            Op::Expand(to) => Op::Expand(long(to)),
            Op::Permute(perm) => Op::Permute([0].into_iter().chain(perm.iter().map(|p| p + 1)).collect()),
            Op::Slice { ranges } => {
                Op::Slice { ranges: [(0, length, 1)].into_iter().chain(ranges.iter().copied()).collect() }
            }
            Op::Pad { widths, fill } => {
                let widths = [(0, 0)].into_iter().chain(widths.iter().copied()).collect();
                Op::Pad { widths, fill: *fill }
            }
            Op::Flip(axes) => Op::Flip(axes.iter().map(|a| a + 1).collect()),
            _ => return self.push(b, LoopOutput::Each(id)),
        };
        let stacked = self.stacked(b, node.inputs[0])?;
        b.graph.push(lifted, &[stacked])
    }
}
