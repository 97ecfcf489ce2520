//! Gradients of functions: their own and derived ones, nested, with residuals, and of gradients.

mod common;

use std::sync::Arc;

use common::{check, push};
use wgrad_autograd::grad;
use wgrad_ir::{BinaryOp, DType, Function, Graph, NodeId, Op, ReduceOp, Shape, UnaryOp};

const MUL: Op = Op::Binary(BinaryOp::Mul);
const ADD: Op = Op::Binary(BinaryOp::Add);

fn input(g: &mut Graph, index: u32, shape: &[usize], dtype: DType) -> NodeId {
    push(g, Op::Input { index, shape: shape.into(), dtype }, &[])
}

fn function(name: &str, body: Graph, public: usize) -> Function {
    Function { name: name.into(), body, public, gradient: None, kernel: None, recompute: false }
}

fn call(g: &mut Graph, function: &Arc<Function>, output: u32, operands: &[NodeId]) -> NodeId {
    push(g, Op::Call { function: function.clone(), output }, operands)
}

fn sum(g: &mut Graph, x: NodeId) -> NodeId {
    let axes = (0..g.node(x).shape.rank()).collect();
    push(g, Op::Reduce { op: ReduceOp::Sum, axes }, &[x])
}

/// `a, b -> a sin(b), a + b²`, over `[3]`.
fn two_outputs(recompute: bool) -> Function {
    let mut g = Graph::new();
    let (a, b) = (input(&mut g, 0, &[3], DType::F64), input(&mut g, 1, &[3], DType::F64));
    let sin = push(&mut g, Op::Unary(UnaryOp::Sin), &[b]);
    let product = push(&mut g, MUL, &[a, sin]);
    let square = push(&mut g, MUL, &[b, b]);
    let total = push(&mut g, ADD, &[a, square]);
    g.set_outputs(vec![product, total]);
    Function { recompute, ..function("two_outputs", g, 2) }
}

/// `x -> x³` with the residual `3 x²`, and a gradient that reads it: `residual · cotangent`, times `factor`.
fn cube(factor: f64) -> Function {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[4], DType::F64);
    let square = push(&mut g, MUL, &[x, x]);
    let cube = push(&mut g, MUL, &[square, x]);
    let twice = push(&mut g, ADD, &[square, square]);
    let residual = push(&mut g, ADD, &[twice, square]);
    g.set_outputs(vec![cube, residual]);

    let mut body = Graph::new();
    let inputs: Vec<NodeId> = (0..4).map(|i| input(&mut body, i, &[4], DType::F64)).collect();
    let scale = push(&mut body, Op::Const(wgrad_ir::Literal::from_f64(DType::F64, factor)), &[]);
    let scale = push(&mut body, Op::Reshape([1].into()), &[scale]);
    let scale = push(&mut body, Op::Expand([4].into()), &[scale]);
    let scaled = push(&mut body, MUL, &[inputs[2], scale]);
    let gradient = push(&mut body, MUL, &[scaled, inputs[3]]);
    body.set_outputs(vec![gradient]);
    let gradient = function("cube_grad", body, 1);
    Function { gradient: Some(gradient.into()), ..function("cube", g, 1) }
}

#[test]
fn derived_gradients_match_finite_differences_whichever_outputs_are_used() {
    for recompute in [false, true] {
        let f = Arc::new(two_outputs(recompute));
        for outputs in [vec![0], vec![1], vec![0, 1], vec![1, 0], vec![0, 0]] {
            check(&[&[3], &[3]], (0.2, 1.9), |g, x| {
                let parts = outputs.iter().map(|&o| call(g, &f, o, x)).collect::<Vec<_>>();
                parts.into_iter().reduce(|a, b| push(g, MUL, &[a, b])).unwrap()
            });
            // One tensor as both operands.
            check(&[&[3]], (0.2, 1.9), |g, x| {
                let parts = outputs.iter().map(|&o| call(g, &f, o, &[x[0], x[0]])).collect::<Vec<_>>();
                parts.into_iter().reduce(|a, b| push(g, ADD, &[a, b])).unwrap()
            });
        }
    }
}

#[test]
fn a_gradient_of_its_own_reads_residuals_that_the_caller_never_asked_for() {
    let f = Arc::new(cube(1.0));
    check(&[&[4]], (-1.5, 1.5), |g, x| call(g, &f, 0, x));
    // It is really this one that is used: another factor gives another gradient.
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[4], DType::F64);
    let y = call(&mut g, &Arc::new(cube(7.0)), 0, &[x]);
    let loss = sum(&mut g, y);
    let dx = grad(&mut g, loss, &[x]).unwrap()[0].unwrap();
    g.set_outputs(vec![dx]);
    let found = wgrad_ir::reference::run_graph(&g, &[vec![1.0, 2.0, -1.0, 0.5]], &[]);
    assert_eq!(found, [[21.0, 84.0, 21.0, 5.25]]);
}

#[test]
fn gradients_of_gradients_match_finite_differences() {
    let functions = [(cube(1.0), 4, 1), (two_outputs(false), 3, 2), (two_outputs(true), 3, 2)];
    for (f, extent, operands) in functions {
        let f = Arc::new(f);
        let shapes = vec![[extent]; operands];
        let shapes: Vec<&[usize]> = shapes.iter().map(|s| s.as_slice()).collect();
        check(&shapes, (0.2, 1.5), |g, x| {
            let y = call(g, &f, 0, x);
            let squared = push(g, MUL, &[y, y]);
            let loss = sum(g, squared);
            grad(g, loss, x).unwrap().into_iter().flatten().reduce(|a, b| push(g, MUL, &[a, b])).unwrap()
        });
    }
}

#[test]
fn third_derivatives_of_a_call_match_finite_differences() {
    let f = Arc::new(cube(1.0));
    check(&[&[4]], (0.2, 1.5), |g, x| {
        let y = call(g, &f, 0, x);
        let y = call(g, &f, 0, &[y]);
        let loss = sum(g, y);
        let first = grad(g, loss, x).unwrap()[0].unwrap();
        let loss = sum(g, first);
        grad(g, loss, x).unwrap()[0].unwrap()
    });
}

#[test]
fn functions_that_call_functions_match_finite_differences() {
    for recompute in [false, true] {
        let (inner, with_gradient) = (Arc::new(two_outputs(recompute)), Arc::new(cube(1.0)));
        let mut body = Graph::new();
        let (a, b) = (input(&mut body, 0, &[4], DType::F64), input(&mut body, 1, &[3], DType::F64));
        let cubed = call(&mut body, &with_gradient, 0, &[a]);
        let first = push(&mut body, Op::Slice { ranges: [(1, 3, 1)].into_iter().collect() }, &[cubed]);
        let y = call(&mut body, &inner, 1, &[first, b]);
        let z = call(&mut body, &inner, 0, &[first, b]);
        let out = push(&mut body, MUL, &[y, z]);
        body.set_outputs(vec![out]);
        let f = Arc::new(Function { recompute, ..function("nested", body, 1) });
        check(&[&[4], &[3]], (0.3, 1.5), |g, x| call(g, &f, 0, x));
    }
}

#[test]
fn integer_operands_have_no_gradient_and_unread_ones_have_zeros() {
    // table, ids, unread -> table[ids]
    let mut body = Graph::new();
    let table = input(&mut body, 0, &[4, 2], DType::F64);
    let ids = input(&mut body, 1, &[3], DType::I32);
    input(&mut body, 2, &[5], DType::F64);
    let rows = push(&mut body, Op::Gather, &[table, ids]);
    body.set_outputs(vec![rows]);
    for recompute in [false, true] {
        let f = Arc::new(Function { recompute, ..function("lookup", body.clone(), 1) });
        check(&[&[4, 2], &[5]], (-1.0, 1.0), |g, x| {
            let ids = push(g, Op::Iota { len: 3 }, &[]);
            call(g, &f, 0, &[x[0], ids, x[1]])
        });
    }
}

#[test]
fn a_function_that_returns_its_operand_passes_the_cotangent() {
    let mut body = Graph::new();
    let (a, b) = (input(&mut body, 0, &[2], DType::F64), input(&mut body, 1, &[2], DType::F64));
    body.set_outputs(vec![b, a, b]);
    let f = Arc::new(function("swap", body, 3));
    check(&[&[2], &[2]], (-1.0, 1.0), |g, x| {
        let parts: Vec<NodeId> = (0..3).map(|o| call(g, &f, o, x)).collect();
        let product = push(g, MUL, &parts[..2]);
        push(g, MUL, &[product, parts[2]])
    });
}

#[test]
fn the_same_function_gets_the_same_derived_gradient() {
    let f = Arc::new(two_outputs(true));
    let graph = || {
        let mut g = Graph::new();
        let x = input(&mut g, 0, &[3], DType::F64);
        let y = call(&mut g, &f, 0, &[x, x]);
        let loss = sum(&mut g, y);
        let dx = grad(&mut g, loss, &[x]).unwrap()[0].unwrap();
        g.set_outputs(vec![dx]);
        g
    };
    let gradient = |g: Graph| {
        let found = g.nodes().iter().find_map(|n| match &n.op {
            Op::Call { function, .. } if function.name == "two_outputs_grad" => Some(function.clone()),
            _ => None,
        });
        found.unwrap()
    };
    assert_eq!(graph(), graph());
    assert!(Arc::ptr_eq(&gradient(graph()), &gradient(graph())));
}

#[test]
fn recomputation_stands_behind_barriers_and_other_gradients_do_not() {
    for recompute in [false, true] {
        let f = Arc::new(two_outputs(recompute));
        let mut g = Graph::new();
        let x = input(&mut g, 0, &[3], DType::F64);
        let y = call(&mut g, &f, 0, &[x, x]);
        let loss = sum(&mut g, y);
        grad(&mut g, loss, &[x]).unwrap();
        let barriers: usize = g
            .nodes()
            .iter()
            .filter_map(|n| if let Op::Call { function, .. } = &n.op { Some(function) } else { None })
            .flat_map(|f| f.body.nodes())
            .filter(|n| n.op == Op::Barrier)
            .count();
        assert_eq!(barriers > 0, recompute);
    }
}

#[test]
fn a_barrier_passes_the_cotangent() {
    check(&[&[3]], (-1.0, 1.0), |g, x| {
        let y = push(g, Op::Barrier, x);
        push(g, MUL, &[y, x[0]])
    });
}

#[test]
fn cotangents_of_another_shape_are_refused() {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[3], DType::F64);
    let y = push(&mut g, Op::Unary(UnaryOp::Sin), &[x]);
    let wrong = push(&mut g, Op::Input { index: 1, shape: Shape::from([2]), dtype: DType::F64 }, &[]);
    assert!(wgrad_autograd::vjp(&mut g, &[(y, wrong)], &[x]).is_err());
}
