//! Graphs by short names.

use wgrad_ir::{BinaryOp, CompareOp, DType, Graph, IrError, Literal, NodeId, Op, ReduceOp, Shape, UnaryOp};

/// A graph under construction.
pub(crate) struct Builder(pub(crate) Graph);

pub(crate) type Built<T = NodeId> = Result<T, IrError>;

impl Builder {
    pub(crate) fn new() -> Self {
        Builder(Graph::new())
    }

    pub(crate) fn shape(&self, x: NodeId) -> Shape {
        self.0.node(x).shape.clone()
    }

    pub(crate) fn input(&mut self, index: u32, shape: &[usize]) -> Built {
        self.0.push(Op::Input { index, shape: shape.into(), dtype: DType::F32 }, &[])
    }

    pub(crate) fn unary(&mut self, op: UnaryOp, x: NodeId) -> Built {
        self.0.push(Op::Unary(op), &[x])
    }

    pub(crate) fn binary(&mut self, op: BinaryOp, a: NodeId, b: NodeId) -> Built {
        let (a, b) = (self.like(a, b)?, self.like(b, a)?);
        self.0.push(Op::Binary(op), &[a, b])
    }

    pub(crate) fn add(&mut self, a: NodeId, b: NodeId) -> Built {
        self.binary(BinaryOp::Add, a, b)
    }

    pub(crate) fn sub(&mut self, a: NodeId, b: NodeId) -> Built {
        self.binary(BinaryOp::Sub, a, b)
    }

    pub(crate) fn mul(&mut self, a: NodeId, b: NodeId) -> Built {
        self.binary(BinaryOp::Mul, a, b)
    }

    pub(crate) fn div(&mut self, a: NodeId, b: NodeId) -> Built {
        self.binary(BinaryOp::Div, a, b)
    }

    /// `x` times a number of the formula.
    pub(crate) fn scale(&mut self, x: NodeId, factor: f64) -> Built {
        let factor = self.0.push(Op::Const(Literal::from_f64(DType::F32, factor)), &[])?;
        self.mul(x, factor)
    }

    /// `x` plus a number of the formula.
    pub(crate) fn shift(&mut self, x: NodeId, summand: f64) -> Built {
        let summand = self.0.push(Op::Const(Literal::from_f64(DType::F32, summand)), &[])?;
        self.add(x, summand)
    }

    /// `x W`.
    pub(crate) fn dot(&mut self, a: NodeId, b: NodeId) -> Built {
        self.0.push(Op::Dot, &[a, b])
    }

    pub(crate) fn permute(&mut self, x: NodeId, axes: &[usize]) -> Built {
        self.0.push(Op::Permute(axes.into()), &[x])
    }

    /// Combines the last axis, which stays with extent 1.
    pub(crate) fn along(&mut self, op: ReduceOp, x: NodeId) -> Built {
        let last = self.shape(x).dims().len() - 1;
        self.0.push(Op::Reduce { op, axes: [last].as_slice().into() }, &[x])
    }

    pub(crate) fn reshape(&mut self, x: NodeId, shape: &[usize]) -> Built {
        self.0.push(Op::Reshape(shape.into()), &[x])
    }

    /// `if query >= key { x } else { other }` over `[.., query, key]`.
    pub(crate) fn causal(&mut self, x: NodeId, other: f64) -> Built {
        let shape = self.shape(x);
        let [.., queries, keys] = *shape.dims() else { return Ok(x) };
        let ones = vec![1; shape.dims().len() - 2];
        let query = self.0.push(Op::Iota { len: queries }, &[])?;
        let query = self.reshape(query, &[&ones[..], &[queries, 1]].concat())?;
        let query = self.0.push(Op::Expand(shape.clone()), &[query])?;
        let key = self.0.push(Op::Iota { len: keys }, &[])?;
        let key = self.reshape(key, &[&ones[..], &[1, keys]].concat())?;
        let key = self.0.push(Op::Expand(shape.clone()), &[key])?;
        let visible = self.0.push(Op::Compare(CompareOp::Ge), &[query, key])?;
        let other = self.0.push(Op::Const(Literal::from_f64(DType::F32, other)), &[])?;
        let other = self.like(other, x)?;
        self.0.push(Op::Select, &[visible, x, other])
    }

    /// `x` broadcast to the shape of `model`, where it is smaller.
    fn like(&mut self, x: NodeId, model: NodeId) -> Built {
        let (from, to) = (self.shape(x), self.shape(model));
        if from == to || from.elements() > to.elements() {
            return Ok(x);
        }
        let missing = to.dims().len() - from.dims().len();
        let same_rank = self.reshape(x, &[&vec![1; missing][..], from.dims()].concat())?;
        self.0.push(Op::Expand(to), &[same_rank])
    }
}
