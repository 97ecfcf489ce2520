//! Map kernels against their definition.

mod common;

use common::{Arg, Case, assert_close, device, load, node, noise, numbers};
use wgrad_ir::{
    BinaryOp, CompareOp, DType, Expr, ExprId, ExprNode, IndexMap, Kernel, Literal, MapKernel, Op, RandomKind,
    Shape, Store, UnaryOp, View, philox,
};

fn map(space: Shape, exprs: Vec<ExprNode>, out: u32) -> Kernel {
    let value = ExprId(exprs.len() as u32 - 1);
    let stores = vec![Store { arg: out, value, view: View::contiguous(space.clone()) }];
    Kernel::Map(MapKernel { space, exprs, stores })
}

/// `f(x)` for every `x`.
fn apply(op: UnaryOp, x: &[f64], dtype: DType) -> Case {
    let space = Shape::from([x.len()]);
    let exprs =
        vec![load(0, IndexMap::contiguous(space.clone()), dtype), node(Expr::Unary(op, ExprId(0)), dtype)];
    Case::new(map(space, exprs, 1), vec![Arg::In(dtype, x.to_vec()), Arg::Out(dtype, x.len())])
}

fn apply2(op: BinaryOp, pairs: &[(f64, f64)], dtype: DType) -> Case {
    let space = Shape::from([pairs.len()]);
    let whole = IndexMap::contiguous(space.clone());
    let exprs = vec![
        load(0, whole.clone(), dtype),
        load(1, whole, dtype),
        node(Expr::Binary(op, ExprId(0), ExprId(1)), dtype),
    ];
    let column = |f: fn(&(f64, f64)) -> f64| pairs.iter().map(f).collect();
    let args =
        vec![Arg::In(dtype, column(|p| p.0)), Arg::In(dtype, column(|p| p.1)), Arg::Out(dtype, pairs.len())];
    Case::new(map(space, exprs, 2), args)
}

fn f32s(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    values.into_iter().map(|v| f64::from(v as f32)).collect()
}

#[test]
fn elementary_functions_are_accurate_over_their_range() {
    let Some(device) = device() else { return };
    let line = |from: f64, to: f64| f32s((0..4001).map(move |i| from + (to - from) * f64::from(i) / 4000.0));
    let positive = || f32s((0..4001).map(|i| 10f64.powf(-37.0 + 75.0 * f64::from(i) / 4000.0)));
    // (function, arguments, absolute, relative): subnormal results may be flushed to zero.
    let table = [
        (UnaryOp::Exp, line(-87.0, 88.7), 1e-37, 4e-7),
        (UnaryOp::Log, positive(), 1e-9, 3e-7),
        (UnaryOp::Log, line(0.5, 2.0), 1e-9, 3e-7),
        (UnaryOp::Tanh, line(-12.0, 12.0), 0.0, 6e-7),
        (UnaryOp::Tanh, line(-1e-3, 1e-3), 0.0, 3e-7),
        (UnaryOp::Erf, line(-5.0, 5.0), 0.0, 5e-7),
        (UnaryOp::Erf, line(-1e-4, 1e-4), 0.0, 5e-7),
        (UnaryOp::Sin, line(-100.0, 100.0), 3e-7, 0.0),
        (UnaryOp::Cos, line(-100.0, 100.0), 3e-7, 0.0),
        (UnaryOp::Sin, line(-3000.0, 3000.0), 3e-6, 0.0),
        (UnaryOp::Sqrt, positive(), 0.0, 2e-7),
        (UnaryOp::Rsqrt, positive(), 0.0, 4e-7),
        (UnaryOp::Recip, line(0.01, 9.0), 0.0, 3e-7),
        (UnaryOp::Floor, line(-7.0, 7.0), 0.0, 0.0),
        (UnaryOp::Abs, line(-7.0, 7.0), 0.0, 0.0),
        (UnaryOp::Neg, line(-7.0, 7.0), 0.0, 0.0),
    ];
    for (op, x, absolute, relative) in table {
        let case = apply(op, &x, DType::F32);
        let (got, want) = (case.run(&device), case.reference());
        let worst =
            got[0].iter().zip(&want[0]).map(|(g, w)| (g - w).abs() / w.abs().max(1e-30)).fold(0.0, f64::max);
        println!("{}: largest relative error {worst:.1e}", op.name());
        assert_close(&got[0], &want[0], absolute, relative, op.name());
    }
}

#[test]
fn elementary_functions_saturate_and_never_overflow_into_nan() {
    let Some(device) = device() else { return };
    let check = |op, x: &[f64], want: &[f64]| {
        assert_close(&apply(op, x, DType::F32).run(&device)[0], want, 0.0, 0.0, &format!("{op:?}"));
    };
    let inf = f64::INFINITY;
    check(UnaryOp::Exp, &[-200.0, -1e30, 0.0, 89.0, 1e30], &[0.0, 0.0, 1.0, inf, inf]);
    check(UnaryOp::Tanh, &[-1e30, -50.0, 0.0, 50.0, 1e30], &[-1.0, -1.0, 0.0, 1.0, 1.0]);
    check(UnaryOp::Erf, &[-1e30, -6.0, 0.0, 6.0, 1e30], &[-1.0, -1.0, 0.0, 1.0, 1.0]);
    check(UnaryOp::Log, &[0.0, 1.0, -1.0], &[-inf, 0.0, f64::NAN]);
    // A NaN must come out of whatever it enters, or a broken run would go unnoticed.
    for op in [UnaryOp::Exp, UnaryOp::Log, UnaryOp::Tanh, UnaryOp::Erf] {
        check(op, &[f64::NAN], &[f64::NAN]);
    }
}

#[test]
fn pow_and_rem_are_those_of_c() {
    let Some(device) = device() else { return };
    let pow = [
        (2.0, 10.0),
        (-2.0, 3.0),
        (-2.0, 2.0),
        (-1.5, -3.0),
        (0.0, 0.0),
        (0.0, 2.0),
        (0.0, -1.0),
        (-8.0, 1.0 / 3.0),
        (10.0, 0.5),
        (0.9, 1000.0),
        (0.999, 2000.0),
        (1.5, 40.0),
        (-1.01, 101.0),
        (7.0, 0.0),
        (3.0, -2.5),
        (-3.0, 35.0),
    ]
    .map(|(a, b)| (f64::from(a as f32), f64::from(b as f32)));
    let case = apply2(BinaryOp::Pow, &pow, DType::F32);
    assert_close(&case.run(&device)[0], &case.reference()[0], 0.0, 3e-6, "pow");
    let rem = [
        (5.5, 2.0),
        (-5.5, 2.0),
        (5.5, -2.0),
        (-6.0, 3.0),
        (1e6, 0.7),
        (0.3, 0.1),
        (6.0, 2.0),
        (0.0, 1.0),
        (1e30, 0.3),
        (-1e-3, 7.0),
    ]
    .map(|(a, b)| (f64::from(a as f32), f64::from(b as f32)));
    let case = apply2(BinaryOp::Rem, &rem, DType::F32);
    assert_eq!(case.run(&device), case.reference(), "rem is exact");
}

#[test]
fn integers_wrap_and_divide_by_zero_to_zero() {
    let Some(device) = device() else { return };
    let edges = [0.0, 1.0, 2.0, 7.0, 2_147_483_647.0];
    for dtype in [DType::I32, DType::U32] {
        let mut values = edges.to_vec();
        values.extend(if dtype == DType::I32 {
            [-1.0, -7.0, -2_147_483_647.0]
        } else {
            [9.0, 4e9, 4_294_967_295.0]
        });
        let pairs: Vec<_> = values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b))).collect();
        for op in [
            BinaryOp::Add,
            BinaryOp::Sub,
            BinaryOp::Mul,
            BinaryOp::Div,
            BinaryOp::Rem,
            BinaryOp::Max,
            BinaryOp::Min,
        ] {
            let case = apply2(op, &pairs, dtype);
            assert_eq!(case.run(&device), case.reference(), "{op:?} {dtype}");
        }
    }
}

#[test]
fn comparisons_selects_and_casts_agree_between_all_dtypes() {
    let Some(device) = device() else { return };
    let values = |dtype| match dtype {
        DType::F32 => vec![-3e9, -2.5, -0.0, 0.0, 0.75, 1.0, 3e9, 5e9],
        DType::I32 => vec![-2_147_483_648.0, -5.0, 0.0, 1.0, 16_777_217.0, 3.0, 2_147_483_647.0, 9.0],
        DType::U32 => vec![0.0, 1.0, 5.0, 16_777_217.0, 2_147_483_648.0, 4_294_967_295.0, 3.0, 9.0],
        _ => vec![0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0],
    };
    let all = [DType::F32, DType::I32, DType::U32, DType::Bool];
    for from in all {
        let a: Vec<f64> = values(from);
        let mut b = a.clone();
        b.rotate_left(3);
        let space = Shape::from([a.len()]);
        let whole = IndexMap::contiguous(space.clone());
        for to in all {
            let exprs = vec![load(0, whole.clone(), from), node(Expr::Cast(ExprId(0)), to)];
            let case = Case::new(
                map(space.clone(), exprs, 1),
                vec![Arg::In(from, a.clone()), Arg::Out(to, a.len())],
            );
            assert_eq!(case.run(&device), case.reference(), "{from} to {to}");
        }
        // Six results of one kernel, and a select by one of them.
        let mut exprs = vec![load(0, whole.clone(), from), load(1, whole.clone(), from)];
        let mut stores = Vec::new();
        let mut args = vec![Arg::In(from, a.clone()), Arg::In(from, b)];
        for op in [CompareOp::Eq, CompareOp::Ne, CompareOp::Lt, CompareOp::Le, CompareOp::Gt, CompareOp::Ge] {
            let id = ExprId(exprs.len() as u32);
            exprs.push(node(Expr::Compare(op, ExprId(0), ExprId(1)), DType::Bool));
            stores.push(Store { arg: args.len() as u32, value: id, view: View::contiguous(space.clone()) });
            args.push(Arg::Out(DType::Bool, a.len()));
        }
        let chosen = ExprId(exprs.len() as u32);
        exprs.push(node(Expr::Select(ExprId(4), ExprId(0), ExprId(1)), from));
        stores.push(Store { arg: args.len() as u32, value: chosen, view: View::contiguous(space.clone()) });
        args.push(Arg::Out(from, a.len()));
        let case = Case::new(Kernel::Map(MapKernel { space, exprs, stores }), args);
        assert_eq!(case.run(&device), case.reference(), "{from}");
    }
}

#[test]
fn constants_and_scalars_arrive_bit_for_bit() {
    let Some(device) = device() else { return };
    let floats =
        [0.1f32, -0.0, f32::MAX, f32::MIN_POSITIVE, 16_777_217.0, -1e-30, f32::INFINITY, f32::NEG_INFINITY];
    let literals = floats.map(|f| Literal::from_f64(DType::F32, f.into())).into_iter().chain([
        Literal::from_f64(DType::I32, f64::from(i32::MIN)),
        Literal::from_f64(DType::I32, -1.0),
        Literal::u32(u32::MAX),
        Literal::from_f64(DType::Bool, 1.0),
    ]);
    for literal in literals {
        let dtype = literal.dtype();
        for lifted in [false, true] {
            let expr = if lifted { Expr::Scalar(0) } else { Expr::Const(literal) };
            let mut case =
                Case::new(map(Shape::from([3]), vec![node(expr, dtype)], 0), vec![Arg::Out(dtype, 3)]);
            case.scalars = vec![literal];
            let got = case.run(&device);
            assert!(got[0].iter().all(|v| v.to_bits() == literal.as_f64().to_bits()), "{literal:?}: {got:?}");
        }
    }
}

#[test]
fn random_words_are_those_of_the_definition() {
    let Some(device) = device() else { return };
    let space = Shape::from([5, 52]);
    let keys = [0x1234_5678u32, 0x9abc_def0, 77];
    for kind in [RandomKind::Bits, RandomKind::Uniform] {
        let dtype = if kind == RandomKind::Bits { DType::U32 } else { DType::F32 };
        let mut exprs: Vec<ExprNode> = (0..3).map(|i| node(Expr::Scalar(i), DType::U32)).collect();
        let key = [ExprId(0), ExprId(1), ExprId(2)];
        exprs.push(node(
            Expr::Random { stream: 3, kind, map: IndexMap::contiguous(space.clone()), key },
            dtype,
        ));
        let mut case = Case::new(map(space.clone(), exprs, 0), vec![Arg::Out(dtype, 260)]);
        case.scalars = keys.map(Literal::u32).to_vec();
        let got = case.run(&device);
        assert_eq!(got, case.reference());
        if kind == RandomKind::Bits {
            assert_eq!(got[0][259] as u32, philox::word(259, 3, 77, [keys[0], keys[1]]));
        }
    }
}

/// A movement that fits `shape`, chosen by three numbers.
fn movement(shape: &Shape, r: [usize; 3]) -> Op {
    let rank = shape.rank();
    match r[0] % 6 {
        0 => {
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.rotate_left(r[1] % rank);
            perm.swap(r[1] % rank, r[2] % rank);
            Op::Permute(perm.into_iter().collect())
        }
        1 => Op::Expand(shape.iter().map(|&d| if d == 1 { 1 + r[1] % 4 } else { d }).collect()),
        2 => Op::Slice {
            ranges: shape
                .iter()
                .enumerate()
                .map(|(d, &n)| {
                    let (start, step) = (r[1 + d % 2] % n, 1 + r[2] % 2);
                    (start, 1 + (n - 1 - start) / step, step)
                })
                .collect(),
        },
        3 => Op::Pad {
            widths: (0..rank).map(|d| (r[1 + d % 2] % 3, r[2 - d % 2] % 2)).collect(),
            fill: Literal::zero(DType::I32),
        },
        4 => Op::Flip([r[1] % rank].into_iter().collect()),
        _ => {
            let n = shape.elements();
            let divisors: Vec<usize> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
            let d = divisors[r[1] % divisors.len()];
            Op::Reshape(if r[2].is_multiple_of(2) { [d, n / d].into() } else { [n / d, 1, d].into() })
        }
    }
}

#[test]
fn any_chain_of_movements_finds_its_elements() {
    let Some(device) = device() else { return };
    let mut chains = 0;
    let mut masked = 0;
    let mut chained = 0;
    for seed in 0..120u32 {
        let r = |i: u32| philox::word(i, 1, seed, [5, 6]) as usize;
        let start = Shape::from([[3, 8, 4], [2, 5, 3], [1, 4, 16]][r(90) % 3]);
        let mut index_map = IndexMap::contiguous(start.clone());
        for step in 0..5 {
            let shape = index_map.outer().shape.clone();
            let next = index_map.apply(&movement(&shape, [r(3 * step), r(3 * step + 1), r(3 * step + 2)]));
            if next.outer().shape.elements() > 4000 || next.outer().shape.rank() > 5 {
                break;
            }
            index_map = next;
        }
        masked += usize::from(index_map.is_masked());
        chained += usize::from(index_map.views().len() > 1);
        let space = index_map.outer().shape.clone();
        let n = space.elements();
        let data: Vec<f64> = (1..=start.elements()).map(|i| i as f64).collect();
        let exprs = vec![
            node(
                Expr::Load { arg: 0, map: index_map.clone(), fill: Literal::from_f64(DType::I32, -7.0) },
                DType::I32,
            ),
            node(Expr::Index { map: index_map.clone() }, DType::I32),
        ];
        let view = View::contiguous(space.clone());
        let stores = vec![
            Store { arg: 1, value: ExprId(0), view: view.clone() },
            Store { arg: 2, value: ExprId(1), view },
        ];
        let args = vec![Arg::In(DType::I32, data), Arg::Out(DType::I32, n), Arg::Out(DType::I32, n)];
        let case = Case::new(Kernel::Map(MapKernel { space, exprs, stores }), args);
        assert_eq!(case.run(&device), case.reference(), "{index_map}");
        chains += 1;
    }
    assert!(chains == 120 && masked > 20 && chained > 20, "{masked} masked, {chained} chained");
}

#[test]
fn stores_may_be_strided_and_share_a_buffer() {
    let Some(device) = device() else { return };
    // The two parts of a Concat along the last axis, and a transposed copy.
    for width in [3usize, 8] {
        let space = Shape::from([4, width]);
        let part = |offset: i64| View {
            shape: space.clone(),
            strides: [2 * width as i64, 1].into_iter().collect(),
            offset,
            mask: None,
        };
        let transposed =
            View { shape: space.clone(), strides: [1, 4].into_iter().collect(), offset: 0, mask: None };
        let exprs = vec![
            load(0, IndexMap::contiguous(space.clone()), DType::F32),
            node(Expr::Unary(UnaryOp::Neg, ExprId(0)), DType::F32),
        ];
        let stores = vec![
            Store { arg: 1, value: ExprId(0), view: part(0) },
            Store { arg: 1, value: ExprId(1), view: part(width as i64) },
            Store { arg: 2, value: ExprId(1), view: transposed },
        ];
        let args = vec![
            Arg::In(DType::F32, noise(4 * width, 1)),
            Arg::Out(DType::F32, 8 * width),
            Arg::Out(DType::F32, 4 * width),
        ];
        let case = Case::new(Kernel::Map(MapKernel { space, exprs, stores }), args);
        assert_eq!(case.run(&device), case.reference());
    }
}

fn gather(ids: Vec<f64>, ids_dtype: DType, row_len: usize) -> Case {
    let rows = 10;
    let space = Shape::from([ids.len(), row_len]);
    let map_of = IndexMap::contiguous(space.clone());
    let exprs =
        vec![node(Expr::Gather { table: 0, ids: 1, ids_dtype, rows, row_len, map: map_of }, DType::F32)];
    let args = vec![
        Arg::In(DType::F32, noise(rows * row_len, 2)),
        Arg::In(ids_dtype, ids.clone()),
        Arg::Out(DType::F32, ids.len() * row_len),
    ];
    Case::new(map(space, exprs, 2), args)
}

#[test]
fn gathers_find_rows_and_report_ids_out_of_range_once() {
    let Some(_) = device() else { return };
    // The status belongs to the device, and other tests read meanwhile: this one takes a device of its own.
    let device = wgrad_gpu::GpuBackend::new().open_gpu("gpu:0").unwrap();
    for dtype in [DType::I32, DType::U32] {
        for row_len in [4, 5] {
            let case = gather(numbers(7, 10, 3), dtype, row_len);
            assert_eq!(case.run(&device), case.reference());
        }
    }
    let out_of_range = [(DType::I32, -1.0), (DType::I32, 10.0), (DType::U32, 4e9)];
    for (dtype, bad) in out_of_range {
        let error = gather(vec![1.0, bad, 3.0], dtype, 4).try_run(&device, &Default::default()).unwrap_err();
        assert!(matches!(error, wgrad_runtime::DeviceError::IndexOutOfRange { .. }), "{error}");
        let fine = gather(vec![1.0, 9.0, 0.0], dtype, 4);
        assert_eq!(fine.run(&device), fine.reference());
    }
}

#[test]
fn empty_spaces_and_scalars_run() {
    let Some(device) = device() else { return };
    for shape in [Shape::from([0]), Shape::from([3, 0, 2]), Shape::scalar(), Shape::from([1, 1])] {
        let n = shape.elements();
        let exprs = vec![
            load(0, IndexMap::contiguous(shape.clone()), DType::F32),
            node(Expr::Unary(UnaryOp::Neg, ExprId(0)), DType::F32),
        ];
        let case =
            Case::new(map(shape, exprs, 1), vec![Arg::In(DType::F32, noise(n, 1)), Arg::Out(DType::F32, n)]);
        assert_eq!(case.run(&device), case.reference());
    }
}

#[test]
fn grids_beyond_one_dimension_cover_every_element() {
    let Some(device) = device() else { return };
    // Not a multiple of four, so that one invocation has one element: 65,536 workgroups and more.
    let n = 64 * 65_535 + 101;
    let exprs = vec![node(Expr::Index { map: IndexMap::contiguous([n].into()) }, DType::I32)];
    let case = Case::new(map([n].into(), exprs, 0), vec![Arg::Out(DType::I32, n)]);
    let got = case.run(&device);
    assert!(got[0].iter().enumerate().all(|(i, &v)| v == i as f64));
}

#[test]
fn moments_and_weights_are_updated_in_place_whole_or_in_part() {
    let Some(device) = device() else { return };
    // Elements one by one, in fours, and the first columns of wider rows.
    for (n, stride) in [(13, 13), (16, 16), (12, 20)] {
        let space = Shape::from([3, n]);
        let view = View {
            shape: space.clone(),
            strides: [stride as i64, 1].into_iter().collect(),
            offset: 0,
            mask: None,
        };
        let binary = |op, a, b| node(Expr::Binary(op, ExprId(a), ExprId(b)), DType::F32);
        let exprs = vec![
            load(0, IndexMap::contiguous(space), DType::F32),
            load(1, view.clone(), DType::F32),
            load(2, view.clone(), DType::F32),
            binary(BinaryOp::Add, 1, 0),
            binary(BinaryOp::Mul, 3, 0),
            binary(BinaryOp::Sub, 2, 4),
        ];
        let stores = vec![
            Store { arg: 1, value: ExprId(3), view: view.clone() },
            Store { arg: 2, value: ExprId(5), view: view.clone() },
        ];
        let args = vec![
            Arg::In(DType::F32, noise(3 * n, 1)),
            Arg::Update(DType::F32, noise(3 * stride, 2)),
            Arg::Update(DType::F32, noise(3 * stride, 3)),
        ];
        let case = Case::new(Kernel::Map(MapKernel { space: view.shape.clone(), exprs, stores }), args);
        let (got, want) = (case.run(&device), case.reference());
        assert_close(&got[0], &want[0], 1e-7, 1e-7, "moments");
        assert_close(&got[1], &want[1], 1e-7, 1e-7, "weights");
    }
}
