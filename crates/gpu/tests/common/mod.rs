//! What it takes to compare a device with the reference evaluation of kernels.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::sync::{Arc, OnceLock};

use wgrad_gpu::{GpuBackend, GpuDevice};
use wgrad_ir::reference::{Rounding, run_program};
use wgrad_ir::{
    BufferRef, BufferSpec, DType, Expr, ExprNode, IndexMap, Kernel, Literal, OutputSource, OutputSpec,
    Program, Shape, Step, philox, verify_program,
};
use wgrad_kernels::Choices;
use wgrad_runtime::{Device, DeviceError, RunOutput};

/// The best adapter, opened once. Without one the test fails, unless `WGRAD_TEST_DEVICES=cpu` says that this machine has none.
pub(crate) fn device() -> Option<Arc<GpuDevice>> {
    static DEVICE: OnceLock<Option<Arc<GpuDevice>>> = OnceLock::new();
    DEVICE
        .get_or_init(|| {
            if std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|v| v == "cpu") {
                eprintln!("not run: WGRAD_TEST_DEVICES=cpu");
                return None;
            }
            Some(
                GpuBackend::new()
                    .open_gpu("gpu:0")
                    .expect("an adapter (mesa-vulkan-drivers gives a software one)"),
            )
        })
        .clone()
}

/// An argument of a kernel under test; elements are held as `f64`, which is exact for every dtype a GPU has.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    In(DType, Vec<f64>),
    /// An input that is updated in place, and one of the outputs.
    Update(DType, Vec<f64>),
    Out(DType, usize),
    /// Scratch words.
    Temp(usize),
}

/// One kernel and its arguments.
pub(crate) struct Case {
    pub(crate) kernel: Kernel,
    pub(crate) args: Vec<Arg>,
    pub(crate) scalars: Vec<Literal>,
}

impl Case {
    pub(crate) fn new(kernel: Kernel, args: Vec<Arg>) -> Self {
        Case { kernel, args, scalars: Vec::new() }
    }

    pub(crate) fn program(&self) -> Program {
        let mut program =
            Program { scalars: self.scalars.iter().map(|s| s.dtype()).collect(), ..Program::default() };
        let mut args = Vec::new();
        for arg in &self.args {
            let (buffer, bytes) = match arg {
                Arg::In(dtype, data) | Arg::Update(dtype, data) => {
                    let input = program.inputs.len() as u32;
                    program.inputs.push(spec(*dtype, data.len()));
                    if matches!(arg, Arg::Update(..)) {
                        program.updates.push(input);
                        let (source, shape) = (OutputSource::Input(input), Shape::from([data.len()]));
                        program.outputs.push(OutputSpec { source, shape, dtype: *dtype });
                    }
                    (BufferRef::Input(input), 4 * data.len())
                }
                Arg::Out(dtype, len) => {
                    let (shape, dtype) = (Shape::from([*len]), *dtype);
                    let source = OutputSource::Result(program.results.len() as u32);
                    program.outputs.push(OutputSpec { source, shape, dtype });
                    program.results.push(spec(dtype, *len));
                    (BufferRef::Output(program.results.len() as u32 - 1), 4 * len)
                }
                Arg::Temp(words) => {
                    program.temps.push(4 * *words as u64);
                    (BufferRef::Temp(program.temps.len() as u32 - 1), 4 * words)
                }
            };
            args.push(whole(buffer, bytes as u64));
        }
        program.steps.push(Step { kernel: Arc::new(self.kernel.clone()), args, label: "case".into() });
        program
    }

    /// The results on the GPU; every shader on the way is checked for all platforms.
    pub(crate) fn try_run(
        &self,
        device: &GpuDevice,
        choices: &Choices,
    ) -> Result<Vec<Vec<f64>>, DeviceError> {
        let program = self.program();
        verify_program(&program).expect("the test's own program");
        for dispatch in
            wgrad_kernels::generate(&self.kernel, device.caps(), choices).expect("WGSL for the kernel")
        {
            wgrad_kernels::check(&dispatch.source).unwrap_or_else(|e| panic!("{e}\n{}", dispatch.source));
        }
        let executable = device.prepare_with(Arc::new(program), choices)?;
        let inputs = self.inputs().map(|(dtype, data)| device.upload(&encode(dtype, data), dtype));
        let output = executable.run(inputs.collect::<Result<_, _>>()?, &self.scalars)?;
        outputs(device, executable.program(), &output)
    }

    fn inputs(&self) -> impl Iterator<Item = (DType, &[f64])> {
        self.args.iter().filter_map(|arg| match arg {
            Arg::In(dtype, data) | Arg::Update(dtype, data) => Some((*dtype, data.as_slice())),
            _ => None,
        })
    }

    pub(crate) fn run(&self, device: &GpuDevice) -> Vec<Vec<f64>> {
        self.try_run(device, &Choices::default()).expect("a run")
    }

    /// The results by definition.
    pub(crate) fn reference(&self) -> Vec<Vec<f64>> {
        let inputs: Vec<_> = self.inputs().map(|(_, data)| data.to_vec()).collect();
        let scalars: Vec<f64> = self.scalars.iter().map(|s| s.as_f64()).collect();
        run_program(&self.program(), &inputs, &scalars, Rounding::EachOperation)
    }
}

/// The elements of a program's outputs that a run made.
pub(crate) fn outputs(
    device: &GpuDevice,
    program: &Program,
    run: &RunOutput,
) -> Result<Vec<Vec<f64>>, DeviceError> {
    let read = |output: &OutputSpec| {
        let buffer = match output.source {
            OutputSource::Result(i) => &run.results[i as usize],
            OutputSource::Input(i) => {
                let n = program.updates.binary_search(&i).expect("an updated input");
                &run.updated[n]
            }
        };
        Ok(decode(output.dtype, &device.read(buffer, output.dtype)?.wait()?))
    };
    program.outputs.iter().map(read).collect()
}

/// All of a buffer.
pub(crate) fn whole(buffer: BufferRef, bytes: u64) -> wgrad_ir::Arg {
    wgrad_ir::Arg { buffer, offset: 0, bytes }
}

pub(crate) fn spec(dtype: DType, len: usize) -> BufferSpec {
    BufferSpec { shape: [len].into(), dtype, bytes: 4 * len as u64 }
}

pub(crate) fn encode(dtype: DType, data: &[f64]) -> Vec<u8> {
    let bits = data.iter().map(|&v| Literal::from_f64(dtype, v).bits() as u32);
    match dtype {
        DType::Bool => bits.map(|b| b as u8).collect(),
        _ => bits.flat_map(u32::to_ne_bytes).collect(),
    }
}

pub(crate) fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    if dtype == DType::Bool {
        return bytes.iter().map(|&b| b.into()).collect();
    }
    let words = bytes.chunks_exact(4).map(|w| u32::from_ne_bytes(w.try_into().unwrap()));
    words
        .map(|w| match dtype {
            DType::F32 => f32::from_bits(w).into(),
            DType::I32 => (w as i32).into(),
            _ => w.into(),
        })
        .collect()
}

/// Reproducible numbers in `[-1, 1)`, exact in `f32`.
pub(crate) fn noise(len: usize, seed: u32) -> Vec<f64> {
    (0..len as u32)
        .map(|i| f64::from(philox::uniform(philox::word(i, 7, seed, [1, 2]))) * 2.0 - 1.0)
        .collect()
}

/// Reproducible integers below `limit`.
pub(crate) fn numbers(len: usize, limit: u32, seed: u32) -> Vec<f64> {
    (0..len as u32).map(|i| f64::from(philox::word(i, 9, seed, [3, 4]) % limit)).collect()
}

pub(crate) fn node(expr: Expr, dtype: DType) -> ExprNode {
    ExprNode { expr, dtype }
}

pub(crate) fn load(arg: u32, map: impl Into<IndexMap>, dtype: DType) -> ExprNode {
    node(Expr::Load { arg, map: map.into(), fill: Literal::zero(dtype) }, dtype)
}

/// Fails where `got` is farther from `want` than `absolute + relative * |want|`; equal infinities and NaNs agree.
pub(crate) fn assert_close(got: &[f64], want: &[f64], absolute: f64, relative: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let near = (g - w).abs() <= absolute + relative * w.abs();
        assert!(near || g == w || g.is_nan() && w.is_nan(), "{what}: element {i} is {g}, should be {w}");
    }
}
