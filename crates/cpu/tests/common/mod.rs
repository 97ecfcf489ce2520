//! What the tests of all kernels share: random expressions, and a run beside its naive evaluation.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::sync::Arc;

use proptest::prelude::*;
use wgrad_cpu::CpuDevice;
use wgrad_ir::reference::{Rounding, run_program};
use wgrad_ir::{
    Arg, BinaryOp, BufferRef, BufferSpec, CompareOp, DType, Expr, ExprId, ExprNode, IndexMap, Kernel,
    Literal, Op, OutputSource, OutputSpec, Program, RandomKind, Shape, Step, UnaryOp, View,
};
use wgrad_runtime::{Device, DeviceError};

/// A buffer as literals.
pub(crate) type Buf = Vec<Literal>;

pub(crate) fn encode(buf: &Buf, dtype: DType) -> Vec<u8> {
    let bytes = dtype.host_bytes();
    buf.iter().flat_map(|l| l.bits().to_le_bytes()[..bytes].to_vec()).collect()
}

pub(crate) fn decode(bytes: &[u8], dtype: DType) -> Buf {
    bytes
        .chunks_exact(dtype.host_bytes())
        .map(|c| {
            let mut wide = [0; 8];
            wide[..c.len()].copy_from_slice(c);
            Literal::from_bits(dtype, u64::from_le_bytes(wide))
        })
        .collect()
}

pub(crate) fn spec(shape: impl Into<Shape>, dtype: DType) -> BufferSpec {
    let shape = shape.into();
    BufferSpec { bytes: (shape.elements() * dtype.host_bytes()) as u64, shape, dtype }
}

pub(crate) fn program(
    inputs: Vec<BufferSpec>,
    results: Vec<BufferSpec>,
    temps: Vec<u64>,
    kernel: Kernel,
    args: Vec<BufferRef>,
) -> Program {
    let output = |(i, r): (usize, &BufferSpec)| OutputSpec {
        source: OutputSource::Result(i as u32),
        shape: r.shape.clone(),
        dtype: r.dtype,
    };
    let outputs = results.iter().enumerate().map(output).collect();
    let mut program = Program { inputs, outputs, results, temps, ..Program::default() };
    let whole = |buffer| Arg { buffer, offset: 0, bytes: program.bytes(buffer) };
    let args = args.into_iter().map(whole).collect();
    program.steps = vec![Step { kernel: Arc::new(kernel), args, label: "test".into() }];
    program
}

pub(crate) fn run(program: &Program, inputs: &[Buf], scalars: &[Literal]) -> Result<Vec<Buf>, DeviceError> {
    let device = CpuDevice::new();
    let executable = device.prepare(Arc::new(program.clone()))?;
    let buffers = inputs
        .iter()
        .zip(&program.inputs)
        .map(|(b, s)| device.upload(&encode(b, s.dtype), s.dtype))
        .collect::<Result<Vec<_>, _>>()?;
    let results = executable.run(buffers, scalars)?.results;
    results
        .iter()
        .zip(&program.results)
        .map(|(b, s)| Ok(decode(&device.read(b, s.dtype)?.wait()?, s.dtype)))
        .collect()
}

/// The results by definition, one element at a time.
pub(crate) fn evaluate(program: &Program, inputs: &[Buf], scalars: &[Literal]) -> Vec<Buf> {
    let plain = |buf: &[Literal]| -> Vec<f64> { buf.iter().map(|l| l.as_f64()).collect() };
    let inputs: Vec<Vec<f64>> = inputs.iter().map(|buf| plain(buf)).collect();
    run_program(program, &inputs, &plain(scalars), Rounding::EachOperation)
        .iter()
        .zip(&program.outputs)
        .map(|(values, output)| values.iter().map(|&x| Literal::from_f64(output.dtype, x)).collect())
        .collect()
}

pub(crate) fn close(got: Literal, want: Literal, relative: f64) -> bool {
    let (x, y) = (got.as_f64(), want.as_f64());
    got == want
        || x.is_nan() && y.is_nan()
        || x == y
        || (x - y).abs() <= relative * x.abs().max(y.abs()).max(1.0)
}

/// Compares a run with the naive evaluation.
pub(crate) fn check(
    program: &Program,
    inputs: &[Buf],
    scalars: &[Literal],
    relative: f64,
) -> Result<(), TestCaseError> {
    let got = run(program, inputs, scalars).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let want = evaluate(program, inputs, scalars);
    for (r, (got, want)) in got.iter().zip(&want).enumerate() {
        prop_assert_eq!(got.len(), want.len());
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            prop_assert!(
                close(g, w, relative),
                "result {}[{}]: got {:?}, want {:?} in {:?}",
                r,
                i,
                g,
                w,
                program
            );
        }
    }
    Ok(())
}

/// A stream of small numbers from one seed.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn next(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
    pub(crate) fn literal(&mut self, dtype: DType) -> Literal {
        let x = self.next(41) as f64 - 20.0;
        match dtype {
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 => Literal::from_f64(dtype, x * 0.125),
            DType::I32 => Literal::from_f64(dtype, x),
            DType::U32 | DType::U8 => Literal::from_f64(dtype, x + 20.0),
            DType::Bool => Literal::from_f64(dtype, f64::from(x > 0.0)),
        }
    }
    pub(crate) fn buffer(&mut self, n: usize, dtype: DType) -> Buf {
        (0..n).map(|_| self.literal(dtype)).collect()
    }
}

/// A map over `space` from a buffer that is made to fit: movements in reverse order of application.
pub(crate) fn random_map(draw: &mut Draw, space: &Shape) -> IndexMap {
    let strided = |shape: Shape, draw: &mut Draw| -> IndexMap {
        // Broadcast some axes, then permute, slice or flip a larger buffer down to `shape`.
        let base: Shape =
            shape.iter().map(|&d| if draw.next(4) == 0 { 1 } else { d + draw.next(2) }).collect();
        let mut map = IndexMap::contiguous(base.clone());
        if draw.next(3) == 0 && base.rank() > 1 {
            let reversed: Shape = base.iter().rev().copied().collect();
            map = IndexMap::contiguous(reversed).apply(&Op::Permute((0..base.rank()).rev().collect()));
        }
        if draw.next(4) == 0 && base.rank() > 0 {
            map = map.apply(&Op::Flip([draw.next(base.rank())].into_iter().collect()));
        }
        let cut: Vec<(usize, usize, usize)> = base
            .iter()
            .zip(shape.iter())
            .map(|(&b, &d)| (if b > d { draw.next(b - d + 1) } else { 0 }, b.min(d), 1))
            .collect();
        map = map.apply(&Op::Slice { ranges: cut.into_iter().collect() });
        let pads: Vec<(usize, usize)> = map
            .outer()
            .shape
            .iter()
            .zip(shape.iter())
            .map(|(&b, &d)| {
                if b < d && draw.next(2) == 0 {
                    let lo = draw.next(d - b + 1);
                    (lo, d - b - lo)
                } else {
                    (0, 0)
                }
            })
            .collect();
        if pads.iter().any(|&p| p != (0, 0)) {
            map = map.apply(&Op::Pad { widths: pads.into_iter().collect(), fill: Literal::zero(DType::F32) });
        }
        map.apply(&Op::Expand(shape))
    };
    match draw.next(4) {
        0 => IndexMap::contiguous(space.clone()),
        1 => {
            // Through another shape of as many elements: may need a second view.
            let n = space.elements();
            let divisors: Vec<usize> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
            let d = divisors[draw.next(divisors.len())];
            strided([d, n / d].into(), draw).apply(&Op::Reshape(space.clone()))
        }
        _ => strided(space.clone(), draw),
    }
}

/// Random expressions over `space`, with the buffers they load as inputs from argument `first` on.
pub(crate) struct Expressions {
    pub(crate) nodes: Vec<ExprNode>,
    pub(crate) inputs: Vec<(Buf, DType)>,
    pub(crate) scalars: Vec<Literal>,
}

pub(crate) fn expressions(draw: &mut Draw, space: &Shape, first: u32) -> Expressions {
    let mut e = Expressions { nodes: Vec::new(), inputs: Vec::new(), scalars: Vec::new() };
    for dtype in DType::ALL {
        for _ in 0..2 {
            let map = random_map(draw, space);
            let need = map.views()[0].clone();
            let arg = first + e.inputs.len() as u32;
            e.inputs.push((draw.buffer(reach(&need), dtype), dtype));
            e.nodes.push(ExprNode { expr: Expr::Load { arg, map, fill: draw.literal(dtype) }, dtype });
        }
        let scalar = Expr::Scalar(e.scalars.len() as u32);
        e.scalars.push(draw.literal(dtype));
        e.nodes.push(ExprNode { expr: scalar, dtype });
        e.nodes.push(ExprNode { expr: Expr::Const(draw.literal(dtype)), dtype });
    }
    let map = random_map(draw, space);
    e.nodes.push(ExprNode { expr: Expr::Index { map: map.clone() }, dtype: DType::I32 });
    let key = [0; 3].map(|_| {
        e.nodes
            .push(ExprNode { expr: Expr::Const(Literal::u32(draw.next(1 << 30) as u32)), dtype: DType::U32 });
        ExprId(e.nodes.len() as u32 - 1)
    });
    let map = random_map(draw, space);
    e.nodes.push(ExprNode {
        expr: Expr::Random { stream: 3, kind: RandomKind::Bits, map, key },
        dtype: DType::U32,
    });
    let map = random_map(draw, space);
    e.nodes.push(ExprNode {
        expr: Expr::Random { stream: 4, kind: RandomKind::Uniform, map, key },
        dtype: DType::F32,
    });
    for _ in 0..12 {
        let pick = |draw: &mut Draw, e: &Expressions, want: &dyn Fn(DType) -> bool| {
            let ids: Vec<u32> =
                (0..e.nodes.len() as u32).filter(|&i| want(e.nodes[i as usize].dtype)).collect();
            ExprId(ids[draw.next(ids.len())])
        };
        let a = pick(draw, &e, &|_| true);
        let dtype = e.nodes[a.index()].dtype;
        let b = pick(draw, &e, &|d| d == dtype);
        let c = pick(draw, &e, &|d| d == DType::Bool);
        let kind = draw.next(6);
        let (expr, dtype) = match (kind, dtype) {
            // What is kept in a narrow dtype is moved, chosen and converted.
            (0..4, d) if d.is_narrow() => (Expr::Cast(a), d.wide()),
            (0, DType::Bool) => (Expr::Unary(UnaryOp::Not, a), dtype),
            (0, DType::U32) => (Expr::Cast(a), DType::F32),
            (0, _) => (Expr::Unary([UnaryOp::Neg, UnaryOp::Abs][draw.next(2)], a), dtype),
            (1 | 2, DType::Bool) => (Expr::Binary([BinaryOp::And, BinaryOp::Or][draw.next(2)], a, b), dtype),
            (1 | 2, _) => {
                let ops = [
                    BinaryOp::Add,
                    BinaryOp::Sub,
                    BinaryOp::Mul,
                    BinaryOp::Div,
                    BinaryOp::Max,
                    BinaryOp::Min,
                    BinaryOp::Rem,
                ];
                // Quotients and remainders of f32 depend on the last bit of their operands.
                let n = if dtype == DType::F32 || dtype == DType::F64 { 3 } else { 7 };
                (Expr::Binary(ops[draw.next(n)], a, b), dtype)
            }
            (3, _) => (Expr::Compare(CompareOp::ALL[draw.next(6)], a, b), DType::Bool),
            (4, _) => (Expr::Select(c, a, b), dtype),
            _ => {
                let to = DType::ALL[draw.next(DType::ALL.len())];
                let halves = dtype.is_half() && to != dtype || to.is_half() && dtype != DType::F32;
                (Expr::Cast(a), if halves && to != dtype { DType::F32 } else { to })
            }
        };
        e.nodes.push(ExprNode { expr, dtype });
    }
    e
}

/// As many elements as a view can reach.
pub(crate) fn reach(view: &View) -> usize {
    let steps = (0..view.shape.rank()).map(|d| view.strides[d].max(0) * view.shape[d] as i64);
    (view.offset.max(0) + steps.sum::<i64>()) as usize + 1
}

/// A view of `shape` with its axes in some order in memory, and gaps; rows of `shape.last()` may stand within wider ones.
pub(crate) fn strided_view(draw: &mut Draw, shape: &Shape) -> View {
    let rank = shape.rank();
    let mut order: Vec<usize> = (0..rank).collect();
    if draw.next(2) == 0 {
        for d in (1..rank).rev() {
            order.swap(d, draw.next(d + 1));
        }
    }
    let mut view = View::contiguous(shape.clone());
    let mut step = 1;
    for &d in order.iter().rev() {
        view.strides[d] = step;
        step *= (shape[d] + draw.next(2)) as i64;
    }
    view.offset = draw.next(5) as i64;
    view
}

/// Compares those elements of a result that a view reaches.
pub(crate) fn check_view(view: &View, got: &Buf, want: &Buf, relative: f64) -> Result<(), TestCaseError> {
    for index in wgrad_ir::reference::indices(&view.shape) {
        let at = view.address(&index).unwrap() as usize;
        prop_assert!(
            close(got[at], want[at], relative),
            "{:?}: got {:?}, want {:?}",
            index,
            got[at],
            want[at]
        );
    }
    Ok(())
}

pub(crate) fn input_specs(e: &Expressions) -> Vec<BufferSpec> {
    e.inputs.iter().map(|(b, d)| spec([b.len()], *d)).collect()
}
