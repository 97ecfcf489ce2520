//! Programs on the CPU runtime against their naive evaluation.

mod common;

use common::*;
use proptest::prelude::*;
use wgrad_ir::reference::unravel;
use wgrad_ir::{
    BufferRef, DType, Expr, ExprId, ExprNode, IndexMap, Kernel, Literal, MapKernel, MatMulKernel, Op,
    Operand, Program, ReduceKernel, ReduceOp, Reduction, ScatterAddKernel, Shape, Store, View,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn maps_equal_their_naive_evaluation(dims in prop::collection::vec(1usize..9, 0..5), big in 0usize..4, seed: u64) {
        let mut dims = dims;
        // Some spaces are longer than a block.
        if big == 0 && dims.len() < 3 { dims.push(700); }
        let space = Shape::from(dims);
        let mut draw = Draw(seed);
        let e = expressions(&mut draw, &space, 2);
        let n = e.nodes.len();
        let values = [n - 1, n - 1 - draw.next(8)];
        // One store in order, one through a permutation into a larger buffer.
        let mut wide = space.clone();
        wide.push(2);
        let permuted: View = {
            let reversed: Shape = wide.iter().rev().copied().collect();
            let map = IndexMap::contiguous(reversed).apply(&Op::Permute((0..wide.rank()).rev().collect()));
            let ranges = wide.iter().enumerate().map(|(d, &x)| if d + 1 == wide.rank() { (1, 1, 1) } else { (0, x, 1) });
            map.apply(&Op::Slice { ranges: ranges.collect() }).apply(&Op::Reshape(space.clone())).outer().clone()
        };
        prop_assume!(permuted.shape == space);
        let stores = vec![
            Store { arg: 0, value: ExprId(values[0] as u32), view: View::contiguous(space.clone()) },
            Store { arg: 1, value: ExprId(values[1] as u32), view: permuted },
        ];
        let results = vec![spec(space.clone(), e.nodes[values[0]].dtype), spec(wide, e.nodes[values[1]].dtype)];
        let mut args = vec![BufferRef::Output(0), BufferRef::Output(1)];
        args.extend((0..e.inputs.len() as u32).map(BufferRef::Input));
        let inputs: Vec<Buf> = e.inputs.iter().map(|i| i.0.clone()).collect();
        let kernel = Kernel::Map(MapKernel { space, exprs: e.nodes.clone(), stores });
        let p = Program { scalars: e.scalars.iter().map(|s| s.dtype()).collect(), ..program(input_specs(&e), results, vec![], kernel, args) };
        // Elements that the second store does not reach keep what the buffer held: compare those it writes.
        let got = run(&p, &inputs, &e.scalars).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let want = evaluate(&p, &inputs, &e.scalars);
        for (&g, &w) in got[0].iter().zip(&want[0]) {
            prop_assert!(close(g, w, 1e-6), "got {:?}, want {:?} in {:?}", g, w, p);
        }
        let Kernel::Map(k) = &*p.steps[0].kernel else { unreachable!() };
        for flat in 0..k.space.elements() {
            let at = k.stores[1].view.address(&unravel(flat, &k.space)).unwrap() as usize;
            prop_assert!(close(got[1][at], want[1][at], 1e-6), "[{}]: got {:?}, want {:?} in {:?}", at, got[1][at], want[1][at], p);
        }
    }

    #[test]
    fn reductions_equal_their_naive_evaluation(
        outer in prop::collection::vec(1usize..9, 0..3),
        inner in prop::collection::vec(1usize..9, 0..3),
        big in 0usize..6,
        op in 0usize..3,
        seed: u64,
    ) {
        let (mut outer, mut inner) = (outer, inner);
        match big {
            0 if inner.len() < 2 => inner.push(900),
            1 if outer.len() < 2 => outer.push(900),
            _ => {}
        }
        let (outer, inner) = (Shape::from(outer), Shape::from(inner));
        let space: Shape = outer.iter().chain(inner.iter()).copied().collect();
        let mut draw = Draw(seed);
        let e = expressions(&mut draw, &space, 1);
        let value = (0..e.nodes.len()).rev().find(|&i| e.nodes[i].dtype != DType::Bool && !e.nodes[i].dtype.is_narrow()).unwrap();
        let kernel = Kernel::Reduce(ReduceKernel {
            outer: outer.clone(), inner, exprs: e.nodes.clone(),
            outs: vec![Reduction { op: ReduceOp::ALL[op], value: ExprId(value as u32), arg: 0 }],
        });
        let mut args = vec![BufferRef::Output(0)];
        args.extend((0..e.inputs.len() as u32).map(BufferRef::Input));
        let inputs: Vec<Buf> = e.inputs.iter().map(|i| i.0.clone()).collect();
        let results = vec![spec(outer, e.nodes[value].dtype)];
        let p = Program { scalars: e.scalars.iter().map(|s| s.dtype()).collect(), ..program(input_specs(&e), results, vec![], kernel, args) };
        let magnitude = inputs.len() as f64;
        // Sums of f32 cancel: the bound is relative to the largest terms, which random casts of words can make.
        let terms = evaluate(&p, &inputs, &e.scalars);
        let largest = terms[0].iter().map(|x| x.as_f64().abs()).fold(1.0, f64::max);
        prop_assume!(largest < 1e5);
        check(&p, &inputs, &e.scalars, 1e-4 * magnitude)?;
    }

    #[test]
    fn matrix_products_equal_their_naive_evaluation(
        batch in prop::collection::vec(1usize..4, 0..3), m in 1usize..20, n in 1usize..20, k in 0usize..20, seed: u64,
    ) {
        let mut draw = Draw(seed);
        let dtype = [DType::F32, DType::F64][draw.next(2)];
        let mut operand = |rows: usize, columns: usize| {
            let shape: Shape = batch.iter().copied().chain([rows, columns]).collect();
            let rank = shape.rank();
            let base: Shape = shape.iter().enumerate().map(|(d, &x)| if d + 2 < rank && draw.next(3) == 0 { 1 } else { x }).collect();
            let mut map = IndexMap::contiguous(base.clone());
            if draw.next(2) == 0 {
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(rank - 1, rank - 2);
                let stored: Shape = perm.iter().map(|&d| base[d]).collect();
                map = IndexMap::contiguous(stored).apply(&Op::Permute(perm.into_iter().collect()));
            }
            let elements = base.elements();
            (map.apply(&Op::Expand(shape)).outer().clone(), draw.buffer(elements, dtype))
        };
        let (a, x) = operand(m, k);
        let (b, y) = operand(k, n);
        let out: Shape = batch.iter().copied().chain([m, n]).collect();
        let kernel = Kernel::MatMul(MatMulKernel {
            column_sums: None,
            split: None,
            batch: batch.clone().into(), m, n, k, dtype, operands: [dtype; 2],
            a: Operand { arg: 1, view: a },
            b: Operand { arg: 2, view: b },
            exprs: vec![ExprNode { expr: Expr::Product, dtype }],
            stores: vec![Store { arg: 0, value: ExprId(0), view: View::contiguous(out.clone()) }],
        });
        let inputs = vec![spec([x.len()], dtype), spec([y.len()], dtype)];
        let args = vec![BufferRef::Output(0), BufferRef::Input(0), BufferRef::Input(1)];
        check(&program(inputs, vec![spec(out, dtype)], vec![], kernel, args), &[x, y], &[], 1e-5)?;
    }

    #[test]
    fn scatters_and_gathers_equal_their_naive_evaluation(rows in 1usize..9, row_len in 0usize..70, count in 0usize..40, seed: u64) {
        let mut draw = Draw(seed);
        let dtype = [DType::F32, DType::F64, DType::I32][draw.next(3)];
        let ids: Buf = (0..count).map(|_| Literal::from_f64(DType::I32, draw.next(rows) as f64)).collect();
        let source = draw.buffer(count * row_len, dtype);
        let kernel = Kernel::ScatterAdd(ScatterAddKernel { rows, row_len, count, dtype, ids_dtype: DType::I32 });
        let p = program(
            vec![spec([count], DType::I32), spec([count, row_len], dtype)],
            vec![spec([rows, row_len], dtype)],
            vec![8 * count as u64],
            kernel,
            vec![BufferRef::Output(0), BufferRef::Input(0), BufferRef::Input(1), BufferRef::Temp(0)],
        );
        let got = run(&p, &[ids.clone(), source.clone()], &[]).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let mut want = vec![0.0; rows * row_len];
        for i in 0..count {
            for j in 0..row_len {
                want[ids[i].as_f64() as usize * row_len + j] += source[i * row_len + j].as_f64();
            }
        }
        for (g, w) in got[0].iter().zip(want) {
            prop_assert!((g.as_f64() - w).abs() < 1e-4);
        }
        prop_assume!(row_len > 0);
        let table = draw.buffer(rows * row_len, dtype);
        let space = Shape::from([count, row_len]);
        let map = if draw.next(2) == 0 {
            IndexMap::contiguous(space.clone())
        } else {
            IndexMap::contiguous(space.clone()).apply(&Op::Flip([1].into_iter().collect()))
        };
        let expr = Expr::Gather { table: 1, ids: 2, ids_dtype: DType::I32, rows, row_len, map };
        let kernel = Kernel::Map(MapKernel {
            space: space.clone(),
            exprs: vec![ExprNode { expr, dtype }],
            stores: vec![Store { arg: 0, value: ExprId(0), view: View::contiguous(space.clone()) }],
        });
        let p = program(
            vec![spec([rows, row_len], dtype), spec([count], DType::I32)],
            vec![spec(space, dtype)],
            vec![],
            kernel,
            vec![BufferRef::Output(0), BufferRef::Input(0), BufferRef::Input(1)],
        );
        check(&p, &[table, ids], &[], 0.0)?;
    }
}
