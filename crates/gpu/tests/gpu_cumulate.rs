//! Sums so far and linear recurrences, by one invocation or one workgroup per line, against their definition.

mod common;

use common::{Arg, Case, assert_close, device, noise, numbers};
use wgrad_ir::{CumulateKernel, CumulateOp, DType, Kernel, Op, Operand, Shape, View};
use wgrad_kernels::{Choices, CumulateVariant};

/// Lines of a row-major buffer, along its rows or down its columns, forwards or backwards.
fn case(op: CumulateOp, rows: usize, columns: usize, down: bool, back: bool, dtype: DType) -> Case {
    let whole = View::contiguous(Shape::from([rows, columns]));
    let turned = |view: &View| {
        let view =
            if down { view.apply(&Op::Permute([1, 0].into_iter().collect())).unwrap() } else { view.clone() };
        if back { view.apply(&Op::Flip([1].into_iter().collect())).unwrap() } else { view }
    };
    let operand = |arg| Operand { arg, view: turned(&whole) };
    let (lines, len) = if down { (columns, rows) } else { (rows, columns) };
    let linear = op == CumulateOp::Linear;
    let kernel = CumulateKernel {
        op,
        lines: [lines].into(),
        len,
        dtype,
        terms: operand(1),
        factors: linear.then(|| operand(2)),
        out: operand(0),
    };
    let data = |seed| match dtype {
        DType::F32 => noise(rows * columns, seed),
        _ => numbers(rows * columns, 1000, seed),
    };
    let mut args = vec![Arg::Out(dtype, rows * columns), Arg::In(dtype, data(1))];
    if linear {
        args.push(Arg::In(dtype, data(2)));
    }
    Case::new(Kernel::Cumulate(kernel), args)
}

#[test]
fn lines_of_every_kind_equal_their_definition() {
    let Some(device) = device() else { return };
    for op in CumulateOp::ALL.iter().copied() {
        for (rows, columns) in [(1, 1), (3, 7), (70, 33), (2, 1000), (300, 2)] {
            for (down, back) in [(false, false), (true, false), (false, true), (true, true)] {
                let case = case(op, rows, columns, down, back, DType::F32);
                let want = case.reference();
                for cumulate in [None, Some(CumulateVariant::Thread), Some(CumulateVariant::Group(64))] {
                    let got = case.try_run(&device, &Choices { cumulate, ..Choices::default() }).unwrap();
                    let what = format!("{op:?} {rows} x {columns} down {down} back {back} {cumulate:?}");
                    assert_close(&got[0], &want[0], 5e-5, 5e-6, &what);
                }
            }
        }
    }
}

#[test]
fn integers_are_exact() {
    let Some(device) = device() else { return };
    for dtype in [DType::I32, DType::U32] {
        for op in CumulateOp::ALL.iter().copied() {
            let case = case(op, 3, 200, false, false, dtype);
            assert_eq!(case.run(&device), case.reference());
        }
    }
}

#[test]
fn a_line_longer_than_an_invocation_may_loop_is_right_to_its_end() {
    let Some(device) = device() else { return };
    let case = case(CumulateOp::Sum, 1, 300_000, false, false, DType::U32);
    assert_eq!(case.run(&device), case.reference());
}
