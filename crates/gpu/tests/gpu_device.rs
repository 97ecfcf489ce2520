//! The device around the kernels: limits, errors, reuse, readback.

mod common;

use std::sync::Arc;

use common::{Arg, Case, decode, device, encode, load, node, noise, spec, whole};
use wgrad_gpu::GpuBackend;
use wgrad_ir::{
    BinaryOp, BufferRef, DType, Expr, ExprId, IndexMap, Kernel, Literal, MapKernel, OutputSource, OutputSpec,
    Program, Shape, Step, Store, View,
};
use wgrad_runtime::{Backend, Device, DeviceError, DeviceKind};

/// `out = in * scalar`, from argument 0 to argument 1.
fn scale(n: usize, scalar: u32) -> Kernel {
    let space = Shape::from([n]);
    let exprs = vec![
        load(0, IndexMap::contiguous(space.clone()), DType::F32),
        node(Expr::Scalar(scalar), DType::F32),
        node(Expr::Binary(BinaryOp::Mul, ExprId(0), ExprId(1)), DType::F32),
    ];
    let stores = vec![Store { arg: 1, value: ExprId(2), view: View::contiguous(space.clone()) }];
    Kernel::Map(MapKernel { space, exprs, stores })
}

/// Three scalings in a row, through two scratch buffers.
fn chain(n: usize) -> Program {
    let step = |scalar, from, to| Step {
        kernel: Arc::new(scale(n, scalar)),
        args: [from, to].map(|buffer| whole(buffer, 4 * n as u64)).to_vec(),
        label: format!("scale {scalar}"),
    };
    Program {
        inputs: vec![spec(DType::F32, n)],
        scalars: vec![DType::F32; 2],
        results: vec![spec(DType::F32, n)],
        temps: vec![4 * n as u64; 2],
        outputs: vec![OutputSpec { source: OutputSource::Result(0), shape: [n].into(), dtype: DType::F32 }],
        steps: vec![
            step(0, BufferRef::Input(0), BufferRef::Temp(0)),
            step(1, BufferRef::Temp(0), BufferRef::Temp(1)),
            step(0, BufferRef::Temp(1), BufferRef::Output(0)),
        ],
        ..Program::default()
    }
}

#[test]
fn adapters_are_listed_with_ids_and_limits() {
    let Some(device) = device() else { return };
    let list = GpuBackend::new().list();
    assert_eq!(list[0].id, "gpu:0");
    assert!(list.iter().all(|i| i.kind != DeviceKind::Cpu && !i.name.is_empty() && i.details.len() >= 8));
    assert_eq!(device.info().id, "gpu:0");
    println!("{list:#?}\n{:#?}", device.caps());
    let error = GpuBackend::new().open("gpu:99").unwrap_err();
    assert!(matches!(error, DeviceError::NoDevice { .. }), "{error}");
}

#[test]
fn every_dtype_survives_upload_and_read() {
    let Some(device) = device() else { return };
    for dtype in [DType::F32, DType::I32, DType::U32, DType::Bool] {
        for n in [0usize, 1, 3, 1000] {
            let data: Vec<f64> =
                (0..n).map(|i| if dtype == DType::Bool { (i % 3 == 0).into() } else { i as f64 }).collect();
            let buffer = device.upload(&encode(dtype, &data), dtype).unwrap();
            assert_eq!(buffer.bytes(), 4 * n as u64);
            assert_eq!(decode(dtype, &device.read(&buffer, dtype).unwrap().wait().unwrap()), data);
        }
    }
    let awaited = device.upload(&encode(DType::F32, &[1.5]), DType::F32).unwrap();
    let bytes = pollster::block_on(device.read(&awaited, DType::F32).unwrap()).unwrap();
    assert_eq!(decode(DType::F32, &bytes), [1.5]);
    assert!(matches!(device.upload(&[0; 8], DType::F64), Err(DeviceError::Unsupported { .. })));
    assert!(matches!(device.upload(&[0; 7], DType::F32), Err(DeviceError::Misuse { .. })));
}

#[test]
fn a_repeated_program_takes_new_scalars_and_allocates_nothing() {
    let Some(_) = device() else { return };
    let device = GpuBackend::new().open_gpu("gpu:0").unwrap();
    let n = 1000;
    let executable = device.prepare(Arc::new(chain(n))).unwrap();
    // The second step differs in its scalar alone from the others: two texts, two pipelines.
    assert_eq!(device.stats().pipelines, 2);
    let data = noise(n, 1);
    let mut allocations = 0;
    for round in 0..5u32 {
        let input = device.upload(&encode(DType::F32, &data), DType::F32).unwrap();
        let (a, b) = (f64::from(round), 0.5);
        let scalars = [a, b].map(|v| Literal::from_f64(DType::F32, v));
        let out = executable.run(vec![input], &scalars).unwrap();
        let got = decode(DType::F32, &device.read(&out.results[0], DType::F32).unwrap().wait().unwrap());
        assert!(got.iter().zip(&data).all(|(g, x)| (g - a * a * b * x).abs() < 1e-6));
        let stats = device.stats();
        assert_eq!((stats.runs, stats.dispatches), (u64::from(round) + 1, 3 * u64::from(round) + 3));
        if round > 0 {
            assert_eq!(stats.allocations, allocations, "round {round} took memory from the system");
        }
        allocations = stats.allocations;
    }
    // Queued runs see their own scalars, though no one waits in between.
    let input = device.upload(&encode(DType::F32, &data), DType::F32).unwrap();
    let runs: Vec<_> = (1..4u32)
        .map(|v| {
            let scalars = [f64::from(v), 1.0].map(|v| Literal::from_f64(DType::F32, v));
            executable.run(vec![input.clone()], &scalars).unwrap()
        })
        .collect();
    for (v, out) in (1..4u32).zip(runs) {
        let got = decode(DType::F32, &device.read(&out.results[0], DType::F32).unwrap().wait().unwrap());
        assert!(got.iter().zip(&data).all(|(g, x)| (g - f64::from(v * v) * x).abs() < 1e-5));
    }
}

#[test]
fn programs_run_from_several_threads() {
    let Some(device) = device() else { return };
    let n = 5000;
    let executable = device.prepare(Arc::new(chain(n))).unwrap();
    std::thread::scope(|scope| {
        for t in 1..4u32 {
            let (device, executable) = (&device, &executable);
            scope.spawn(move || {
                for _ in 0..20 {
                    let input = device.upload(&encode(DType::F32, &vec![1.0; n]), DType::F32).unwrap();
                    let scalars = [f64::from(t), 1.0].map(|v| Literal::from_f64(DType::F32, v));
                    let out = executable.run(vec![input], &scalars).unwrap();
                    let got = decode(
                        DType::F32,
                        &device.read(&out.results[0], DType::F32).unwrap().wait().unwrap(),
                    );
                    assert!(got.iter().all(|&g| g == f64::from(t * t)), "thread {t}");
                }
            });
        }
    });
}

#[test]
fn a_binding_beyond_the_limit_is_refused_by_name() {
    let Some(device) = device() else { return };
    let limit = device.caps().max_binding_bytes;
    let n = (limit / 4 + 16) as usize;
    let case = Case {
        scalars: vec![Literal::from_f64(DType::F32, 1.0)],
        ..Case::new(scale(n, 0), vec![Arg::Out(DType::F32, 0), Arg::Out(DType::F32, 0)])
    };
    let mut program = case.program();
    program.inputs = vec![spec(DType::F32, n)];
    program.results = vec![spec(DType::F32, n)];
    program.steps[0].args =
        [BufferRef::Input(0), BufferRef::Output(0)].map(|buffer| whole(buffer, 4 * n as u64)).to_vec();
    let Err(error) = device.prepare(Arc::new(program)) else { panic!("accepted") };
    let text = error.to_string();
    assert!(matches!(error, DeviceError::TooLarge { buffer: Some(BufferRef::Input(0)), .. }), "{text}");
    assert!(text.contains("case") && text.contains("max_storage_buffer_binding_size"), "{text}");
}

#[test]
fn impossible_allocations_are_errors() {
    let Some(device) = device() else { return };
    let mut program = chain(16);
    program.temps.push(u64::from(u32::MAX) << 20);
    let executable = device.prepare(Arc::new(program)).unwrap();
    let input = device.upload(&[0; 64], DType::F32).unwrap();
    let scalars = [1.0, 1.0].map(|v| Literal::from_f64(DType::F32, v));
    let error = executable.run(vec![input.clone()], &scalars).unwrap_err();
    println!("{error}");
    // The device is as good as before.
    let fine = device.prepare(Arc::new(chain(16))).unwrap();
    fine.run(vec![input], &scalars).unwrap();
}

#[test]
fn mixed_up_arguments_are_errors() {
    let Some(device) = device() else { return };
    let other = GpuBackend::new().open_gpu("gpu:0").unwrap();
    let executable = device.prepare(Arc::new(chain(16))).unwrap();
    let scalars = [1.0, 1.0].map(|v| Literal::from_f64(DType::F32, v));
    let right = device.upload(&[0; 64], DType::F32).unwrap();
    let short = device.upload(&[0; 32], DType::F32).unwrap();
    let foreign = other.upload(&[0; 64], DType::F32).unwrap();
    let ints = [1.0, 1.0].map(|v| Literal::from_f64(DType::I32, v));
    for (inputs, scalars) in [
        (vec![], &scalars[..]),
        (vec![right.clone()], &scalars[..1]),
        (vec![right.clone()], &ints[..]),
        (vec![short], &scalars[..]),
        (vec![foreign.clone()], &scalars[..]),
    ] {
        let error = executable.run(inputs, scalars).unwrap_err();
        assert!(matches!(error, DeviceError::Misuse { .. }), "{error}");
    }
    assert!(matches!(device.read(&foreign, DType::F32), Err(DeviceError::Misuse { .. })));
    let mut f64s = chain(16);
    f64s.scalars[0] = DType::F64;
    assert!(matches!(device.prepare(Arc::new(f64s)), Err(DeviceError::Unsupported { .. })));
}
