//! Reverse-mode differentiation as a graph transform: [`grad`] appends to a graph the nodes that compute a loss's gradients.
//!
//! The rules are one table (one arm per primitive, in `rules.rs`). Gradients are built from the same
//! primitives, so that they can be differentiated again.
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
mod rules;

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
    let reaches = reaches(graph, loss, wrt);
    let mut cotangents: Vec<Option<NodeId>> = vec![None; loss.index() + 1];
    let mut b = Builder::new(graph);
    if reaches[loss.index()] {
        cotangents[loss.index()] = Some(b.constant_like(loss, 1.0)?);
    }
    for index in (0..=loss.index()).rev() {
        let (true, Some(cotangent)) = (reaches[index], cotangents[index]) else { continue };
        let node = b.graph.node(NodeId(index as u32)).clone();
        for (operand, &input) in node.inputs.iter().enumerate() {
            if !reaches[input.index()] {
                continue;
            }
            let out = NodeId(index as u32);
            let part = rules::vjp(&mut b, &node, out, operand, cotangent)?;
            let sum = match cotangents[input.index()] {
                Some(so_far) => b.add(so_far, part)?,
                None => part,
            };
            cotangents[input.index()] = Some(sum);
        }
    }
    Ok(wrt.iter().map(|w| cotangents.get(w.index()).copied().flatten()).collect())
}

/// Which nodes up to the loss lie on a differentiable path down to one of `wrt`.
fn reaches(graph: &Graph, loss: NodeId, wrt: &[NodeId]) -> Vec<bool> {
    let mut reaches = vec![false; loss.index() + 1];
    for w in wrt {
        if let Some(flag) = reaches.get_mut(w.index()) {
            *flag = graph.node(*w).dtype.is_float();
        }
    }
    for (index, node) in graph.nodes()[..=loss.index()].iter().enumerate() {
        if node.dtype.is_float() && !matches!(node.op, Op::StopGradient) {
            reaches[index] |= node.inputs.iter().any(|i| reaches[i.index()]);
        }
    }
    reaches
}

/// Axes as the IR keeps them.
type Axes = SmallVec<[usize; 6]>;
