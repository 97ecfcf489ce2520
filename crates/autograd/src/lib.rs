//! Reverse-mode differentiation as a graph transform: [`grad`] appends to a graph the nodes that compute a loss's gradients.
//!
//! The rules are one table (one arm per primitive, in `rules.rs`); calls of functions bring a gradient of their own, or get
//! one from their definition (`call.rs`); the gradient of a loop is a loop (`loops.rs`). Gradients are built from the same primitives, so that they can be
//! differentiated again.
//!
//! ```
//! use wgrad_ir::{BinaryOp, DType, Graph, Op, Shape};
//! let mut g = Graph::new();
//! let x = g.push(Op::Input { index: 0, shape: Shape::scalar(), dtype: DType::F32 }, &[])?;
//! let y = g.push(Op::Binary(BinaryOp::Mul), &[x, x])?;
//! let dx = wgrad_autograd::grad(&mut g, y, &[x])?;
//! assert!(dx[0].is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod build;
mod call;
mod loops;
mod rules;
mod windows;

use build::Builder;
use smallvec::SmallVec;
use thiserror::Error;
use wgrad_ir::{DType, Graph, IrError, NodeId, Op, Shape};

/// Why a loss cannot be differentiated.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AutogradError {
    /// Only one number can be differentiated.
    #[error(
        "gradients are taken of a float scalar, got {dtype}{shape}; reduce the loss first (`mean_all`, `sum_all`)"
    )]
    NotAScalar {
        /// The loss's dtype.
        dtype: DType,
        /// The loss's shape.
        shape: Shape,
    },
    /// A primitive on the path from the loss has no gradient rule.
    #[error(
        "`{op}` has no gradient rule for operand {operand}; `detach` that operand, or express it otherwise"
    )]
    NoRule {
        /// The primitive.
        op: &'static str,
        /// Which of its operands.
        operand: usize,
    },
    /// A rule built a node that does not fit, or a node id is not of this graph.
    #[error(transparent)]
    Ir(#[from] IrError),
}

/// Appends to `graph` the nodes that compute `∂loss/∂w` for each `w` of `wrt` (leaves or intermediate nodes), and returns
/// them in that order. Existing nodes and outputs stay as they are.
///
/// `None` means that no differentiable path leads from the loss to `w`: paths end at [`Op::StopGradient`], at integers and
/// truth values. Branches that do not reach any `w` are not built.
///
/// # Errors
/// The loss is not a single float, or a primitive on the path has no gradient.
pub fn grad(graph: &mut Graph, loss: NodeId, wrt: &[NodeId]) -> Result<Vec<Option<NodeId>>, AutogradError> {
    for id in wrt.iter().chain([&loss]) {
        if id.index() >= graph.nodes().len() {
            let message = format!("%{} is not a node of the graph to differentiate", id.0);
            return Err(IrError::Inconsistent { what: "graph", message }.into());
        }
    }
    let (dtype, shape) = (graph.node(loss).dtype, graph.node(loss).shape.clone());
    if !dtype.is_float() || shape.elements() != 1 {
        return Err(AutogradError::NotAScalar { dtype, shape });
    }
    let one = Builder::new(graph).constant_like(loss, 1.0)?;
    vjp(graph, &[(loss, one)], wrt)
}

/// Appends to `graph` the nodes that compute the vector-Jacobian products `Σ cotangent · ∂y/∂w` over all `seeds` `(y, cotangent)`, for
/// each `w` of `wrt`, and returns them in that order; `None` as in [`grad`]. A cotangent has the shape and dtype of its `y`.
///
/// # Errors
/// A primitive on the path has no gradient, or a cotangent does not fit.
pub fn vjp(
    graph: &mut Graph,
    seeds: &[(NodeId, NodeId)],
    wrt: &[NodeId],
) -> Result<Vec<Option<NodeId>>, AutogradError> {
    let Some(last) = seeds.iter().map(|(y, _)| *y).max() else { return Ok(vec![None; wrt.len()]) };
    let reaches = reaches(graph, last, wrt);
    let calls = call::Calls::find(graph, last);
    let mut cotangents = Cotangents(vec![None; last.index() + 1]);
    let mut b = Builder::new(graph);
    for &(y, cotangent) in seeds.iter().filter(|(y, _)| reaches[y.index()]) {
        cotangents.add(&mut b, y, cotangent)?;
    }
    for y in (0..=last.0).rev().map(NodeId) {
        if !reaches[y.index()] {
            continue;
        }
        if let Op::Call { function, .. } = &b.graph.node(y).op {
            // All outputs of a call are differentiated together, once the last of them has its cotangent.
            let function = function.clone();
            if let Some(outputs) = calls.completed_at(&b, y) {
                call::vjp(&mut b, &function, outputs, &reaches, &mut cotangents)?;
            }
            continue;
        }
        if let Op::Loop { body, .. } = &b.graph.node(y).op {
            let body = body.clone();
            if let Some(outputs) = calls.completed_at(&b, y) {
                loops::vjp(&mut b, &body, outputs, &reaches, &mut cotangents)?;
            }
            continue;
        }
        let Some(cotangent) = cotangents.of(y) else { continue };
        let node = b.graph.node(y).clone();
        for (operand, &input) in node.inputs.iter().enumerate() {
            if reaches[input.index()] {
                let part = rules::vjp(&mut b, &node, y, operand, cotangent)?;
                cotangents.add(&mut b, input, part)?;
            }
        }
    }
    Ok(wrt.iter().map(|&w| cotangents.of(w)).collect())
}

/// What is known so far of each node's cotangent.
struct Cotangents(Vec<Option<NodeId>>);

impl Cotangents {
    fn of(&self, id: NodeId) -> Option<NodeId> {
        self.0.get(id.index()).copied().flatten()
    }

    /// Adds a part; parts come from users in descending order.
    fn add(&mut self, b: &mut Builder<'_>, id: NodeId, part: NodeId) -> Result<(), IrError> {
        let sum = match self.0[id.index()] {
            Some(so_far) => b.add(so_far, part)?,
            None => part,
        };
        self.0[id.index()] = Some(sum);
        Ok(())
    }
}

/// Which nodes up to `last` lie on a differentiable path down to one of `wrt`.
fn reaches(graph: &Graph, last: NodeId, wrt: &[NodeId]) -> Vec<bool> {
    let mut reaches = vec![false; last.index() + 1];
    for w in wrt {
        if let Some(flag) = reaches.get_mut(w.index()) {
            *flag = graph.node(*w).dtype.is_float();
        }
    }
    for (index, node) in graph.nodes()[..=last.index()].iter().enumerate() {
        if node.dtype.is_float() && !matches!(node.op, Op::StopGradient) {
            reaches[index] |= node.inputs.iter().any(|i| reaches[i.index()]);
        }
    }
    reaches
}

/// Axes as the IR keeps them.
type Axes = SmallVec<[usize; 6]>;
