//! What the CPU runtime promises as a device: repeatable results, errors instead of kills, reuse of memory.

use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_ir::{
    Arg, BufferRef, BufferSpec, DType, Expr, ExprId, ExprNode, IndexMap, Kernel, Literal, MapKernel,
    MatMulKernel, Operand, Program, RandomKind, ReduceKernel, ReduceOp, Reduction, ScatterAddKernel, Shape,
    Step, Store, UnaryOp, View, philox,
};
use wgrad_runtime::{Device, DeviceError};

fn spec(shape: &Shape, dtype: DType) -> BufferSpec {
    BufferSpec { shape: shape.clone(), dtype, bytes: (shape.elements() * dtype.host_bytes()) as u64 }
}

fn node(expr: Expr, dtype: DType) -> ExprNode {
    ExprNode { expr, dtype }
}

fn load(arg: u32, view: View) -> ExprNode {
    node(Expr::Load { arg, map: view.into(), fill: Literal::zero(DType::F32) }, DType::F32)
}

/// A program of one kernel with f32 inputs.
fn program(inputs: &[&Shape], out: &Shape, dtype: DType, kernel: Kernel) -> Program {
    let mut args = vec![BufferRef::Output(0)];
    args.extend((0..inputs.len() as u32).map(BufferRef::Input));
    let inputs = inputs.iter().map(|s| spec(s, DType::F32)).collect();
    let mut program = Program { inputs, results: vec![spec(out, dtype)], ..Program::default() };
    let whole = |buffer| Arg { buffer, offset: 0, bytes: program.bytes(buffer) };
    let args = args.into_iter().map(whole).collect();
    program.steps = vec![Step { kernel: Arc::new(kernel), args, label: "test".into() }];
    program
}

/// The product alone.
fn matmul(batch: Shape, (m, n, k): (usize, usize, usize), a: View, b: View) -> MatMulKernel {
    let space: Shape = batch.iter().copied().chain([m, n]).collect();
    MatMulKernel {
        column_sums: None,
        split: None,
        batch,
        m,
        n,
        k,
        dtype: DType::F32,
        operands: [DType::F32; 2],
        a: Operand { arg: 1, view: a },
        b: Operand { arg: 2, view: b },
        exprs: vec![node(Expr::Product, DType::F32)],
        stores: vec![Store { arg: 0, value: ExprId(0), view: View::contiguous(space) }],
    }
}

fn run(device: &CpuDevice, program: Program, inputs: &[Vec<u8>]) -> Result<Vec<u8>, DeviceError> {
    let dtypes: Vec<DType> = program.inputs.iter().map(|i| i.dtype).collect();
    let out = program.results[0].dtype;
    let executable = device.prepare(Arc::new(program))?;
    let buffers =
        inputs.iter().zip(dtypes).map(|(b, d)| device.upload(b, d)).collect::<Result<Vec<_>, _>>()?;
    let results = executable.run(buffers, &[])?.results;
    device.read(&results[0], out)?.wait()
}

fn bytes(x: impl IntoIterator<Item = f32>) -> Vec<u8> {
    x.into_iter().flat_map(f32::to_ne_bytes).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|c| f32::from_ne_bytes([c[0], c[1], c[2], c[3]])).collect()
}

fn wave(n: usize) -> Vec<u8> {
    bytes((0..n).map(|i| (i as f32 * 0.37).sin()))
}

fn sum(outer: Shape, inner: Shape, strides: &[i64]) -> Kernel {
    let shape: Shape = outer.iter().chain(inner.iter()).copied().collect();
    let view = View { shape, strides: strides.into(), offset: 0, mask: None };
    Kernel::Reduce(ReduceKernel {
        outer,
        inner,
        exprs: vec![load(1, view)],
        outs: vec![Reduction { op: ReduceOp::Sum, value: ExprId(0), arg: 0 }],
    })
}

/// Kernels large enough to be shared between threads.
fn large_programs() -> Vec<(Program, Vec<Vec<u8>>)> {
    let square = Shape::from([1024, 1024]);
    let line = Shape::from([1024]);
    let whole = Shape::from([1 << 20]);
    let matrix = |m: usize, n: usize| View::contiguous([m, n].into());
    let product = |m, k, n| {
        let b = View { strides: [1, k as i64][..].into(), ..matrix(k, n) };
        let kernel = matmul(Shape::scalar(), (m, n, k), matrix(m, k), b);
        let inputs = [Shape::from([m, k]), Shape::from([n, k])];
        let p = program(&[&inputs[0], &inputs[1]], &[m, n].into(), DType::F32, Kernel::MatMul(kernel));
        (p, vec![wave(m * k), wave(n * k)])
    };
    let (a, b) = (Shape::from([32, 128, 96]), Shape::from([32, 96, 64]));
    let batched =
        matmul([32].into(), (128, 64, 96), View::contiguous(a.clone()), View::contiguous(b.clone()));
    vec![
        (
            program(&[&square], &line, DType::F32, sum(line.clone(), line.clone(), &[1024, 1])),
            vec![wave(1 << 20)],
        ),
        (
            program(&[&square], &line, DType::F32, sum(line.clone(), line.clone(), &[1, 1024])),
            vec![wave(1 << 20)],
        ),
        (
            program(&[&whole], &Shape::scalar(), DType::F32, sum(Shape::scalar(), whole.clone(), &[1])),
            vec![wave(1 << 20)],
        ),
        product(512, 300, 700),
        product(1024, 128, 384),
        product(64, 4096, 64),
        (
            program(&[&a, &b], &[32, 128, 64].into(), DType::F32, Kernel::MatMul(batched)),
            vec![wave(a.elements()), wave(b.elements())],
        ),
    ]
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let device = CpuDevice::new();
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            large_programs().into_iter().map(|(p, i)| run(&device, p, &i).unwrap()).collect::<Vec<_>>()
        })
    };
    let one = on(1);
    for threads in [2, 3] {
        for (i, (a, b)) in one.iter().zip(&on(threads)).enumerate() {
            assert!(a == b, "program {i} differs on {threads} threads");
        }
    }
}

#[test]
fn large_sums_are_accurate() {
    let device = CpuDevice::new();
    let x = floats(&wave(1 << 20));
    let (rows, columns, all) = {
        let mut results =
            large_programs().into_iter().take(3).map(|(p, i)| floats(&run(&device, p, &i).unwrap()));
        (results.next().unwrap(), results.next().unwrap(), results.next().unwrap())
    };
    for i in 0..1024 {
        let row: f64 = x[i * 1024..(i + 1) * 1024].iter().map(|&x| f64::from(x)).sum();
        let column: f64 = (0..1024).map(|r| f64::from(x[r * 1024 + i])).sum();
        assert!((f64::from(rows[i]) - row).abs() < 2e-5 && (f64::from(columns[i]) - column).abs() < 2e-5);
    }
    let total: f64 = x.iter().map(|&x| f64::from(x)).sum();
    assert!((f64::from(all[0]) - total).abs() < 1e-2, "{} and {total}", all[0]);
}

#[test]
fn random_elements_are_the_words_of_philox() {
    let device = CpuDevice::new();
    let space = Shape::from([3, 1001]);
    let key = [1, 2, 3].map(|k| node(Expr::Const(Literal::u32(k)), DType::U32));
    let mut exprs = key.to_vec();
    exprs.push(node(
        Expr::Random {
            stream: 9,
            kind: RandomKind::Uniform,
            map: IndexMap::contiguous(space.clone()),
            key: [ExprId(0), ExprId(1), ExprId(2)],
        },
        DType::F32,
    ));
    let store = Store { arg: 0, value: ExprId(3), view: View::contiguous(space.clone()) };
    let kernel = Kernel::Map(MapKernel { space: space.clone(), exprs, stores: vec![store] });
    let got = floats(&run(&device, program(&[], &space, DType::F32, kernel), &[]).unwrap());
    for (i, x) in got.into_iter().enumerate() {
        assert_eq!(x, philox::uniform(philox::word(i as u32, 9, 3, [1, 2])));
    }
}

#[test]
fn functions_of_f64_are_those_of_the_standard_library() {
    let device = CpuDevice::new();
    let space = Shape::from([201]);
    let x: Vec<f64> = (0..201).map(|i| f64::from(i - 100) * 0.05).collect();
    let input: Vec<u8> = x.iter().flat_map(|x| x.to_ne_bytes()).collect();
    type Function = fn(f64) -> f64;
    let functions: [(UnaryOp, Function); 5] = [
        (UnaryOp::Exp, f64::exp),
        (UnaryOp::Tanh, f64::tanh),
        (UnaryOp::Erf, libm::erf),
        (UnaryOp::Sin, f64::sin),
        (UnaryOp::Rsqrt, |x| 1.0 / x.sqrt()),
    ];
    for (op, want) in functions {
        let map = IndexMap::contiguous(space.clone());
        let exprs = vec![
            node(Expr::Load { arg: 1, map, fill: Literal::zero(DType::F64) }, DType::F64),
            node(Expr::Unary(op, ExprId(0)), DType::F64),
        ];
        let store = Store { arg: 0, value: ExprId(1), view: View::contiguous(space.clone()) };
        let kernel = Kernel::Map(MapKernel { space: space.clone(), exprs, stores: vec![store] });
        let mut p = program(&[&space], &space, DType::F64, kernel);
        p.inputs = vec![spec(&space, DType::F64)];
        p.steps[0].args.iter_mut().for_each(|arg| arg.bytes = 8 * 201);
        let got = run(&device, p, std::slice::from_ref(&input)).unwrap();
        for (got, &x) in got.chunks_exact(8).zip(&x) {
            let (got, want) = (f64::from_ne_bytes(got.try_into().unwrap()), want(x));
            assert!(got == want || got.is_nan() && want.is_nan(), "{op:?}({x}) = {got}, not {want}");
        }
    }
}

#[test]
fn an_id_out_of_range_is_clamped_and_reported_once() {
    let device = CpuDevice::new();
    let (table, ids) = (Shape::from([4, 2]), Shape::from([3]));
    let space = Shape::from([3, 2]);
    let gather = Expr::Gather {
        table: 1,
        ids: 2,
        ids_dtype: DType::I32,
        rows: 4,
        row_len: 2,
        map: IndexMap::contiguous(space.clone()),
    };
    let store = Store { arg: 0, value: ExprId(0), view: View::contiguous(space.clone()) };
    let exprs = vec![node(gather, DType::F32)];
    let kernel = Kernel::Map(MapKernel { space: space.clone(), exprs, stores: vec![store] });
    let mut p = program(&[&table, &ids], &space, DType::F32, kernel);
    p.inputs[1].dtype = DType::I32;
    let executable = device.prepare(Arc::new(p)).unwrap();
    let rows = device.upload(&bytes((0..8).map(|x| x as f32)), DType::F32).unwrap();
    let ids: Vec<u8> = [-1i32, 1, 9].into_iter().flat_map(i32::to_ne_bytes).collect();
    let ids = device.upload(&ids, DType::I32).unwrap();
    let out = executable.run(vec![rows, ids], &[]).unwrap().results;
    let error = device.read(&out[0], DType::F32).unwrap().wait().unwrap_err();
    assert!(matches!(error, DeviceError::IndexOutOfRange { .. }));
    let again = device.read(&out[0], DType::F32).unwrap().wait().unwrap();
    assert_eq!(floats(&again), [0.0, 1.0, 2.0, 3.0, 6.0, 7.0]);
}

#[test]
fn what_does_not_fit_in_memory_is_an_error_that_names_it() {
    let device = CpuDevice::new();
    let space = Shape::from([1 << 42]);
    let exprs = vec![node(Expr::Const(Literal::from_f64(DType::F32, 1.0)), DType::F32)];
    let store = Store { arg: 0, value: ExprId(0), view: View::contiguous(space.clone()) };
    let kernel = Kernel::Map(MapKernel { space: space.clone(), exprs, stores: vec![store] });
    let executable = device.prepare(Arc::new(program(&[], &space, DType::F32, kernel))).unwrap();
    let error = executable.run(vec![], &[]).unwrap_err();
    assert!(matches!(error, DeviceError::OutOfMemory { .. }));
    let text = error.to_string();
    assert!(text.contains("`test`") && text.contains("16.0 TiB"), "{text}");
}

#[test]
fn empty_spaces_are_legal_and_empty_sums_are_zero() {
    let device = CpuDevice::new();
    let (none, three) = (Shape::from([0]), Shape::from([3]));
    let p = program(&[&none], &three, DType::F32, sum(three.clone(), none.clone(), &[0, 1]));
    assert_eq!(floats(&run(&device, p, &[vec![]]).unwrap()), [0.0; 3]);
    let kernel = ScatterAddKernel { rows: 3, row_len: 1, count: 0, dtype: DType::F32, ids_dtype: DType::U32 };
    let mut p = program(&[&none, &none], &three, DType::F32, Kernel::ScatterAdd(kernel));
    p.inputs[0].dtype = DType::U32;
    p.temps = vec![0];
    p.steps[0].args.push(Arg { buffer: BufferRef::Temp(0), offset: 0, bytes: 0 });
    assert_eq!(floats(&run(&device, p, &[vec![], vec![]]).unwrap()), [0.0; 3]);
    let view = View::contiguous(none.clone());
    let store = Store { arg: 0, value: ExprId(0), view: view.clone() };
    let kernel =
        Kernel::Map(MapKernel { space: none.clone(), exprs: vec![load(1, view)], stores: vec![store] });
    assert!(run(&device, program(&[&none], &none, DType::F32, kernel), &[vec![]]).unwrap().is_empty());
}

#[test]
fn a_repeated_run_allocates_nothing_new() {
    let device = CpuDevice::new();
    let (p, inputs) = large_programs().remove(3);
    let executable = device.prepare(Arc::new(p)).unwrap();
    let buffers: Vec<_> = inputs.iter().map(|b| device.upload(b, DType::F32).unwrap()).collect();
    drop(executable.run(buffers.clone(), &[]).unwrap());
    let before = device.stats();
    drop(executable.run(buffers, &[]).unwrap());
    let after = device.stats();
    assert_eq!((after.allocations, after.runs), (before.allocations, before.runs + 1));
}

#[test]
fn buffers_of_another_device_are_refused() {
    let (one, two) = (CpuDevice::new(), CpuDevice::new());
    let buffer = one.upload(&bytes([1.0]), DType::F32).unwrap();
    assert!(matches!(two.read(&buffer, DType::F32), Err(DeviceError::Misuse { .. })));
    let shape = Shape::from([1]);
    let p = program(&[&shape], &shape, DType::F32, sum(shape.clone(), Shape::scalar(), &[1]));
    let executable = two.prepare(Arc::new(p)).unwrap();
    let error = executable.run(vec![buffer], &[]).unwrap_err().to_string();
    assert!(error.contains("another device"), "{error}");
    let error = executable.run(vec![], &[]).unwrap_err().to_string();
    assert!(error.contains("takes 1 buffers"), "{error}");
}
