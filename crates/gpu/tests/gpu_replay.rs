//! What a program costs that runs again and again: updates in place, kept bind groups, timings.

mod common;

use std::{sync::Arc, time::Instant};

use common::{decode, device, encode, load, node, noise, outputs, spec, whole};
use wgrad_gpu::{GpuBackend, GpuDevice};
use wgrad_ir::{
    BinaryOp, BufferRef, DType, Expr, ExprId, IndexMap, Kernel, Literal, MapKernel, OutputSource, OutputSpec,
    Program, ReduceKernel, ReduceOp, Reduction, Shape, Step, Store, View, verify_program,
};
use wgrad_runtime::{Buffer, Device, DeviceError, DeviceStats, Executable, RunOutput};

/// `args[to] = args[0] * scalar 0`.
fn scale(n: usize, to: u32) -> Arc<Kernel> {
    let space = Shape::from([n]);
    let exprs = vec![
        load(0, IndexMap::contiguous(space.clone()), DType::F32),
        node(Expr::Scalar(0), DType::F32),
        node(Expr::Binary(BinaryOp::Mul, ExprId(0), ExprId(1)), DType::F32),
    ];
    let stores = vec![Store { arg: to, value: ExprId(2), view: View::contiguous(space.clone()) }];
    Arc::new(Kernel::Map(MapKernel { space, exprs, stores }))
}

/// Like a training step: weights of `n` elements that each of `layers` scalings updates in place, a batch of `m` elements whose sum is the
/// loss, and a large result that is the weights, scaled.
fn training(n: usize, m: usize, layers: usize) -> Program {
    let step = |kernel, args: &[(BufferRef, usize)], label: &str| Step {
        kernel,
        args: args.iter().map(|&(buffer, len)| whole(buffer, 4 * len as u64)).collect(),
        label: label.into(),
    };
    let sum = Kernel::Reduce(ReduceKernel {
        outer: Shape::scalar(),
        inner: [m].into(),
        exprs: vec![load(0, IndexMap::contiguous([m].into()), DType::F32)],
        outs: vec![Reduction { op: ReduceOp::Sum, value: ExprId(0), arg: 1 }],
    });
    let (weights, batch) = (BufferRef::Input(0), BufferRef::Input(1));
    let (loss, large) = (BufferRef::Output(0), BufferRef::Output(1));
    let mut steps = vec![step(Arc::new(sum), &[(batch, m), (loss, 1)], "sum")];
    let update = scale(n, 0);
    steps.extend((0..layers).map(|_| step(update.clone(), &[(weights, n)], "update")));
    steps.push(step(scale(n, 1), &[(weights, n), (large, n)], "scale"));
    let output = |source, len: usize| OutputSpec { source, shape: [len].into(), dtype: DType::F32 };
    Program {
        inputs: vec![spec(DType::F32, n), spec(DType::F32, m)],
        scalars: vec![DType::F32],
        updates: vec![0],
        results: vec![spec(DType::F32, 1), spec(DType::F32, n)],
        outputs: vec![
            output(OutputSource::Result(0), 1),
            output(OutputSource::Input(0), n),
            output(OutputSource::Result(1), n),
        ],
        steps,
        ..Program::default()
    }
}

fn scalar(value: f64) -> [Literal; 1] {
    [Literal::from_f64(DType::F32, value)]
}

fn upload(device: &GpuDevice, data: &[f64]) -> Buffer {
    device.upload(&encode(DType::F32, data), DType::F32).unwrap()
}

/// A device of its own, whose counters no other test moves.
fn fresh() -> Option<Arc<GpuDevice>> {
    device().map(|_| GpuBackend::new().open_gpu("gpu:0").unwrap())
}

/// Runs steps, each with a batch of its own, and gives the counters after each. The caller keeps the latest results until there are
/// new ones.
fn train(
    device: &GpuDevice,
    executable: &dyn Executable,
    n: usize,
    m: usize,
    steps: usize,
) -> Vec<DeviceStats> {
    let mut weights = vec![upload(device, &noise(n, 1))];
    let mut kept = Vec::new();
    let mut stats = Vec::new();
    for round in 0..steps {
        let batch = upload(device, &vec![round as f64; m]);
        let inputs = vec![weights.remove(0), batch.clone()];
        let run = executable.run(inputs, &scalar(1.0)).unwrap();
        let loss = decode(DType::F32, &device.read(&run.results[0], DType::F32).unwrap().wait().unwrap());
        assert_eq!(loss, [round as f64 * m as f64]);
        weights = run.updated;
        kept = [run.results, vec![batch]].concat();
        stats.push(device.stats());
    }
    drop(kept);
    stats
}

#[test]
fn the_second_step_makes_no_buffers_bind_groups_or_pipelines_and_submits_once() {
    let Some(device) = fresh() else { return };
    let (n, m) = (100_000, 1000);
    let program = training(n, m, 3);
    verify_program(&program).unwrap();
    let executable = device.prepare(Arc::new(program)).unwrap();
    let stats = train(&device, &*executable, n, m, 8);
    for pair in stats.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        assert_eq!(after.bind_groups, before.bind_groups, "{before:?} {after:?}");
        assert_eq!(after.allocations, before.allocations, "{before:?} {after:?}");
        assert_eq!(after.pipelines, before.pipelines);
        assert_eq!(after.copied_inputs, before.copied_inputs);
        // One for the run, one for reading the loss.
        assert_eq!(after.submissions, before.submissions + 2);
    }
    assert_eq!(stats[7].copied_inputs, 0);
}

#[test]
fn inputs_that_nobody_else_holds_are_updated_in_place_and_others_are_copied() {
    let Some(device) = fresh() else { return };
    let (n, m) = (5000, 10);
    let program = training(n, m, 2);
    let executable = device.prepare(Arc::new(program)).unwrap();
    let data = noise(n, 3);
    let batch = upload(&device, &vec![1.0; m]);
    let shared = upload(&device, &data);
    let run = executable.run(vec![shared.clone(), batch.clone()], &scalar(0.5)).unwrap();
    let quarters: Vec<f64> = data.iter().map(|v| v * 0.25).collect();
    let eighths: Vec<f64> = data.iter().map(|v| v * 0.125).collect();
    let want = [vec![m as f64], quarters, eighths.clone()];
    assert_eq!(outputs(&device, executable.program(), &run).unwrap(), want);
    assert_eq!(device.stats().copied_inputs, 1);
    let bytes = device.read(&shared, DType::F32).unwrap().wait().unwrap();
    assert_eq!(decode(DType::F32, &bytes), data, "what others hold stays as it is");

    let allocated = device.stats().allocations;
    let RunOutput { updated, results } = run;
    drop(results);
    let again = executable.run(vec![updated.into_iter().next().unwrap(), batch], &scalar(0.5)).unwrap();
    assert_eq!(device.stats().copied_inputs, 1);
    assert_eq!(device.stats().allocations, allocated);
    let want: Vec<f64> = eighths.iter().map(|v| v * 0.5).collect();
    assert_eq!(outputs(&device, executable.program(), &again).unwrap()[1], want);
}

#[test]
fn one_buffer_given_twice_is_read_as_it_was_while_its_copy_is_updated() {
    let Some(device) = fresh() else { return };
    let n = 1000;
    let executable = device.prepare(Arc::new(training(n, n, 1))).unwrap();
    let both = upload(&device, &vec![1.0; n]);
    for round in 0..3 {
        let run = executable.run(vec![both.clone(), both.clone()], &scalar(2.0)).unwrap();
        let got = outputs(&device, executable.program(), &run).unwrap();
        assert_eq!((got[0][0], got[1][0], got[2][0]), (n as f64, 2.0, 4.0), "round {round}");
    }
}

#[test]
fn profiled_runs_tell_how_long_each_step_took() {
    let Some(device) = fresh() else { return };
    let (n, m) = (100_000, 1000);
    let executable = device.prepare(Arc::new(training(n, m, 2))).unwrap();
    let inputs = || vec![upload(&device, &noise(n, 1)), upload(&device, &noise(m, 2))];
    if let Err(error) = device.set_profiling(true) {
        assert!(matches!(error, DeviceError::Unsupported { .. }), "{error}");
        return;
    }
    for _ in 0..2 {
        let submissions = device.stats().submissions;
        let run = executable.run(inputs(), &scalar(0.5)).unwrap();
        assert_eq!(device.stats().submissions, submissions + 1);
        let times = executable.profile().unwrap();
        let steps: Vec<usize> = times.iter().map(|t| t.step).collect();
        assert_eq!(steps, [0, 1, 2, 3]);
        assert!(times.iter().all(|t| t.nanos > 0), "{times:?}");
        assert!(times.windows(2).all(|t| t[0].start_nanos <= t[1].start_nanos), "{times:?}");
        assert_eq!(executable.profile().unwrap(), times);
        assert_eq!(outputs(&device, executable.program(), &run).unwrap()[1][0], noise(n, 1)[0] * 0.25);
    }
    device.set_profiling(false).unwrap();
    executable.run(inputs(), &scalar(0.5)).unwrap();
    assert_eq!(executable.profile().unwrap(), []);
}

#[test]
#[ignore = "a measurement"]
fn host_time_of_a_run_with_150_launches_on_the_gpu() {
    let Some(device) = fresh() else { return };
    let (n, m) = (20_000, 1000);
    let executable = device.prepare(Arc::new(training(n, m, 148))).unwrap();
    let mut weights = vec![upload(&device, &noise(n, 1))];
    let mut best = u64::MAX;
    for _ in 0..50 {
        let batch = upload(&device, &noise(m, 2));
        let start = Instant::now();
        weights = executable.run(vec![weights.remove(0), batch], &scalar(1.0)).unwrap().updated;
        best = best.min(start.elapsed().as_nanos() as u64);
        device.synchronize().unwrap();
    }
    println!("{best} ns at best, {} launches", device.stats().dispatches / device.stats().runs);
}
