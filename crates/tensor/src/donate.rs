//! Which leaves an evaluation may overwrite.

use std::sync::Arc;

use wgrad_runtime::KeptBuffer;

use crate::{Tensor, tensor::Source, trace::Trace};

/// What [`eval_donating`](crate::eval_donating) may overwrite, and who may still be holding on to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Donation<'a> {
    /// The leaves whose elements nothing needs once the wanted tensors are there, in the order of those that replace them.
    pub leaves: &'a [&'a Tensor],
    /// Handles that the caller knows of and will drop: a tensor occurs here once for each of its handles, the one behind the
    /// reference included.
    pub holders: &'a [&'a Tensor],
    /// What does it, for the message of [`TensorError::Updated`](crate::TensorError::Updated): `the optimizer's step`.
    pub by: &'static str,
}

impl Donation<'_> {
    /// The numbers of the inputs of a trace that can be given up, in the order of the leaves: the n-th of them is overwritten by the
    /// n-th wanted tensor that can take its place.
    pub(crate) fn inputs(&self, trace: &Trace) -> Vec<u32> {
        if self.leaves.is_empty() {
            return Vec::new();
        }
        let nodes = trace.graph.nodes();
        // Every handle that is accounted for: the trace's own, those of users in the trace, those that the caller names.
        let mut known = vec![1usize; nodes.len()];
        for id in nodes.iter().flat_map(|n| &n.inputs) {
            known[id.index()] += 1;
        }
        for node in &trace.inputs {
            if let Some(id) = trace.node(node) {
                known[id.index()] += 1;
            }
        }
        for holder in self.holders {
            if let Some(id) = trace.node(holder) {
                known[id.index()] += 1;
            }
        }
        // What somebody else holds, and all that it is computed from, stays. Wanted tensors get elements of their own.
        let (mut needed, mut wanted) = (vec![false; nodes.len()], vec![false; nodes.len()]);
        for id in trace.graph.outputs() {
            wanted[id.index()] = true;
        }
        for index in (0..nodes.len()).rev() {
            let held = Arc::strong_count(&trace.tensors[index].0) > known[index];
            needed[index] = (needed[index] || held) && !wanted[index];
            if needed[index] {
                for id in &nodes[index].inputs {
                    needed[id.index()] = true;
                }
            }
        }
        let free = |leaf: &&&Tensor| matches!(leaf.0.source, Source::Leaf);
        let inputs = self.leaves.iter().filter(free).filter_map(|leaf| {
            let node = trace.node(leaf).filter(|id| !needed[id.index()])?;
            match nodes[node.index()].op {
                wgrad_ir::Op::Input { index, .. } => Some(index),
                _ => None,
            }
        });
        let mut list: Vec<u32> = Vec::new();
        for input in inputs {
            if !list.contains(&input) {
                list.push(input);
            }
        }
        list
    }
}

/// Leaves without elements, until it is known whether their memory was overwritten.
pub(crate) struct GivenUp<'a>(Vec<(&'a Tensor, KeptBuffer)>);

impl<'a> GivenUp<'a> {
    /// Takes the elements of leaves.
    pub(crate) fn take(leaves: impl Iterator<Item = &'a Tensor>, by: &'static str) -> Self {
        let kept = leaves.filter_map(|leaf| {
            let kept = leaf.0.elements.get()?.keep();
            leaf.0.elements.give_up(by);
            Some((leaf, kept))
        });
        GivenUp(kept.collect())
    }

    /// Gives them back: the program did not run.
    pub(crate) fn take_back(self) {
        for (leaf, kept) in self.0 {
            leaf.0.elements.take_back(kept.restore());
        }
    }
}
