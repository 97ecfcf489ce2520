//! Prints what the kernels of the CPU runtime reach on this machine: GB/s of reads and writes, and GFLOP/s.
//!
//! `cargo run --release -p wgrad-cpu --example speed`

use std::{error::Error, sync::Arc, time::Instant};

use wgrad_cpu::CpuDevice;
use wgrad_ir::{
    Arg, BinaryOp, BufferRef, BufferSpec, DType, Expr, ExprId, ExprNode, Kernel, Literal, MapKernel,
    MatMulKernel, Operand, Program, ReduceKernel, ReduceOp, Reduction, Shape, Step, Store, UnaryOp, View,
};
use wgrad_runtime::{Buffer, Device};

fn load(arg: u32, shape: &Shape, strides: &[i64]) -> ExprNode {
    let view = View { shape: shape.clone(), strides: strides.into(), offset: 0, mask: None };
    ExprNode {
        expr: Expr::Load { arg, map: view.into(), fill: Literal::zero(DType::F32) },
        dtype: DType::F32,
    }
}

fn node(expr: Expr) -> ExprNode {
    ExprNode { expr, dtype: DType::F32 }
}

fn map(space: &Shape, exprs: Vec<ExprNode>) -> Kernel {
    let value = ExprId(exprs.len() as u32 - 1);
    let store = Store { arg: 0, value, view: View::contiguous(space.clone()) };
    Kernel::Map(MapKernel { space: space.clone(), exprs, stores: vec![store] })
}

/// Runs one kernel with result 0 and the given inputs, and returns its best time in seconds.
fn time(device: &CpuDevice, kernel: Kernel, out: &Shape, inputs: &[&Shape]) -> Result<f64, Box<dyn Error>> {
    let spec = |s: &Shape| BufferSpec { shape: s.clone(), dtype: DType::F32, bytes: 4 * s.elements() as u64 };
    let mut program = Program {
        inputs: inputs.iter().map(|s| spec(s)).collect(),
        results: vec![spec(out)],
        ..Program::default()
    };
    let buffers = [BufferRef::Output(0)].into_iter().chain((0..inputs.len() as u32).map(BufferRef::Input));
    let args = buffers.map(|buffer| Arg { buffer, offset: 0, bytes: program.bytes(buffer) }).collect();
    program.steps = vec![Step { kernel: Arc::new(kernel), args, label: "kernel".into() }];
    let buffers = inputs
        .iter()
        .map(|s| {
            let x: Vec<f32> = (0..s.elements()).map(|i| (i % 97) as f32 * 0.01).collect();
            let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_ne_bytes()).collect();
            device.upload(&bytes, DType::F32)
        })
        .collect::<Result<Vec<Buffer>, _>>()?;
    let executable = device.prepare(Arc::new(program))?;
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        executable.run(buffers.clone(), &[])?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = CpuDevice::new();
    println!("{}: {:?}", device.info().name, device.info().details);
    for (rows, columns) in [(1024usize, 128usize), (4096, 128), (4096, 4096)] {
        let space = Shape::from([rows, columns]);
        let (r, c) = (Shape::from([rows]), Shape::from([columns]));
        let n = space.elements() as f64;
        let whole = [columns as i64, 1];
        let add = |a, b| node(Expr::Binary(BinaryOp::Add, ExprId(a), ExprId(b)));
        let report = |name: &str, seconds: f64, bytes: f64| {
            println!(
                "{name:24} {space} {:9.1} us {:7.1} GB/s {:6.3} ns/element",
                seconds * 1e6,
                bytes / seconds / 1e9,
                seconds * 1e9 / n
            );
        };
        let kernel = map(&space, vec![load(1, &space, &whole), load(2, &space, &whole), add(0, 1)]);
        report("a + b", time(&device, kernel, &space, &[&space, &space])?, 12.0 * n);
        let kernel = map(&space, vec![load(1, &space, &whole), load(2, &space, &[0, 1]), add(0, 1)]);
        report("a + row", time(&device, kernel, &space, &[&space, &c])?, 8.0 * n);
        let kernel = map(&space, vec![load(1, &space, &whole), load(2, &space, &[1, 0]), add(0, 1)]);
        report("a + column", time(&device, kernel, &space, &[&space, &r])?, 8.0 * n);
        let kernel = map(&space, vec![load(1, &space, &[1, rows as i64])]);
        report("transpose", time(&device, kernel, &space, &[&space])?, 8.0 * n);
        for op in [UnaryOp::Exp, UnaryOp::Log, UnaryOp::Tanh, UnaryOp::Erf, UnaryOp::Sin] {
            let kernel = map(&space, vec![load(1, &space, &whole), node(Expr::Unary(op, ExprId(0)))]);
            report(op.name(), time(&device, kernel, &space, &[&space])?, 8.0 * n);
        }
        let reduce = |outer: &Shape, inner: &Shape, strides: [i64; 2]| {
            let full = Shape::from([outer[0], inner[0]]);
            Kernel::Reduce(ReduceKernel {
                outer: outer.clone(),
                inner: inner.clone(),
                exprs: vec![load(1, &full, &strides)],
                outs: vec![Reduction { op: ReduceOp::Sum, value: ExprId(0), arg: 0 }],
            })
        };
        report("row sum", time(&device, reduce(&r, &c, whole), &r, &[&space])?, 4.0 * n);
        report("column sum", time(&device, reduce(&c, &r, [1, columns as i64]), &c, &[&space])?, 4.0 * n);
    }
    // Batch, m, n, k; whether the right operand is transposed.
    for (batch, m, n, k, t) in [
        (1usize, 1024usize, 1024usize, 1024usize, false),
        (1, 1024, 512, 128, false),
        (1, 1024, 128, 512, false),
        (1, 1024, 384, 128, false),
        (1, 128, 512, 1024, false),
        (1, 1024, 128, 128, true),
        (32, 128, 128, 32, true),
        (32, 128, 32, 128, false),
    ] {
        let operand = |rows: usize, columns: usize, transposed: bool| {
            let strides = if transposed { [rows * columns, 1, rows] } else { [rows * columns, columns, 1] };
            View {
                shape: [batch, rows, columns].into(),
                strides: strides.iter().map(|&s| s as i64).collect(),
                offset: 0,
                mask: None,
            }
        };
        let (a, b) = (operand(m, k, false), operand(k, n, t));
        let (sa, sb) = (a.shape.clone(), b.shape.clone());
        let kernel = Kernel::MatMul(MatMulKernel {
            batch: [batch].into(),
            m,
            n,
            k,
            dtype: DType::F32,
            a: Operand { arg: 1, view: a },
            b: Operand { arg: 2, view: b },
            exprs: vec![node(Expr::Product)],
            stores: vec![Store { arg: 0, value: ExprId(0), view: View::contiguous([batch, m, n].into()) }],
        });
        let flops = kernel.flops() as f64;
        let seconds = time(&device, kernel, &[batch, m, n].into(), &[&sa, &sb])?;
        println!(
            "matmul {batch:3} x [{m}, {k}] x [{k}, {n}]{} {:9.1} us {:6.0} GFLOP/s",
            if t { "^T" } else { "  " },
            seconds * 1e6,
            flops / seconds / 1e9
        );
    }
    Ok(())
}
