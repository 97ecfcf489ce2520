//! Gradients of a loss as tensors.

use std::panic::Location;

use wgrad_ir::NodeId;

use crate::{
    Tensor, TensorError,
    tensor::Source,
    trace::{Trace, Until},
};

/// `∂loss/∂w` for each `w` of `wrt`, lazy tensors of the shapes of `wrt`. The loss is one float; `wrt` may be leaves or anything
/// that the loss was computed from, evaluated or not. Gradients can be differentiated again.
///
/// # Errors
/// A tensor carries an error, the loss is not a float scalar, it does not depend differentiably on one of `wrt`, or an
/// operation between them has no gradient.
#[track_caller]
pub fn grad(loss: &Tensor, wrt: &[&Tensor]) -> Result<Vec<Tensor>, TensorError> {
    let location = Location::caller();
    let gradients = grad_allow_unused(loss, wrt)?;
    let named = gradients.into_iter().zip(wrt).enumerate();
    named
        .map(|(position, (gradient, w))| {
            gradient.ok_or_else(|| TensorError::Unreachable { tensor: w.describe(), position, location })
        })
        .collect()
}

/// As [`grad`], with `None` where the loss does not depend on a tensor, or only through integers, comparisons and
/// [`Tensor::detach`].
///
/// # Errors
/// As [`grad`], but for that.
pub fn grad_allow_unused(loss: &Tensor, wrt: &[&Tensor]) -> Result<Vec<Option<Tensor>>, TensorError> {
    loss.check()?;
    for w in wrt {
        w.check()?;
    }
    let mut trace = Trace::new(&[loss], Until::Leaves)?;
    let Some(loss_node) = trace.node(loss) else { return Ok(vec![None; wrt.len()]) };
    let traced: Vec<NodeId> = wrt.iter().filter_map(|w| trace.node(w)).collect();
    let mut found = wgrad_autograd::grad(&mut trace.graph, loss_node, &traced)?.into_iter();
    // One answer per tensor that occurs in the loss; the others have no gradient.
    let nodes: Vec<Option<NodeId>> =
        wrt.iter().map(|w| trace.node(w).and_then(|_| found.next().flatten())).collect();
    trace.graph.set_outputs(nodes.iter().copied().flatten().collect());
    if cfg!(debug_assertions) {
        wgrad_ir::verify_graph(&trace.graph)?;
    }
    let tensors = wrap(&trace, loss);
    Ok(nodes.into_iter().map(|node| tensors.get(node?.index())?.clone()).collect())
}

/// For each of `others`, whether `tensor` is computed from it in any way, gradients or not: through integers, comparisons,
/// [`Tensor::detach`], or a detached handle of the same elements. Tells a parameter that is cut off from one that is not used.
///
/// # Errors
/// A tensor carries an error.
pub fn depends_on(tensor: &Tensor, others: &[&Tensor]) -> Result<Vec<bool>, TensorError> {
    tensor.check()?;
    let trace = Trace::new(&[tensor], Until::Leaves)?;
    let leaves: Vec<&Tensor> = trace.tensors.iter().filter(|t| matches!(t.0.source, Source::Leaf)).collect();
    let shares = |leaf: &&Tensor, other: &Tensor| match (leaf.place(), other.place()) {
        (Some((a, from)), Some((b, start))) => {
            a.is_same(&b) && from == start && leaf.elements() == other.elements() && other.elements() > 0
        }
        _ => false,
    };
    Ok(others
        .iter()
        .map(|other| trace.node(other).is_some() || leaves.iter().any(|l| shares(l, other)))
        .collect())
}

/// The tensor of every node: those the graph was traced from, and new ones for nodes that autograd appended and that are
/// needed.
fn wrap(trace: &Trace, loss: &Tensor) -> Vec<Option<Tensor>> {
    let live = trace.graph.live();
    let mut tensors: Vec<Option<Tensor>> = trace.tensors.iter().cloned().map(Some).collect();
    for (node, live) in trace.graph.nodes().iter().zip(live).skip(trace.tensors.len()) {
        let operands = node.inputs.iter().map(|i| tensors.get(i.index())?.clone()).collect::<Option<_>>();
        let tensor = operands.filter(|_| live).map(|operands| {
            let source = Source::Op(node.op.clone(), operands);
            Tensor::new(source, node.shape.clone(), node.dtype, loss.device().clone(), None)
        });
        tensors.push(tensor);
    }
    tensors
}
