//! A call of attention, for random graphs.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{
    AttentionSpec, BinaryOp, CompareOp, DType, Function, FunctionKernel, Graph, IrError, Literal, NodeId, Op,
    ReduceOp, Shape, UnaryOp,
};

/// Attention with queries `x` and keys and values made from it; causality, window, mask and heads as the numbers say. `None`
/// where `x` has no elements or too many axes.
pub(super) fn attention(g: &mut Graph, x: NodeId, r: [usize; 3]) -> Option<NodeId> {
    let shape = g.node(x).shape.clone();
    if shape.elements() == 0 || shape.rank() > 4 {
        return None;
    }
    let q_shape: Shape = std::iter::repeat_n(1, 4 - shape.rank()).chain(shape.iter().copied()).collect();
    let q = g.push(Op::Reshape(q_shape.clone()), &[x]).ok()?;
    // All keys or the last ones, a head each or one for all.
    let first_key = r[2] / 2 % q_shape[1];
    let kv_heads = if r[2].is_multiple_of(2) { 1 } else { q_shape[2] };
    let ranges =
        [(0, q_shape[0], 1), (first_key, q_shape[1] - first_key, 1), (0, kv_heads, 1), (0, q_shape[3], 1)];
    let kept = g.push(Op::Slice { ranges: SmallVec::from_slice(&ranges) }, &[q]).ok()?;
    let k = g.push(Op::Unary(UnaryOp::Cos), &[kept]).ok()?;
    let v = g.push(Op::Unary(UnaryOp::Sin), &[kept]).ok()?;
    let spec = AttentionSpec {
        causal: r[0] % 2 == 1,
        window: (r[1].is_multiple_of(3)).then_some(1 + r[1] / 3),
        masked: r[0].is_multiple_of(3),
        scale: Literal::from_f64(DType::F32, 0.75),
    };
    let mut operands = vec![q, k, v];
    if spec.masked {
        // The first elements of the keys decide which of them are there.
        let ranges = [(0, q_shape[0], 1), (0, q_shape[1] - first_key, 1), (0, 1, 1), (0, 1, 1)];
        let there = g.push(Op::Slice { ranges: SmallVec::from_slice(&ranges) }, &[kept]).ok()?;
        let there = g.push(Op::Reshape([q_shape[0], q_shape[1] - first_key].into()), &[there]).ok()?;
        let there_shape = g.node(there).shape.clone();
        let limit = g.push(Op::Const(Literal::from_f64(DType::F32, -0.25)), &[]).ok()?;
        let limit = g.push(Op::Reshape([1, 1].into()), &[limit]).ok()?;
        let limit = g.push(Op::Expand(there_shape), &[limit]).ok()?;
        operands.push(g.push(Op::Compare(CompareOp::Ge), &[there, limit]).ok()?);
    }
    let operand_shapes: Vec<Shape> = operands.iter().map(|&id| g.node(id).shape.clone()).collect();
    let function = Arc::new(define(&operand_shapes, spec).ok()?);
    g.push(Op::Call { function, output: 0 }, &operands).ok()
}

/// Attention in primitives, and the kernel that may stand for it.
fn define(shapes: &[Shape], spec: AttentionSpec) -> Result<Function, IrError> {
    let mut b = Body(Graph::new());
    let mut operands = Vec::new();
    for (index, shape) in shapes.iter().enumerate() {
        let dtype = if index == 3 { DType::Bool } else { DType::F32 };
        operands.push(b.0.push(Op::Input { index: index as u32, shape: shape.clone(), dtype }, &[])?);
    }
    let [batch, queries, heads, width] = [0, 1, 2, 3].map(|d| shapes[0][d]);
    let (keys, kv_heads) = (shapes[1][1], shapes[1][2]);
    let group = heads / kv_heads;
    // b queries h d -> b h queries d -> b g r queries d; keys and values broadcast along r.
    let heads_first = Op::Permute(SmallVec::from_slice(&[0, 2, 1, 3]));
    let q = b.0.push(heads_first.clone(), &[operands[0]])?;
    let q = b.0.push(Op::Reshape([batch, kv_heads, group, queries, width].into()), &[q])?;
    let mut key_side = [operands[1], operands[2]];
    for x in &mut key_side {
        let y = b.0.push(heads_first.clone(), &[*x])?;
        let y = b.0.push(Op::Reshape([batch, kv_heads, 1, keys, width].into()), &[y])?;
        *x = b.expand(y, &[batch, kv_heads, group, keys, width])?;
    }
    let [k, v] = key_side;
    let full = [batch, kv_heads, group, queries, keys];
    let k = b.0.push(Op::Permute(SmallVec::from_slice(&[0, 1, 2, 4, 3])), &[k])?;
    let scores = b.0.push(Op::Dot, &[q, k])?;
    let scale = b.constant(spec.scale, &full)?;
    let scores = b.binary(BinaryOp::Mul, scores, scale)?;
    let visible = b.visible(spec, &full, operands.get(3).copied())?;
    let lowest = b.constant(Literal::from_f64(DType::F32, f64::from(f32::MIN)), &full)?;
    let zero = b.constant(Literal::zero(DType::F32), &full)?;
    let masked = b.0.push(Op::Select, &[visible, scores, lowest])?;
    let max = b.reduce(ReduceOp::Max, masked)?;
    let top = b.expand(max, &full)?;
    let e = b.binary(BinaryOp::Sub, masked, top)?;
    let e = b.0.push(Op::Unary(UnaryOp::Exp), &[e])?;
    let e = b.0.push(Op::Select, &[visible, e, zero])?;
    let sum = b.reduce(ReduceOp::Sum, e)?;
    // A query that sees nothing gives zeros.
    let column = [batch, kv_heads, group, queries, 1];
    let zero = b.constant(Literal::zero(DType::F32), &column)?;
    let one = b.constant(Literal::from_f64(DType::F32, 1.0), &column)?;
    let some = b.0.push(Op::Compare(CompareOp::Gt), &[sum, zero])?;
    let total = b.0.push(Op::Select, &[some, sum, one])?;
    let spread = b.expand(total, &full)?;
    let weights = b.binary(BinaryOp::Div, e, spread)?;
    let out = b.0.push(Op::Dot, &[weights, v])?;
    let out = b.0.push(Op::Reshape([batch, heads, queries, width].into()), &[out])?;
    let out = b.0.push(heads_first, &[out])?;
    let log = b.0.push(Op::Unary(UnaryOp::Log), &[total])?;
    let lse = b.binary(BinaryOp::Add, max, log)?;
    let lse = b.0.push(Op::Select, &[some, lse, zero])?;
    let lse = b.0.push(Op::Reshape([batch, heads, queries].into()), &[lse])?;
    b.0.set_outputs(vec![out, lse]);
    let kernel = Some(FunctionKernel::Attention(spec));
    Ok(Function { name: "attention".into(), body: b.0, public: 1, gradient: None, kernel, recompute: false })
}

/// A graph in the making.
struct Body(Graph);

impl Body {
    fn binary(&mut self, op: BinaryOp, a: NodeId, b: NodeId) -> Result<NodeId, IrError> {
        self.0.push(Op::Binary(op), &[a, b])
    }

    fn expand(&mut self, x: NodeId, shape: &[usize]) -> Result<NodeId, IrError> {
        self.0.push(Op::Expand(shape.into()), &[x])
    }

    /// Along the last of five axes.
    fn reduce(&mut self, op: ReduceOp, x: NodeId) -> Result<NodeId, IrError> {
        self.0.push(Op::Reduce { op, axes: SmallVec::from_slice(&[4]) }, &[x])
    }

    fn constant(&mut self, value: Literal, shape: &[usize]) -> Result<NodeId, IrError> {
        let x = self.0.push(Op::Const(value), &[])?;
        let x = self.0.push(Op::Reshape(shape.iter().map(|_| 1).collect()), &[x])?;
        self.expand(x, shape)
    }

    /// A range along one axis of a shape.
    fn range(&mut self, axis: usize, shape: &[usize]) -> Result<NodeId, IrError> {
        let x = self.0.push(Op::Iota { len: shape[axis] }, &[])?;
        let line = shape.iter().enumerate().map(|(d, &n)| if d == axis { n } else { 1 });
        let x = self.0.push(Op::Reshape(line.collect()), &[x])?;
        self.expand(x, shape)
    }

    /// Which keys `[b, g, r, i, j]` are seen.
    fn visible(
        &mut self,
        spec: AttentionSpec,
        full: &[usize; 5],
        mask: Option<NodeId>,
    ) -> Result<NodeId, IrError> {
        let mut seen = self.constant(Literal::from_f64(DType::Bool, 1.0), full)?;
        let (i, j) = (self.range(3, full)?, self.range(4, full)?);
        if spec.causal {
            let past = self.0.push(Op::Compare(CompareOp::Ge), &[i, j])?;
            seen = self.binary(BinaryOp::And, seen, past)?;
        }
        if let Some(window) = spec.window {
            let distance = self.binary(BinaryOp::Sub, i, j)?;
            let distance = self.0.push(Op::Unary(UnaryOp::Abs), &[distance])?;
            let window = self.constant(Literal::from_f64(DType::I32, window as f64), full)?;
            let near = self.0.push(Op::Compare(CompareOp::Lt), &[distance, window])?;
            seen = self.binary(BinaryOp::And, seen, near)?;
        }
        if let Some(mask) = mask {
            let mask = self.0.push(Op::Reshape([full[0], 1, 1, 1, full[4]].into()), &[mask])?;
            let mask = self.expand(mask, full)?;
            seen = self.binary(BinaryOp::And, seen, mask)?;
        }
        Ok(seen)
    }
}
