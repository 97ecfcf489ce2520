//! What gradient graphs look like, where paths end, and what is refused.

use expect_test::{Expect, expect};
use wgrad_autograd::{AutogradError, grad};
use wgrad_ir::{BinaryOp, CompareOp, DType, Graph, NodeId, Op, ReduceOp, UnaryOp};

fn push(g: &mut Graph, op: Op, inputs: &[NodeId]) -> NodeId {
    g.push(op, inputs).unwrap()
}

fn input(g: &mut Graph, index: u32, shape: &[usize], dtype: DType) -> NodeId {
    push(g, Op::Input { index, shape: shape.into(), dtype }, &[])
}

fn sum(g: &mut Graph, x: NodeId) -> NodeId {
    let axes = (0..g.node(x).shape.rank()).collect();
    push(g, Op::Reduce { op: ReduceOp::Sum, axes }, &[x])
}

fn check(mut g: Graph, loss: NodeId, wrt: NodeId, expected: Expect) {
    let gradient = grad(&mut g, loss, &[wrt]).unwrap()[0].unwrap();
    g.set_outputs(vec![gradient]);
    expected.assert_eq(&g.to_string());
}

#[test]
fn the_gradient_of_a_square_adds_both_uses() {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[], DType::F32);
    let y = push(&mut g, Op::Binary(BinaryOp::Mul), &[x, x]);
    check(
        g,
        y,
        x,
        expect![[r#"
        %0 = input 0 : f32[]
        %1 = mul %0 %0 : f32[]
        %2 = const 1.0 : f32[]
        %3 = mul %2 %0 : f32[]
        %4 = mul %2 %0 : f32[]
        %5 = add %3 %4 : f32[]
        return %5
    "#]],
    );
}

#[test]
fn the_gradient_of_softmax_is_built_of_its_primitives() {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[2, 3], DType::F32);
    let weights = input(&mut g, 1, &[2, 3], DType::F32);
    let axes = || [1].into_iter().collect();
    let max = push(&mut g, Op::Reduce { op: ReduceOp::Max, axes: axes() }, &[x]);
    let max = push(&mut g, Op::StopGradient, &[max]);
    let max = push(&mut g, Op::Expand([2, 3].into()), &[max]);
    let shifted = push(&mut g, Op::Binary(BinaryOp::Sub), &[x, max]);
    let e = push(&mut g, Op::Unary(UnaryOp::Exp), &[shifted]);
    let total = push(&mut g, Op::Reduce { op: ReduceOp::Sum, axes: axes() }, &[e]);
    let total = push(&mut g, Op::Expand([2, 3].into()), &[total]);
    let y = push(&mut g, Op::Binary(BinaryOp::Div), &[e, total]);
    let weighted = push(&mut g, Op::Binary(BinaryOp::Mul), &[y, weights]);
    let loss = sum(&mut g, weighted);
    check(
        g,
        loss,
        x,
        expect![[r#"
        %0 = input 0 : f32[2, 3]
        %1 = input 1 : f32[2, 3]
        %2 = reduce_max [1] %0 : f32[2, 1]
        %3 = stop_gradient %2 : f32[2, 1]
        %4 = expand %3 : f32[2, 3]
        %5 = sub %0 %4 : f32[2, 3]
        %6 = exp %5 : f32[2, 3]
        %7 = reduce_sum [1] %6 : f32[2, 1]
        %8 = expand %7 : f32[2, 3]
        %9 = div %6 %8 : f32[2, 3]
        %10 = mul %9 %1 : f32[2, 3]
        %11 = reduce_sum [0, 1] %10 : f32[1, 1]
        %12 = const 1.0 : f32[]
        %13 = reshape %12 : f32[1, 1]
        %14 = expand %13 : f32[2, 3]
        %15 = mul %14 %1 : f32[2, 3]
        %16 = div %15 %8 : f32[2, 3]
        %17 = div %15 %8 : f32[2, 3]
        %18 = mul %17 %9 : f32[2, 3]
        %19 = neg %18 : f32[2, 3]
        %20 = reduce_sum [1] %19 : f32[2, 1]
        %21 = expand %20 : f32[2, 3]
        %22 = add %16 %21 : f32[2, 3]
        %23 = mul %22 %6 : f32[2, 3]
        return %23
    "#]],
    );
}

#[test]
fn branches_that_reach_nothing_wanted_are_not_built() {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[2, 2], DType::F32);
    let w = input(&mut g, 1, &[2, 2], DType::F32);
    let y = push(&mut g, Op::Dot, &[x, w]);
    let loss = sum(&mut g, y);
    let before = g.nodes().len();
    grad(&mut g, loss, &[w]).unwrap();
    let dots = g.nodes()[before..].iter().filter(|n| n.op == Op::Dot).count();
    assert_eq!(dots, 1);
}

#[test]
fn no_gradient_passes_integers_comparisons_or_stop_gradient() {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[3], DType::F32);
    let stopped = push(&mut g, Op::StopGradient, &[x]);
    let rounded = push(&mut g, Op::Cast(DType::I32), &[x]);
    let rounded = push(&mut g, Op::Cast(DType::F32), &[rounded]);
    let above = push(&mut g, Op::Compare(CompareOp::Gt), &[x, stopped]);
    let y = push(&mut g, Op::Select, &[above, stopped, rounded]);
    let loss = sum(&mut g, y);
    let other = input(&mut g, 1, &[3], DType::F32);
    assert_eq!(grad(&mut g, loss, &[x, other]).unwrap(), [None, None]);
}

#[test]
fn a_floor_has_gradient_zero_and_not_none() {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[], DType::F32);
    let y = push(&mut g, Op::Unary(UnaryOp::Floor), &[x]);
    assert!(grad(&mut g, y, &[x]).unwrap()[0].is_some());
}

#[test]
fn the_loss_itself_has_gradient_one() {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[], DType::F32);
    let one = grad(&mut g, x, &[x]).unwrap()[0].unwrap();
    assert!(matches!(g.node(one).op, Op::Const(value) if value.is(1.0)));
}

#[test]
fn a_loss_that_is_not_a_float_scalar_is_refused_with_its_shape() {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[2, 3], DType::F32);
    let error = grad(&mut g, x, &[x]).unwrap_err();
    assert!(matches!(error, AutogradError::NotAScalar { .. }));
    assert!(error.to_string().contains("f32[2, 3]"), "{error}");
    let n = input(&mut g, 1, &[], DType::I32);
    assert!(grad(&mut g, n, &[x]).is_err());
}

#[test]
fn a_node_of_another_graph_is_refused() {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[], DType::F32);
    assert!(matches!(grad(&mut g, x, &[NodeId(9)]), Err(AutogradError::Ir(_))));
}
