//! A naive interpreter of graphs in `f64`, one element at a time: the independent definition that gradients are checked with.

use wgrad_ir::{BinaryOp, CompareOp, DType, Graph, Node, Op, ReduceOp, Shape, UnaryOp};

/// The elements of every node. Truth values are 0 and 1.
pub(crate) fn interpret(graph: &Graph, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut values: Vec<Vec<f64>> = Vec::new();
    for node in graph.nodes() {
        let shape_of = |i: usize| graph.node(node.inputs[i]).shape.clone();
        let value = |i: usize| &values[node.inputs[i].index()];
        let count = node.shape.elements();
        let result: Vec<f64> = match &node.op {
            Op::Input { index, .. } => inputs[*index as usize].clone(),
            Op::Const(literal) => vec![literal.as_f64()],
            Op::Iota { len } => (0..*len).map(|i| i as f64).collect(),
            Op::Unary(op) => value(0).iter().map(|&x| unary(*op, x)).collect(),
            Op::Binary(op) => value(0).iter().zip(value(1)).map(|(&a, &b)| binary(*op, a, b)).collect(),
            Op::Compare(op) => value(0)
                .iter()
                .zip(value(1))
                .map(|(a, b)| f64::from(u8::from(compare(*op, *a, *b))))
                .collect(),
            Op::Select => (0..count).map(|i| value(if value(0)[i] != 0.0 { 1 } else { 2 })[i]).collect(),
            Op::Cast(to) => value(0).iter().map(|&x| cast(*to, x)).collect(),
            Op::StopGradient | Op::Reshape(_) => value(0).clone(),
            Op::Permute(_) | Op::Expand(_) | Op::Slice { .. } | Op::Pad { .. } | Op::Flip(_) => {
                let from = shape_of(0);
                let fill = if let Op::Pad { fill, .. } = &node.op { fill.as_f64() } else { 0.0 };
                indices(&node.shape)
                    .map(|i| source(node, &from, &i).map_or(fill, |s| value(0)[flat(&from, &s)]))
                    .collect()
            }
            Op::Concat { axis } => indices(&node.shape)
                .map(|mut i| {
                    let mut part = 0;
                    while i[*axis] >= shape_of(part)[*axis] {
                        i[*axis] -= shape_of(part)[*axis];
                        part += 1;
                    }
                    value(part)[flat(&shape_of(part), &i)]
                })
                .collect(),
            Op::Reduce { op, axes } => {
                let start = match op {
                    ReduceOp::Sum => 0.0,
                    ReduceOp::Max => f64::NEG_INFINITY,
                    ReduceOp::Min => f64::INFINITY,
                };
                let mut out = vec![start; count];
                for (index, &x) in indices(&shape_of(0)).zip(value(0)) {
                    let to: Vec<usize> =
                        (0..index.len()).map(|a| if axes.contains(&a) { 0 } else { index[a] }).collect();
                    let cell = &mut out[flat(&node.shape, &to)];
                    *cell = match op {
                        ReduceOp::Sum => *cell + x,
                        ReduceOp::Max => cell.max(x),
                        ReduceOp::Min => cell.min(x),
                    };
                }
                out
            }
            Op::Dot => {
                let (a, b) = (shape_of(0), shape_of(1));
                let last = a.rank() - 1;
                indices(&node.shape)
                    .map(|i| {
                        (0..a[last])
                            .map(|k| {
                                let (mut left, mut right) = (i.clone(), i.clone());
                                left[last] = k;
                                right[last - 1] = k;
                                value(0)[flat(&a, &left)] * value(1)[flat(&b, &right)]
                            })
                            .sum()
                    })
                    .collect()
            }
            Op::Gather => {
                let row = shape_of(0)[1..].iter().product::<usize>();
                value(1).iter().flat_map(|&id| value(0)[id as usize * row..][..row].to_vec()).collect()
            }
            Op::ScatterAdd { .. } => {
                let row = node.shape[1..].iter().product::<usize>();
                let mut out = vec![0.0; count];
                for (n, &id) in value(0).iter().enumerate() {
                    (0..row).for_each(|i| out[id as usize * row + i] += value(1)[n * row + i]);
                }
                out
            }
            Op::Scalar { .. } | Op::Random { .. } => unreachable!("not used by these tests"),
        };
        assert_eq!(result.len(), count, "{:?}", node.op);
        values.push(result);
    }
    values
}

fn indices(shape: &Shape) -> impl Iterator<Item = Vec<usize>> + use<> {
    let shape = shape.clone();
    (0..shape.elements()).map(move |mut n| {
        let mut index = vec![0; shape.rank()];
        for axis in (0..shape.rank()).rev() {
            index[axis] = n % shape[axis];
            n /= shape[axis];
        }
        index
    })
}

fn flat(shape: &Shape, index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |n, (&d, &i)| n * d + i)
}

/// Where the element at `index` of a movement's result comes from.
fn source(node: &Node, from: &Shape, index: &[usize]) -> Option<Vec<usize>> {
    let mut i = index.to_vec();
    match &node.op {
        Op::Permute(perm) => perm.iter().enumerate().for_each(|(to, &axis)| i[axis] = index[to]),
        Op::Expand(_) => (0..i.len()).filter(|&a| from[a] == 1).for_each(|a| i[a] = 0),
        Op::Slice { ranges } => i.iter_mut().zip(ranges).for_each(|(i, r)| *i = r.0 + *i * r.2),
        Op::Flip(axes) => axes.iter().for_each(|&a| i[a] = from[a] - 1 - i[a]),
        Op::Pad { widths, .. } => {
            for (a, &(low, _)) in widths.iter().enumerate() {
                i[a] = i[a].checked_sub(low).filter(|&x| x < from[a])?;
            }
        }
        other => unreachable!("{other:?} is not a movement"),
    }
    Some(i)
}

fn unary(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Recip => 1.0 / x,
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Erf => erf(x),
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Not => 1.0 - x,
    }
}

fn binary(op: BinaryOp, a: f64, b: f64) -> f64 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul | BinaryOp::And => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Max | BinaryOp::Or => a.max(b),
        BinaryOp::Min => a.min(b),
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Rem => a % b,
    }
}

fn compare(op: CompareOp, a: f64, b: f64) -> bool {
    match op {
        CompareOp::Eq => a == b,
        CompareOp::Ne => a != b,
        CompareOp::Lt => a < b,
        CompareOp::Le => a <= b,
        CompareOp::Gt => a > b,
        CompareOp::Ge => a >= b,
    }
}

fn cast(to: DType, x: f64) -> f64 {
    match to {
        DType::F64 | DType::F32 => x,
        DType::I32 | DType::U32 => x.trunc(),
        DType::Bool => f64::from(u8::from(x != 0.0)),
    }
}

/// The Maclaurin series, good to rounding for |x| < 3.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}
