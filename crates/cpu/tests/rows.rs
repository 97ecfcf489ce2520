//! Row kernels, products with epilogues and several reductions, against their naive evaluation.

mod common;

use common::*;
use proptest::prelude::*;
use wgrad_ir::{
    BinaryOp, BufferRef, BufferSpec, CompareOp, DType, Expr, ExprId, ExprNode, Kernel, Literal, MatMulKernel,
    Operand, Program, RandomKind, ReduceKernel, ReduceOp, Reduction, RowKernel, Shape, Store, UnaryOp, View,
    row_constant,
};

/// Leaves of moderate size over `space`; buffers are numbered from `first` on.
fn leaves(draw: &mut Draw, space: &Shape, first: u32) -> Expressions {
    let mut e = Expressions { nodes: Vec::new(), inputs: Vec::new(), scalars: Vec::new() };
    for dtype in [DType::F32, DType::F32, DType::F32, DType::I32, DType::Bool] {
        let map = random_map(draw, space);
        let arg = first + e.inputs.len() as u32;
        e.inputs.push((draw.buffer(reach(&map.views()[0].clone()), dtype), dtype));
        e.nodes.push(ExprNode { expr: Expr::Load { arg, map, fill: draw.literal(dtype) }, dtype });
    }
    e.scalars.push(draw.literal(DType::F32));
    e.nodes.push(ExprNode { expr: Expr::Scalar(0), dtype: DType::F32 });
    e.nodes.push(ExprNode { expr: Expr::Const(draw.literal(DType::F32)), dtype: DType::F32 });
    let map = random_map(draw, space);
    e.nodes.push(ExprNode { expr: Expr::Index { map }, dtype: DType::I32 });
    let id = |e: &Expressions| ExprId(e.nodes.len() as u32 - 1);
    let index = id(&e);
    e.nodes.push(ExprNode { expr: Expr::Binary(BinaryOp::Rem, index, ExprId(3)), dtype: DType::I32 });
    let rest = id(&e);
    e.nodes.push(ExprNode { expr: Expr::Cast(rest), dtype: DType::F32 });
    e.nodes.push(ExprNode {
        expr: Expr::Compare(CompareOp::ALL[draw.next(6)], index, ExprId(3)),
        dtype: DType::Bool,
    });
    e.nodes.push(ExprNode { expr: Expr::Const(Literal::u32(7)), dtype: DType::U32 });
    let key = [id(&e); 3];
    let map = random_map(draw, space);
    let random = Expr::Random { stream: 1, kind: RandomKind::Uniform, map, key };
    e.nodes.push(ExprNode { expr: random, dtype: DType::F32 });
    e
}

/// Adds continuous functions, so that a rounding stays small; with reductions along rows where there are any.
fn grow(draw: &mut Draw, e: &mut Expressions, count: usize, rows: bool) {
    for _ in 0..count {
        let pick = |draw: &mut Draw, e: &Expressions, want: DType| {
            let ids: Vec<u32> =
                (0..e.nodes.len() as u32).filter(|&i| e.nodes[i as usize].dtype == want).collect();
            // Late ones more often, so that chains become long.
            ExprId(ids[draw.next(ids.len()).max(draw.next(ids.len()))])
        };
        let (a, b) = (pick(draw, e, DType::F32), pick(draw, e, DType::F32));
        let c = pick(draw, e, DType::Bool);
        let choice = draw.next(if rows { 9 } else { 6 });
        let (expr, dtype) = match choice {
            0 => (Expr::Binary(BinaryOp::Add, a, b), DType::F32),
            1 => (Expr::Binary(BinaryOp::Sub, a, b), DType::F32),
            2 => (Expr::Binary(BinaryOp::Mul, a, b), DType::F32),
            3 => (Expr::Select(c, a, b), DType::F32),
            4 => (Expr::Unary([UnaryOp::Tanh, UnaryOp::Abs, UnaryOp::Neg][draw.next(3)], a), DType::F32),
            5 => (Expr::Binary([BinaryOp::Max, BinaryOp::Min][draw.next(2)], a, b), DType::F32),
            6 => (Expr::Row(ReduceOp::ALL[draw.next(3)], pick(draw, e, DType::I32)), DType::I32),
            _ => (Expr::Row(ReduceOp::ALL[draw.next(3)], a), DType::F32),
        };
        e.nodes.push(ExprNode { expr, dtype });
    }
}

/// A value to store: late ones more often.
fn value(draw: &mut Draw, e: &Expressions) -> usize {
    let n = e.nodes.len();
    n - 1 - draw.next(n).min(draw.next(n)).min(draw.next(n))
}

/// Runs a kernel whose stores are the results in order, and compares what they reach.
fn check_stores(
    e: &Expressions,
    more: Vec<(Buf, BufferSpec)>,
    stores: &[Store],
    kernel: Kernel,
) -> Result<(), TestCaseError> {
    let results: Vec<BufferSpec> =
        stores.iter().map(|s| spec([reach(&s.view)], e.nodes[s.value.index()].dtype)).collect();
    let mut args: Vec<BufferRef> = (0..results.len() as u32).map(BufferRef::Output).collect();
    let mut specs = input_specs(e);
    let mut inputs: Vec<Buf> = e.inputs.iter().map(|i| i.0.clone()).collect();
    for (buf, spec) in more {
        inputs.push(buf);
        specs.push(spec);
    }
    args.extend((0..inputs.len() as u32).map(BufferRef::Input));
    let scalars = e.scalars.iter().map(|s| s.dtype()).collect();
    let p = Program { scalars, ..program(specs, results, vec![], kernel, args) };
    let want = evaluate(&p, &inputs, &e.scalars);
    // Sums cancel: the bound is for terms of moderate size.
    let largest = want.iter().flatten().map(|x| x.as_f64().abs()).filter(|x| !x.is_nan()).fold(1.0, f64::max);
    prop_assume!(largest < 1e6);
    let got = run(&p, &inputs, &e.scalars).map_err(|e| TestCaseError::fail(e.to_string()))?;
    for (i, store) in stores.iter().enumerate() {
        check_view(&store.view, &got[i], &want[i], 2e-6 * largest.max(50.0))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn rows_equal_their_naive_evaluation(
        outer in prop::collection::vec(1usize..6, 0..3),
        inner in prop::collection::vec(1usize..9, 0..3),
        long in prop::option::weighted(0.3, 600usize..12_000),
        many in prop::option::weighted(0.2, 30usize..300),
        seed: u64,
    ) {
        let (mut outer, mut inner) = (outer, inner);
        match (long, many) {
            (Some(n), _) => (outer, inner) = (vec![1 + n % 2], vec![n]),
            (None, Some(n)) => (outer, inner) = (vec![n], vec![1 + n % 40]),
            _ => {}
        }
        let (outer, inner) = (Shape::from(outer), Shape::from(inner));
        let space: Shape = outer.iter().chain(inner.iter()).copied().collect();
        let mut draw = Draw(seed);
        let mut e = leaves(&mut draw, &space, 3);
        grow(&mut draw, &mut e, 14, true);
        let constant = row_constant(&e.nodes, outer.rank());
        let stores: Vec<Store> = (0..3).map(|arg| {
            let value = value(&mut draw, &e);
            let over = if constant[value] && draw.next(4) > 0 { &outer } else { &space };
            let view = if arg == 0 { View::contiguous(over.clone()) } else { strided_view(&mut draw, over) };
            Store { arg, value: ExprId(value as u32), view }
        }).collect();
        let kernel = RowKernel { outer, inner, exprs: e.nodes.clone(), stores: stores.clone() };
        check_stores(&e, vec![], &stores, Kernel::Row(kernel))?;
    }

    #[test]
    fn products_with_epilogues_equal_their_naive_evaluation(
        batch in prop::collection::vec(1usize..4, 0..3), m in 1usize..20, n in 1usize..20, k in 0usize..20,
        large in prop::option::weighted(0.1, 100usize..300), seed: u64,
    ) {
        let (mut batch, mut m) = (batch, m);
        if let Some(rows) = large {
            (batch, m) = (vec![], rows);
        }
        let mut draw = Draw(seed);
        let space: Shape = batch.iter().copied().chain([m, n]).collect();
        let mut e = leaves(&mut draw, &space, 3);
        e.nodes.push(ExprNode { expr: Expr::Product, dtype: DType::F32 });
        grow(&mut draw, &mut e, 8, false);
        let stores: Vec<Store> = (0..3).map(|arg| {
            let view = if draw.next(2) == 0 { View::contiguous(space.clone()) } else { strided_view(&mut draw, &space) };
            Store { arg, value: ExprId(value(&mut draw, &e) as u32), view }
        }).collect();
        let mut operand = |arg: usize, rows: usize, columns: usize| {
            let shape: Shape = batch.iter().copied().chain([rows, columns]).collect();
            let mut view = strided_view(&mut draw, &shape);
            if batch.len() == 1 && draw.next(2) == 0 {
                view.strides[0] = 0;
            }
            let n = reach(&view);
            ((draw.buffer(n, DType::F32), spec([n], DType::F32)), Operand { arg: arg as u32, view })
        };
        let first = 3 + e.inputs.len();
        let (x, a) = operand(first, m, k);
        let (y, b) = operand(first + 1, k, n);
        let kernel = MatMulKernel {
            column_sums: None,
            split: None,
            batch: batch.clone().into(), m, n, k, dtype: DType::F32, operands: [DType::F32; 2], a, b, exprs: e.nodes.clone(), stores: stores.clone(),
        };
        check_stores(&e, vec![x, y], &stores, Kernel::MatMul(kernel))?;
    }

    #[test]
    fn several_reductions_equal_their_naive_evaluation(
        outer in prop::collection::vec(1usize..9, 0..3),
        inner in prop::collection::vec(1usize..9, 0..3),
        big in prop::option::weighted(0.4, 200usize..2000),
        seed: u64,
    ) {
        let (mut outer, mut inner) = (outer, inner);
        match big {
            Some(n) if n % 3 == 0 => (outer, inner) = (vec![1 + n % 5], vec![n]),
            Some(n) if n % 3 == 1 => (outer, inner) = (vec![1 + n % 9], vec![n / 9]),
            Some(n) => (outer, inner) = (vec![n], vec![1 + n % 7]),
            None => {}
        }
        let (outer, inner) = (Shape::from(outer), Shape::from(inner));
        let space: Shape = outer.iter().chain(inner.iter()).copied().collect();
        let mut draw = Draw(seed);
        let mut e = leaves(&mut draw, &space, 3);
        grow(&mut draw, &mut e, 8, false);
        let mut stores = Vec::new();
        let outs: Vec<Reduction> = (0..3).map(|arg| {
            let mut at = value(&mut draw, &e);
            while e.nodes[at].dtype == DType::Bool {
                at = value(&mut draw, &e);
            }
            stores.push(Store { arg, value: ExprId(at as u32), view: View::contiguous(outer.clone()) });
            Reduction { op: ReduceOp::ALL[draw.next(3)], value: ExprId(at as u32), arg }
        }).collect();
        let kernel = ReduceKernel { outer, inner, exprs: e.nodes.clone(), outs };
        check_stores(&e, vec![], &stores, Kernel::Reduce(kernel))?;
    }
}
