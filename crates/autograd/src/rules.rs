//! The table of gradient rules, one arm per primitive.
//!
//! Throughout, `y = op(x..)` is the node, `g` the cotangent of `y` (same shape and dtype), and an arm returns the cotangent of
//! one operand: `Σ g · ∂y/∂operand`. Formulas and the treatment of ties follow PyTorch's `derivatives.yaml`.

use std::f64::consts::FRAC_2_SQRT_PI;

use wgrad_ir::{BinaryOp, CompareOp, CumulateOp, IrError, Node, NodeId, Op, ReduceOp, UnaryOp};

use crate::{
    AutogradError, Axes,
    build::Builder,
    windows::{unconv, unwindow},
};

/// The cotangent of operand number `operand` of node `y`.
pub(crate) fn vjp(
    b: &mut Builder<'_>,
    node: &Node,
    y: NodeId,
    operand: usize,
    g: NodeId,
) -> Result<NodeId, AutogradError> {
    let x = node.inputs[operand];
    let no_rule = || AutogradError::NoRule { op: node.op.name(), operand };
    let dx = match &node.op {
        Op::Unary(op) => unary(b, *op, x, y, g)?.ok_or_else(no_rule)?,
        Op::Binary(op) => {
            binary(b, *op, [node.inputs[0], node.inputs[1]], y, operand, g)?.ok_or_else(no_rule)?
        }
        // c ? a : b: g where c, or where not c.
        Op::Select => {
            let zero = b.constant_like(g, 0.0)?;
            match operand {
                1 => b.select(node.inputs[0], g, zero)?,
                2 => b.select(node.inputs[0], zero, g)?,
                _ => return Err(no_rule()),
            }
        }
        // Between floats; other casts are not on a path.
        Op::Cast(_) => {
            let to = b.graph.node(x).dtype;
            b.graph.push(Op::Cast(to), &[g])?
        }
        Op::Reshape(_) => {
            let shape = b.shape(x);
            b.reshape(g, shape)?
        }
        Op::Permute(perm) => {
            let mut inverse: Axes = (0..perm.len()).collect();
            perm.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
            b.permute(g, inverse)?
        }
        // Copies add up.
        Op::Expand(to) => {
            let from = b.shape(x);
            let axes: Axes = (0..to.rank()).filter(|&a| from[a] != to[a]).collect();
            if axes.is_empty() { g } else { b.sum(g, axes)? }
        }
        Op::Slice { ranges } => unslice(b, x, ranges, g)?,
        Op::Pad { widths, .. } => {
            let ranges: Vec<_> =
                widths.iter().zip(b.shape(x).iter()).map(|(&(lo, _), &n)| (lo, n, 1)).collect();
            b.slice(g, &ranges)?
        }
        Op::Flip(axes) => b.graph.push(Op::Flip(axes.clone()), &[g])?,
        Op::Window { axis, size, step, dilation } => unwindow(b, x, *axis, (*size, *step, *dilation), g)?,
        Op::Barrier => g,
        Op::Concat { axis } => {
            let before = node.inputs[..operand].iter().map(|&i| b.shape(i)[*axis]).sum();
            let ranges: Vec<_> = b
                .shape(x)
                .iter()
                .enumerate()
                .map(|(a, &n)| (if a == *axis { before } else { 0 }, n, 1))
                .collect();
            b.slice(g, &ranges)?
        }
        Op::Reduce { op: ReduceOp::Sum, .. } => {
            let shape = b.shape(x);
            b.expand(g, shape)?
        }
        // g, split evenly among the elements that attain the extremum.
        Op::Reduce { op: ReduceOp::Max | ReduceOp::Min, axes } => {
            let shape = b.shape(x);
            let extremum = b.expand(y, shape.clone())?;
            let attains = b.compare(CompareOp::Eq, x, extremum)?;
            let dtype = node.dtype;
            let ones = b.graph.push(Op::Cast(dtype), &[attains])?;
            let count = b.sum(ones, axes.clone())?;
            let share = b.div(g, count)?;
            let share = b.expand(share, shape)?;
            b.mul(share, ones)?
        }
        Op::Cumulate { op: CumulateOp::Sum, axis } => b.cumulate_back(*axis, &[g])?,
        // The cotangent of what is added in step i: λᵢ = gᵢ + aᵢ₊₁ λᵢ₊₁; that of the factor: λᵢ yᵢ₋₁.
        Op::Cumulate { op: CumulateOp::Linear, axis } => {
            let later = b.shifted(node.inputs[0], *axis, false)?;
            let terms = b.cumulate_back(*axis, &[later, g])?;
            if operand == 1 {
                terms
            } else {
                let before = b.shifted(y, *axis, true)?;
                b.mul(terms, before)?
            }
        }
        // C = A B: dA = g Bᵀ, dB = Aᵀ g.
        Op::Dot if operand == 0 => {
            let bt = b.matrix_transpose(node.inputs[1])?;
            b.dot(g, bt)?
        }
        Op::Dot => {
            let at = b.matrix_transpose(node.inputs[0])?;
            b.dot(at, g)?
        }
        Op::Conv(spec) => unconv(b, spec, [node.inputs[0], node.inputs[1]], operand, g)?,
        Op::Gather if operand == 0 => {
            let rows = b.shape(x)[0];
            b.graph.push(Op::ScatterAdd { rows }, &[node.inputs[1], g])?
        }
        Op::ScatterAdd { .. } if operand == 1 => b.graph.push(Op::Gather, &[g, node.inputs[0]])?,
        Op::Input { .. }
        | Op::Scalar { .. }
        | Op::Const(_)
        | Op::Iota { .. }
        | Op::Random { .. }
        // Calls and loops are differentiated as a whole, in `call.rs` and `loops.rs`.
        | Op::Call { .. }
        | Op::Loop { .. }
        | Op::Compare(_)
        | Op::StopGradient
        | Op::Gather
        // Positions are integers.
        | Op::Sort { .. }
        | Op::ScatterAdd { .. } => return Err(no_rule()),
    };
    Ok(dx)
}

fn unary(
    b: &mut Builder<'_>,
    op: UnaryOp,
    x: NodeId,
    y: NodeId,
    g: NodeId,
) -> Result<Option<NodeId>, IrError> {
    Ok(Some(match op {
        UnaryOp::Neg => b.neg(g)?,
        // g sign(x), with sign(0) = 0.
        UnaryOp::Abs => {
            let positive = b.compare_to(CompareOp::Gt, x, 0.0)?;
            let negative = b.compare_to(CompareOp::Lt, x, 0.0)?;
            let minus_g = b.neg(g)?;
            let below = b.keep_where(negative, minus_g)?;
            b.select(positive, g, below)?
        }
        // g eˣ
        UnaryOp::Exp => b.mul(g, y)?,
        // g / x
        UnaryOp::Log => b.div(g, x)?,
        // g / (2 √x)
        UnaryOp::Sqrt => {
            let half = b.scale(g, 0.5)?;
            b.div(half, y)?
        }
        // -g y³ / 2
        UnaryOp::Rsqrt => {
            let y2 = b.mul(y, y)?;
            let y3 = b.mul(y2, y)?;
            let half = b.scale(y3, -0.5)?;
            b.mul(g, half)?
        }
        // -g y²
        UnaryOp::Recip => {
            let y2 = b.mul(y, y)?;
            let gy2 = b.mul(g, y2)?;
            b.neg(gy2)?
        }
        // g (1 - y²)
        UnaryOp::Tanh => {
            let y2 = b.mul(y, y)?;
            let one = b.constant_like(y, 1.0)?;
            let slope = b.sub(one, y2)?;
            b.mul(g, slope)?
        }
        // g 2/√π e^(-x²)
        UnaryOp::Erf => {
            let x2 = b.mul(x, x)?;
            let minus = b.neg(x2)?;
            let bell = b.unary(UnaryOp::Exp, minus)?;
            let slope = b.scale(bell, FRAC_2_SQRT_PI)?;
            b.mul(g, slope)?
        }
        // g cos x
        UnaryOp::Sin => {
            let slope = b.unary(UnaryOp::Cos, x)?;
            b.mul(g, slope)?
        }
        // -g sin x
        UnaryOp::Cos => {
            let sin = b.unary(UnaryOp::Sin, x)?;
            let gs = b.mul(g, sin)?;
            b.neg(gs)?
        }
        // Constant between its steps.
        UnaryOp::Floor => b.constant_like(x, 0.0)?,
        UnaryOp::Not => return Ok(None),
    }))
}

fn binary(
    b: &mut Builder<'_>,
    op: BinaryOp,
    [p, q]: [NodeId; 2],
    y: NodeId,
    operand: usize,
    g: NodeId,
) -> Result<Option<NodeId>, IrError> {
    Ok(Some(match (op, operand) {
        (BinaryOp::Add, _) | (BinaryOp::Sub, 0) | (BinaryOp::Rem, 0) => g,
        (BinaryOp::Sub, _) => b.neg(g)?,
        (BinaryOp::Mul, 0) => b.mul(g, q)?,
        (BinaryOp::Mul, _) => b.mul(g, p)?,
        (BinaryOp::Div, 0) => b.div(g, q)?,
        // -g p/q² = -(g / q) y
        (BinaryOp::Div, _) => {
            let per_q = b.div(g, q)?;
            let scaled = b.mul(per_q, y)?;
            b.neg(scaled)?
        }
        // g to the larger (smaller) operand, half to each where they are equal.
        (BinaryOp::Max | BinaryOp::Min, _) => {
            let (this, other) = if operand == 0 { (p, q) } else { (q, p) };
            let wins = if op == BinaryOp::Max { CompareOp::Gt } else { CompareOp::Lt };
            let wins = b.compare(wins, this, other)?;
            let ties = b.compare(CompareOp::Eq, this, other)?;
            let half = b.scale(g, 0.5)?;
            let shared = b.keep_where(ties, half)?;
            b.select(wins, g, shared)?
        }
        // g q p^(q-1), and 0 where q = 0 (also at p = 0).
        (BinaryOp::Pow, 0) => {
            let one = b.constant_like(q, 1.0)?;
            let less = b.sub(q, one)?;
            let power = b.graph.push(Op::Binary(BinaryOp::Pow), &[p, less])?;
            let slope = b.mul(q, power)?;
            let dp = b.mul(g, slope)?;
            let flat = b.compare_to(CompareOp::Eq, q, 0.0)?;
            let zero = b.constant_like(g, 0.0)?;
            b.select(flat, zero, dp)?
        }
        // g p^q ln p, and 0 at p = 0, q >= 0, where p^q does not depend on q (or jumps).
        (BinaryOp::Pow, _) => {
            let base_zero = b.compare_to(CompareOp::Eq, p, 0.0)?;
            let grows = b.compare_to(CompareOp::Ge, q, 0.0)?;
            let flat = b.graph.push(Op::Binary(BinaryOp::And), &[base_zero, grows])?;
            let log = b.unary(UnaryOp::Log, p)?;
            let slope = b.mul(y, log)?;
            let dq = b.mul(g, slope)?;
            let zero = b.constant_like(g, 0.0)?;
            b.select(flat, zero, dq)?
        }
        // p - q trunc(p/q): -g trunc(p/q)
        (BinaryOp::Rem, _) => {
            let ratio = b.div(p, q)?;
            let below = b.unary(UnaryOp::Floor, ratio)?;
            let minus = b.neg(ratio)?;
            let above = b.unary(UnaryOp::Floor, minus)?;
            let above = b.neg(above)?;
            let negative = b.compare_to(CompareOp::Lt, ratio, 0.0)?;
            let trunc = b.select(negative, above, below)?;
            let scaled = b.mul(g, trunc)?;
            b.neg(scaled)?
        }
        (BinaryOp::And | BinaryOp::Or, _) => return Ok(None),
    }))
}

/// Puts the elements of `g` back where a slice took them from, zeros elsewhere. Steps beyond 1 spread `g` by a pad along an
/// axis of extent 1 beside each stepped one, `[.., len, 1, ..] -> [.., len, step, ..] -> [.., len * step, ..]`.
fn unslice(
    b: &mut Builder<'_>,
    x: NodeId,
    ranges: &[(usize, usize, usize)],
    g: NodeId,
) -> Result<NodeId, IrError> {
    let shape = b.shape(x);
    let mut g = g;
    if ranges.iter().any(|r| r.2 > 1) {
        let split = ranges.iter().flat_map(|&(_, len, _)| [len, 1]).collect();
        let widths: Vec<_> = ranges.iter().flat_map(|&(_, _, step)| [(0, 0), (0, step - 1)]).collect();
        let merged = ranges.iter().map(|&(_, len, step)| len * step).collect();
        let crop: Vec<_> = ranges
            .iter()
            .zip(shape.iter())
            .map(|(&(start, len, step), &n)| (0, (len * step).min(n - start), 1))
            .collect();
        g = b.reshape(g, split)?;
        g = b.pad(g, &widths)?;
        g = b.reshape(g, merged)?;
        g = b.slice(g, &crop)?;
    }
    let extents = b.shape(g);
    let widths: Vec<_> = ranges
        .iter()
        .zip(shape.iter().zip(extents.iter()))
        .map(|(&(start, _, _), (&n, &len))| (start, n - start - len))
        .collect();
    b.pad(g, &widths)
}
