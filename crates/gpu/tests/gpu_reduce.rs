//! Reductions with several results, along rows and columns, against their definition.

mod common;

use common::{Arg, Case, assert_close, device, load, node, noise};
use wgrad_ir::{
    BinaryOp, DType, Expr, ExprId, IndexMap, Kernel, MatMulKernel, Op, Operand, ReduceKernel, ReduceOp,
    Reduction, Shape, Store, View,
};
use wgrad_kernels::{Choices, ReduceVariant};

/// Sum, maximum and sum of squares of a row-major buffer's rows or columns, scaled by a factor per column.
fn moments(rows: usize, columns: usize, down: bool) -> Case {
    let memory = Shape::from([rows, columns]);
    let whole = IndexMap::contiguous(memory.clone());
    let scale = IndexMap::contiguous([1, columns].into()).apply(&Op::Expand(memory));
    let turned = |map: IndexMap| {
        if down { map.apply(&Op::Permute([1, 0].into_iter().collect())) } else { map }
    };
    let mul = |a, b| node(Expr::Binary(BinaryOp::Mul, ExprId(a), ExprId(b)), DType::F32);
    let exprs =
        vec![load(0, turned(whole), DType::F32), load(1, turned(scale), DType::F32), mul(0, 1), mul(2, 2)];
    let (outer, inner) = if down { (columns, rows) } else { (rows, columns) };
    let out = |op, value, arg| Reduction { op, value: ExprId(value), arg };
    let outs = vec![out(ReduceOp::Sum, 2, 2), out(ReduceOp::Max, 0, 3), out(ReduceOp::Sum, 3, 4)];
    let kernel = ReduceKernel { outer: [outer].into(), inner: [inner].into(), exprs, outs };
    let mut args =
        vec![Arg::In(DType::F32, noise(rows * columns, 1)), Arg::In(DType::F32, noise(columns, 2))];
    args.extend((0..3).map(|_| Arg::Out(DType::F32, outer)));
    Case::new(Kernel::Reduce(kernel), args)
}

#[test]
fn several_results_come_from_one_walk_over_rows_or_columns() {
    let Some(device) = device() else { return };
    for (rows, columns) in [(7, 64), (130, 12), (1024, 128), (33, 6), (2, 5000), (3000, 4)] {
        for down in [false, true] {
            let case = moments(rows, columns, down);
            let want = case.reference();
            for reduce in [None, Some(ReduceVariant::Column(4)), Some(ReduceVariant::Tree(64))] {
                let got = case.try_run(&device, &Choices { reduce, ..Choices::default() }).unwrap();
                for (g, w) in got.iter().zip(&want) {
                    let what = format!("{rows} x {columns}, down {down}, {reduce:?}");
                    assert_close(g, w, 2e-5, 2e-6, &what);
                }
            }
        }
    }
}

#[test]
fn a_product_gives_the_column_sums_of_its_second_operand() {
    let Some(device) = device() else { return };
    for (m, n, k) in [(8, 12, 40), (5, 7, 9), (0, 4, 8), (3, 4, 0)] {
        let plain = |shape: [usize; 3]| View::contiguous(shape.into());
        let stores = vec![Store { arg: 2, value: ExprId(0), view: plain([2, m, n]) }];
        let kernel = MatMulKernel {
            batch: [2].into(),
            m,
            n,
            k,
            dtype: DType::F32,
            operands: [DType::F32; 2],
            a: Operand { arg: 0, view: plain([2, m, k]) },
            b: Operand { arg: 1, view: plain([2, k, n]) },
            exprs: vec![node(Expr::Product, DType::F32)],
            stores,
            column_sums: Some(3),
            split: None,
        };
        let args = vec![
            Arg::In(DType::F32, noise(2 * m * k, 1)),
            Arg::In(DType::F32, noise(2 * k * n, 2)),
            Arg::Out(DType::F32, 2 * m * n),
            Arg::Out(DType::F32, 2 * n),
        ];
        let case = Case::new(Kernel::MatMul(kernel), args);
        let (got, want) = (case.run(&device), case.reference());
        assert_close(&got[0], &want[0], 1e-5, 1e-6, "product");
        assert_close(&got[1], &want[1], 1e-5, 1e-6, "sums");
    }
}
