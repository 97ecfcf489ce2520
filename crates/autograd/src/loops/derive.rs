//! The gradient that follows from a loop's body.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use smallvec::SmallVec;
use wgrad_ir::{Graph, IrError, Loop, LoopOutput, LoopRole, NodeId, Op};

use super::{Gradient, Source};
use crate::{AutogradError, build::Builder};

/// How many derived gradients are kept.
const KEPT: usize = 256;

/// A loop, the outputs that have cotangents, the operands that want them, and the gradient.
type Derived = (Arc<Loop>, Vec<LoopOutput>, Vec<bool>, Arc<Gradient>);

/// The gradient that follows from a loop's body. A training step asks for it again and again, and gets the same one.
pub(super) fn derived(
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
pub(super) fn varying(graph: &Graph, changes: impl Fn(NodeId) -> bool) -> Vec<bool> {
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
