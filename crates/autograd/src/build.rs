//! Short names for the nodes that gradient rules are written with.

use wgrad_ir::{
    BinaryOp, CompareOp, CumulateOp, Graph, IrError, Literal, NodeId, Op, ReduceOp, Shape, UnaryOp,
};

use crate::Axes;

type Built = Result<NodeId, IrError>;

/// Appends nodes to a graph; each method is one primitive, or a constant broadcast to an operand's shape.
pub(crate) struct Builder<'g> {
    pub(crate) graph: &'g mut Graph,
}

impl<'g> Builder<'g> {
    pub(crate) fn new(graph: &'g mut Graph) -> Self {
        Builder { graph }
    }

    pub(crate) fn shape(&self, of: NodeId) -> Shape {
        self.graph.node(of).shape.clone()
    }

    /// `value` in the shape and dtype of a node.
    pub(crate) fn constant_like(&mut self, like: NodeId, value: f64) -> Built {
        let (shape, dtype) = (self.shape(like), self.graph.node(like).dtype);
        let scalar = self.graph.push(Op::Const(Literal::from_f64(dtype, value)), &[])?;
        if shape.rank() == 0 {
            return Ok(scalar);
        }
        let ones: Shape = shape.iter().map(|_| 1).collect();
        let one = self.reshape(scalar, ones.clone())?;
        if shape == ones { Ok(one) } else { self.expand(one, shape) }
    }

    pub(crate) fn unary(&mut self, op: UnaryOp, x: NodeId) -> Built {
        self.graph.push(Op::Unary(op), &[x])
    }

    pub(crate) fn neg(&mut self, x: NodeId) -> Built {
        self.unary(UnaryOp::Neg, x)
    }

    pub(crate) fn add(&mut self, a: NodeId, b: NodeId) -> Built {
        self.graph.push(Op::Binary(BinaryOp::Add), &[a, b])
    }

    pub(crate) fn sub(&mut self, a: NodeId, b: NodeId) -> Built {
        self.graph.push(Op::Binary(BinaryOp::Sub), &[a, b])
    }

    pub(crate) fn mul(&mut self, a: NodeId, b: NodeId) -> Built {
        self.graph.push(Op::Binary(BinaryOp::Mul), &[a, b])
    }

    pub(crate) fn div(&mut self, a: NodeId, b: NodeId) -> Built {
        self.graph.push(Op::Binary(BinaryOp::Div), &[a, b])
    }

    /// `value * x`.
    pub(crate) fn scale(&mut self, x: NodeId, value: f64) -> Built {
        let factor = self.constant_like(x, value)?;
        self.mul(x, factor)
    }

    /// `a op b`, as truth values.
    pub(crate) fn compare(&mut self, op: CompareOp, a: NodeId, b: NodeId) -> Built {
        self.graph.push(Op::Compare(op), &[a, b])
    }

    /// `x op value`, as truth values.
    pub(crate) fn compare_to(&mut self, op: CompareOp, x: NodeId, value: f64) -> Built {
        let value = self.constant_like(x, value)?;
        self.compare(op, x, value)
    }

    pub(crate) fn select(&mut self, condition: NodeId, a: NodeId, b: NodeId) -> Built {
        self.graph.push(Op::Select, &[condition, a, b])
    }

    /// `condition ? x : 0`.
    pub(crate) fn keep_where(&mut self, condition: NodeId, x: NodeId) -> Built {
        let zero = self.constant_like(x, 0.0)?;
        self.select(condition, x, zero)
    }

    pub(crate) fn reshape(&mut self, x: NodeId, to: Shape) -> Built {
        self.graph.push(Op::Reshape(to), &[x])
    }

    pub(crate) fn expand(&mut self, x: NodeId, to: Shape) -> Built {
        self.graph.push(Op::Expand(to), &[x])
    }

    pub(crate) fn permute(&mut self, x: NodeId, perm: Axes) -> Built {
        self.graph.push(Op::Permute(perm), &[x])
    }

    /// Exchanges the last two axes.
    pub(crate) fn matrix_transpose(&mut self, x: NodeId) -> Built {
        let rank = self.shape(x).rank();
        let mut perm: Axes = (0..rank).collect();
        perm.swap(rank - 1, rank - 2);
        self.permute(x, perm)
    }

    pub(crate) fn slice(&mut self, x: NodeId, ranges: &[(usize, usize, usize)]) -> Built {
        self.graph.push(Op::Slice { ranges: ranges.iter().copied().collect() }, &[x])
    }

    /// Surrounds with zeros.
    pub(crate) fn pad(&mut self, x: NodeId, widths: &[(usize, usize)]) -> Built {
        let fill = Literal::zero(self.graph.node(x).dtype);
        self.graph.push(Op::Pad { widths: widths.iter().copied().collect(), fill }, &[x])
    }

    /// Sum over `axes`, which stay with extent 1.
    pub(crate) fn sum(&mut self, x: NodeId, axes: Axes) -> Built {
        self.graph.push(Op::Reduce { op: ReduceOp::Sum, axes }, &[x])
    }

    /// A cumulation from the last element to the first: sums of one operand, a linear recurrence of two.
    pub(crate) fn cumulate_back(&mut self, axis: usize, operands: &[NodeId]) -> Built {
        let op = if operands.len() == 1 { CumulateOp::Sum } else { CumulateOp::Linear };
        let flip = Op::Flip(Axes::from_slice(&[axis]));
        let turned = operands.iter().map(|&x| self.graph.push(flip.clone(), &[x]));
        let turned = turned.collect::<Result<Vec<_>, _>>()?;
        let result = self.graph.push(Op::Cumulate { op, axis }, &turned)?;
        self.graph.push(flip, &[result])
    }

    /// The elements one further along an axis (or, with `back`, one before), zeros where there are none.
    pub(crate) fn shifted(&mut self, x: NodeId, axis: usize, back: bool) -> Built {
        let shape = self.shape(x);
        let (n, by) = (shape[axis], shape[axis].min(1));
        let mut ranges: Vec<_> = shape.iter().map(|&n| (0, n, 1)).collect();
        ranges[axis] = (if back { 0 } else { by }, n - by, 1);
        let kept = self.slice(x, &ranges)?;
        let mut widths = vec![(0, 0); shape.rank()];
        widths[axis] = if back { (by, 0) } else { (0, by) };
        self.pad(kept, &widths)
    }

    pub(crate) fn dot(&mut self, a: NodeId, b: NodeId) -> Built {
        self.graph.push(Op::Dot, &[a, b])
    }
}
