//! Programs on the CPU runtime against their naive evaluation.

use std::sync::Arc;

use proptest::prelude::*;
use wgrad_cpu::CpuDevice;
use wgrad_ir::reference::{Rounding, run_program, unravel};
use wgrad_ir::{
    Arg, BinaryOp, BufferRef, BufferSpec, CompareOp, DType, Expr, ExprId, ExprNode, IndexMap, Kernel,
    Literal, MapKernel, MatMulKernel, Op, Operand, OutputSource, OutputSpec, Program, RandomKind,
    ReduceKernel, ReduceOp, Reduction, ScatterAddKernel, Shape, Step, Store, UnaryOp, View,
};
use wgrad_runtime::{Device, DeviceError};

/// A buffer as literals.
type Buf = Vec<Literal>;

fn encode(buf: &Buf, dtype: DType) -> Vec<u8> {
    let bytes = dtype.host_bytes();
    buf.iter().flat_map(|l| l.bits().to_le_bytes()[..bytes].to_vec()).collect()
}

fn decode(bytes: &[u8], dtype: DType) -> Buf {
    bytes
        .chunks_exact(dtype.host_bytes())
        .map(|c| {
            let mut wide = [0; 8];
            wide[..c.len()].copy_from_slice(c);
            let bits = u64::from_le_bytes(wide);
            match dtype {
                DType::F64 => Literal::from_f64(dtype, f64::from_bits(bits)),
                DType::F32 => Literal::from_f64(dtype, f32::from_bits(bits as u32).into()),
                DType::I32 => Literal::from_f64(dtype, (bits as u32 as i32).into()),
                DType::U32 => Literal::u32(bits as u32),
                DType::Bool => Literal::from_f64(dtype, bits as f64),
            }
        })
        .collect()
}

fn spec(shape: impl Into<Shape>, dtype: DType) -> BufferSpec {
    let shape = shape.into();
    BufferSpec { bytes: (shape.elements() * dtype.host_bytes()) as u64, shape, dtype }
}

fn program(
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

fn run(program: &Program, inputs: &[Buf], scalars: &[Literal]) -> Result<Vec<Buf>, DeviceError> {
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
fn evaluate(program: &Program, inputs: &[Buf], scalars: &[Literal]) -> Vec<Buf> {
    let plain = |buf: &[Literal]| -> Vec<f64> { buf.iter().map(|l| l.as_f64()).collect() };
    let inputs: Vec<Vec<f64>> = inputs.iter().map(|buf| plain(buf)).collect();
    run_program(program, &inputs, &plain(scalars), Rounding::EachOperation)
        .iter()
        .zip(&program.outputs)
        .map(|(values, output)| values.iter().map(|&x| Literal::from_f64(output.dtype, x)).collect())
        .collect()
}

fn close(got: Literal, want: Literal, relative: f64) -> bool {
    let (x, y) = (got.as_f64(), want.as_f64());
    got == want
        || x.is_nan() && y.is_nan()
        || x == y
        || (x - y).abs() <= relative * x.abs().max(y.abs()).max(1.0)
}

/// Compares a run with the naive evaluation.
fn check(program: &Program, inputs: &[Buf], scalars: &[Literal], relative: f64) -> Result<(), TestCaseError> {
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
struct Draw(u64);

impl Draw {
    fn next(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
    fn literal(&mut self, dtype: DType) -> Literal {
        let x = self.next(41) as f64 - 20.0;
        match dtype {
            DType::F64 | DType::F32 => Literal::from_f64(dtype, x * 0.125),
            DType::I32 => Literal::from_f64(dtype, x),
            DType::U32 => Literal::from_f64(dtype, x + 20.0),
            DType::Bool => Literal::from_f64(dtype, f64::from(x > 0.0)),
        }
    }
    fn buffer(&mut self, n: usize, dtype: DType) -> Buf {
        (0..n).map(|_| self.literal(dtype)).collect()
    }
}

/// A map over `space` from a buffer that is made to fit: movements in reverse order of application.
fn random_map(draw: &mut Draw, space: &Shape) -> IndexMap {
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
struct Expressions {
    nodes: Vec<ExprNode>,
    inputs: Vec<(Buf, DType)>,
    scalars: Vec<Literal>,
}

fn expressions(draw: &mut Draw, space: &Shape, first: u32) -> Expressions {
    let mut e = Expressions { nodes: Vec::new(), inputs: Vec::new(), scalars: Vec::new() };
    for dtype in DType::ALL {
        for _ in 0..2 {
            let map = random_map(draw, space);
            let need = map.views()[0].clone();
            // As many elements as the first view can reach.
            let reach: i64 = need.offset.max(0)
                + (0..need.shape.rank()).map(|d| need.strides[d].max(0) * need.shape[d] as i64).sum::<i64>();
            let arg = first + e.inputs.len() as u32;
            e.inputs.push((draw.buffer(reach as usize + 1, dtype), dtype));
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
        let (expr, dtype) = match (draw.next(6), dtype) {
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
            _ => (Expr::Cast(a), DType::ALL[draw.next(5)]),
        };
        e.nodes.push(ExprNode { expr, dtype });
    }
    e
}

fn input_specs(e: &Expressions) -> Vec<BufferSpec> {
    e.inputs.iter().map(|(b, d)| spec([b.len()], *d)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn maps_equal_their_naive_evaluation(dims in prop::collection::vec(1usize..9, 0..5), big in 0usize..4, seed: u64) {
        let mut dims = dims;
        // Some spaces are longer than a block.
        if big == 0 && dims.len() < 3 { dims.push(700); }
        let space = Shape::from(dims);
        let mut draw = Draw(seed);
        let e = expressions(&mut draw, &space, 2);
        let n = e.nodes.len();
        let values = [n - 1, n - 1 - draw.next(8)];
        // One store in order, one through a permutation into a larger buffer.
        let mut wide = space.clone();
        wide.push(2);
        let permuted: View = {
            let reversed: Shape = wide.iter().rev().copied().collect();
            let map = IndexMap::contiguous(reversed).apply(&Op::Permute((0..wide.rank()).rev().collect()));
            let ranges = wide.iter().enumerate().map(|(d, &x)| if d + 1 == wide.rank() { (1, 1, 1) } else { (0, x, 1) });
            map.apply(&Op::Slice { ranges: ranges.collect() }).apply(&Op::Reshape(space.clone())).outer().clone()
        };
        prop_assume!(permuted.shape == space);
        let stores = vec![
            Store { arg: 0, value: ExprId(values[0] as u32), view: View::contiguous(space.clone()) },
            Store { arg: 1, value: ExprId(values[1] as u32), view: permuted },
        ];
        let results = vec![spec(space.clone(), e.nodes[values[0]].dtype), spec(wide, e.nodes[values[1]].dtype)];
        let mut args = vec![BufferRef::Output(0), BufferRef::Output(1)];
        args.extend((0..e.inputs.len() as u32).map(BufferRef::Input));
        let inputs: Vec<Buf> = e.inputs.iter().map(|i| i.0.clone()).collect();
        let kernel = Kernel::Map(MapKernel { space, exprs: e.nodes.clone(), stores });
        let p = Program { scalars: e.scalars.iter().map(|s| s.dtype()).collect(), ..program(input_specs(&e), results, vec![], kernel, args) };
        // Elements that the second store does not reach keep what the buffer held: compare those it writes.
        let got = run(&p, &inputs, &e.scalars).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let want = evaluate(&p, &inputs, &e.scalars);
        for (&g, &w) in got[0].iter().zip(&want[0]) {
            prop_assert!(close(g, w, 1e-6), "got {:?}, want {:?} in {:?}", g, w, p);
        }
        let Kernel::Map(k) = &*p.steps[0].kernel else { unreachable!() };
        for flat in 0..k.space.elements() {
            let at = k.stores[1].view.address(&unravel(flat, &k.space)).unwrap() as usize;
            prop_assert!(close(got[1][at], want[1][at], 1e-6), "[{}]: got {:?}, want {:?} in {:?}", at, got[1][at], want[1][at], p);
        }
    }

    #[test]
    fn reductions_equal_their_naive_evaluation(
        outer in prop::collection::vec(1usize..9, 0..3),
        inner in prop::collection::vec(1usize..9, 0..3),
        big in 0usize..6,
        op in 0usize..3,
        seed: u64,
    ) {
        let (mut outer, mut inner) = (outer, inner);
        match big {
            0 if inner.len() < 2 => inner.push(900),
            1 if outer.len() < 2 => outer.push(900),
            _ => {}
        }
        let (outer, inner) = (Shape::from(outer), Shape::from(inner));
        let space: Shape = outer.iter().chain(inner.iter()).copied().collect();
        let mut draw = Draw(seed);
        let e = expressions(&mut draw, &space, 1);
        let value = (0..e.nodes.len()).rev().find(|&i| e.nodes[i].dtype != DType::Bool).unwrap();
        let kernel = Kernel::Reduce(ReduceKernel {
            outer: outer.clone(), inner, exprs: e.nodes.clone(),
            outs: vec![Reduction { op: ReduceOp::ALL[op], value: ExprId(value as u32), arg: 0 }],
        });
        let mut args = vec![BufferRef::Output(0)];
        args.extend((0..e.inputs.len() as u32).map(BufferRef::Input));
        let inputs: Vec<Buf> = e.inputs.iter().map(|i| i.0.clone()).collect();
        let results = vec![spec(outer, e.nodes[value].dtype)];
        let p = Program { scalars: e.scalars.iter().map(|s| s.dtype()).collect(), ..program(input_specs(&e), results, vec![], kernel, args) };
        let magnitude = inputs.len() as f64;
        // Sums of f32 cancel: the bound is relative to the largest terms, which random casts of words can make.
        let terms = evaluate(&p, &inputs, &e.scalars);
        let largest = terms[0].iter().map(|x| x.as_f64().abs()).fold(1.0, f64::max);
        prop_assume!(largest < 1e5);
        check(&p, &inputs, &e.scalars, 1e-4 * magnitude)?;
    }

    #[test]
    fn matrix_products_equal_their_naive_evaluation(
        batch in prop::collection::vec(1usize..4, 0..3), m in 1usize..20, n in 1usize..20, k in 0usize..20, seed: u64,
    ) {
        let mut draw = Draw(seed);
        let dtype = [DType::F32, DType::F64][draw.next(2)];
        let mut operand = |rows: usize, columns: usize| {
            let shape: Shape = batch.iter().copied().chain([rows, columns]).collect();
            let rank = shape.rank();
            let base: Shape = shape.iter().enumerate().map(|(d, &x)| if d + 2 < rank && draw.next(3) == 0 { 1 } else { x }).collect();
            let mut map = IndexMap::contiguous(base.clone());
            if draw.next(2) == 0 {
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(rank - 1, rank - 2);
                let stored: Shape = perm.iter().map(|&d| base[d]).collect();
                map = IndexMap::contiguous(stored).apply(&Op::Permute(perm.into_iter().collect()));
            }
            let elements = base.elements();
            (map.apply(&Op::Expand(shape)).outer().clone(), draw.buffer(elements, dtype))
        };
        let (a, x) = operand(m, k);
        let (b, y) = operand(k, n);
        let out: Shape = batch.iter().copied().chain([m, n]).collect();
        let kernel = Kernel::MatMul(MatMulKernel {
            batch: batch.clone().into(), m, n, k, dtype,
            a: Operand { arg: 1, view: a },
            b: Operand { arg: 2, view: b },
            exprs: vec![ExprNode { expr: Expr::Product, dtype }],
            stores: vec![Store { arg: 0, value: ExprId(0), view: View::contiguous(out.clone()) }],
        });
        let inputs = vec![spec([x.len()], dtype), spec([y.len()], dtype)];
        let args = vec![BufferRef::Output(0), BufferRef::Input(0), BufferRef::Input(1)];
        check(&program(inputs, vec![spec(out, dtype)], vec![], kernel, args), &[x, y], &[], 1e-5)?;
    }

    #[test]
    fn scatters_and_gathers_equal_their_naive_evaluation(rows in 1usize..9, row_len in 0usize..70, count in 0usize..40, seed: u64) {
        let mut draw = Draw(seed);
        let dtype = [DType::F32, DType::F64, DType::I32][draw.next(3)];
        let ids: Buf = (0..count).map(|_| Literal::from_f64(DType::I32, draw.next(rows) as f64)).collect();
        let source = draw.buffer(count * row_len, dtype);
        let kernel = Kernel::ScatterAdd(ScatterAddKernel { rows, row_len, count, dtype, ids_dtype: DType::I32 });
        let p = program(
            vec![spec([count], DType::I32), spec([count, row_len], dtype)],
            vec![spec([rows, row_len], dtype)],
            vec![8 * count as u64],
            kernel,
            vec![BufferRef::Output(0), BufferRef::Input(0), BufferRef::Input(1), BufferRef::Temp(0)],
        );
        let got = run(&p, &[ids.clone(), source.clone()], &[]).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let mut want = vec![0.0; rows * row_len];
        for i in 0..count {
            for j in 0..row_len {
                want[ids[i].as_f64() as usize * row_len + j] += source[i * row_len + j].as_f64();
            }
        }
        for (g, w) in got[0].iter().zip(want) {
            prop_assert!((g.as_f64() - w).abs() < 1e-4);
        }
        prop_assume!(row_len > 0);
        let table = draw.buffer(rows * row_len, dtype);
        let space = Shape::from([count, row_len]);
        let map = if draw.next(2) == 0 {
            IndexMap::contiguous(space.clone())
        } else {
            IndexMap::contiguous(space.clone()).apply(&Op::Flip([1].into_iter().collect()))
        };
        let expr = Expr::Gather { table: 1, ids: 2, ids_dtype: DType::I32, rows, row_len, map };
        let kernel = Kernel::Map(MapKernel {
            space: space.clone(),
            exprs: vec![ExprNode { expr, dtype }],
            stores: vec![Store { arg: 0, value: ExprId(0), view: View::contiguous(space.clone()) }],
        });
        let p = program(
            vec![spec([rows, row_len], dtype), spec([count], DType::I32)],
            vec![spec(space, dtype)],
            vec![],
            kernel,
            vec![BufferRef::Output(0), BufferRef::Input(0), BufferRef::Input(1)],
        );
        check(&p, &[table, ids], &[], 0.0)?;
    }
}
