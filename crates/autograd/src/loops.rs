//! Gradients of loops: loops the other way.
//!
//! An iteration of the gradient computes its forward iteration again from the carries that went into it, which the forward loop
//! stacks, and goes back through it. Products, calls and inner loops are not computed again: their results are stacked, too.
//!
//! Cotangents of carries are carries. Those of constants are sums over the iterations, taken after the loop: where a product with a
//! constant matrix gives `Σ aₜᵀ gₜ`, that is one product of what was stacked, not one more per iteration.

use std::{collections::BTreeMap, sync::Arc};

use wgrad_ir::{IrError, Loop, LoopOutput, NodeId, Op};

use crate::{AutogradError, Cotangents, build::Builder};

mod apply;
mod derive;

use derive::derived;

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

fn broken(message: &str) -> IrError {
    IrError::Inconsistent { what: "graph", message: message.into() }
}
