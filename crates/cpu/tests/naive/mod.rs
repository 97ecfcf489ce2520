//! Kernels evaluated the slow, obvious way: one element at a time, through `IndexMap::address`.

use wgrad_ir::{
    BinaryOp, BufferRef, CompareOp, DType, Expr, ExprNode, Kernel, Literal, Program, RandomKind, ReduceOp,
    Shape, UnaryOp, View, philox,
};

/// A buffer as literals.
pub(crate) type Buf = Vec<Literal>;

fn int(l: Literal) -> i64 {
    match l.dtype() {
        DType::I32 => i64::from(l.bits() as u32 as i32),
        _ => l.bits() as i64,
    }
}

fn from_int(dtype: DType, value: i64) -> Literal {
    match dtype {
        // `from_f64` is exact for values that fit, so wrap first.
        DType::I32 => Literal::from_f64(dtype, f64::from(value as i32)),
        _ => Literal::from_f64(dtype, f64::from(value as u32)),
    }
}

fn unary(op: UnaryOp, a: Literal) -> Literal {
    let x = a.as_f64();
    let y = match op {
        UnaryOp::Neg if a.dtype().is_int() => return from_int(a.dtype(), -int(a)),
        UnaryOp::Abs if a.dtype().is_int() => return from_int(a.dtype(), int(a).abs()),
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Recip => 1.0 / x,
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Erf => libm::erf(x),
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Not => f64::from(x == 0.0),
    };
    Literal::from_f64(a.dtype(), y)
}

fn binary(op: BinaryOp, a: Literal, b: Literal) -> Literal {
    let dtype = a.dtype();
    if dtype.is_int() {
        let (x, y) = (int(a), int(b));
        let z = match op {
            BinaryOp::Add => x + y,
            BinaryOp::Sub => x - y,
            BinaryOp::Mul => x.wrapping_mul(y),
            BinaryOp::Div => x.checked_div(y).unwrap_or(0),
            BinaryOp::Rem => x.checked_rem(y).unwrap_or(0),
            BinaryOp::Max => x.max(y),
            BinaryOp::Min => x.min(y),
            _ => unreachable!("not an integer operation"),
        };
        return from_int(dtype, z);
    }
    let (x, y) = (a.as_f64(), b.as_f64());
    let z = match op {
        BinaryOp::Add => x + y,
        BinaryOp::Sub => x - y,
        BinaryOp::Mul => x * y,
        BinaryOp::Div => x / y,
        BinaryOp::Rem => x % y,
        BinaryOp::Max if x.is_nan() || y.is_nan() => f64::NAN,
        BinaryOp::Min if x.is_nan() || y.is_nan() => f64::NAN,
        BinaryOp::Max => {
            if x > y {
                x
            } else {
                y
            }
        }
        BinaryOp::Min => {
            if x < y {
                x
            } else {
                y
            }
        }
        BinaryOp::Pow => x.powf(y),
        BinaryOp::And => f64::from(x != 0.0 && y != 0.0),
        BinaryOp::Or => f64::from(x != 0.0 || y != 0.0),
    };
    Literal::from_f64(dtype, z)
}

fn compare(op: CompareOp, a: Literal, b: Literal) -> Literal {
    let (x, y) = (a.as_f64(), b.as_f64());
    let z = match op {
        CompareOp::Eq => x == y,
        CompareOp::Ne => x != y,
        CompareOp::Lt => x < y,
        CompareOp::Le => x <= y,
        CompareOp::Gt => x > y,
        CompareOp::Ge => x >= y,
    };
    Literal::from_f64(DType::Bool, f64::from(z))
}

/// The index vector of a row-major position.
pub(crate) fn unravel(mut flat: usize, shape: &Shape) -> Vec<usize> {
    let mut index = vec![0; shape.rank()];
    for d in (0..shape.rank()).rev() {
        index[d] = flat % shape[d];
        flat /= shape[d];
    }
    index
}

struct Context<'a> {
    args: Vec<&'a Buf>,
    scalars: &'a [Literal],
}

fn values(exprs: &[ExprNode], index: &[usize], cx: &Context<'_>) -> Vec<Literal> {
    let mut values: Vec<Literal> = Vec::new();
    for node in exprs {
        let zero = Literal::zero(node.dtype);
        let v = |id: &wgrad_ir::ExprId| values[id.index()];
        let value = match &node.expr {
            Expr::Const(l) => *l,
            Expr::Scalar(i) => cx.scalars[*i as usize],
            Expr::Load { arg, map, fill } => {
                map.address(index).map_or(*fill, |a| cx.args[*arg as usize][a as usize])
            }
            Expr::Index { map } => from_int(DType::I32, map.address(index).unwrap_or(0)),
            Expr::Random { stream, kind, map, key } => map.address(index).map_or(zero, |a| {
                let [low, high, step] = key.map(|k| values[k.index()].bits() as u32);
                let word = philox::word(a as u32, *stream, step, [low, high]);
                match kind {
                    RandomKind::Bits => Literal::u32(word),
                    RandomKind::Uniform => Literal::from_f64(DType::F32, philox::uniform(word).into()),
                }
            }),
            Expr::Gather { table, ids, rows, row_len, map, .. } => map.address(index).map_or(zero, |a| {
                let id = int(cx.args[*ids as usize][a as usize / row_len]).clamp(0, *rows as i64 - 1);
                cx.args[*table as usize][id as usize * row_len + a as usize % row_len]
            }),
            Expr::Unary(op, a) => unary(*op, v(a)),
            Expr::Binary(op, a, b) => binary(*op, v(a), v(b)),
            Expr::Compare(op, a, b) => compare(*op, v(a), v(b)),
            Expr::Select(c, a, b) => {
                if v(c).bits() != 0 {
                    v(a)
                } else {
                    v(b)
                }
            }
            // Between integers the bits stay; WGSL does the same.
            Expr::Cast(a) if v(a).dtype().is_int() && node.dtype.is_int() => from_int(node.dtype, int(v(a))),
            Expr::Cast(a) => Literal::from_f64(node.dtype, v(a).as_f64()),
        };
        values.push(value);
    }
    values
}

fn at(view: &View, index: &[usize]) -> usize {
    view.address(index).expect("stores and matrices are not masked") as usize
}

/// Runs a program; f32 sums and products are accumulated in f64.
pub(crate) fn run(program: &Program, inputs: &[Buf], scalars: &[Literal]) -> Vec<Buf> {
    let mut results: Vec<Buf> =
        program.results.iter().map(|r| vec![Literal::zero(r.dtype); r.shape.elements()]).collect();
    assert!(program.temps.is_empty(), "the naive runner knows no temporaries");
    for step in &program.steps {
        let out_of = |arg: u32| match step.args[arg as usize] {
            BufferRef::Output(i) => i as usize,
            other => panic!("{other:?} is not a result"),
        };
        let mut writes: Vec<(usize, usize, Literal)> = Vec::new();
        {
            let args = step
                .args
                .iter()
                .map(|a| match a {
                    BufferRef::Input(i) => &inputs[*i as usize],
                    BufferRef::Output(i) => &results[*i as usize],
                    BufferRef::Temp(_) => unreachable!(),
                })
                .collect();
            let cx = Context { args, scalars };
            match &*step.kernel {
                Kernel::Map(k) => {
                    for flat in 0..k.space.elements() {
                        let index = unravel(flat, &k.space);
                        let values = values(&k.exprs, &index, &cx);
                        for s in &k.stores {
                            writes.push((out_of(s.arg), at(&s.view, &index), values[s.value.index()]));
                        }
                    }
                }
                Kernel::Reduce(k) => {
                    let dtype = k.exprs[k.value.index()].dtype;
                    for flat in 0..k.outer.elements() {
                        let mut sum: Option<Literal> = None;
                        let mut wide = 0.0;
                        for inner in 0..k.inner.elements() {
                            let mut index = unravel(flat, &k.outer);
                            index.extend(unravel(inner, &k.inner));
                            let x = values(&k.exprs, &index, &cx)[k.value.index()];
                            wide += x.as_f64();
                            let op = match k.op {
                                ReduceOp::Sum => BinaryOp::Add,
                                ReduceOp::Max => BinaryOp::Max,
                                ReduceOp::Min => BinaryOp::Min,
                            };
                            sum = Some(sum.map_or(x, |s| binary(op, s, x)));
                        }
                        let mut value = sum.unwrap_or(Literal::zero(dtype));
                        if k.op == ReduceOp::Sum && dtype.is_float() {
                            value = Literal::from_f64(dtype, wide);
                        }
                        writes.push((out_of(k.out), flat, value));
                    }
                }
                Kernel::MatMul(k) => {
                    let out: Shape = k.batch.iter().copied().chain([k.m, k.n]).collect();
                    for flat in 0..out.elements() {
                        let index = unravel(flat, &out);
                        let (batch, ij) = index.split_at(k.batch.rank());
                        let mut sum = 0.0;
                        for l in 0..k.k {
                            let a = cx.args[1][at(&k.a, &[batch, &[ij[0], l]].concat())].as_f64();
                            let b = cx.args[2][at(&k.b, &[batch, &[l, ij[1]]].concat())].as_f64();
                            sum += a * b;
                        }
                        writes.push((out_of(0), flat, Literal::from_f64(k.dtype, sum)));
                    }
                }
                Kernel::ScatterAdd(k) => {
                    let mut sums = vec![Literal::zero(k.dtype); k.rows * k.row_len];
                    for i in 0..k.count {
                        let row = int(cx.args[1][i]).clamp(0, k.rows as i64 - 1) as usize;
                        for j in 0..k.row_len {
                            let sum = &mut sums[row * k.row_len + j];
                            *sum = binary(BinaryOp::Add, *sum, cx.args[2][i * k.row_len + j]);
                        }
                    }
                    writes.extend(sums.into_iter().enumerate().map(|(i, x)| (out_of(0), i, x)));
                }
            }
        }
        for (result, address, value) in writes {
            results[result][address] = value;
        }
    }
    results
}
