//! Measures kernel variants on an adapter: `cargo run --release -p wgrad-gpu --example throughput [gpu:0]`.

use std::{sync::Arc, time::Instant};

use wgrad_gpu::{GpuBackend, GpuDevice};
use wgrad_ir::{
    Arg, BinaryOp, BufferRef, BufferSpec, DType, Expr, ExprId, ExprNode, IndexMap, Kernel, Literal,
    MapKernel, MatMulKernel, Op, Operand, OutputSource, OutputSpec, Program, ReduceKernel, ReduceOp,
    Reduction, Shape, Step, Store, View,
};
use wgrad_kernels::{Choices, MatMulVariant};
use wgrad_runtime::{Device, DeviceError};

fn main() -> Result<(), DeviceError> {
    let id = std::env::args().nth(1).unwrap_or_else(|| "gpu:0".to_owned());
    let device = GpuBackend::new().open_gpu(&id)?;
    println!("{} ({})", device.info().name, device.info().driver);

    let mut variants = vec![
        MatMulVariant::Direct { rows: 8, quads: 2 },
        MatMulVariant::Tiled { block: 64 },
        MatMulVariant::Tiled { block: 128 },
    ];
    if device.caps().subgroup_size == 8 {
        variants.extend([8, 16, 32].map(|rows| MatMulVariant::Subgroup { rows, quads: 1 }));
        variants.push(MatMulVariant::Subgroup { rows: 32, quads: 2 });
    }
    let mut rows: Vec<(String, Choices)> = vec![("default".to_owned(), Choices::default())];
    rows.extend(
        variants.into_iter().map(|v| (format!("{v:?}"), Choices { matmul: Some(v), ..Choices::default() })),
    );
    for (name, choices) in &rows {
        for n in [256usize, 512, 1024] {
            let seconds = time(&device, &matmul(n), choices)?;
            println!("matmul {n:5} {name:35} {:8.1} GFLOP/s", 2.0 * (n as f64).powi(3) / seconds / 1e9);
        }
    }
    let n = 1 << 22;
    for (name, program, bytes) in [
        ("a + b", add(n, n), 12 * n),
        ("a + b, odd length", add(n + 1, n + 1), 12 * n),
        ("a + row", add(n, 1024), 8 * n),
        ("row sums, 4096 x 1024", sums(4096, 1024, false), 4 * n),
        ("column sums, 4096 x 1024", sums(4096, 1024, true), 4 * n),
        ("sum of all", sums(1, n, false), 4 * n),
    ] {
        let seconds = time(&device, &program, &Choices::default())?;
        println!("{name:40} {:8.2} GB/s", bytes as f64 / seconds / 1e9);
    }
    Ok(())
}

/// The least seconds of one run of several.
fn time(device: &GpuDevice, program: &Program, choices: &Choices) -> Result<f64, DeviceError> {
    let executable = device.prepare_with(Arc::new(program.clone()), choices)?;
    let inputs = program.inputs.iter().map(|spec| device.upload(&vec![0; spec.bytes as usize], spec.dtype));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let scalars: Vec<Literal> = Vec::new();
    executable.run(inputs.clone(), &scalars)?;
    device.synchronize()?;
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        executable.run(inputs.clone(), &scalars)?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn spec(len: usize) -> BufferSpec {
    BufferSpec { shape: [len].into(), dtype: DType::F32, bytes: 4 * len as u64 }
}

/// A program of one kernel whose arguments are the inputs and then the result.
fn program(kernel: Kernel, inputs: &[usize], result: usize) -> Program {
    let arg = |buffer, len: usize| Arg { buffer, offset: 0, bytes: 4 * len as u64 };
    let mut args: Vec<Arg> =
        inputs.iter().enumerate().map(|(i, &len)| arg(BufferRef::Input(i as u32), len)).collect();
    args.push(arg(BufferRef::Output(0), result));
    Program {
        inputs: inputs.iter().map(|&len| spec(len)).collect(),
        results: vec![spec(result)],
        outputs: vec![OutputSpec {
            source: OutputSource::Result(0),
            shape: [result].into(),
            dtype: DType::F32,
        }],
        steps: vec![Step { kernel: Arc::new(kernel), args, label: "measured".to_owned() }],
        ..Program::default()
    }
}

fn matmul(n: usize) -> Program {
    let square = View::contiguous([n, n].into());
    let kernel = MatMulKernel {
        batch: Shape::scalar(),
        m: n,
        n,
        k: n,
        dtype: DType::F32,
        a: Operand { arg: 0, view: square.clone() },
        b: Operand { arg: 1, view: square.clone() },
        exprs: vec![ExprNode { expr: Expr::Product, dtype: DType::F32 }],
        stores: vec![Store { arg: 2, value: ExprId(0), view: square }],
    };
    program(Kernel::MatMul(kernel), &[n * n; 2], n * n)
}

fn load(arg: u32, map: IndexMap) -> ExprNode {
    ExprNode { expr: Expr::Load { arg, map, fill: Literal::zero(DType::F32) }, dtype: DType::F32 }
}

/// `a + b`, where `b` has `b_len` elements and is repeated.
fn add(n: usize, b_len: usize) -> Program {
    let space = Shape::from([n / b_len, b_len]);
    let b = IndexMap::contiguous([1, b_len].into()).apply(&Op::Expand(space.clone()));
    let sum = Expr::Binary(BinaryOp::Add, ExprId(0), ExprId(1));
    let exprs = vec![
        load(0, IndexMap::contiguous(space.clone())),
        load(1, b),
        ExprNode { expr: sum, dtype: DType::F32 },
    ];
    let stores = vec![Store { arg: 2, value: ExprId(2), view: View::contiguous(space.clone()) }];
    program(Kernel::Map(MapKernel { space, exprs, stores }), &[n, b_len], n)
}

fn sums(rows: usize, cols: usize, columns: bool) -> Program {
    let whole = IndexMap::contiguous([rows, cols].into());
    let (outer, inner, map) = if columns {
        (cols, rows, whole.apply(&Op::Permute([1, 0].into_iter().collect())))
    } else {
        (rows, cols, whole)
    };
    let kernel = ReduceKernel {
        outer: [outer].into(),
        inner: [inner].into(),
        exprs: vec![load(0, map)],
        outs: vec![Reduction { op: ReduceOp::Sum, value: ExprId(0), arg: 1 }],
    };
    program(Kernel::Reduce(kernel), &[rows * cols], outer)
}
