//! Row kernels against their definition.

mod common;

use common::{Arg, Case, assert_close, device, load, node, noise, numbers};
use wgrad_ir::{
    BinaryOp, CompareOp, DType, Expr, ExprId, ExprNode, IndexMap, Kernel, Literal, Op, ReduceOp, RowKernel,
    Shape, Store, UnaryOp, View, philox,
};
use wgrad_kernels::{Choices, RowVariant};

fn f32_node(expr: Expr) -> ExprNode {
    node(expr, DType::F32)
}

fn unary(op: UnaryOp, a: u32) -> ExprNode {
    f32_node(Expr::Unary(op, ExprId(a)))
}

fn binary(op: BinaryOp, a: u32, b: u32) -> ExprNode {
    f32_node(Expr::Binary(op, ExprId(a), ExprId(b)))
}

fn row(op: ReduceOp, a: u32) -> ExprNode {
    f32_node(Expr::Row(op, ExprId(a)))
}

/// `softmax` of each row, and the logarithm of its sum of exponentials.
fn softmax(rows: usize, len: usize) -> Case {
    let space = Shape::from([rows, len]);
    let exprs = vec![
        load(0, IndexMap::contiguous(space.clone()), DType::F32),
        row(ReduceOp::Max, 0),
        binary(BinaryOp::Sub, 0, 1),
        unary(UnaryOp::Exp, 2),
        row(ReduceOp::Sum, 3),
        binary(BinaryOp::Div, 3, 4),
        unary(UnaryOp::Log, 4),
        binary(BinaryOp::Add, 6, 1),
    ];
    let stores = vec![
        Store { arg: 1, value: ExprId(5), view: View::contiguous(space) },
        Store { arg: 2, value: ExprId(7), view: View::contiguous([rows].into()) },
    ];
    let kernel = RowKernel { outer: [rows].into(), inner: [len].into(), exprs, stores };
    let args = vec![
        Arg::In(DType::F32, noise(rows * len, 1).iter().map(|x| 20.0 * x).collect()),
        Arg::Out(DType::F32, rows * len),
        Arg::Out(DType::F32, rows),
    ];
    Case::new(Kernel::Row(kernel), args)
}

fn variants() -> Vec<Choices> {
    let teams = [None, Some(1), Some(8), Some(64)];
    teams.map(|team| Choices { row: team.map(|team| RowVariant { team }), ..Choices::default() }).to_vec()
}

#[test]
fn softmax_is_that_of_the_definition_at_any_length_with_any_team() {
    let Some(device) = device() else { return };
    for (rows, len) in [(1, 1), (3, 7), (17, 64), (33, 250), (2, 1024), (1, 5000), (1, 8192), (300, 12)] {
        let case = softmax(rows, len);
        let want = case.reference();
        for choices in variants() {
            let got = case.try_run(&device, &choices).unwrap();
            let what = format!("{rows} rows of {len}, {choices:?}");
            assert_close(&got[0], &want[0], 1e-7, 4e-6, &what);
            assert_close(&got[1], &want[1], 1e-6, 1e-6, &what);
        }
    }
}

#[test]
fn rows_of_extremes_keep_their_maximum() {
    let Some(device) = device() else { return };
    let space = Shape::from([2, 4]);
    for (op, far) in [(ReduceOp::Max, f64::NEG_INFINITY), (ReduceOp::Min, f64::INFINITY)] {
        let exprs = vec![load(0, IndexMap::contiguous(space.clone()), DType::F32), row(op, 0)];
        let stores = vec![Store { arg: 1, value: ExprId(1), view: View::contiguous([2].into()) }];
        let kernel = RowKernel { outer: [2].into(), inner: [4].into(), exprs, stores };
        let data = vec![far, far, far, far, -far, far, 0.0, 1.0];
        let case = Case::new(Kernel::Row(kernel), vec![Arg::In(DType::F32, data), Arg::Out(DType::F32, 2)]);
        for choices in variants() {
            assert_eq!(case.try_run(&device, &choices).unwrap(), vec![vec![far, -far]]);
        }
    }
}

#[test]
fn integers_are_reduced_along_rows_exactly() {
    let Some(device) = device() else { return };
    for dtype in [DType::I32, DType::U32] {
        let space = Shape::from([5, 3, 4]);
        let int = |expr| node(expr, dtype);
        let exprs = vec![
            load(0, IndexMap::contiguous(space.clone()), dtype),
            int(Expr::Row(ReduceOp::Sum, ExprId(0))),
            int(Expr::Row(ReduceOp::Max, ExprId(0))),
            int(Expr::Row(ReduceOp::Min, ExprId(0))),
            int(Expr::Binary(BinaryOp::Sub, ExprId(0), ExprId(3))),
            int(Expr::Row(ReduceOp::Sum, ExprId(4))),
            node(Expr::Compare(CompareOp::Eq, ExprId(0), ExprId(2)), DType::Bool),
        ];
        let per_row = |arg, value| Store { arg, value: ExprId(value), view: View::contiguous([5].into()) };
        let mut stores: Vec<Store> = (0..4).map(|n| per_row(1 + n, [1, 2, 3, 5][n as usize])).collect();
        stores.push(Store { arg: 5, value: ExprId(6), view: View::contiguous(space) });
        let kernel = RowKernel { outer: [5].into(), inner: [3, 4].into(), exprs, stores };
        let data: Vec<f64> = numbers(60, 1000, 4);
        let mut args = vec![Arg::In(dtype, data)];
        args.extend((0..4).map(|_| Arg::Out(dtype, 5)));
        args.push(Arg::Out(DType::Bool, 60));
        let case = Case::new(Kernel::Row(kernel), args);
        for choices in variants() {
            assert_eq!(case.try_run(&device, &choices).unwrap(), case.reference(), "{dtype} {choices:?}");
        }
    }
}

/// A row kernel drawn from `seed`: loads through several views, two to three levels of reductions, several results.
fn random(seed: u32) -> Case {
    let r = |i: u32, n: usize| philox::word(i, 3, seed, [8, 9]) as usize % n;
    let outer = Shape::from([&[5][..], &[2, 3], &[1], &[3, 1, 4]][r(0, 4)].to_vec());
    let inner = Shape::from([&[8][..], &[7], &[4, 12], &[3, 5], &[2, 1, 36], &[1]][r(1, 6)].to_vec());
    let space: Shape = outer.iter().chain(inner.iter()).copied().collect();
    let (rank, wall) = (space.rank(), outer.rank());
    let n = space.elements();
    let mut args = Vec::new();
    let mut exprs = Vec::new();
    let whole = IndexMap::contiguous(space.clone());
    for kind in 0..5u32 {
        let some = |keep: &dyn Fn(usize) -> bool| -> Shape {
            (0..rank).map(|d| if keep(d) { space[d] } else { 1 }).collect()
        };
        let expanded =
            |from: Shape| (from.elements(), IndexMap::contiguous(from).apply(&Op::Expand(space.clone())));
        let (len, map) = match kind {
            0 => (n, whole.clone()),
            1 => expanded(some(&|d| d >= wall)),
            2 => expanded(some(&|d| d < wall)),
            // Reversed order of axes.
            3 => {
                let turned: Shape = space.iter().rev().copied().collect();
                (n, IndexMap::contiguous(turned).apply(&Op::Permute((0..rank).rev().collect())))
            }
            // All but the first element of the last axis, then a fill.
            _ => {
                let widths = (0..rank).map(|d| (0, usize::from(d == rank - 1))).collect();
                let mut small = space.clone().to_vec();
                small[rank - 1] -= 1;
                let small = Shape::from(small);
                let pad = Op::Pad { widths, fill: Literal::zero(DType::F32) };
                (small.elements(), IndexMap::contiguous(small).apply(&pad))
            }
        };
        exprs.push(load(args.len() as u32, map, DType::F32));
        args.push(Arg::In(DType::F32, noise(len.max(1), seed * 8 + kind)));
    }
    for step in 0..14u32 {
        let (kind, top) = (r(10 + 4 * step, 9), exprs.len());
        // Lately made values are likelier, so that chains become deep.
        let pick = |i: u32| {
            let near = r(11 + 4 * step + i, 2) == 0;
            if near { (top - 1 - r(12 + i, 3)) as u32 } else { r(13 + 4 * step + i, top) as u32 }
        };
        let (a, b) = (pick(0), pick(1));
        let next = match kind {
            0 => binary(BinaryOp::Add, a, b),
            1 => binary(BinaryOp::Mul, a, b),
            2 => binary(BinaryOp::Max, a, b),
            3 => unary(UnaryOp::Tanh, a),
            4 => binary(BinaryOp::Sub, a, b),
            // Means, so that values stay small.
            5 | 6 => {
                exprs.push(row(ReduceOp::Sum, a));
                exprs.push(f32_node(Expr::Const(Literal::from_f64(
                    DType::F32,
                    1.0 / inner.elements() as f64,
                ))));
                binary(BinaryOp::Mul, exprs.len() as u32 - 2, exprs.len() as u32 - 1)
            }
            7 => row(ReduceOp::Max, a),
            _ => row(ReduceOp::Min, a),
        };
        exprs.push(next);
    }
    let constant = wgrad_ir::row_constant(&exprs, wall);
    let mut stores = Vec::new();
    for n_out in 0..3u32 {
        let value = exprs.len() - 1 - r(80 + n_out, 5);
        let arg = args.len() as u32;
        let value = ExprId(value as u32);
        if constant[value.index()] && r(90 + n_out, 4) > 0 {
            stores.push(Store { arg, value, view: View::contiguous(outer.clone()) });
            args.push(Arg::Out(DType::F32, outer.elements()));
        } else if r(95 + n_out, 2) == 0 {
            stores.push(Store { arg, value, view: View::contiguous(space.clone()) });
            args.push(Arg::Out(DType::F32, n));
        } else {
            // Into a transposed buffer.
            let turned: Shape = space.iter().rev().copied().collect();
            let view = View::contiguous(turned).apply(&Op::Permute((0..rank).rev().collect())).unwrap();
            stores.push(Store { arg, value, view });
            args.push(Arg::Out(DType::F32, n));
        }
    }
    Case::new(Kernel::Row(RowKernel { outer, inner, exprs, stores }), args)
}

#[test]
fn random_rows_are_those_of_the_definition() {
    let Some(device) = device() else { return };
    for seed in 0..40 {
        let case = random(seed);
        let want = case.reference();
        let choices = variants()[seed as usize % 4];
        let got = case.try_run(&device, &choices).unwrap();
        for (g, w) in got.iter().zip(&want) {
            assert_close(g, w, 2e-6, 2e-5, &format!("seed {seed}, {choices:?}, {:?}", case.kernel));
        }
    }
}
