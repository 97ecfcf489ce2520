//! The graph of primitive operations.

use smallvec::SmallVec;

use crate::{DType, IrError, Op, Shape};

/// A node of one [`Graph`], in topological order: operands have smaller ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One operation applied to operands, with the inferred shape and dtype of its result.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// The operation.
    pub op: Op,
    /// Its operands.
    pub inputs: SmallVec<[NodeId; 3]>,
    /// Extents of the result.
    pub shape: Shape,
    /// Element type of the result.
    pub dtype: DType,
}

/// A list of operations in topological order, and which of them are wanted. Two equal graphs compute the same,
/// so a graph is its own cache key.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    outputs: Vec<NodeId>,
    donated: Vec<u32>,
}

impl Graph {
    /// A graph without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an operation, inferring shape and dtype of its result.
    ///
    /// # Errors
    /// The operands do not fit the operation, or are not nodes of this graph.
    pub fn push(&mut self, op: Op, inputs: &[NodeId]) -> Result<NodeId, IrError> {
        let mut operands: SmallVec<[(&Shape, DType); 3]> = SmallVec::new();
        for id in inputs {
            let node = self.nodes.get(id.index()).ok_or_else(|| IrError::Inconsistent {
                what: "graph",
                message: format!("operand %{} of {} comes after it", id.0, op.name()),
            })?;
            operands.push((&node.shape, node.dtype));
        }
        let (shape, dtype) = op.infer(&operands)?;
        drop(operands);
        self.nodes.push(Node { op, inputs: SmallVec::from_slice(inputs), shape, dtype });
        Ok(NodeId(self.nodes.len() as u32 - 1))
    }

    /// All nodes; `NodeId` indexes them.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    ///
    /// # Panics
    /// If `id` comes from another, larger graph: ids are only made by [`Graph::push`].
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// All ids, operands before users.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The wanted nodes.
    pub fn outputs(&self) -> &[NodeId] {
        &self.outputs
    }

    /// Says which nodes are wanted, in which order.
    pub fn set_outputs(&mut self, outputs: Vec<NodeId>) {
        self.outputs = outputs;
    }

    /// The inputs whose memory a program may write its results to, by index.
    pub fn donated(&self) -> &[u32] {
        &self.donated
    }

    /// Says which inputs the caller gives up: a program may update them in place.
    pub fn set_donated(&mut self, inputs: Vec<u32>) {
        self.donated = inputs;
    }

    /// Which nodes the outputs depend on.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for id in &self.outputs {
            live[id.index()] = true;
        }
        for index in (0..self.nodes.len()).rev() {
            if live[index] {
                for id in &self.nodes[index].inputs {
                    live[id.index()] = true;
                }
            }
        }
        live
    }
}
