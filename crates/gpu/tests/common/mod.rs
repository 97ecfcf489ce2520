//! A plain evaluation of kernels, index by index, and what it takes to compare a device with it.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::sync::{Arc, OnceLock};

use wgrad_gpu::{GpuBackend, GpuDevice};
use wgrad_ir::{
    BinaryOp, BufferRef, BufferSpec, CompareOp, DType, Expr, ExprId, ExprNode, IndexMap, Kernel, Literal,
    OutputSource, OutputSpec, Program, RandomKind, ReduceOp, Shape, Step, UnaryOp, philox, verify_program,
};
use wgrad_kernels::Choices;
use wgrad_runtime::{Device, DeviceError};

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
            args.push(match arg {
                Arg::In(dtype, data) => {
                    program.inputs.push(spec(*dtype, data.len()));
                    BufferRef::Input(program.inputs.len() as u32 - 1)
                }
                Arg::Out(dtype, len) => {
                    let (shape, dtype) = (Shape::from([*len]), *dtype);
                    let source = OutputSource::Result(program.results.len() as u32);
                    program.outputs.push(OutputSpec { source, shape, dtype });
                    program.results.push(spec(dtype, *len));
                    BufferRef::Output(program.results.len() as u32 - 1)
                }
                Arg::Temp(words) => {
                    program.temps.push(4 * *words as u64);
                    BufferRef::Temp(program.temps.len() as u32 - 1)
                }
            });
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
        let inputs = self.args.iter().filter_map(|arg| match arg {
            Arg::In(dtype, data) => Some(device.upload(&encode(*dtype, data), *dtype)),
            _ => None,
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let executable = device.prepare_with(Arc::new(program), choices)?;
        let results = executable.run(inputs, &self.scalars)?;
        let specs = &executable.program().results;
        results
            .iter()
            .zip(specs)
            .map(|(buffer, spec)| Ok(decode(spec.dtype, &device.read(buffer, spec.dtype)?.wait()?)))
            .collect()
    }

    pub(crate) fn run(&self, device: &GpuDevice) -> Vec<Vec<f64>> {
        self.try_run(device, &Choices::default()).expect("a run")
    }

    /// The results by definition.
    pub(crate) fn reference(&self) -> Vec<Vec<f64>> {
        let mut outs: Vec<Option<Vec<f64>>> = self
            .args
            .iter()
            .map(|arg| match arg {
                Arg::Out(_, len) => Some(vec![0.0; *len]),
                _ => None,
            })
            .collect();
        let input = |arg: u32| match &self.args[arg as usize] {
            Arg::In(_, data) => data,
            other => panic!("reads {other:?}"),
        };
        match &self.kernel {
            Kernel::Map(k) => {
                for index in indices(&k.space) {
                    let values = self.evaluate(&k.exprs, &index);
                    for store in &k.stores {
                        let at = store.view.address(&index).unwrap() as usize;
                        outs[store.arg as usize].as_mut().unwrap()[at] = values[store.value.index()];
                    }
                }
            }
            Kernel::Reduce(k) => {
                for (o, outer) in indices(&k.outer).into_iter().enumerate() {
                    let all: Vec<f64> = indices(&k.inner)
                        .into_iter()
                        .map(|inner| {
                            let index: Vec<usize> = outer.iter().chain(&inner).copied().collect();
                            self.evaluate(&k.exprs, &index)[k.value.index()]
                        })
                        .collect();
                    let dtype = k.exprs[k.value.index()].dtype;
                    let result = match k.op {
                        ReduceOp::Sum if dtype == DType::I32 => {
                            all.iter().fold(0i32, |a, &b| a.wrapping_add(b as i32)).into()
                        }
                        ReduceOp::Sum if dtype == DType::U32 => {
                            all.iter().fold(0u32, |a, &b| a.wrapping_add(b as u32)).into()
                        }
                        ReduceOp::Sum => all.iter().sum(),
                        _ if all.is_empty() => 0.0,
                        ReduceOp::Max => all.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                        ReduceOp::Min => all.iter().copied().fold(f64::INFINITY, f64::min),
                    };
                    outs[k.out as usize].as_mut().unwrap()[o] = result;
                }
            }
            Kernel::MatMul(k) => {
                let out = outs[0].as_mut().unwrap();
                let (a, b) = (input(1), input(2));
                for (n, batch) in indices(&k.batch).into_iter().enumerate() {
                    let at =
                        |x: usize, y: usize| -> Vec<usize> { batch.iter().copied().chain([x, y]).collect() };
                    for i in 0..k.m {
                        for j in 0..k.n {
                            out[(n * k.m + i) * k.n + j] = (0..k.k)
                                .map(|l| {
                                    a[k.a.address(&at(i, l)).unwrap() as usize]
                                        * b[k.b.address(&at(l, j)).unwrap() as usize]
                                })
                                .sum();
                        }
                    }
                }
            }
            Kernel::ScatterAdd(k) => {
                let out = outs[0].as_mut().unwrap();
                for (i, &id) in input(1).iter().enumerate() {
                    for c in 0..k.row_len {
                        out[id as usize * k.row_len + c] += input(2)[i * k.row_len + c];
                    }
                }
            }
        }
        outs.into_iter().flatten().collect()
    }

    /// Every expression at one index. `f32` values are rounded after each operation.
    fn evaluate(&self, exprs: &[ExprNode], index: &[usize]) -> Vec<f64> {
        let input = |arg: u32, at: usize| match &self.args[arg as usize] {
            Arg::In(_, data) => data[at],
            other => panic!("reads {other:?}"),
        };
        let mut values: Vec<f64> = Vec::new();
        for node in exprs {
            let v = |id: ExprId| values[id.index()];
            let of = |id: ExprId| exprs[id.index()].dtype;
            let raw = match &node.expr {
                Expr::Const(l) => l.as_f64(),
                Expr::Scalar(i) => self.scalars[*i as usize].as_f64(),
                Expr::Load { arg, map, fill } => {
                    map.address(index).map_or(fill.as_f64(), |at| input(*arg, at as usize))
                }
                Expr::Index { map } => map.address(index).unwrap_or(0) as f64,
                Expr::Random { stream, kind, map, key } => map.address(index).map_or(0.0, |at| {
                    let key_words = [v(key[0]) as u32, v(key[1]) as u32];
                    let word = philox::word(at as u32, *stream, v(key[2]) as u32, key_words);
                    match kind {
                        RandomKind::Bits => word.into(),
                        RandomKind::Uniform => philox::uniform(word).into(),
                    }
                }),
                Expr::Gather { table, ids, rows, row_len, map, .. } => map.address(index).map_or(0.0, |at| {
                    let id = input(*ids, at as usize / row_len).clamp(0.0, *rows as f64 - 1.0);
                    input(*table, id as usize * row_len + at as usize % row_len)
                }),
                Expr::Unary(op, a) => unary(*op, v(*a), node.dtype),
                Expr::Binary(op, a, b) => binary(*op, v(*a), v(*b), node.dtype),
                Expr::Compare(op, a, b) => {
                    let (a, b) = (v(*a), v(*b));
                    f64::from(match op {
                        CompareOp::Eq => a == b,
                        CompareOp::Ne => a != b,
                        CompareOp::Lt => a < b,
                        CompareOp::Le => a <= b,
                        CompareOp::Gt => a > b,
                        CompareOp::Ge => a >= b,
                    })
                }
                Expr::Select(c, a, b) => {
                    if v(*c) != 0.0 {
                        v(*a)
                    } else {
                        v(*b)
                    }
                }
                Expr::Cast(a) => match (of(*a), node.dtype) {
                    (DType::I32, DType::U32) => (v(*a) as i32 as u32).into(),
                    (DType::U32, DType::I32) => (v(*a) as u32 as i32).into(),
                    (_, DType::I32) => (v(*a) as i32).into(),
                    (_, DType::U32) => (v(*a) as u32).into(),
                    (_, DType::Bool) => f64::from(v(*a) != 0.0),
                    _ => v(*a),
                },
            };
            values.push(if node.dtype == DType::F32 { f64::from(raw as f32) } else { raw });
        }
        values
    }
}

fn unary(op: UnaryOp, a: f64, dtype: DType) -> f64 {
    match op {
        UnaryOp::Neg if dtype == DType::I32 => (a as i32).wrapping_neg().into(),
        UnaryOp::Neg => -a,
        UnaryOp::Abs => a.abs(),
        UnaryOp::Exp => a.exp(),
        UnaryOp::Log => a.ln(),
        UnaryOp::Sqrt => a.sqrt(),
        UnaryOp::Rsqrt => 1.0 / a.sqrt(),
        UnaryOp::Recip => 1.0 / a,
        UnaryOp::Tanh => a.tanh(),
        UnaryOp::Erf => erf(a),
        UnaryOp::Sin => a.sin(),
        UnaryOp::Cos => a.cos(),
        UnaryOp::Floor => a.floor(),
        UnaryOp::Not => f64::from(a == 0.0),
    }
}

fn binary(op: BinaryOp, a: f64, b: f64, dtype: DType) -> f64 {
    let (i, j, x, y) = (a as i32, b as i32, a as u32, b as u32);
    match (op, dtype) {
        (BinaryOp::Add, DType::I32) => i.wrapping_add(j).into(),
        (BinaryOp::Sub, DType::I32) => i.wrapping_sub(j).into(),
        (BinaryOp::Mul, DType::I32) => i.wrapping_mul(j).into(),
        (BinaryOp::Add, DType::U32) => x.wrapping_add(y).into(),
        (BinaryOp::Sub, DType::U32) => x.wrapping_sub(y).into(),
        (BinaryOp::Mul, DType::U32) => x.wrapping_mul(y).into(),
        (BinaryOp::Div | BinaryOp::Rem, DType::I32 | DType::U32) if b == 0.0 => 0.0,
        (BinaryOp::Div, DType::I32 | DType::U32) => (a / b).trunc(),
        (BinaryOp::Add, _) => a + b,
        (BinaryOp::Sub, _) => a - b,
        (BinaryOp::Mul, _) => a * b,
        (BinaryOp::Div, _) => a / b,
        (BinaryOp::Rem, _) => a % b,
        (BinaryOp::Max, _) => a.max(b),
        (BinaryOp::Min, _) => a.min(b),
        (BinaryOp::Pow, _) => a.powf(b),
        (BinaryOp::And, _) => f64::from(a != 0.0 && b != 0.0),
        (BinaryOp::Or, _) => f64::from(a != 0.0 || b != 0.0),
    }
}

/// The error function by Simpson's rule: slow, independent, good to 1e-13.
fn erf(x: f64) -> f64 {
    let x = x.clamp(-6.0, 6.0);
    let n = 600;
    let h = x / f64::from(n);
    let f = |i: i32| (-(h * f64::from(i)).powi(2)).exp();
    let sum: f64 = (1..n).map(|i| if i % 2 == 1 { 4.0 * f(i) } else { 2.0 * f(i) }).sum();
    (f(0) + sum + f(n)) * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
}

pub(crate) fn indices(shape: &Shape) -> Vec<Vec<usize>> {
    (0..shape.elements())
        .map(|mut flat| {
            let mut index = vec![0; shape.rank()];
            for d in (0..shape.rank()).rev() {
                index[d] = flat % shape[d];
                flat /= shape[d];
            }
            index
        })
        .collect()
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
