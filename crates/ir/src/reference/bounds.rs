//! How far from the exact value of a graph a device that computes in `f32` may be: running error analysis.

use super::graph::{Operand, evaluate};
use super::{binary, node_values, unary};
use crate::{BinaryOp, CumulateOp, DType, Graph, Literal, Loop, LoopOutput, Node, Op, ReduceOp, UnaryOp};

/// What a rounding changes at most, relative to its result; twice that of `f32`, for operations that do not round to nearest.
const ROUNDING: f64 = 1.0 / (1 << 23) as f64;
/// What a device's special functions are off by, relative to 1 or to their result, where that is larger.
const SPECIAL: f64 = 16.0 * ROUNDING;
/// Beyond it, sines and cosines in `f32` mean nothing.
const TRIG_LIMIT: f64 = 1e4;

/// The elements of a graph's outputs, as [`run_graph`](super::run_graph) computes them, each with a bound of its error in `f32`:
/// whatever the order of sums and wherever operations are contracted, a right device is no farther off. The bound is infinite where
/// the exact value says nothing (an overflow, a sine of a huge number).
///
/// # Panics
/// As [`run_graph`](super::run_graph).
pub fn run_graph_within(graph: &Graph, inputs: &[Vec<f64>], scalars: &[f64]) -> Vec<Vec<(f64, f64)>> {
    let exact: Vec<Vec<f64>> = inputs.iter().map(|x| vec![0.0; x.len()]).collect();
    let (values, errors) = node_errors(graph, inputs, &exact, scalars);
    let output = |&id: &crate::NodeId| {
        values[id.index()].iter().copied().zip(errors[id.index()].iter().copied()).collect()
    };
    graph.outputs().iter().map(output).collect()
}

/// The elements of every node and their errors, given those of the inputs.
fn node_errors(
    graph: &Graph,
    inputs: &[Vec<f64>],
    input_errors: &[Vec<f64>],
    scalars: &[f64],
) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let values = node_values(graph, inputs, scalars);
    let mut errors: Vec<Vec<f64>> = Vec::new();
    for (node, result) in graph.nodes().iter().zip(&values) {
        let x: Vec<Inexact<'_>> = node
            .inputs
            .iter()
            .map(|id| Inexact {
                node: graph.node(*id),
                values: &values[id.index()],
                errors: &errors[id.index()],
            })
            .collect();
        let mut found = match &node.op {
            Op::Input { index, .. } => input_errors[*index as usize].clone(),
            _ => propagate(node, &x, result),
        };
        let moved = node.op.is_movement() || matches!(node.op, Op::Input { .. } | Op::Concat { .. });
        let (rounding, least, largest) = kept(node.dtype);
        for (error, value) in found.iter_mut().zip(result) {
            if !moved && rounding > 0.0 {
                *error += rounding * (value.abs() + *error) + least;
            }
            if node.dtype.is_float() && value.abs() + *error > largest || error.is_nan() {
                *error = f64::INFINITY;
            }
        }
        errors.push(found);
    }
    (values, errors)
}

/// What keeping a value in a dtype of 16 bits changes, relative to it and at least, and the largest value that it keeps.
fn kept(dtype: DType) -> (f64, f64, f64) {
    match dtype {
        DType::F16 => (1.0 / (1 << 11) as f64, f64::from(2f32.powi(-25)), 65504.0),
        DType::BF16 => (1.0 / (1 << 8) as f64, 0.0, f64::from(f32::MAX)),
        _ => (0.0, 0.0, f64::from(f32::MAX)),
    }
}

/// A node, its exact elements and their errors.
struct Inexact<'a> {
    node: &'a Node,
    values: &'a [f64],
    errors: &'a [f64],
}

impl Inexact<'_> {
    fn magnitudes(&self) -> Vec<f64> {
        self.values.iter().map(|v| v.abs()).collect()
    }
}

fn propagate(node: &Node, x: &[Inexact<'_>], result: &[f64]) -> Vec<f64> {
    let each = |f: &dyn Fn(usize) -> f64| (0..result.len()).map(f).collect::<Vec<f64>>();
    // The operation on other elements, which is how errors move and add up.
    let applied = |op: Op, elements: &[&[f64]]| {
        let operands: Vec<Operand<'_>> =
            x.iter().zip(elements).map(|(x, values)| Operand { node: x.node, values }).collect();
        evaluate(&Node { op, ..node.clone() }, &operands)
    };
    match &node.op {
        Op::Input { .. } | Op::Scalar { .. } | Op::Const(_) | Op::Iota { .. } | Op::Random { .. } => {
            vec![0.0; result.len()]
        }
        Op::Unary(op) => each(&|i| unary_error(*op, node, x[0].values[i], x[0].errors[i])),
        Op::Binary(op) => {
            let at = |n: usize, i: usize| (x[n].values[i], x[n].errors[i]);
            each(&|i| binary_error(*op, node, at(0, i), at(1, i)))
        }
        Op::Compare(_) => each(&|i| {
            let error = x[0].errors[i] + x[1].errors[i];
            f64::from(error > 0.0 && (x[0].values[i] - x[1].values[i]).abs() <= error)
        }),
        Op::Select => each(&|i| match (x[0].errors[i] > 0.0, x[0].values[i] != 0.0) {
            (false, true) => x[1].errors[i],
            (false, false) => x[2].errors[i],
            (true, _) => (x[1].values[i] - x[2].values[i]).abs() + x[1].errors[i].max(x[2].errors[i]),
        }),
        Op::Cast(to) => each(&|i| {
            let error = x[0].errors[i];
            if error == 0.0 || to.is_float() { error } else { f64::INFINITY }
        }),
        Op::StopGradient
        | Op::Barrier
        | Op::Reshape(_)
        | Op::Permute(_)
        | Op::Expand(_)
        | Op::Slice { .. }
        | Op::Flip(_)
        | Op::Window { .. }
        | Op::Concat { .. } => {
            let errors: Vec<&[f64]> = x.iter().map(|x| x.errors).collect();
            applied(node.op.clone(), &errors)
        }
        Op::Pad { widths, fill } => {
            let fill = Literal::zero(fill.dtype());
            applied(Op::Pad { widths: widths.clone(), fill }, &[x[0].errors])
        }
        Op::Reduce { op: ReduceOp::Sum, .. } => {
            let terms = x[0].values.len() as f64 / result.len().max(1) as f64;
            applied(node.op.clone(), &[&rounded(&x[0], terms)])
        }
        Op::Reduce { axes, .. } => {
            applied(Op::Reduce { op: ReduceOp::Max, axes: axes.clone() }, &[x[0].errors])
        }
        Op::Dot | Op::Conv(_) => {
            let (left, right) = (x[0].magnitudes(), x[1].magnitudes());
            let terms = match node.op {
                Op::Conv(_) => x[1].node.shape[2..].iter().product::<usize>() as f64,
                _ => x[0].node.shape.last().map_or(1.0, |&k| k as f64),
            };
            let from_right = applied(node.op.clone(), &[&left, &rounded(&x[1], terms + 1.0)]);
            let reach: Vec<f64> = right.iter().zip(x[1].errors).map(|(v, e)| v + e).collect();
            let from_left = applied(node.op.clone(), &[x[0].errors, &reach]);
            from_left.iter().zip(from_right).map(|(a, b)| a + b).collect()
        }
        Op::Gather => applied(Op::Gather, &[x[0].errors, x[1].values]),
        // Near elements may change places, and nobody knows how far.
        Op::Sort { .. } => {
            let exact = x[0].errors.iter().all(|&e| e == 0.0);
            each(&|_| if exact { 0.0 } else { f64::INFINITY })
        }
        Op::ScatterAdd { .. } => {
            let terms = x[0].values.len() as f64;
            applied(node.op.clone(), &[x[0].values, &rounded(&x[1], terms)])
        }
        Op::Loop { body, output } => repeated(body, *output, x),
        Op::Cumulate { op, axis } => {
            // The magnitudes of all that is combined bound what any order of combining it rounds.
            let terms = 2.0 * node.shape[*axis] as f64;
            let sizes: Vec<Vec<f64>> = x.iter().map(|x| x.magnitudes()).collect();
            let reach: Vec<Vec<f64>> = sizes
                .iter()
                .zip(x)
                .map(|(s, x)| s.iter().zip(x.errors).map(|(v, e)| v + e).collect())
                .collect();
            let views = |all: &[Vec<f64>]| -> Vec<f64> {
                let all: Vec<&[f64]> = all.iter().map(Vec::as_slice).collect();
                applied(node.op.clone(), &all)
            };
            let (exact, reached) = (views(&sizes), views(&reach));
            let grown = match op {
                // Summing errors is exact about them; the difference of sums is not where errors are tiny.
                CumulateOp::Sum => applied(node.op.clone(), &[x[0].errors]),
                CumulateOp::Linear => {
                    exact.iter().zip(&reached).map(|(a, b)| (b - a) + ROUNDING * b).collect()
                }
            };
            grown.iter().zip(&reached).map(|(e, v)| e + terms * ROUNDING * v).collect()
        }
        Op::Call { function, output } => {
            let values: Vec<Vec<f64>> = x.iter().map(|x| x.values.to_vec()).collect();
            let errors: Vec<Vec<f64>> = x.iter().map(|x| x.errors.to_vec()).collect();
            let (_, mut found) = node_errors(&function.body, &values, &errors, &[]);
            found.swap_remove(function.body.outputs()[*output as usize].index())
        }
    }
}

/// The errors of a loop's output, iteration by iteration.
fn repeated(body: &Loop, output: LoopOutput, x: &[Inexact<'_>]) -> Vec<f64> {
    let mut values: Vec<Vec<f64>> = x.iter().map(|x| x.values.to_vec()).collect();
    let mut errors: Vec<Vec<f64>> = x.iter().map(|x| x.errors.to_vec()).collect();
    let mut slices: Vec<Vec<f64>> = vec![Vec::new(); body.length];
    for t in body.order() {
        for n in body.carries..body.carries + body.sequences {
            let slice = x[n].values.len() / body.length;
            values[n] = x[n].values[t * slice..(t + 1) * slice].to_vec();
            errors[n] = x[n].errors[t * slice..(t + 1) * slice].to_vec();
        }
        let (all, found) = node_errors(&body.body, &values, &errors, &[]);
        for (n, id) in body.body.outputs().iter().enumerate() {
            values[n] = all[id.index()].clone();
            errors[n] = found[id.index()].clone();
        }
        if let LoopOutput::Each(id) = output {
            slices[t] = found[id.index()].clone();
        }
    }
    match output {
        LoopOutput::Final(n) => errors.swap_remove(n as usize),
        LoopOutput::Each(_) => slices.concat(),
    }
}

/// Errors of elements with those of summing `terms` of them, in whatever order.
fn rounded(x: &Inexact<'_>, terms: f64) -> Vec<f64> {
    let error = |(v, e): (&f64, &f64)| if terms > 1.0 { e + terms * ROUNDING * (v.abs() + e) } else { *e };
    x.values.iter().zip(x.errors).map(error).collect()
}

fn unary_error(op: UnaryOp, node: &Node, x: f64, e: f64) -> f64 {
    let f = |x: f64| unary(op, node.dtype, x);
    // How far a monotone function goes within the error of its operand.
    let spread = || (f(x + e) - f(x)).abs().max((f(x - e) - f(x)).abs());
    let value = f(x);
    match op {
        UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Not => e,
        UnaryOp::Sin | UnaryOp::Cos if x.abs() + e > TRIG_LIMIT => 2.0,
        UnaryOp::Sin | UnaryOp::Cos => e.min(2.0) + SPECIAL,
        UnaryOp::Floor => spread(),
        UnaryOp::Exp | UnaryOp::Tanh | UnaryOp::Sqrt => spread() + SPECIAL * value.abs(),
        UnaryOp::Log | UnaryOp::Erf => spread() + SPECIAL * value.abs().max(1.0),
        UnaryOp::Recip | UnaryOp::Rsqrt if x.abs() <= e => f64::INFINITY,
        UnaryOp::Recip | UnaryOp::Rsqrt => spread() + SPECIAL * value.abs(),
    }
}

fn binary_error(op: BinaryOp, node: &Node, (a, ea): (f64, f64), (b, eb): (f64, f64)) -> f64 {
    let exact = ea == 0.0 && eb == 0.0;
    if !node.dtype.is_float() {
        return if exact { 0.0 } else { f64::INFINITY };
    }
    let value = binary(op, node.dtype, a, b).abs();
    match op {
        BinaryOp::Add | BinaryOp::Sub => ea + eb + ROUNDING * value,
        BinaryOp::Mul => a.abs() * eb + b.abs() * ea + ea * eb + ROUNDING * value,
        BinaryOp::Div if eb < b.abs() => {
            (a.abs() * eb + b.abs() * ea) / (b.abs() * (b.abs() - eb)) + 4.0 * ROUNDING * value
        }
        BinaryOp::Max | BinaryOp::Min => ea.max(eb),
        BinaryOp::Rem | BinaryOp::Pow if exact => SPECIAL * value,
        _ => f64::INFINITY,
    }
}
