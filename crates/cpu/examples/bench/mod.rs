//! Runs single kernels over and over, and prints their best times.

// Each example uses a part of this.
#![allow(dead_code)]

use std::{error::Error, sync::Arc, time::Instant};

use wgrad_cpu::CpuDevice;
use wgrad_ir::{
    Arg, BufferRef, BufferSpec, DType, Expr, ExprId, ExprNode, Kernel, Literal, MapKernel, Program, Shape,
    Step, Store, View,
};
use wgrad_runtime::{Buffer, Device, DeviceError};

pub(crate) fn load(arg: u32, shape: &Shape, strides: &[i64]) -> ExprNode {
    let view = View { shape: shape.clone(), strides: strides.into(), offset: 0, mask: None };
    ExprNode {
        expr: Expr::Load { arg, map: view.into(), fill: Literal::zero(DType::F32) },
        dtype: DType::F32,
    }
}

pub(crate) fn node(expr: Expr) -> ExprNode {
    ExprNode { expr, dtype: DType::F32 }
}

pub(crate) fn map(space: &Shape, exprs: Vec<ExprNode>) -> Kernel {
    let value = ExprId(exprs.len() as u32 - 1);
    let store = Store { arg: 0, value, view: View::contiguous(space.clone()) };
    Kernel::Map(MapKernel { space: space.clone(), exprs, stores: vec![store] })
}

/// The CPU, and words to choose kernels by.
pub(crate) struct Bench {
    device: CpuDevice,
    words: Vec<String>,
}

impl Bench {
    /// Kernels whose names contain one of the command line's words, or all.
    pub(crate) fn new() -> Self {
        let device = CpuDevice::new();
        println!("{}: {:?}", device.info().name, device.info().details);
        Bench { device, words: std::env::args().skip(1).collect() }
    }

    /// Prints a kernel's GB/s: each element of results and inputs counts once.
    pub(crate) fn bytes(
        &mut self,
        name: &str,
        kernel: Kernel,
        results: &[&Shape],
        inputs: &[&Shape],
    ) -> Result<(), Box<dyn Error>> {
        let bytes: usize = results.iter().chain(inputs).map(|s| 4 * s.elements()).sum();
        self.report(name, kernel, results, inputs, false, (bytes as f64, "GB/s"))
    }

    /// The same for a kernel that updates all its arguments but the last.
    pub(crate) fn updates(
        &mut self,
        name: &str,
        kernel: Kernel,
        args: &[&Shape],
    ) -> Result<(), Box<dyn Error>> {
        let bytes = (2 * args.len() - 1) * 4 * args[0].elements();
        self.report(name, kernel, &[], args, true, (bytes as f64, "GB/s"))
    }

    /// Prints a kernel's GFLOP/s.
    pub(crate) fn flops(
        &mut self,
        name: &str,
        kernel: Kernel,
        results: &[&Shape],
        inputs: &[&Shape],
    ) -> Result<(), Box<dyn Error>> {
        let flops = kernel.flops() as f64;
        self.report(name, kernel, results, inputs, false, (flops, "GFLOP/s"))
    }

    fn report(
        &mut self,
        name: &str,
        kernel: Kernel,
        results: &[&Shape],
        inputs: &[&Shape],
        in_place: bool,
        (work, unit): (f64, &str),
    ) -> Result<(), Box<dyn Error>> {
        if !self.words.is_empty() && !self.words.iter().any(|w| name.contains(w.as_str())) {
            return Ok(());
        }
        let seconds = self.time(kernel, results, inputs, in_place)?;
        println!("{name:40} {:9.1} us {:7.1} {unit}", seconds * 1e6, work / seconds / 1e9);
        Ok(())
    }

    /// The best time of one kernel whose arguments are results, then inputs.
    fn time(
        &self,
        kernel: Kernel,
        results: &[&Shape],
        inputs: &[&Shape],
        in_place: bool,
    ) -> Result<f64, DeviceError> {
        let spec = |s: &&Shape| BufferSpec {
            shape: (*s).clone(),
            dtype: DType::F32,
            bytes: 4 * s.elements() as u64,
        };
        let mut program = Program {
            inputs: inputs.iter().map(spec).collect(),
            results: results.iter().map(spec).collect(),
            updates: if in_place { (0..inputs.len() as u32 - 1).collect() } else { Vec::new() },
            ..Program::default()
        };
        let outputs = (0..results.len() as u32).map(BufferRef::Output);
        let args = outputs.chain((0..inputs.len() as u32).map(BufferRef::Input));
        let args = args.map(|buffer| Arg { buffer, offset: 0, bytes: program.bytes(buffer) }).collect();
        program.steps = vec![Step { kernel: Arc::new(kernel), args, label: "kernel".into() }];
        let upload = |s: &&Shape| {
            let bytes: Vec<u8> =
                (0..s.elements()).flat_map(|i| ((i % 97) as f32 * 0.01).to_ne_bytes()).collect();
            self.device.upload(&bytes, DType::F32)
        };
        let mut buffers: Vec<Buffer> = inputs.iter().map(upload).collect::<Result<_, _>>()?;
        let executable = self.device.prepare(Arc::new(program))?;
        let mut best = f64::INFINITY;
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < 0.3 {
            let given = if in_place {
                let last = buffers[buffers.len() - 1].clone();
                std::mem::take(&mut buffers).into_iter().take(inputs.len() - 1).chain([last]).collect()
            } else {
                buffers.clone()
            };
            let gradients = given.last().cloned();
            let start = Instant::now();
            let out = executable.run(given, &[])?;
            best = best.min(start.elapsed().as_secs_f64());
            if in_place {
                buffers = out.updated.into_iter().chain(gradients).collect();
            }
        }
        Ok(best)
    }
}
