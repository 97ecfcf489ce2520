//! Recurrences over a leading axis.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use crate::{DType, Graph, NodeId, Op, Shape};

/// A recurrence: `body` maps the carries, one slice of each sequence and the constants to the next carries, `length` times.
///
/// The inputs of the body (`Op::Input`; no `Op::Scalar`) are the operands of [`Op::Loop`] in order: initial carries, then sequences
/// `[length, rest..]`, of which iteration `t` sees `[rest..]`, then constants, which are the same in every iteration. Its outputs
/// are the next carries. A draw of [`Op::Random`] in the body is the same in every iteration unless its key is a sequence.
#[derive(Clone, PartialEq, Eq)]
pub struct Loop {
    /// One iteration.
    pub body: Graph,
    /// How many operands are carries.
    pub carries: usize,
    /// How many operands are sequences.
    pub sequences: usize,
    /// Number of iterations.
    pub length: usize,
    /// Whether iterations go from the last slice to the first. Results stay in the order of the slices.
    pub reverse: bool,
}

/// What a node of a loop yields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum LoopOutput {
    /// A carry after the last iteration.
    Final(u32),
    /// A node of the body in every iteration, stacked along a new leading axis.
    Each(NodeId),
}

impl Loop {
    /// What an input of the body is, given its index.
    pub fn role(&self, index: u32) -> LoopRole {
        let index = index as usize;
        match index.checked_sub(self.carries) {
            None => LoopRole::Carry(index),
            Some(n) if n < self.sequences => LoopRole::Sequence(n),
            Some(n) => LoopRole::Constant(n - self.sequences),
        }
    }

    /// The body's slices in the order of the iterations.
    pub fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (length, reverse) = (self.length, self.reverse);
        (0..length).map(move |n| if reverse { length - 1 - n } else { n })
    }

    /// Shape and dtype of an output for operands of the given shapes and dtypes.
    pub(crate) fn infer(
        &self,
        output: LoopOutput,
        operands: &[(&Shape, DType)],
    ) -> Result<(Shape, DType), String> {
        let body = &self.body;
        let nodes = body.nodes();
        if self.carries + self.sequences > operands.len() || body.outputs().len() != self.carries {
            return Err(format!(
                "has {} carries, {} next carries and {} sequences, but {} operands",
                self.carries,
                body.outputs().len(),
                self.sequences,
                operands.len()
            ));
        }
        for node in nodes {
            if let Op::Input { index, shape, dtype } = &node.op {
                let role = self.role(*index);
                let expected: Shape = match role {
                    LoopRole::Sequence(_) => [self.length].iter().chain(shape.iter()).copied().collect(),
                    _ => shape.clone(),
                };
                let given = operands.get(*index as usize);
                if given != Some(&(&expected, *dtype)) {
                    let got = given.map_or("none".into(), |(s, d)| format!("{d}{s}"));
                    return Err(format!("operand {index} should be {dtype}{expected}, got {got}"));
                }
            }
        }
        for (n, id) in body.outputs().iter().enumerate() {
            let next = nodes.get(id.index()).map(|node| (&node.shape, node.dtype));
            if next != Some(operands[n]) {
                let got = next.map_or("none".into(), |(s, d)| format!("{d}{s}"));
                let (shape, dtype) = operands[n];
                return Err(format!("carry {n} is {dtype}{shape} at first, and {got} after an iteration"));
            }
        }
        match output {
            LoopOutput::Final(n) => match operands[..self.carries].get(n as usize) {
                Some(&(shape, dtype)) => Ok((shape.clone(), dtype)),
                None => Err(format!("has no carry {n}")),
            },
            LoopOutput::Each(id) => match nodes.get(id.index()) {
                Some(node) => {
                    Ok(([self.length].iter().chain(node.shape.iter()).copied().collect(), node.dtype))
                }
                None => Err(format!("has no node %{} in its body", id.0)),
            },
        }
    }
}

/// What an input of a loop's body is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LoopRole {
    /// A carry, by number.
    Carry(usize),
    /// A slice of a sequence, by number.
    Sequence(usize),
    /// A constant, by number.
    Constant(usize),
}

impl Hash for Loop {
    /// Hashes the size of the body, not the body: a graph with loops is hashed at every step.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.body.nodes().len().hash(state);
        self.body.outputs().hash(state);
        (self.carries, self.sequences, self.length, self.reverse).hash(state);
    }
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop")
            .field("length", &self.length)
            .field("reverse", &self.reverse)
            .field("nodes", &self.body.nodes().len())
            .finish_non_exhaustive()
    }
}
