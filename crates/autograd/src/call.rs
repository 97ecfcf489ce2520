//! Gradients of calls.
//!
//! The outputs of one call are separate nodes. The sweep comes down through all of them; at the lowest one every cotangent is
//! known, and the call's gradient function is called once: the function's own, or one that is derived from its body.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use wgrad_ir::{Function, Graph, IrError, NodeId, Op};

use crate::{AutogradError, Cotangents, build::Builder};

type Operands = SmallVec<[NodeId; 3]>;

/// The calls and loops of a graph: address of function or loop, and operands; and the nodes of their outputs in ascending order.
pub(crate) struct Calls(FxHashMap<(usize, Operands), Vec<NodeId>>);

/// What the outputs of one call have in common, apart from the operands.
fn address(op: &Op) -> Option<usize> {
    match op {
        Op::Call { function, .. } => Some(Arc::as_ptr(function) as usize),
        Op::Loop { body, .. } => Some(Arc::as_ptr(body) as usize),
        _ => None,
    }
}

impl Calls {
    /// The calls among the nodes up to `last`.
    pub(crate) fn find(graph: &Graph, last: NodeId) -> Self {
        let mut calls: FxHashMap<_, Vec<NodeId>> = FxHashMap::default();
        for (index, node) in graph.nodes()[..=last.index()].iter().enumerate() {
            if let Some(address) = address(&node.op) {
                let outputs = calls.entry((address, node.inputs.clone())).or_default();
                outputs.push(NodeId(index as u32));
            }
        }
        Calls(calls)
    }

    /// The nodes of the call whose lowest node is `id`.
    pub(crate) fn completed_at(&self, b: &Builder<'_>, id: NodeId) -> Option<&[NodeId]> {
        let node = b.graph.node(id);
        let outputs = self.0.get(&(address(&node.op)?, node.inputs.clone()))?;
        (outputs.first() == Some(&id)).then_some(outputs)
    }
}

/// Adds to the cotangents of a call's operands; `nodes` are its outputs as far as the graph has them.
pub(crate) fn vjp(
    b: &mut Builder<'_>,
    function: &Arc<Function>,
    nodes: &[NodeId],
    reaches: &[bool],
    cotangents: &mut Cotangents,
) -> Result<(), AutogradError> {
    let operands = b.graph.node(nodes[0]).inputs.clone();
    let (mut outputs, mut given) = (BTreeMap::new(), BTreeMap::new());
    for &node in nodes {
        let Op::Call { output, .. } = b.graph.node(node).op else { continue };
        outputs.entry(output).or_insert(node);
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
    let push = |b: &mut Builder<'_>, function: &Arc<Function>, output: u32, operands: &[NodeId]| {
        b.graph.push(Op::Call { function: function.clone(), output }, operands)
    };
    // Residuals have cotangents in second derivatives only: a function's own gradient reads them.
    let residual = given.keys().any(|&output| output as usize >= function.public);
    let (gradient, mut arguments) = match &function.gradient {
        Some(gradient) if !residual => {
            let mut arguments = operands.clone();
            for output in 0..function.body.outputs().len() as u32 {
                arguments.push(match outputs.get(&output) {
                    Some(&node) => node,
                    None => push(b, function, output, &operands)?,
                });
            }
            (gradient.clone(), arguments)
        }
        _ => (derived(function, residual)?, operands.clone()),
    };
    for output in differentiated(function, residual) {
        arguments.push(match given.get(&output) {
            Some(&cotangent) => cotangent,
            None => {
                let node = match outputs.get(&output) {
                    Some(&node) => node,
                    None => push(b, function, output, &operands)?,
                };
                b.constant_like(node, 0.0)?
            }
        });
    }
    let floats = operands.iter().filter(|o| b.graph.node(**o).dtype.is_float());
    let floats: SmallVec<[NodeId; 8]> = floats.copied().collect();
    for (output, operand) in floats.into_iter().enumerate() {
        if reaches[operand.index()] {
            let part = push(b, &gradient, output as u32, &arguments)?;
            cotangents.add(b, operand, part)?;
        }
    }
    Ok(())
}

/// The outputs whose cotangents a gradient function takes, in order: floats, public ones unless `residual`.
fn differentiated(function: &Function, residual: bool) -> Vec<u32> {
    let outputs = function.body.outputs();
    let count = if residual { outputs.len() } else { function.public };
    let float = |&o: &usize| function.body.node(outputs[o]).dtype.is_float();
    (0..count.min(outputs.len())).filter(float).map(|o| o as u32).collect()
}

/// How many derived gradients are kept.
const KEPT: usize = 256;

/// A function, whether its residuals are differentiated too, and its gradient.
type Derived = (Arc<Function>, bool, Arc<Function>);

/// The gradient function that follows from a function's body: of the operands and the cotangents of [`differentiated`]. A
/// training step asks for it again and again, and gets the same one; the most recently used are kept, newest last.
fn derived(function: &Arc<Function>, residual: bool) -> Result<Arc<Function>, AutogradError> {
    static DERIVED: Mutex<Vec<Derived>> = Mutex::new(Vec::new());
    // Each change below is one call on the list, so that it is whole whenever the lock is free.
    let lock = || DERIVED.lock().unwrap_or_else(PoisonError::into_inner);
    let find = |list: &mut Vec<Derived>| {
        let at = list.iter().rposition(|(f, r, _)| *r == residual && Arc::ptr_eq(f, function))?;
        list[at..].rotate_left(1);
        list.last().map(|(_, _, gradient)| gradient.clone())
    };
    if let Some(found) = find(&mut lock()) {
        return Ok(found);
    }
    // Without the lock: the body may hold calls that are derived in turn.
    let gradient = Arc::new(derive(function, residual)?);
    let mut list = lock();
    if let Some(found) = find(&mut list) {
        return Ok(found);
    }
    if list.len() >= KEPT {
        list.remove(0);
    }
    list.push((function.clone(), residual, gradient.clone()));
    Ok(gradient)
}

/// Computes the body again and goes back through it. Where nothing may be kept, barriers around the operands hold this apart
/// from the forward pass; otherwise equal nodes merge with those of the forward pass.
fn derive(function: &Function, residual: bool) -> Result<Function, AutogradError> {
    let mut body = Graph::new();
    let mut operands: BTreeMap<u32, NodeId> = BTreeMap::new();
    let mut map: Vec<NodeId> = Vec::with_capacity(function.body.nodes().len());
    for node in function.body.nodes() {
        let known = match &node.op {
            Op::Input { index, .. } => operands.get(index).copied(),
            _ => None,
        };
        let inputs: Operands = node.inputs.iter().map(|i| map[i.index()]).collect();
        let id = match (known, &node.op) {
            (Some(id), _) => id,
            (None, Op::Input { index, .. }) => {
                let mut id = body.push(node.op.clone(), &[])?;
                if function.recompute {
                    id = body.push(Op::Barrier, &[id])?;
                }
                operands.insert(*index, id);
                id
            }
            (None, op) => body.push(op.clone(), &inputs)?,
        };
        map.push(id);
    }
    let mut seeds = Vec::new();
    for (i, output) in differentiated(function, residual).into_iter().enumerate() {
        let y = function.body.outputs()[output as usize];
        let (shape, dtype) = (function.body.node(y).shape.clone(), function.body.node(y).dtype);
        let index = (operands.len() + i) as u32;
        seeds.push((map[y.index()], body.push(Op::Input { index, shape, dtype }, &[])?));
    }
    let floats = operands.values().copied().filter(|&o| body.node(o).dtype.is_float());
    let floats: Vec<NodeId> = floats.collect();
    let gradients = crate::vjp(&mut body, &seeds, &floats)?;
    let mut b = Builder::new(&mut body);
    let or_zeros = |(gradient, &operand): (Option<NodeId>, &NodeId)| match gradient {
        Some(gradient) => Ok(gradient),
        None => b.constant_like(operand, 0.0),
    };
    let outputs = gradients.into_iter().zip(&floats).map(or_zeros).collect::<Result<Vec<_>, IrError>>()?;
    let public = outputs.len();
    body.set_outputs(outputs);
    let name = format!("{}_grad", function.name);
    Ok(Function { name, body, public, gradient: None, kernel: None, recompute: false })
}
