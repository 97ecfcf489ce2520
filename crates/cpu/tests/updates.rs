//! Updates in place, ranges of buffers, and profiles.

mod common;

use std::sync::Arc;

use common::*;
use proptest::prelude::*;
use wgrad_cpu::CpuDevice;
use wgrad_ir::{
    Arg, BinaryOp, BufferRef, DType, Expr, ExprId, ExprNode, IndexMap, Kernel, Literal, MapKernel,
    OutputSource, OutputSpec, Program, Shape, Step, Store, View,
};
use wgrad_runtime::Device;

fn load(arg: u32, view: &View) -> ExprNode {
    let map = IndexMap::from(view.clone());
    ExprNode { expr: Expr::Load { arg, map, fill: Literal::zero(DType::F32) }, dtype: DType::F32 }
}

/// Over parts of two buffers, at some offset: `x, y = y, x + 2 y`, through one view.
fn exchange(view: &View, offset: u64) -> Program {
    let node = |expr| ExprNode { expr, dtype: DType::F32 };
    let exprs = vec![
        load(0, view),
        load(1, view),
        node(Expr::Scalar(0)),
        node(Expr::Binary(BinaryOp::Mul, ExprId(1), ExprId(2))),
        node(Expr::Binary(BinaryOp::Add, ExprId(0), ExprId(3))),
    ];
    let store = |arg, value| Store { arg, value: ExprId(value), view: view.clone() };
    let kernel = MapKernel { space: view.shape.clone(), exprs, stores: vec![store(0, 1), store(1, 4)] };
    let bytes = 4 * reach(view) as u64;
    let whole = spec([(offset + bytes) as usize / 4 + 3], DType::F32);
    let arg = |i| Arg { buffer: BufferRef::Input(i), offset, bytes };
    let output =
        |i| OutputSpec { source: OutputSource::Input(i), shape: whole.shape.clone(), dtype: DType::F32 };
    Program {
        outputs: vec![output(0), output(1)],
        scalars: vec![DType::F32],
        updates: vec![0, 1],
        steps: vec![Step {
            kernel: Arc::new(Kernel::Map(kernel)),
            args: vec![arg(0), arg(1)],
            label: "exchange".into(),
        }],
        inputs: vec![whole.clone(), whole.clone()],
        ..Program::default()
    }
}

proptest! {
    #[test]
    fn updates_change_what_nothing_else_holds_and_copies_of_the_rest(
        dims in prop::collection::vec(1usize..8, 1..4), long in prop::option::of(500usize..40_000), parts in 0u64..3,
        shared: bool, seed: u64,
    ) {
        let mut draw = Draw(seed);
        let dims = long.map_or(dims, |n| vec![n]);
        let view = strided_view(&mut draw, &Shape::from(dims));
        let p = exchange(&view, parts * Arg::ALIGNMENT);
        let inputs: Vec<Buf> = p.inputs.iter().map(|s| draw.buffer(s.shape.elements(), DType::F32)).collect();
        let scalars = [Literal::from_f64(DType::F32, 2.0)];
        let want = evaluate(&p, &inputs, &scalars);
        let device = CpuDevice::new();
        let executable = device.prepare(Arc::new(p)).unwrap();
        let buffers: Vec<_> =
            inputs.iter().map(|b| device.upload(&encode(b, DType::F32), DType::F32).unwrap()).collect();
        let kept = shared.then(|| buffers[0].clone());
        let before = device.stats().allocations;
        let out = executable.run(buffers, &scalars).unwrap();
        prop_assert!(out.results.is_empty());
        prop_assert_eq!(device.stats().copied_inputs, u64::from(shared));
        prop_assert_eq!(device.stats().allocations, before + u64::from(shared));
        let read = |buffer| decode(&device.read(buffer, DType::F32).unwrap().wait().unwrap(), DType::F32);
        for (got, want) in out.updated.iter().zip(&want) {
            prop_assert!(&read(got) == want);
        }
        if let Some(kept) = kept {
            prop_assert!(read(&kept) == inputs[0]);
        }
        prop_assert!(out.updated.iter().all(|b| b.is_unique()));
    }
}

#[test]
fn an_update_of_one_buffer_given_twice_copies_it() {
    let p = exchange(&View::contiguous([100].into()), 0);
    let device = CpuDevice::new();
    let executable = device.prepare(Arc::new(p.clone())).unwrap();
    let mut draw = Draw(1);
    let x = draw.buffer(p.inputs[0].shape.elements(), DType::F32);
    let scalars = [Literal::from_f64(DType::F32, 2.0)];
    let buffer = device.upload(&encode(&x, DType::F32), DType::F32).unwrap();
    let out = executable.run(vec![buffer.clone(), buffer], &scalars).unwrap();
    assert_eq!(device.stats().copied_inputs, 2);
    let want = evaluate(&p, &[x.clone(), x], &scalars);
    for (got, want) in out.updated.iter().zip(&want) {
        assert!(&decode(&device.read(got, DType::F32).unwrap().wait().unwrap(), DType::F32) == want);
    }
}

#[test]
fn steps_are_timed_while_profiling_is_on() {
    let p = exchange(&View::contiguous([100].into()), 0);
    let device = CpuDevice::new();
    let executable = device.prepare(Arc::new(p.clone())).unwrap();
    let upload =
        || device.upload(&encode(&vec![Literal::zero(DType::F32); 104], DType::F32), DType::F32).unwrap();
    let run = || drop(executable.run(vec![upload(), upload()], &[Literal::zero(DType::F32)]).unwrap());
    run();
    assert!(executable.profile().unwrap().is_empty());
    device.set_profiling(true).unwrap();
    run();
    let times = executable.profile().unwrap();
    assert!(times.len() == 1 && times[0].step == 0 && times[0].nanos > 0);
    device.set_profiling(false).unwrap();
    run();
    assert!(executable.profile().unwrap().is_empty());
}
