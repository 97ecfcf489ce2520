//! A loop, for random graphs.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{
    BinaryOp, CompareOp, DType, Graph, IrError, Literal, Loop, LoopOutput, NodeId, Op, ReduceOp, Shape,
    UnaryOp,
};

/// A recurrence over the leading axis of `x`; body, direction and result as the numbers say. `None` where `x` has no elements
/// or no axes.
pub(super) fn random_loop(g: &mut Graph, x: NodeId, r: [usize; 3]) -> Option<NodeId> {
    let shape = g.node(x).shape.clone();
    if shape.elements() == 0 || shape.rank() == 0 {
        return None;
    }
    build(g, x, &shape, r).ok()
}

fn build(g: &mut Graph, x: NodeId, shape: &Shape, r: [usize; 3]) -> Result<NodeId, IrError> {
    let rest: Shape = shape[1..].into();
    let sum = Op::Reduce { op: ReduceOp::Sum, axes: SmallVec::from_slice(&[0]) };
    let first = g.push(sum, &[x])?;
    let first = g.push(Op::Reshape(rest.clone()), &[first])?;
    let second = g.push(Op::Unary(UnaryOp::Cos), &[first])?;
    let mut body = Graph::new();
    let input =
        |body: &mut Graph, index, shape: Shape, dtype| body.push(Op::Input { index, shape, dtype }, &[]);
    let h = input(&mut body, 0, rest.clone(), DType::F32)?;
    let mut operands = vec![first];
    let mut each = vec![h];
    let (sequences, next) = match r[0] % 4 {
        // h' = tanh(h c + x), with a constant whose cosine does not change, and a truth value of each slice.
        0 => {
            let x_t = input(&mut body, 1, rest.clone(), DType::F32)?;
            let keep = input(&mut body, 2, rest.clone(), DType::Bool)?;
            let c = input(&mut body, 3, rest.clone(), DType::F32)?;
            let zero = g.push(Op::Const(Literal::zero(DType::F32)), &[])?;
            let zero = g.push(Op::Reshape(shape.iter().map(|_| 1).collect()), &[zero])?;
            let zero = g.push(Op::Expand(shape.clone()), &[zero])?;
            operands.extend([x, g.push(Op::Compare(CompareOp::Ge), &[x, zero])?, second]);
            let c = body.push(Op::Unary(UnaryOp::Cos), &[c])?;
            let product = body.push(Op::Binary(BinaryOp::Mul), &[h, c])?;
            let total = body.push(Op::Binary(BinaryOp::Add), &[product, x_t])?;
            let next = body.push(Op::Unary(UnaryOp::Tanh), &[total])?;
            let next = body.push(Op::Select, &[keep, next, h])?;
            each.extend([total, x_t, c]);
            (2, vec![next])
        }
        // (a, b)' = (b, sin a + x): carries that trade places.
        1 => {
            let b = input(&mut body, 1, rest.clone(), DType::F32)?;
            let x_t = input(&mut body, 2, rest.clone(), DType::F32)?;
            operands.extend([second, x]);
            let sin = body.push(Op::Unary(UnaryOp::Sin), &[h])?;
            let total = body.push(Op::Binary(BinaryOp::Add), &[sin, x_t])?;
            each.extend([b, total]);
            (1, vec![b, total])
        }
        // h' = tanh(h W + x), all rows by one matrix: a recurrent layer.
        2 => {
            let n = rest.last().copied().unwrap_or(1);
            let rows = rest.elements() / n.max(1);
            let row = g.push(Op::Reshape([rows, n].into()), &[second])?;
            let ranges = SmallVec::from_slice(&[(0, 1, 1), (0, n, 1)]);
            let row = g.push(Op::Slice { ranges }, &[row])?;
            let square = g.push(Op::Expand([n, n].into()), &[row])?;
            let x_t = input(&mut body, 1, rest.clone(), DType::F32)?;
            let w = input(&mut body, 2, [n, n].into(), DType::F32)?;
            operands.extend([x, square]);
            let flat = body.push(Op::Reshape([rows, n].into()), &[h])?;
            let w = body.push(Op::Permute(SmallVec::from_slice(&[1, 0])), &[w])?;
            let product = body.push(Op::Dot, &[flat, w])?;
            let product = body.push(Op::Reshape(rest.clone()), &[product])?;
            let total = body.push(Op::Binary(BinaryOp::Add), &[product, x_t])?;
            let next = body.push(Op::Unary(UnaryOp::Tanh), &[total])?;
            each.extend([product, next]);
            (1, vec![next])
        }
        // h' = h - max h / 2: nothing but a carry.
        _ => {
            let axes = (0..rest.rank()).collect();
            let top = body.push(Op::Reduce { op: ReduceOp::Max, axes }, &[h])?;
            let half = body.push(Op::Const(Literal::from_f64(DType::F32, 0.5)), &[])?;
            let half = body.push(Op::Reshape(rest.iter().map(|_| 1).collect()), &[half])?;
            let step = body.push(Op::Binary(BinaryOp::Mul), &[top, half])?;
            let step = body.push(Op::Expand(rest.clone()), &[step])?;
            let next = body.push(Op::Binary(BinaryOp::Sub), &[h, step])?;
            each.extend([top, next]);
            (0, vec![next])
        }
    };
    let carries = next.len();
    each.extend(&next);
    body.set_outputs(next);
    let output = match r[1] % 4 {
        0 => LoopOutput::Final((r[2] % carries) as u32),
        _ => LoopOutput::Each(each[r[2] % each.len()]),
    };
    let body = Arc::new(Loop { body, carries, sequences, length: shape[0], reverse: r[1] % 2 == 1 });
    let wanted = g.push(Op::Loop { body: body.clone(), output }, &operands)?;
    if !r[2].is_multiple_of(3) {
        return Ok(wanted);
    }
    // Two results of one loop.
    let last = g.push(Op::Loop { body, output: LoopOutput::Final(0) }, &operands)?;
    let last = g.push(Op::Reshape([1, g.node(last).shape.elements()].into()), &[last])?;
    let all = g.node(wanted).shape.elements();
    let wanted = g.push(Op::Reshape([1, all].into()), &[wanted])?;
    g.push(Op::Concat { axis: 1 }, &[wanted, last])
}
