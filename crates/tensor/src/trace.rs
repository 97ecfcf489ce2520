//! From tensors to a graph: the walk that evaluation and differentiation share.

use rustc_hash::FxHashMap;
use wgrad_ir::{Graph, IrError, Literal, NodeId, Op};
use wgrad_runtime::Buffer;

use crate::{Tensor, TensorError, tensor::Source};

/// Where a trace ends, and what becomes of what is found there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// At tensors that have been evaluated, which become inputs: what is to be run.
    Realized,
    /// At leaves, through evaluated tensors: what is to be differentiated.
    Leaves,
    /// At tensors older than this id, which become inputs as leaves and scalars do: the body of a function.
    Older(u64),
    /// As [`Until::Older`], but scalars become constants, and everything else from outside is refused.
    Closed(u64),
}

impl Until {
    /// Whether the trace goes on from a tensor to its operands.
    fn passes(self, tensor: &Tensor, operands: &[Tensor]) -> bool {
        match self {
            Until::Realized => !tensor.is_realized(),
            Until::Leaves => true,
            Until::Older(first) | Until::Closed(first) => tensor.0.id >= first || operands.is_empty(),
        }
    }
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
    /// Where the inputs' elements are, for what is to be run.
    pub(crate) buffers: Vec<Buffer>,
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
        Trace::with_inputs(&[], roots, until)
    }

    /// As [`Trace::new`], with tensors that become the first inputs whether they are needed or not.
    ///
    /// # Errors
    /// As [`Trace::new`].
    pub(crate) fn with_inputs(
        inputs: &[Tensor],
        roots: &[&Tensor],
        until: Until,
    ) -> Result<Self, TensorError> {
        let mut trace = Trace {
            graph: Graph::new(),
            tensors: Vec::new(),
            nodes: FxHashMap::default(),
            inputs: Vec::new(),
            buffers: Vec::new(),
            scalars: Vec::new(),
        };
        for input in inputs {
            let node = trace.input(input);
            trace.record(input, node?);
        }
        // Depth first with an explicit stack: histories may be longer than the call stack is deep.
        let mut stack: Vec<(&Tensor, usize)> = Vec::new();
        for &root in roots {
            stack.push((root, 0));
            while let Some((tensor, next)) = stack.pop() {
                if trace.nodes.contains_key(&tensor.0.id) {
                    continue;
                }
                let operands = match &tensor.0.source {
                    Source::Op(_, operands) if until.passes(tensor, operands) => operands.as_slice(),
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

    /// Puts the nodes into the order in which their tensors were made.
    ///
    /// # Errors
    /// Never: operands are made before what is computed from them.
    pub(crate) fn sort(&mut self) -> Result<(), TensorError> {
        let mut order: Vec<usize> = (0..self.tensors.len()).collect();
        order.sort_by_key(|&i| self.tensors[i].0.id);
        let mut graph = Graph::new();
        let mut map = vec![NodeId(0); order.len()];
        for &old in &order {
            let node = self.graph.node(NodeId(old as u32));
            let inputs: smallvec::SmallVec<[NodeId; 3]> =
                node.inputs.iter().map(|i| map[i.index()]).collect();
            map[old] = graph.push(node.op.clone(), &inputs)?;
        }
        self.tensors = order.iter().map(|&i| self.tensors[i].clone()).collect();
        self.nodes = self.tensors.iter().map(|t| t.0.id).zip((0..).map(NodeId)).collect();
        self.graph = graph;
        Ok(())
    }

    /// The node of a traced tensor.
    pub(crate) fn node(&self, tensor: &Tensor) -> Option<NodeId> {
        self.nodes.get(&tensor.0.id).copied()
    }

    fn visit(&mut self, tensor: &Tensor, until: Until) -> Result<(), TensorError> {
        let node = match &tensor.0.source {
            Source::Error(error) => return Err(error.clone()),
            Source::Op(op, operands) if until.passes(tensor, operands) => {
                let ids = operands
                    .iter()
                    .map(|operand| self.nodes.get(&operand.0.id).copied())
                    .collect::<Option<smallvec::SmallVec<[NodeId; 3]>>>();
                match ids {
                    Some(ids) => self.graph.push(op.clone(), &ids),
                    // The walk visits operands first.
                    None => Err(IrError::Inconsistent {
                        what: "graph",
                        message: format!("{} was visited before its operands", op.name()),
                    }),
                }
            }
            Source::Scalar(value) if matches!(until, Until::Closed(_)) => {
                self.graph.push(Op::Const(*value), &[])
            }
            Source::Scalar(value) if !matches!(until, Until::Older(_)) => {
                let index = self.scalars.len() as u32;
                self.scalars.push(*value);
                self.graph.push(Op::Scalar { index, dtype: value.dtype() }, &[])
            }
            Source::Op(..) | Source::Leaf | Source::Scalar(_) => {
                match until {
                    Until::Realized => self.buffers.push(tensor.memory()?),
                    Until::Closed(_) => return Err(TensorError::Captured { tensor: tensor.describe() }),
                    Until::Leaves | Until::Older(_) => {}
                }
                self.input(tensor)
            }
        };
        self.record(tensor, node?);
        Ok(())
    }

    fn input(&mut self, tensor: &Tensor) -> Result<NodeId, IrError> {
        let index = self.inputs.len() as u32;
        self.inputs.push(tensor.clone());
        let (shape, dtype) = (tensor.shape().clone(), tensor.dtype());
        self.graph.push(Op::Input { index, shape, dtype }, &[])
    }

    fn record(&mut self, tensor: &Tensor, node: NodeId) {
        self.nodes.insert(tensor.0.id, node);
        self.tensors.push(tensor.clone());
    }
}

impl Tensor {
    /// Where the elements of a leaf, or of an evaluated tensor, are.
    fn memory(&self) -> Result<Buffer, TensorError> {
        if let Some(buffer) = self.0.elements.get() {
            return Ok(buffer);
        }
        let tensor = self.describe();
        Err(match self.0.elements.updated_by() {
            Some(by) => TensorError::Updated { tensor, by },
            None => TensorError::Placeholder { tensor },
        })
    }
}
