//! Measures kernel variants on an adapter: `cargo run --release -p wgrad-gpu --example throughput [gpu:0]`.

use std::{sync::Arc, time::Instant};

use wgrad_gpu::{GpuBackend, GpuDevice};
use wgrad_ir::{
    Arg, BinaryOp, BufferRef, BufferSpec, DType, Expr, ExprId, ExprNode, IndexMap, Kernel, Literal,
    MapKernel, MatMulKernel, Op, Operand, OutputSource, OutputSpec, Program, ReduceKernel, ReduceOp,
    Reduction, RowKernel, Shape, Step, Store, UnaryOp, View,
};
use wgrad_kernels::{Choices, MatMulVariant};
use wgrad_runtime::{Device, DeviceError};

fn main() -> Result<(), DeviceError> {
    let id = std::env::args().nth(1).unwrap_or_else(|| "gpu:0".to_owned());
    let device = GpuBackend::new().open_gpu(&id)?;
    println!("{} ({})", device.info().name, device.info().driver);

    let mut variants = vec![MatMulVariant::Direct { rows: 8, quads: 2 }, MatMulVariant::Tiled { block: 64 }];
    if device.caps().subgroup_size == 8 {
        let tiles = [(8, 1), (16, 1), (16, 2), (32, 1), (32, 2)];
        variants = tiles.map(|(rows, quads)| MatMulVariant::Subgroup { rows, quads }).to_vec();
    } else {
        variants.push(MatMulVariant::Tiled { block: 128 });
    }
    let mut choices: Vec<(String, Choices)> = vec![("default".to_owned(), Choices::default())];
    choices.extend(
        variants.into_iter().map(|v| (format!("{v:?}"), Choices { matmul: Some(v), ..Choices::default() })),
    );
    // Forward, input gradients (B transposed) and weight gradients (A transposed) of small language models.
    let (plain, b_turned, a_turned) = ([false; 2], [false, true], [true, false]);
    for ([m, n, k], turned, epilogue) in [
        ([512, 512, 512], plain, false),
        ([1024, 384, 128], plain, false),
        ([1024, 512, 128], plain, true),
        ([1024, 128, 512], b_turned, false),
        ([128, 512, 1024], a_turned, false),
        ([1024, 1536, 384], plain, false),
        ([1024, 1536, 384], plain, true),
        ([1024, 384, 1536], b_turned, false),
        ([384, 1536, 1024], a_turned, false),
        ([1024, 1024, 1024], plain, false),
    ] {
        let what = ["", " with A transposed", " with B transposed"]
            [usize::from(turned[0]) + 2 * usize::from(turned[1])];
        let gelu = if epilogue { " + bias, gelu" } else { "" };
        for (name, choice) in &choices {
            let (first, seconds) = time(&device, &matmul([m, n, k], turned, epilogue), choice)?;
            println!(
                "matmul {:30} {name:35} {:7.1} GFLOP/s, first run {:4.0} ms",
                format!("{m}x{n}x{k}{what}{gelu}"),
                2.0 * (m * n * k) as f64 / seconds / 1e9,
                first * 1e3
            );
        }
    }
    column_sums(&device)?;
    let n = 1 << 22;
    for (name, program, bytes) in [
        ("a + b", add(n, n), 12 * n),
        ("a + b, odd length", add(n + 1, n + 1), 12 * n),
        ("a + row", add(n, 1024), 8 * n),
        ("adam in place", adam(n), 28 * n),
        ("softmax, 4096 x 1024", softmax(4096, 1024), 8 * n),
        ("softmax, 32768 x 128", softmax(32768, 128), 8 * n),
        ("softmax, 512 x 8192", softmax(512, 8192), 8 * n),
        ("row sums, 4096 x 1024", sums(4096, 1024, false), 4 * n),
        ("column sums, 4096 x 1024", sums(4096, 1024, true), 4 * n),
        ("column sums, 1024 x 128", sums(1024, 128, true), 4 << 17),
        ("column sums, 1024 x 1536", sums(1024, 1536, true), 6 << 20),
        ("sum of all", sums(1, n, false), 4 * n),
        ("sum of all in 256 parts", sums(256, n / 256, false), 4 * n),
        ("sum of 256", sums(1, 256, false), 1024),
    ] {
        let (first, seconds) = time(&device, &program, &Choices::default())?;
        println!(
            "{name:40} {:8.2} GB/s, {:8.3} ms, first run {:4.0} ms",
            bytes as f64 / seconds / 1e9,
            seconds * 1e3,
            first * 1e3
        );
    }
    Ok(())
}

/// Weight gradients alone, with the column sums of their right operand, and with a reduction for them: the last two relative to the first.
fn column_sums(device: &GpuDevice) -> Result<(), DeviceError> {
    let k = 1024;
    for m in [128, 256, 512] {
        for n in [128, 256, 512] {
            let alone = matmul([m, n, k], [true, false], false);
            let arg = |buffer, len: usize| Arg { buffer, offset: 0, bytes: 4 * len as u64 };
            let (b, out) = (arg(BufferRef::Input(1), k * n), arg(BufferRef::Temp(0), n));
            let mut along = Program { temps: vec![4 * n as u64], ..alone.clone() };
            let mut after = along.clone();
            let Kernel::MatMul(product) = along.steps[0].kernel.as_ref() else { unreachable!("a product") };
            let product = MatMulKernel { column_sums: Some(3), ..product.clone() };
            along.steps[0].kernel = Arc::new(Kernel::MatMul(product));
            along.steps[0].args.push(out);
            let kernel = sums(k, n, true).steps[0].kernel.clone();
            after.steps.push(Step { kernel, args: vec![b, out], label: "sums".to_owned() });
            let runs = [&alone, &along, &after].map(|program| timed(device, program, &Choices::default()));
            let [alone, along, after] = runs;
            let runs = [alone?, along?, after?];
            let mut best = [f64::INFINITY; 3];
            // In turns, so that all of them meet the same noise.
            for _ in 0..40 {
                for (best, run) in best.iter_mut().zip(&runs) {
                    *best = best.min(run()?);
                }
            }
            println!(
                "matmul {m}x{n}x{k} with A transposed: {:.3} ms, with column sums {:.3} times, with a reduction {:.3} times",
                best[0] * 1e3,
                best[1] / best[0],
                best[2] / best[0]
            );
        }
    }
    Ok(())
}

/// Seconds of the first run, and the least of several others.
fn time(device: &GpuDevice, program: &Program, choices: &Choices) -> Result<(f64, f64), DeviceError> {
    let run = timed(device, program, choices)?;
    let first = run()?;
    let mut best = f64::INFINITY;
    for _ in 0..9 {
        best = best.min(run()?);
    }
    Ok((first, best))
}

/// What runs a program once, and tells how many seconds that took.
fn timed<'d>(
    device: &'d GpuDevice,
    program: &Program,
    choices: &Choices,
) -> Result<impl Fn() -> Result<f64, DeviceError> + use<'d>, DeviceError> {
    let executable = device.prepare_with(Arc::new(program.clone()), choices)?;
    let inputs = program.inputs.iter().map(|spec| device.upload(&vec![0; spec.bytes as usize], spec.dtype));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    Ok(move || {
        let start = Instant::now();
        executable.run(inputs.clone(), &[])?;
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    })
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

/// A product of matrices that are stored as they are or transposed, plain or with a bias and GELU.
fn matmul([m, n, k]: [usize; 3], turned: [bool; 2], epilogue: bool) -> Program {
    let operand = |arg, rows: usize, cols: usize, turned: bool| {
        let strides = if turned { [1, rows as i64] } else { [cols as i64, 1] };
        let view = View {
            shape: [rows, cols].into(),
            strides: strides.into_iter().collect(),
            offset: 0,
            mask: None,
        };
        Operand { arg, view }
    };
    let mut exprs = vec![ExprNode { expr: Expr::Product, dtype: DType::F32 }];
    let mut inputs = vec![m * k, k * n];
    if epilogue {
        let bias = IndexMap::contiguous([1, n].into()).apply(&Op::Expand([m, n].into()));
        exprs.push(load(2, bias));
        inputs.push(n);
        let constant = |v: f64| Expr::Const(Literal::from_f64(DType::F32, v));
        let mul = |a, b| Expr::Binary(BinaryOp::Mul, ExprId(a), ExprId(b));
        let add = |a, b| Expr::Binary(BinaryOp::Add, ExprId(a), ExprId(b));
        for expr in [
            add(0, 1),
            constant(std::f64::consts::FRAC_1_SQRT_2),
            mul(2, 3),
            Expr::Unary(UnaryOp::Erf, ExprId(4)),
            constant(1.0),
            add(5, 6),
            mul(2, 7),
            constant(0.5),
            mul(8, 9),
        ] {
            exprs.push(ExprNode { expr, dtype: DType::F32 });
        }
    }
    let value = ExprId(exprs.len() as u32 - 1);
    let kernel = MatMulKernel {
        batch: Shape::scalar(),
        m,
        n,
        k,
        dtype: DType::F32,
        operands: [DType::F32; 2],
        a: operand(0, m, k, turned[0]),
        b: operand(1, k, n, turned[1]),
        exprs,
        stores: vec![Store { arg: inputs.len() as u32, value, view: View::contiguous([m, n].into()) }],
        column_sums: None,
        split: None,
    };
    program(Kernel::MatMul(kernel), &inputs, m * n)
}

fn softmax(rows: usize, len: usize) -> Program {
    let space = Shape::from([rows, len]);
    let row = |op, a| Expr::Row(op, ExprId(a));
    let mut exprs = vec![load(0, IndexMap::contiguous(space.clone()))];
    for expr in [
        row(ReduceOp::Max, 0),
        Expr::Binary(BinaryOp::Sub, ExprId(0), ExprId(1)),
        Expr::Unary(UnaryOp::Exp, ExprId(2)),
        row(ReduceOp::Sum, 3),
        Expr::Binary(BinaryOp::Div, ExprId(3), ExprId(4)),
    ] {
        exprs.push(ExprNode { expr, dtype: DType::F32 });
    }
    let stores = vec![Store { arg: 1, value: ExprId(5), view: View::contiguous(space) }];
    let kernel = RowKernel { outer: [rows].into(), inner: [len].into(), exprs, stores };
    program(Kernel::Row(kernel), &[rows * len], rows * len)
}

/// Moments and weights in place: four loads and three stores an element.
fn adam(n: usize) -> Program {
    let view = View::contiguous([n].into());
    let mut exprs: Vec<ExprNode> = (0..4).map(|arg| load(arg, view.clone().into())).collect();
    let binary = |op, a, b| Expr::Binary(op, ExprId(a), ExprId(b));
    for expr in [
        binary(BinaryOp::Mul, 0, 0),
        binary(BinaryOp::Add, 1, 0),
        binary(BinaryOp::Add, 2, 4),
        Expr::Unary(UnaryOp::Sqrt, ExprId(6)),
        Expr::Const(Literal::from_f64(DType::F32, 1e-8)),
        binary(BinaryOp::Add, 7, 8),
        binary(BinaryOp::Div, 5, 9),
        binary(BinaryOp::Sub, 3, 10),
    ] {
        exprs.push(ExprNode { expr, dtype: DType::F32 });
    }
    let stores = [(1, 5), (2, 6), (3, 11)]
        .map(|(arg, value)| Store { arg, value: ExprId(value), view: view.clone() })
        .to_vec();
    let kernel = Kernel::Map(MapKernel { space: [n].into(), exprs, stores });
    let bytes = 4 * n as u64;
    let outputs = [1, 2, 3].map(|i| OutputSpec {
        source: OutputSource::Input(i),
        shape: [n].into(),
        dtype: DType::F32,
    });
    Program {
        inputs: vec![spec(n); 4],
        updates: vec![1, 2, 3],
        outputs: outputs.to_vec(),
        steps: vec![Step {
            kernel: Arc::new(kernel),
            args: (0..4).map(|i| Arg { buffer: BufferRef::Input(i), offset: 0, bytes }).collect(),
            label: "adam".to_owned(),
        }],
        ..Program::default()
    }
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
