//! Products with epilogues against their definition.

mod common;

use std::sync::Arc;

use common::{Arg, Case, assert_close, device, encode, load, node, noise, outputs};
use wgrad_compile::{Options, compile};
use wgrad_ir::{
    BinaryOp, CompareOp, DType, DeviceCaps, Expr, ExprId, ExprNode, Graph, IndexMap, Kernel, Literal,
    MatMulKernel, Op, Operand, ReduceOp, Shape, SplitK, Store, UnaryOp, View, philox,
    reference::{Rounding, run_program},
};
use wgrad_kernels::{Choices, MatMulVariant};
use wgrad_runtime::Device;

fn variants(subgroup_size: u32) -> Vec<MatMulVariant> {
    let mut all = vec![
        MatMulVariant::Direct { rows: 4, quads: 1 },
        MatMulVariant::Tiled { block: 32 },
        MatMulVariant::Tiled { block: 64 },
    ];
    if subgroup_size == 8 {
        all.extend(
            [(8, 1), (16, 1), (16, 2), (32, 1)].map(|(rows, quads)| MatMulVariant::Subgroup { rows, quads }),
        );
    }
    all
}

/// A product drawn from `seed`: operands in any order of axes, an epilogue over several loads, one to three results.
fn random(seed: u32) -> Case {
    let r = |i: u32, n: usize| philox::word(i, 4, seed, [18, 19]) as usize % n;
    let batch = Shape::from([&[][..], &[3], &[2, 2]][r(0, 3)].to_vec());
    let [m, n, k] = [[5, 16, 33, 48][r(1, 4)], [4, 7, 64, 100][r(2, 4)], [1, 8, 20, 31, 0][r(3, 5)]];
    let mut args = Vec::new();
    let operand = |args: &mut Vec<Arg>, rows: usize, cols: usize, i: u32| -> Operand {
        let mut shape: Vec<usize> = batch.to_vec();
        let kind = r(10 + i, 4);
        let transposed = kind % 2 == 1;
        shape.extend(if transposed { [cols, rows] } else { [rows, cols] });
        if kind == 3 {
            // Within a wider buffer, shifted.
            *shape.last_mut().unwrap() += [3, 4][r(20 + i, 2)];
        }
        let rank = shape.len();
        let mut map = IndexMap::contiguous(shape.clone().into());
        if kind == 3 {
            let inner = [cols, rows][usize::from(transposed)];
            let ranges = (0..rank)
                .map(|d| if d == rank - 1 { (shape[d] - inner, inner, 1) } else { (0, shape[d], 1) });
            map = map.apply(&Op::Slice { ranges: ranges.collect() });
        }
        if transposed {
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.swap(rank - 1, rank - 2);
            map = map.apply(&Op::Permute(perm.into_iter().collect()));
        }
        let arg = args.len() as u32;
        args.push(Arg::In(DType::F32, noise(shape.iter().product(), seed * 16 + i)));
        Operand { arg, view: map.single().unwrap().clone() }
    };
    let a = operand(&mut args, m, k, 0);
    let b = operand(&mut args, k, n, 1);
    let space: Shape = batch.iter().copied().chain([m, n]).collect();
    let rank = space.rank();
    let all = space.elements();
    let f32_node = |expr| node(expr, DType::F32);
    let mut exprs: Vec<ExprNode> = vec![f32_node(Expr::Product)];
    // A bias per column, one per row, a residual, and a transposed residual.
    let expanded =
        |from: Shape| (from.elements(), IndexMap::contiguous(from).apply(&Op::Expand(space.clone())));
    let turned: Shape = space.iter().rev().copied().collect();
    let backwards: Op = Op::Permute((0..rank).rev().collect());
    for (i, (len, map)) in [
        expanded((0..rank).map(|d| if d == rank - 1 { n } else { 1 }).collect()),
        expanded((0..rank).map(|d| if d == rank - 2 { m } else { 1 }).collect()),
        (all, IndexMap::contiguous(space.clone())),
        (all, IndexMap::contiguous(turned.clone()).apply(&backwards)),
    ]
    .into_iter()
    .enumerate()
    {
        exprs.push(load(args.len() as u32, map, DType::F32));
        args.push(Arg::In(DType::F32, noise(len, seed * 16 + 2 + i as u32)));
    }
    for step in 0..6u32 {
        let (a, b) = (r(40 + step, exprs.len()), r(50 + step, exprs.len()));
        let (a, b) = (ExprId(if step == 0 { 0 } else { a as u32 }), ExprId(b as u32));
        exprs.push(f32_node(match r(60 + step, 6) {
            0 => Expr::Binary(BinaryOp::Add, a, b),
            1 => Expr::Binary(BinaryOp::Mul, a, b),
            2 => Expr::Unary(UnaryOp::Tanh, a),
            3 => Expr::Unary(UnaryOp::Erf, a),
            4 => Expr::Binary(BinaryOp::Max, a, b),
            _ => Expr::Binary(BinaryOp::Sub, a, b),
        }));
    }
    exprs.push(node(Expr::Compare(CompareOp::Lt, ExprId(2), ExprId(3)), DType::Bool));
    let mut stores = Vec::new();
    for i in 0..1 + r(70, 3) as u32 {
        let value = ExprId((exprs.len() - 1 - r(71 + i, 4)) as u32);
        let view = match r(75 + i, 2) {
            0 => View::contiguous(space.clone()),
            _ => View::contiguous(turned.clone()).apply(&backwards).unwrap(),
        };
        stores.push(Store { arg: args.len() as u32, value, view });
        args.push(Arg::Out(exprs[value.index()].dtype, all));
    }
    Case::new(
        Kernel::MatMul(MatMulKernel {
            batch,
            m,
            n,
            k,
            dtype: DType::F32,
            operands: [DType::F32; 2],
            a,
            b,
            exprs,
            stores,
            column_sums: None,
            split: None,
        }),
        args,
    )
}

#[test]
fn random_products_and_their_epilogues_are_those_of_the_definition() {
    let Some(device) = device() else { return };
    let variants = variants(device.caps().subgroup_size);
    for seed in 0..60 {
        let case = random(seed);
        let want = case.reference();
        let matmul = (seed % 3 > 0).then(|| variants[seed as usize / 2 % variants.len()]);
        let got = case.try_run(&device, &Choices { matmul, ..Choices::default() }).unwrap();
        for (g, w) in got.iter().zip(&want) {
            assert_close(g, w, 1e-5, 1e-5, &format!("seed {seed}, {matmul:?}, {:?}", case.kernel));
        }
    }
}

/// Adds the column sums to the results of a product.
fn with_column_sums(case: &mut Case) -> &mut MatMulKernel {
    let Kernel::MatMul(kernel) = &mut case.kernel else { unreachable!("a product") };
    kernel.column_sums = Some(case.args.len() as u32);
    case.args.push(Arg::Out(DType::F32, kernel.batch.elements() * kernel.n));
    kernel
}

#[test]
fn every_variant_takes_the_column_sums_along() {
    let Some(device) = device() else { return };
    for (v, matmul) in variants(device.caps().subgroup_size).into_iter().enumerate() {
        for i in 0..8 {
            let seed = 100 + 8 * v as u32 + i;
            let mut case = random(seed);
            let kernel = with_column_sums(&mut case);
            let (rank, strides) = (kernel.batch.rank(), &mut kernel.b.view.strides);
            match i {
                // One matrix for the whole batch; one row for all of k; one column for all of them.
                5 => strides[..rank].fill(0),
                6 => strides[rank] = 0,
                7 => strides[rank + 1] = 0,
                _ => {}
            }
            let choices = Choices { matmul: Some(matmul), ..Choices::default() };
            let dispatches = wgrad_kernels::generate(&case.kernel, device.caps(), &choices).unwrap();
            assert_eq!(dispatches.len(), 1, "B would be read again");
            let got = case.try_run(&device, &choices).unwrap();
            for (g, w) in got.iter().zip(&case.reference()) {
                assert_close(g, w, 1e-5, 1e-5, &format!("seed {seed}, {matmul:?}, {:?}", case.kernel));
            }
        }
    }
}

/// Lets a product compute in parts.
fn in_parts(case: &mut Case, parts: usize) {
    let Kernel::MatMul(kernel) = &mut case.kernel else { unreachable!("a product") };
    let mut scratch = |words: usize| {
        case.args.push(Arg::Temp(words));
        case.args.len() as u32 - 1
    };
    let columns = parts * kernel.batch.elements() * kernel.n;
    let products = scratch(columns * kernel.m);
    let sums = kernel.column_sums.map(|_| scratch(columns));
    kernel.split = Some(SplitK { parts, products, sums });
}

#[test]
fn a_contraction_in_parts_gives_the_product_what_follows_it_and_the_column_sums() {
    let Some(device) = device() else { return };
    let variants = variants(device.caps().subgroup_size);
    for seed in 200..230 {
        let mut case = random(seed);
        let Kernel::MatMul(kernel) = &case.kernel else { unreachable!("a product") };
        let Some(parts) = [4, 2, 31].into_iter().find(|p| kernel.k > 0 && kernel.k.is_multiple_of(*p)) else {
            continue;
        };
        if seed % 2 == 0 {
            with_column_sums(&mut case);
        }
        in_parts(&mut case, parts);
        let matmul = (seed % 3 > 0).then(|| variants[seed as usize / 2 % variants.len()]);
        let choices = Choices { matmul, ..Choices::default() };
        let dispatches = wgrad_kernels::generate(&case.kernel, device.caps(), &choices).unwrap();
        assert_eq!(dispatches.len(), if seed % 2 == 0 { 3 } else { 2 });
        let got = case.try_run(&device, &choices).unwrap();
        for (g, w) in got.iter().zip(&case.reference()) {
            assert_close(g, w, 1e-5, 1e-5, &format!("seed {seed}, {matmul:?}, {:?}", case.kernel));
        }
        assert_eq!(case.try_run(&device, &choices).unwrap(), got, "the order of sums is fixed");
    }
}

#[test]
fn the_gradients_of_a_narrow_layer_over_many_rows_are_computed_in_parts_on_real_gpus() {
    let Some(device) = device() else { return };
    // w - 0.01 xᵀ g and Σ g, as a layer of 48 inputs and 80 outputs has them after a batch of 4096 rows.
    let (rows, m, n) = (4096, 48, 80);
    let mut g = Graph::new();
    let mut input = |index: u32, shape: [usize; 2]| {
        g.push(Op::Input { index, shape: shape.into(), dtype: DType::F32 }, &[]).unwrap()
    };
    let [x, grad, w] = [input(0, [rows, m]), input(1, [rows, n]), input(2, [m, n])];
    let turned = g.push(Op::Permute([1, 0].into_iter().collect()), &[x]).unwrap();
    let product = g.push(Op::Dot, &[turned, grad]).unwrap();
    let rate = g.push(Op::Const(Literal::from_f64(DType::F32, 0.01)), &[]).unwrap();
    let rate = g.push(Op::Reshape([1, 1].into()), &[rate]).unwrap();
    let rate = g.push(Op::Expand([m, n].into()), &[rate]).unwrap();
    let scaled = g.push(Op::Binary(BinaryOp::Mul), &[product, rate]).unwrap();
    let new = g.push(Op::Binary(BinaryOp::Sub), &[w, scaled]).unwrap();
    let bias = g.push(Op::Reduce { op: ReduceOp::Sum, axes: [0].into_iter().collect() }, &[grad]).unwrap();
    g.set_outputs(vec![new, bias]);
    let real = DeviceCaps { software: false, max_workgroup_invocations: 256, ..device.caps().clone() };
    let program = compile(&g, &real, &Options::default()).unwrap();
    let parts = program.steps.iter().find_map(|step| match &*step.kernel {
        Kernel::MatMul(k) => k.split.map(|split| split.parts),
        _ => None,
    });
    assert_eq!(parts, Some(16), "{program}");
    let software = compile(&g, device.caps(), &Options::default()).unwrap();
    assert!(software.temps.iter().sum::<u64>() < program.temps.iter().sum());

    let data = [noise(rows * m, 1), noise(rows * n, 2), noise(m * n, 3)];
    let want = run_program(&program, &data, &[], Rounding::EachOperation);
    let executable = device.prepare(Arc::new(program)).unwrap();
    let inputs = data.iter().map(|d| device.upload(&encode(DType::F32, d), DType::F32).unwrap());
    let run = executable.run(inputs.collect(), &[]).unwrap();
    let got = outputs(&device, executable.program(), &run).unwrap();
    // Sums of 4096 terms below one: 64 at most in size, in each of which some roundings do not cancel.
    for (g, w) in got.iter().zip(&want) {
        assert_close(g, w, 2e-4, 0.0, "the gradients");
    }
}

#[test]
fn column_sums_of_a_long_contraction_are_as_close_as_the_product() {
    let Some(device) = device() else { return };
    let (m, n, k) = (33, 68, 4003);
    for matmul in variants(device.caps().subgroup_size) {
        let view = |shape: [usize; 2]| View::contiguous(shape.into());
        let kernel = MatMulKernel {
            batch: Shape::scalar(),
            m,
            n,
            k,
            dtype: DType::F32,
            operands: [DType::F32; 2],
            a: Operand { arg: 0, view: view([m, k]) },
            b: Operand { arg: 1, view: view([k, n]) },
            exprs: vec![node(Expr::Product, DType::F32)],
            stores: vec![Store { arg: 2, value: ExprId(0), view: view([m, n]) }],
            column_sums: None,
            split: None,
        };
        let args = vec![
            Arg::In(DType::F32, noise(m * k, 1)),
            Arg::In(DType::F32, noise(k * n, 2)),
            Arg::Out(DType::F32, m * n),
        ];
        let mut case = Case::new(Kernel::MatMul(kernel), args);
        with_column_sums(&mut case);
        let got = case.try_run(&device, &Choices { matmul: Some(matmul), ..Choices::default() }).unwrap();
        for (g, w) in got.iter().zip(&case.reference()) {
            // Terms of either sign: partial sums stay below 100, and most of their 4003 roundings (4e-6 at most) cancel.
            assert_close(g, w, 2e-4, 0.0, &format!("{matmul:?}"));
        }
    }
}

#[test]
fn the_parts_of_a_packed_projection_are_written_where_they_belong() {
    let Some(device) = device() else { return };
    // x W with the columns of W for queries, keys and values: a store into heads, and one of gelu(x W) beside it.
    let (m, n, k) = (32, 64, 16);
    let view = |shape: [usize; 2]| View::contiguous(shape.into());
    let half = Literal::from_f64(DType::F32, 0.5);
    let root = Literal::from_f64(DType::F32, std::f64::consts::FRAC_1_SQRT_2);
    let one = Literal::from_f64(DType::F32, 1.0);
    let exprs = [
        Expr::Product,
        Expr::Const(root),
        Expr::Binary(BinaryOp::Mul, ExprId(0), ExprId(1)),
        Expr::Unary(UnaryOp::Erf, ExprId(2)),
        Expr::Const(one),
        Expr::Binary(BinaryOp::Add, ExprId(3), ExprId(4)),
        Expr::Const(half),
        Expr::Binary(BinaryOp::Mul, ExprId(5), ExprId(6)),
        Expr::Binary(BinaryOp::Mul, ExprId(7), ExprId(0)),
    ]
    .map(|expr| node(expr, DType::F32))
    .to_vec();
    let wide = |offset: i64| View {
        shape: [m, n].into(),
        strides: [2 * n as i64, 1].into_iter().collect(),
        offset,
        mask: None,
    };
    let stores = vec![
        Store { arg: 2, value: ExprId(0), view: wide(0) },
        Store { arg: 2, value: ExprId(8), view: wide(n as i64) },
    ];
    let a = Operand { arg: 0, view: view([m, k]) };
    let b = Operand { arg: 1, view: view([k, n]) };
    let kernel = MatMulKernel {
        batch: Shape::scalar(),
        m,
        n,
        k,
        dtype: DType::F32,
        operands: [DType::F32; 2],
        a,
        b,
        exprs,
        stores,
        column_sums: None,
        split: None,
    };
    let args = vec![
        Arg::In(DType::F32, noise(m * k, 1)),
        Arg::In(DType::F32, noise(k * n, 2)),
        Arg::Out(DType::F32, 2 * m * n),
    ];
    let case = Case::new(Kernel::MatMul(kernel), args);
    assert_close(&case.run(&device)[0], &case.reference()[0], 2e-6, 2e-6, "gelu");
}
