//! Reductions, products and scatters against their definition.

mod common;

use common::{Arg, Case, assert_close, device, load, node, noise, numbers};
use wgrad_gpu::GpuBackend;
use wgrad_ir::{
    BinaryOp, DType, Expr, ExprId, IndexMap, Kernel, MatMulKernel, Op, Operand, ReduceKernel, ReduceOp,
    Reduction, ScatterAddKernel, Shape, SortKernel, Store, View,
};
use wgrad_kernels::{Choices, MatMulVariant, ReduceVariant};
use wgrad_runtime::Device;

const REDUCE_VARIANTS: [ReduceVariant; 5] = [
    ReduceVariant::Thread,
    ReduceVariant::Tree(64),
    ReduceVariant::Tree(256),
    ReduceVariant::Column(1),
    ReduceVariant::Column(8),
];

#[test]
fn every_reduction_variant_agrees_with_the_definition() {
    let Some(device) = device() else { return };
    // (outer, inner, whether the inner axes come first in memory: a column reduction)
    let shapes: [(&[usize], &[usize], bool); 7] = [
        (&[5], &[7], false),
        (&[3, 4], &[130], false),
        (&[70], &[9, 5], true),
        (&[], &[1000], false),
        (&[2], &[300, 3], true),
        (&[4], &[1], false),
        (&[1, 1], &[33_000], false),
    ];
    for (outer, inner, columns) in shapes {
        let (outer, inner) = (Shape::from(outer), Shape::from(inner));
        let n = outer.elements() * inner.elements();
        let space: Shape = outer.iter().chain(inner.iter()).copied().collect();
        let map = if columns {
            let memory: Shape = inner.iter().chain(outer.iter()).copied().collect();
            let (i, o) = (inner.rank(), outer.rank());
            IndexMap::contiguous(memory).apply(&Op::Permute((i..i + o).chain(0..i).collect()))
        } else {
            IndexMap::contiguous(space)
        };
        // Every shader costs the software adapter's compiler some 50 ms: not all combinations.
        let kinds = [
            (ReduceOp::Sum, DType::F32),
            (ReduceOp::Max, DType::F32),
            (ReduceOp::Sum, DType::I32),
            (ReduceOp::Min, DType::U32),
        ];
        for (op, dtype) in kinds {
            let data = match dtype {
                DType::F32 => noise(n, 3),
                DType::I32 => numbers(n, 1000, 4).iter().map(|v| v - 700.0).collect(),
                _ => numbers(n, 4_000_000_000, 5),
            };
            let exprs = vec![
                load(0, map.clone(), dtype),
                node(Expr::Binary(BinaryOp::Add, ExprId(0), ExprId(0)), dtype),
            ];
            let kernel = ReduceKernel {
                outer: outer.clone(),
                inner: inner.clone(),
                exprs,
                outs: vec![Reduction { op, value: ExprId(1), arg: 1 }],
            };
            let args = vec![Arg::In(dtype, data), Arg::Out(dtype, outer.elements())];
            let case = Case::new(Kernel::Reduce(kernel), args);
            let want = case.reference();
            let mut choices = vec![Choices::default()];
            choices.extend(REDUCE_VARIANTS.map(|v| Choices { reduce: Some(v), ..Choices::default() }));
            for choice in choices {
                let got = case.try_run(&device, &choice).unwrap();
                let absolute =
                    if dtype == DType::F32 { 2e-6 * (inner.elements() as f64).sqrt() } else { 0.0 };
                assert_close(
                    &got[0],
                    &want[0],
                    absolute,
                    1e-6,
                    &format!("{op:?} {dtype} {choice:?} {outer} {inner}"),
                );
            }
        }
    }
}

#[test]
fn an_empty_sum_is_zero() {
    let Some(device) = device() else { return };
    for variant in REDUCE_VARIANTS {
        let exprs = vec![load(0, IndexMap::contiguous([3, 0].into()), DType::F32)];
        let kernel = ReduceKernel {
            outer: [3].into(),
            inner: [0].into(),
            exprs,
            outs: vec![Reduction { op: ReduceOp::Sum, value: ExprId(0), arg: 1 }],
        };
        let case =
            Case::new(Kernel::Reduce(kernel), vec![Arg::In(DType::F32, vec![]), Arg::Out(DType::F32, 3)]);
        let choices = Choices { reduce: Some(variant), ..Choices::default() };
        assert_eq!(case.try_run(&device, &choices).unwrap(), [[0.0; 3]]);
    }
}

fn tenths(n: usize) -> Case {
    let kernel = ReduceKernel {
        outer: Shape::scalar(),
        inner: [n].into(),
        exprs: vec![load(0, IndexMap::contiguous([n].into()), DType::F32)],
        outs: vec![Reduction { op: ReduceOp::Sum, value: ExprId(0), arg: 1 }],
    };
    Case::new(
        Kernel::Reduce(kernel),
        vec![Arg::In(DType::F32, vec![f64::from(0.1f32); n]), Arg::Out(DType::F32, 1)],
    )
}

#[test]
fn long_sums_are_complete_and_keep_their_accuracy() {
    let Some(device) = device() else { return };
    // Adding a million tenths one by one in f32 is off by a percent.
    let choices = [
        (200_000, Some(ReduceVariant::Thread)),
        (1_000_000, Some(ReduceVariant::Tree(64))),
        (1_000_000, Some(ReduceVariant::Tree(256))),
        (3_000_001, None),
    ];
    for (n, reduce) in choices {
        let got = tenths(n).try_run(&device, &Choices { reduce, ..Choices::default() }).unwrap();
        assert_close(&got[0], &[f64::from(0.1f32) * n as f64], 0.0, 3e-5, &format!("{reduce:?}"));
    }
}

#[test]
fn loops_too_long_for_a_software_adapter_are_refused_and_not_cut_short() {
    let Some(device) = device() else { return };
    if !device.caps().software {
        return;
    }
    let reduce = Some(ReduceVariant::Thread);
    let program = std::sync::Arc::new(tenths(1_000_000).program());
    let Err(error) = device.prepare_with(program, &Choices { reduce, ..Choices::default() }) else {
        panic!("accepted")
    };
    assert!(error.to_string().contains("loop iterations"), "{error}");
    // The longest that are accepted are complete.
    let case = product(&[], 2, 3, 65_000, [false; 2], [false; 2]);
    assert_close(&case.run(&device)[0], &case.reference()[0], 2e-3, 1e-4, "k = 65,000");
    let case = scatter(vec![0.0; 60_000], 1, 1, DType::I32, DType::I32);
    assert_eq!(case.run(&device), case.reference());
}

/// A product whose operands are stored plain, transposed, or repeated over the batch.
fn product(
    batch: &[usize],
    m: usize,
    n: usize,
    k: usize,
    transposed: [bool; 2],
    repeated: [bool; 2],
) -> Case {
    let batch = Shape::from(batch);
    let rank = batch.rank();
    let operand = |rows: usize, cols: usize, transposed: bool, repeated: bool| -> (View, usize) {
        let (x, y) = if transposed { (cols, rows) } else { (rows, cols) };
        let lead: Shape = if repeated { batch.iter().map(|_| 1).collect() } else { batch.clone() };
        let memory: Shape = lead.iter().copied().chain([x, y]).collect();
        let len = memory.elements();
        let mut view = View::contiguous(memory);
        if transposed {
            let perm = (0..rank).chain([rank + 1, rank]).collect();
            view = view.apply(&Op::Permute(perm)).unwrap();
        }
        let full = batch.iter().copied().chain([rows, cols]).collect();
        (view.apply(&Op::Expand(full)).unwrap(), len)
    };
    let (a, a_len) = operand(m, k, transposed[0], repeated[0]);
    let (b, b_len) = operand(k, n, transposed[1], repeated[1]);
    let results = batch.elements() * m * n;
    let (a, b) = (Operand { arg: 1, view: a }, Operand { arg: 2, view: b });
    let space: Shape = batch.iter().copied().chain([m, n]).collect();
    let stores = vec![Store { arg: 0, value: ExprId(0), view: View::contiguous(space) }];
    let exprs = vec![node(Expr::Product, DType::F32)];
    let kernel = MatMulKernel {
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
    };
    let args = vec![
        Arg::Out(DType::F32, results),
        Arg::In(DType::F32, noise(a_len, 1)),
        Arg::In(DType::F32, noise(b_len, 2)),
    ];
    Case::new(Kernel::MatMul(kernel), args)
}

fn variants(subgroup_size: u32) -> Vec<MatMulVariant> {
    let mut all = vec![
        MatMulVariant::Direct { rows: 8, quads: 2 },
        MatMulVariant::Direct { rows: 1, quads: 1 },
        MatMulVariant::Tiled { block: 32 },
        MatMulVariant::Tiled { block: 64 },
        MatMulVariant::Tiled { block: 128 },
    ];
    if subgroup_size == 8 {
        all.extend([8, 16, 32].map(|rows| MatMulVariant::Subgroup { rows, quads: rows.div_ceil(16) }));
    }
    all
}

#[test]
fn every_matmul_variant_takes_odd_sizes_strides_and_batches() {
    let Some(device) = device() else { return };
    let subgroup_size = device.caps().subgroup_size;
    let cases = [
        product(&[], 1, 1, 1, [false; 2], [false; 2]),
        product(&[], 65, 70, 33, [false; 2], [false; 2]),
        product(&[], 17, 129, 50, [true, false], [false; 2]),
        product(&[], 40, 31, 19, [false, true], [false; 2]),
        product(&[2, 3], 9, 35, 8, [true, true], [false; 2]),
        product(&[5], 20, 64, 16, [false, true], [false, true]),
        product(&[3, 2], 1, 33, 100, [false, false], [true, false]),
        product(&[], 150, 3, 200, [false; 2], [false; 2]),
        product(&[2], 4, 5, 0, [false; 2], [false; 2]),
        product(&[2], 0, 5, 3, [false; 2], [false; 2]),
    ];
    for (n, case) in cases.iter().enumerate() {
        let want = case.reference();
        // All variants where edges, strides and batches meet; the default one elsewhere.
        let all = if [1, 4, 8].contains(&n) { variants(subgroup_size) } else { Vec::new() };
        let mut choices = vec![Choices::default()];
        choices.extend(all.into_iter().map(|v| Choices { matmul: Some(v), ..Choices::default() }));
        for choice in choices {
            let got = case.try_run(&device, &choice).unwrap();
            assert_close(&got[0], &want[0], 3e-6, 1e-5, &format!("case {n} {choice:?}"));
        }
    }
}

fn scatter(ids: Vec<f64>, rows: usize, row_len: usize, dtype: DType, ids_dtype: DType) -> Case {
    let count = ids.len();
    let source = match dtype {
        DType::F32 => noise(count * row_len, 8),
        _ => numbers(count * row_len, 100, 8).iter().map(|v| v - 50.0).collect(),
    };
    let kernel = Kernel::ScatterAdd(ScatterAddKernel { rows, row_len, count, dtype, ids_dtype });
    let args = vec![
        Arg::Out(dtype, rows * row_len),
        Arg::In(ids_dtype, ids),
        Arg::In(dtype, source),
        Arg::Temp(2 * count),
    ];
    Case::new(kernel, args)
}

#[test]
fn scatters_sum_repeated_ids_and_clear_the_rest() {
    let Some(device) = device() else { return };
    for (count, rows, row_len) in [(1, 1, 1), (300, 7, 5), (64, 200, 3), (500, 1, 2), (0, 4, 4), (10, 3, 0)] {
        for ids_dtype in [DType::I32, DType::U32] {
            let ids = numbers(count, rows as u32, 6);
            let exact = scatter(ids.clone(), rows, row_len, DType::I32, ids_dtype);
            assert_eq!(exact.run(&device), exact.reference(), "{count} {rows} {row_len}");
            let float = scatter(ids, rows, row_len, DType::F32, ids_dtype);
            let first = float.run(&device);
            assert_close(&first[0], &float.reference()[0], 1e-5, 1e-5, "f32");
            // In one order, and so to the last bit the same.
            assert_eq!(first, float.run(&device));
        }
    }
}

#[test]
fn sorts_are_stable_at_every_length() {
    let Some(device) = device() else { return };
    for (rows, len) in [(1, 1), (3, 5), (2, 64), (5, 65), (1, 1000), (2, 129), (0, 7), (4, 0)] {
        for (n, dtype) in [DType::F32, DType::I32, DType::U32, DType::Bool].into_iter().enumerate() {
            // Few values, so that many are equal.
            let limit = if dtype == DType::Bool { 2 } else { 19 };
            let shift = if n < 2 { 9.0 } else { 0.0 };
            let source: Vec<f64> = numbers(rows * len, limit, 8).iter().map(|v| v - shift).collect();
            let kernel = Kernel::Sort(SortKernel { rows, len, dtype, descending: n % 2 == 1 });
            let args = vec![Arg::Out(DType::I32, rows * len), Arg::In(dtype, source), Arg::Temp(rows * len)];
            let case = Case::new(kernel, args);
            assert_eq!(case.run(&device), case.reference(), "{rows} rows of {len}, {dtype}");
        }
    }
}

#[test]
fn the_fastest_variant_is_found_by_trying_and_remembered() {
    if device().is_none() {
        return;
    }
    let open = || GpuBackend::new().open_gpu("gpu:0").unwrap();
    let folder = std::env::temp_dir().join(format!("wgrad-tuning-{}", std::process::id()));
    let file = folder.join("choices.txt");
    let candidates =
        [MatMulVariant::Direct { rows: 1, quads: 1 }, MatMulVariant::Direct { rows: 4, quads: 1 }];
    let case = product(&[2], 60, 33, 20, [false, true], [false; 2]);

    let first = open();
    if first.caps().software {
        case.run(&first);
        assert!(first.tuning().is_empty(), "software adapters have a fixed choice");
    }
    first.autotune(&candidates, Some(file.clone()));
    common::assert_close(&case.run(&first)[0], &case.reference()[0], 1e-5, 1e-5, "tuned");
    let found = first.tuning();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["matmul f32 2x64x64x32 rows columns"]);
    assert!(found.values().all(|v| ["direct 1 1", "direct 4 1"].contains(&v.as_str())), "{found:?}");

    // Another process, as it were: it finds the file, and tries nothing.
    let second = open();
    second.autotune(&candidates, Some(file.clone()));
    assert_eq!(second.tuning(), found);
    let before = second.stats().runs;
    case.run(&second);
    assert_eq!(second.stats().runs, before + 1);

    // A checkpoint's choices come first; what is no choice is refused.
    let third = open();
    let other = [("matmul f32 2x64x64x32 rows columns".to_owned(), "tiled 32".to_owned())];
    third.set_tuning(&other.clone().into()).unwrap();
    third.autotune(&candidates, Some(file.clone()));
    case.run(&third);
    assert_eq!(third.tuning(), other.into());
    assert!(third.set_tuning(&[("matmul".to_owned(), "tiled 7".to_owned())].into()).is_err());

    // A damaged file is no file.
    std::fs::write(&file, "wgrad tuning 1\nnonsense\nmatmul f32\ttiled x\n").unwrap();
    let fourth = open();
    fourth.autotune(&candidates, Some(file));
    assert!(fourth.tuning().is_empty());
    std::fs::remove_dir_all(folder).unwrap();
}
