//! Slow, plain interpreters of graphs and of programs, in f64: what compiled programs are compared with.

use wgrad_ir::{
    BinaryOp, BufferRef, CompareOp, DType, Expr, ExprNode, Graph, IndexMap, Kernel, Literal, NodeId, Op,
    OutputSource, Program, RandomKind, ReduceOp, Shape, UnaryOp, View, philox,
};

/// Every index of a shape, row-major.
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
        // Not compared anywhere: any function that tells arguments apart does.
        UnaryOp::Erf => x.atan(),
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Not => f64::from(x == 0.0),
    }
}

fn binary(op: BinaryOp, a: f64, b: f64) -> f64 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Max => a.max(b),
        BinaryOp::Min => a.min(b),
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Rem => a % b,
        BinaryOp::And => a * b,
        BinaryOp::Or => f64::from(a + b > 0.0),
    }
}

fn compare(op: CompareOp, a: f64, b: f64) -> f64 {
    f64::from(match op {
        CompareOp::Eq => a == b,
        CompareOp::Ne => a != b,
        CompareOp::Lt => a < b,
        CompareOp::Le => a <= b,
        CompareOp::Gt => a > b,
        CompareOp::Ge => a >= b,
    })
}

fn reduce(op: ReduceOp, values: impl Iterator<Item = f64>) -> f64 {
    match op {
        ReduceOp::Sum => values.sum(),
        ReduceOp::Max => values.fold(f64::NEG_INFINITY, f64::max),
        ReduceOp::Min => values.fold(f64::INFINITY, f64::min),
    }
}

fn random(kind: RandomKind, address: usize, stream: u32, key: [f64; 3]) -> f64 {
    let word = philox::word(address as u32, stream, key[2] as u32, [key[0] as u32, key[1] as u32]);
    match kind {
        RandomKind::Bits => f64::from(word),
        RandomKind::Uniform => f64::from(philox::uniform(word)),
    }
}

fn cast(to: DType, x: f64) -> f64 {
    Literal::from_f64(to, x).as_f64()
}

/// The values of a graph's outputs.
pub(crate) fn run_graph(graph: &Graph, inputs: &[Vec<f64>], scalars: &[f64]) -> Vec<Vec<f64>> {
    let mut values: Vec<Vec<f64>> = Vec::new();
    for node in graph.nodes() {
        let arg = |n: usize| &values[node.inputs[n].index()];
        let shape_of = |n: usize| &graph.node(node.inputs[n]).shape;
        let zip = |f: &dyn Fn(f64, f64) -> f64| arg(0).iter().zip(arg(1)).map(|(&a, &b)| f(a, b)).collect();
        let out: Vec<f64> = match &node.op {
            Op::Input { index, .. } => inputs[*index as usize].clone(),
            Op::Scalar { index, .. } => vec![scalars[*index as usize]],
            Op::Const(value) => vec![value.as_f64()],
            Op::Iota { len } => (0..*len).map(|i| i as f64).collect(),
            Op::Random { stream, kind, shape } => {
                let key = [arg(0)[0], arg(1)[0], arg(2)[0]];
                (0..shape.elements()).map(|i| random(*kind, i, *stream, key)).collect()
            }
            Op::Unary(op) => arg(0).iter().map(|&x| unary(*op, x)).collect(),
            Op::Binary(op) => zip(&|a, b| binary(*op, a, b)),
            Op::Compare(op) => zip(&|a, b| compare(*op, a, b)),
            Op::Select => {
                (0..arg(0).len()).map(|i| if arg(0)[i] != 0.0 { arg(1)[i] } else { arg(2)[i] }).collect()
            }
            Op::Cast(to) => arg(0).iter().map(|&x| cast(*to, x)).collect(),
            Op::StopGradient => arg(0).clone(),
            op if op.is_movement() => {
                let fill = if let Op::Pad { fill, .. } = op { fill.as_f64() } else { 0.0 };
                let map = IndexMap::contiguous(shape_of(0).clone()).apply(op);
                indices(&node.shape)
                    .iter()
                    .map(|i| map.address(i).map_or(fill, |a| arg(0)[a as usize]))
                    .collect()
            }
            Op::Concat { axis } => {
                let mut out = vec![0.0; node.shape.elements()];
                let strides = node.shape.strides();
                let mut at = 0;
                for (n, input) in node.inputs.iter().enumerate() {
                    let part = shape_of(n);
                    for (i, index) in indices(part).iter().enumerate() {
                        let to: i64 = index.iter().zip(&strides).map(|(&x, &s)| x as i64 * s).sum();
                        out[(to + at * strides[*axis]) as usize] = values[input.index()][i];
                    }
                    at += part[*axis] as i64;
                }
                out
            }
            Op::Reduce { op, axes } => {
                let mut groups: Vec<Vec<f64>> = vec![Vec::new(); node.shape.elements()];
                let strides = node.shape.strides();
                for (i, index) in indices(shape_of(0)).iter().enumerate() {
                    let kept = |d: usize| if axes.contains(&d) { 0 } else { index[d] as i64 };
                    let to: i64 = (0..index.len()).map(|d| kept(d) * strides[d]).sum();
                    groups[to as usize].push(arg(0)[i]);
                }
                groups.into_iter().map(|g| reduce(*op, g.into_iter())).collect()
            }
            Op::Dot => {
                let (a, b) = (shape_of(0), shape_of(1));
                let (m, k, n) = (a[a.rank() - 2], a[a.rank() - 1], b[b.rank() - 1]);
                (0..node.shape.elements())
                    .map(|flat| {
                        let (batch, row, col) = (flat / (m * n), flat / n % m, flat % n);
                        (0..k)
                            .map(|x| arg(0)[(batch * m + row) * k + x] * arg(1)[(batch * k + x) * n + col])
                            .sum()
                    })
                    .collect()
            }
            Op::Gather => {
                let rows = shape_of(0)[0];
                let len = shape_of(0).elements() / rows;
                arg(1).iter().flat_map(|&id| arg(0)[id as usize * len..][..len].to_vec()).collect()
            }
            Op::ScatterAdd { rows } => {
                let len = node.shape.elements() / rows;
                let mut out = vec![0.0; node.shape.elements()];
                for (i, &id) in arg(0).iter().enumerate() {
                    (0..len).for_each(|c| out[id as usize * len + c] += arg(1)[i * len + c]);
                }
                out
            }
            other => unreachable!("{} is covered above", other.name()),
        };
        assert_eq!(out.len(), node.shape.elements(), "{}", node.op.name());
        values.push(out);
    }
    graph.outputs().iter().map(|o: &NodeId| values[o.index()].clone()).collect()
}

/// The values of a program's outputs; buffers start as NaN, so that reading what was not written shows.
pub(crate) fn run_program(program: &Program, inputs: &[Vec<f64>], scalars: &[f64]) -> Vec<Vec<f64>> {
    let mut results: Vec<Vec<f64>> =
        program.results.iter().map(|r| vec![f64::NAN; r.shape.elements()]).collect();
    let mut temps: Vec<Vec<f64>> = program.temps.iter().map(|&b| vec![f64::NAN; b as usize]).collect();
    for step in &program.steps {
        let read = |arg: u32| -> &Vec<f64> {
            match step.args[arg as usize] {
                BufferRef::Input(i) => &inputs[i as usize],
                BufferRef::Output(i) => &results[i as usize],
                BufferRef::Temp(i) => &temps[i as usize],
            }
        };
        let mut writes: Vec<(u32, usize, f64)> = Vec::new();
        match &*step.kernel {
            Kernel::Map(k) => {
                for index in indices(&k.space) {
                    let values = eval(&k.exprs, &index, &read, scalars);
                    for s in &k.stores {
                        let address = s.view.address(&index).expect("stores are unmasked");
                        writes.push((s.arg, address as usize, values[s.value.index()]));
                    }
                }
            }
            Kernel::Reduce(k) => {
                for (o, outer) in indices(&k.outer).iter().enumerate() {
                    let inner = indices(&k.inner);
                    let all = inner.iter().map(|i| {
                        let index: Vec<usize> = outer.iter().chain(i).copied().collect();
                        eval(&k.exprs, &index, &read, scalars)[k.value.index()]
                    });
                    writes.push((k.out, o, reduce(k.op, all)));
                }
            }
            Kernel::MatMul(k) => {
                for (o, index) in
                    indices(&k.batch.iter().copied().chain([k.m, k.n]).collect()).iter().enumerate()
                {
                    let (batch, mn) = index.split_at(k.batch.rank());
                    let at = |v: &View, x: usize, y: usize| {
                        let index: Vec<usize> = batch.iter().copied().chain([x, y]).collect();
                        v.address(&index).expect("operands are unmasked") as usize
                    };
                    let sum =
                        (0..k.k).map(|x| read(1)[at(&k.a, mn[0], x)] * read(2)[at(&k.b, x, mn[1])]).sum();
                    writes.push((0, o, sum));
                }
            }
            Kernel::ScatterAdd(k) => {
                let mut out = vec![0.0; k.rows * k.row_len];
                for i in 0..k.count {
                    let row = read(1)[i] as usize;
                    (0..k.row_len).for_each(|c| out[row * k.row_len + c] += read(2)[i * k.row_len + c]);
                }
                writes.extend(out.into_iter().enumerate().map(|(i, v)| (0, i, v)));
            }
        }
        for (arg, address, value) in writes {
            match step.args[arg as usize] {
                BufferRef::Input(_) => unreachable!("verified"),
                BufferRef::Output(i) => results[i as usize][address] = value,
                BufferRef::Temp(i) => temps[i as usize][address] = value,
            }
        }
    }
    program
        .outputs
        .iter()
        .map(|o| match o.source {
            OutputSource::Result(i) => results[i as usize].clone(),
            OutputSource::Input(i) => inputs[i as usize].clone(),
        })
        .collect()
}

fn eval<'a>(
    exprs: &[ExprNode],
    index: &[usize],
    read: &dyn Fn(u32) -> &'a Vec<f64>,
    scalars: &[f64],
) -> Vec<f64> {
    let mut v: Vec<f64> = Vec::with_capacity(exprs.len());
    for node in exprs {
        let value = match &node.expr {
            Expr::Const(value) => value.as_f64(),
            Expr::Scalar(i) => scalars[*i as usize],
            Expr::Load { arg, map, fill } => {
                map.address(index).map_or(fill.as_f64(), |a| read(*arg)[a as usize])
            }
            Expr::Index { map } => map.address(index).unwrap_or(0) as f64,
            Expr::Random { stream, kind, map, key } => map
                .address(index)
                .map_or(0.0, |a| random(*kind, a as usize, *stream, key.map(|k| v[k.index()]))),
            Expr::Gather { table, ids, row_len, map, .. } => map.address(index).map_or(0.0, |a| {
                let (row, col) = (a as usize / row_len, a as usize % row_len);
                read(*table)[read(*ids)[row] as usize * row_len + col]
            }),
            Expr::Unary(op, a) => unary(*op, v[a.index()]),
            Expr::Binary(op, a, b) => binary(*op, v[a.index()], v[b.index()]),
            Expr::Compare(op, a, b) => compare(*op, v[a.index()], v[b.index()]),
            Expr::Select(c, a, b) => {
                if v[c.index()] != 0.0 {
                    v[a.index()]
                } else {
                    v[b.index()]
                }
            }
            Expr::Cast(a) => cast(node.dtype, v[a.index()]),
        };
        v.push(value);
    }
    v
}
