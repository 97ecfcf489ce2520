//! From tensors to a graph: the walk that evaluation and differentiation share.

use rustc_hash::FxHashMap;
use wgrad_ir::{Graph, IrError, Literal, NodeId, Op};
use wgrad_runtime::Buffer;

use crate::{Tensor, TensorError, tensor::Source};

/// Where a trace ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// At tensors that have been evaluated, which become inputs: what is to be run.
    Realized,
    /// At leaves, through evaluated tensors: what is to be differentiated.
    Leaves,
}

/// A graph and the tensors that it was traced from.
pub(crate) struct Trace {
    pub(crate) graph: Graph,
    /// The tensor behind each node.
    pub(crate) tensors: Vec<Tensor>,
    /// Tensor id to node.
    pub(crate) nodes: FxHashMap<u64, NodeId>,
    /// What the graph's inputs are, in order.
    pub(crate) inputs: Vec<Tensor>,
    /// What the graph's scalars are, in order.
    pub(crate) scalars: Vec<Literal>,
}

impl Trace {
    /// The graph of everything that `roots` need. Inputs and scalars are numbered in order of first visit, so that the same
    /// expression gives the same graph, whatever it is applied to.
    ///
    /// # Errors
    /// The error that a tensor carries.
    pub(crate) fn new(roots: &[&Tensor], until: Until) -> Result<Self, TensorError> {
        let mut trace = Trace {
            graph: Graph::new(),
            tensors: Vec::new(),
            nodes: FxHashMap::default(),
            inputs: Vec::new(),
            scalars: Vec::new(),
        };
        // Depth first with an explicit stack: histories may be longer than the call stack is deep.
        let mut stack: Vec<(&Tensor, usize)> = Vec::new();
        for &root in roots {
            stack.push((root, 0));
            while let Some((tensor, next)) = stack.pop() {
                if trace.nodes.contains_key(&tensor.0.id) {
                    continue;
                }
                let operands = match &tensor.0.source {
                    Source::Op(_, operands) if until == Until::Leaves || !tensor.is_realized() => {
                        operands.as_slice()
                    }
                    _ => &[],
                };
                match operands.get(next) {
                    Some(operand) => {
                        stack.push((tensor, next + 1));
                        stack.push((operand, 0));
                    }
                    None => trace.visit(tensor, until)?,
                }
            }
        }
        Ok(trace)
    }

    /// The node of a traced tensor.
    pub(crate) fn node(&self, tensor: &Tensor) -> Option<NodeId> {
        self.nodes.get(&tensor.0.id).copied()
    }

    /// The buffers of the inputs.
    pub(crate) fn buffers(&self) -> Vec<Buffer> {
        self.inputs.iter().filter_map(|t| t.0.buffer.get().cloned()).collect()
    }

    fn visit(&mut self, tensor: &Tensor, until: Until) -> Result<(), TensorError> {
        let pushed = match &tensor.0.source {
            Source::Error(error) => return Err(error.clone()),
            Source::Op(op, operands) if until == Until::Leaves || !tensor.is_realized() => {
                let ids = operands
                    .iter()
                    .map(|operand| self.nodes.get(&operand.0.id).copied())
                    .collect::<Option<smallvec::SmallVec<[NodeId; 3]>>>();
                let ids = ids.ok_or_else(|| IrError::Inconsistent {
                    what: "graph",
                    message: format!("{} was visited before its operands", op.name()),
                })?;
                self.graph.push(op.clone(), &ids)
            }
            Source::Scalar(value) => {
                let index = self.scalars.len() as u32;
                self.scalars.push(*value);
                self.graph.push(Op::Scalar { index, dtype: value.dtype() }, &[])
            }
            Source::Op(..) | Source::Leaf => {
                let index = self.inputs.len() as u32;
                self.inputs.push(tensor.clone());
                let (shape, dtype) = (tensor.shape().clone(), tensor.dtype());
                self.graph.push(Op::Input { index, shape, dtype }, &[])
            }
        };
        self.nodes.insert(tensor.0.id, pushed?);
        self.tensors.push(tensor.clone());
        Ok(())
    }
}
