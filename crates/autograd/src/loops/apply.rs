//! The gradient's loop within the graph.

use std::{collections::BTreeMap, sync::Arc};

use wgrad_ir::{BinaryOp, IrError, Loop, LoopOutput, LoopRole, NodeId, Op, ReduceOp, Shape};

use super::{Gradient, Source, broken, derive::varying};
use crate::{Axes, build::Builder};

impl Gradient {
    /// The gradient's loop on the operands of the forward loop and the cotangents of its outputs.
    pub(super) fn apply<'a>(
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
pub(super) struct Applied<'a> {
    body: &'a Arc<Loop>,
    operands: Vec<NodeId>,
    carries: usize,
    varies: Vec<bool>,
}

impl Applied<'_> {
    pub(super) fn push(&self, b: &mut Builder<'_>, output: LoopOutput) -> Result<NodeId, IrError> {
        b.graph.push(Op::Loop { body: self.body.clone(), output }, &self.operands)
    }

    /// The sum over all iterations of a node of the body. Linear operations are applied to the sum; products become one.
    pub(super) fn summed(&self, b: &mut Builder<'_>, id: NodeId) -> Result<NodeId, IrError> {
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
