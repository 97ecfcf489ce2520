//! Gradients of loops and cumulations, and of these gradients, against central differences.

mod common;

use std::sync::Arc;

use common::{check, push};
use wgrad_autograd::grad;
use wgrad_ir::{
    BinaryOp, CompareOp, CumulateOp, DType, Graph, Literal, Loop, LoopOutput, NodeId, Op, ReduceOp, Shape,
    UnaryOp,
};

const MUL: Op = Op::Binary(BinaryOp::Mul);
const ADD: Op = Op::Binary(BinaryOp::Add);

fn input(g: &mut Graph, index: u32, shape: &[usize]) -> NodeId {
    push(g, Op::Input { index, shape: shape.into(), dtype: DType::F64 }, &[])
}

fn sum(g: &mut Graph, x: NodeId) -> NodeId {
    let axes = (0..g.node(x).shape.rank()).collect();
    let total = push(g, Op::Reduce { op: ReduceOp::Sum, axes }, &[x]);
    push(g, Op::Reshape(Shape::scalar()), &[total])
}

/// The gradient of `Σ y²` for `wrt`, so that `check` differentiates a gradient.
fn gradient(g: &mut Graph, y: NodeId, wrt: NodeId) -> NodeId {
    let square = push(g, MUL, &[y, y]);
    let loss = sum(g, square);
    grad(g, loss, &[wrt]).unwrap()[0].unwrap()
}

/// `h' = tanh(h W + x + b)`, for `h [2, 3]`: operands h, x, W, b; also gives the sums within the hyperbolic tangent.
fn recurrent(length: usize, reverse: bool) -> (Arc<Loop>, NodeId, NodeId) {
    let mut g = Graph::new();
    let (h, x) = (input(&mut g, 0, &[2, 3]), input(&mut g, 1, &[2, 3]));
    let (w, b) = (input(&mut g, 2, &[3, 3]), input(&mut g, 3, &[3]));
    let wt = push(&mut g, Op::Permute([1, 0].into_iter().collect()), &[w]);
    let product = push(&mut g, Op::Dot, &[h, wt]);
    let bias = push(&mut g, Op::Reshape([1, 3].into()), &[b]);
    let bias = push(&mut g, Op::Expand([2, 3].into()), &[bias]);
    let total = push(&mut g, ADD, &[product, x]);
    let total = push(&mut g, ADD, &[total, bias]);
    let next = push(&mut g, Op::Unary(UnaryOp::Tanh), &[total]);
    g.set_outputs(vec![next]);
    (Arc::new(Loop { body: g, carries: 1, sequences: 1, length, reverse }), total, next)
}

fn run(g: &mut Graph, body: &Arc<Loop>, output: LoopOutput, x: &[NodeId]) -> NodeId {
    push(g, Op::Loop { body: body.clone(), output }, x)
}

#[test]
fn a_recurrent_layer_has_the_gradients_of_finite_differences() {
    for (length, reverse) in [(4, false), (4, true), (1, false), (3, true)] {
        let (body, total, next) = recurrent(length, reverse);
        let shapes: [&[usize]; 4] = [&[2, 3], &[length, 2, 3], &[3, 3], &[3]];
        check(&shapes, (-0.9, 0.9), |g, x| run(g, &body, LoopOutput::Final(0), x));
        check(&shapes, (-0.9, 0.9), |g, x| run(g, &body, LoopOutput::Each(next), x));
        check(&shapes, (-0.9, 0.9), |g, x| {
            let all = run(g, &body, LoopOutput::Each(total), x);
            let last = run(g, &body, LoopOutput::Final(0), x);
            let last = push(g, Op::Reshape([1, 2, 3].into()), &[last]);
            push(g, Op::Concat { axis: 0 }, &[all, last])
        });
    }
}

#[test]
fn gradients_of_loops_are_differentiated_again() {
    let (body, _, next) = recurrent(3, false);
    let shapes: [&[usize]; 4] = [&[2, 3], &[3, 2, 3], &[3, 3], &[3]];
    for wrt in 0..4 {
        check(&shapes, (-0.9, 0.9), |g, x| {
            let y = run(g, &body, LoopOutput::Each(next), x);
            gradient(g, y, x[wrt])
        });
    }
}

#[test]
fn the_gradient_of_a_weight_is_one_product_after_the_loop() {
    let (body, _, next) = recurrent(5, false);
    let mut g = Graph::new();
    let shapes: [&[usize]; 4] = [&[2, 3], &[5, 2, 3], &[3, 3], &[3]];
    let x: Vec<NodeId> = shapes.iter().enumerate().map(|(i, s)| input(&mut g, i as u32, s)).collect();
    let y = run(&mut g, &body, LoopOutput::Each(next), &x);
    let loss = sum(&mut g, y);
    let found = grad(&mut g, loss, &[x[2]]).unwrap()[0].unwrap();
    g.set_outputs(vec![found]);
    let live = g.live();
    let dots = g.ids().filter(|id| live[id.index()] && matches!(g.node(*id).op, Op::Dot));
    let dots: Vec<_> = dots.map(|id| g.node(g.node(id).inputs[1]).shape.to_string()).collect();
    assert_eq!(dots.len(), 1, "{g}");
}

/// Carries that trade places, a carry that nothing reads, a constant that is used element by element, a truth value per slice
/// and an integer that counts.
fn mixed(reverse: bool) -> (Arc<Loop>, NodeId) {
    let mut g = Graph::new();
    let (a, b) = (input(&mut g, 0, &[4]), input(&mut g, 1, &[4]));
    let count = push(&mut g, Op::Input { index: 2, shape: [4].into(), dtype: DType::I32 }, &[]);
    let (x, c) = (input(&mut g, 4, &[4]), input(&mut g, 5, &[4]));
    let scaled = push(&mut g, MUL, &[a, c]);
    let scaled = push(&mut g, MUL, &[scaled, c]);
    let sin = push(&mut g, Op::Unary(UnaryOp::Sin), &[scaled]);
    let next = push(&mut g, ADD, &[sin, x]);
    let positive = push(&mut g, Op::Compare(CompareOp::Gt), &[x, a]);
    let more = push(&mut g, ADD, &[count, count]);
    let float = push(&mut g, Op::Cast(DType::F64), &[more]);
    let times = push(&mut g, MUL, &[b, float]);
    let chosen = push(&mut g, Op::Select, &[positive, times, next]);
    let unread = push(&mut g, MUL, &[x, x]);
    g.set_outputs(vec![b, chosen, more, unread]);
    (Arc::new(Loop { body: g, carries: 4, sequences: 1, length: 3, reverse }), sin)
}

#[test]
fn carries_of_every_kind_have_the_gradients_of_finite_differences() {
    for reverse in [false, true] {
        let (body, sin) = mixed(reverse);
        let outputs: [&[LoopOutput]; 4] = [
            &[LoopOutput::Final(0)],
            &[LoopOutput::Final(1), LoopOutput::Final(3)],
            &[LoopOutput::Final(3)],
            &[LoopOutput::Each(sin), LoopOutput::Final(0), LoopOutput::Each(NodeId(1))],
        ];
        for wanted in outputs {
            let shapes: [&[usize]; 5] = [&[4], &[4], &[4], &[3, 4], &[4]];
            let build = |g: &mut Graph, x: &[NodeId]| {
                let one = push(g, Op::Const(Literal::from_f64(DType::I32, 1.0)), &[]);
                let one = push(g, Op::Reshape([1].into()), &[one]);
                let one = push(g, Op::Expand([4].into()), &[one]);
                let operands = [x[0], x[1], one, x[2], x[3], x[4]];
                let results: Vec<NodeId> = wanted
                    .iter()
                    .map(|&output| {
                        let y = run(g, &body, output, &operands);
                        sum(g, y)
                    })
                    .collect();
                // So that every operand has a path.
                let all: Vec<NodeId> = x.iter().map(|&x| sum(g, x)).collect();
                let total = results.into_iter().chain(all).reduce(|p, q| push(g, ADD, &[p, q])).unwrap();
                push(g, MUL, &[total, total])
            };
            check(&shapes, (0.2, 0.9), build);
        }
    }
}

#[test]
fn loops_within_loops_have_the_gradients_of_finite_differences() {
    let (inner, _, _) = recurrent(2, true);
    let mut g = Graph::new();
    let (h, x) = (input(&mut g, 0, &[2, 3]), input(&mut g, 1, &[2, 2, 3]));
    let (w, b) = (input(&mut g, 2, &[3, 3]), input(&mut g, 3, &[3]));
    let last = run(&mut g, &inner, LoopOutput::Final(0), &[h, x, w, b]);
    let next = push(&mut g, ADD, &[last, h]);
    g.set_outputs(vec![next]);
    let outer = Arc::new(Loop { body: g, carries: 1, sequences: 1, length: 3, reverse: false });
    let shapes: [&[usize]; 4] = [&[2, 3], &[3, 2, 2, 3], &[3, 3], &[3]];
    check(&shapes, (-0.9, 0.9), |g, x| run(g, &outer, LoopOutput::Final(0), x));
    check(&shapes, (-0.9, 0.9), |g, x| run(g, &outer, LoopOutput::Each(last), x));
}

#[test]
fn a_loop_of_no_iterations_passes_the_cotangents_of_its_carries() {
    let (body, _, _) = recurrent(0, false);
    let mut g = Graph::new();
    let shapes: [&[usize]; 4] = [&[2, 3], &[0, 2, 3], &[3, 3], &[3]];
    let x: Vec<NodeId> = shapes.iter().enumerate().map(|(i, s)| input(&mut g, i as u32, s)).collect();
    let y = run(&mut g, &body, LoopOutput::Final(0), &x);
    let loss = sum(&mut g, y);
    let found = grad(&mut g, loss, &x).unwrap();
    assert!(found[0].is_some() && found[1..].iter().all(Option::is_none));
}

#[test]
fn cumulations_have_the_gradients_of_finite_differences_also_at_zero() {
    for axis in [0, 1] {
        check(&[&[4, 3]], (-1.0, 1.0), |g, x| push(g, Op::Cumulate { op: CumulateOp::Sum, axis }, x));
        let linear = Op::Cumulate { op: CumulateOp::Linear, axis };
        check(&[&[4, 3], &[4, 3]], (-1.5, 1.5), |g, x| push(g, linear.clone(), x));
        // A factor of zero everywhere, from which nothing divides.
        check(&[&[4, 3], &[4, 3]], (-1.5, 1.5), |g, x| {
            let zero = push(g, Op::Binary(BinaryOp::Sub), &[x[0], x[0]]);
            let small = push(g, MUL, &[zero, x[1]]);
            push(g, linear.clone(), &[small, x[1]])
        });
        check(&[&[4, 3], &[4, 3]], (-1.5, 1.5), |g, x| {
            let y = push(g, linear.clone(), x);
            gradient(g, y, x[0])
        });
    }
}
