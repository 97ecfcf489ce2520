//! Graphs, node by node.

use super::{binary, cast, compare, indices, order, random, ravel, reduce, row, unary};
use crate::{BinaryOp, ConvSpec, CumulateOp, Graph, Loop, LoopOutput, Node, Op, ReduceOp, Shape};

/// The elements of a graph's outputs, row-major, in `f64` throughout: no operation rounds to `f32`.
///
/// # Panics
/// Where inputs or scalars are missing or have another length than the graph says.
pub fn run_graph(graph: &Graph, inputs: &[Vec<f64>], scalars: &[f64]) -> Vec<Vec<f64>> {
    let values = node_values(graph, inputs, scalars);
    graph.outputs().iter().map(|output| values[output.index()].clone()).collect()
}

/// The elements of every node of a graph, as [`run_graph`] computes them.
///
/// # Panics
/// As [`run_graph`].
pub fn node_values(graph: &Graph, inputs: &[Vec<f64>], scalars: &[f64]) -> Vec<Vec<f64>> {
    let mut values: Vec<Vec<f64>> = Vec::new();
    for node in graph.nodes() {
        let operands: Vec<Operand<'_>> = node
            .inputs
            .iter()
            .map(|&id| Operand { node: graph.node(id), values: &values[id.index()] })
            .collect();
        let result = match &node.op {
            Op::Input { index, .. } => inputs[*index as usize].clone(),
            Op::Scalar { index, .. } => vec![scalars[*index as usize]],
            _ => evaluate(node, &operands),
        };
        assert_eq!(result.len(), node.shape.elements(), "elements of {}", node.op.name());
        values.push(result);
    }
    values
}

/// A node and its elements.
pub(super) struct Operand<'a> {
    pub(super) node: &'a Node,
    pub(super) values: &'a [f64],
}

impl Operand<'_> {
    fn shape(&self) -> &Shape {
        &self.node.shape
    }

    fn at(&self, index: &[usize]) -> f64 {
        self.values[ravel(index, self.shape())]
    }
}

/// The elements of a node, given those of its operands.
pub(super) fn evaluate(node: &Node, x: &[Operand<'_>]) -> Vec<f64> {
    let map = |f: &dyn Fn(f64) -> f64| x[0].values.iter().map(|&a| f(a)).collect();
    let zip =
        |f: &dyn Fn(f64, f64) -> f64| x[0].values.iter().zip(x[1].values).map(|(&a, &b)| f(a, b)).collect();
    match &node.op {
        Op::Input { .. } | Op::Scalar { .. } => unreachable!("given by the caller"),
        Op::Const(literal) => vec![literal.as_f64()],
        Op::Iota { len } => (0..*len).map(|i| i as f64).collect(),
        Op::Random { stream, kind, shape } => {
            let key = [0, 1, 2].map(|word: usize| x[word].values[0]);
            (0..shape.elements()).map(|i| random(*kind, i, *stream, key)).collect()
        }
        Op::Unary(op) => map(&|a| unary(*op, node.dtype, a)),
        Op::Binary(op) => zip(&|a, b| binary(*op, node.dtype, a, b)),
        Op::Compare(op) => zip(&|a, b| f64::from(compare(*op, a, b))),
        Op::Select => {
            let choose = |(i, &c): (usize, &f64)| x[if c != 0.0 { 1 } else { 2 }].values[i];
            x[0].values.iter().enumerate().map(choose).collect()
        }
        Op::Cast(to) => map(&|a| cast(x[0].node.dtype, *to, a)),
        Op::StopGradient | Op::Barrier | Op::Reshape(_) => x[0].values.to_vec(),
        Op::Call { function, output } => {
            let operands: Vec<Vec<f64>> = x.iter().map(|x| x.values.to_vec()).collect();
            run_graph(&function.body, &operands, &[]).swap_remove(*output as usize)
        }
        Op::Loop { body, output } => repeat(body, *output, x),
        Op::Cumulate { op, axis } => {
            let mut out = vec![0.0; node.shape.elements()];
            for index in indices(&node.shape) {
                let before =
                    |i: usize| index.iter().enumerate().map(move |(d, &n)| if d == *axis { i } else { n });
                let at = ravel(&index, &node.shape);
                let last = match index[*axis] {
                    0 => 0.0,
                    i => out[ravel(&before(i - 1).collect::<Vec<_>>(), &node.shape)],
                };
                let calculate = |op, a, b| binary(op, node.dtype, a, b);
                out[at] = match op {
                    CumulateOp::Sum => calculate(BinaryOp::Add, last, x[0].values[at]),
                    CumulateOp::Linear => {
                        let grown = if index[*axis] == 0 {
                            0.0
                        } else {
                            calculate(BinaryOp::Mul, x[0].values[at], last)
                        };
                        calculate(BinaryOp::Add, grown, x[1].values[at])
                    }
                };
            }
            out
        }
        Op::Permute(_)
        | Op::Expand(_)
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Flip(_)
        | Op::Window { .. } => {
            let fill = if let Op::Pad { fill, .. } = &node.op { fill.as_f64() } else { 0.0 };
            let element = |i: Vec<usize>| source(&node.op, x[0].shape(), &i).map_or(fill, |s| x[0].at(&s));
            indices(&node.shape).into_iter().map(element).collect()
        }
        Op::Concat { axis } => indices(&node.shape).into_iter().map(|i| concat(*axis, x, i)).collect(),
        Op::Reduce { op, axes } => {
            let mut groups: Vec<Vec<f64>> = vec![Vec::new(); node.shape.elements()];
            for (mut index, &value) in indices(x[0].shape()).into_iter().zip(x[0].values) {
                axes.iter().for_each(|&axis| index[axis] = 0);
                groups[ravel(&index, &node.shape)].push(value);
            }
            groups.into_iter().map(|group| reduce(*op, node.dtype, group)).collect()
        }
        Op::Dot => indices(&node.shape).into_iter().map(|i| dot(&x[0], &x[1], &i)).collect(),
        Op::Conv(spec) => {
            let (by_group, taps) = (spec.by_group, Shape::from(&x[1].shape()[2..]));
            let element = |i: Vec<usize>| {
                let [n, g, o] = if by_group { [i[2], i[0], i[1]] } else { [i[0], i[1], i[2]] };
                let term = |tap: Vec<usize>| {
                    let seen = conv_element(spec, &i[3..], &tap[1..], &x[0].shape()[3..]);
                    let at = |seen: Vec<usize>| x[0].at(&[&[n, g, tap[0]], &seen[..]].concat());
                    seen.map_or(0.0, at) * x[1].at(&[&[g, o], &tap[..]].concat())
                };
                reduce(ReduceOp::Sum, node.dtype, indices(&taps).into_iter().map(term))
            };
            indices(&node.shape).into_iter().map(element).collect()
        }
        Op::Gather => {
            let (rows, row_len) = rows(x[0].shape());
            let find = |&id: &f64| x[0].values[row(id, rows) * row_len..][..row_len].to_vec();
            x[1].values.iter().flat_map(find).collect()
        }
        Op::Sort { descending } => {
            let len = node.shape.last().copied().unwrap_or(1).max(1);
            x[0].values.chunks(len).flat_map(|row| order(row, *descending)).collect()
        }
        Op::ScatterAdd { .. } => {
            let (rows, row_len) = rows(&node.shape);
            let mut out = vec![0.0; node.shape.elements()];
            for (n, &id) in x[0].values.iter().enumerate() {
                for column in 0..row_len {
                    let sum = &mut out[row(id, rows) * row_len + column];
                    *sum = binary(BinaryOp::Add, node.dtype, *sum, x[1].values[n * row_len + column]);
                }
            }
            out
        }
    }
}

/// An output of a loop, iteration by iteration.
fn repeat(body: &Loop, output: LoopOutput, x: &[Operand<'_>]) -> Vec<f64> {
    let mut operands: Vec<Vec<f64>> = x.iter().map(|x| x.values.to_vec()).collect();
    let mut slices: Vec<Vec<f64>> = vec![Vec::new(); body.length];
    for t in body.order() {
        for n in body.carries..body.carries + body.sequences {
            let slice = x[n].values.len() / body.length;
            operands[n] = x[n].values[t * slice..(t + 1) * slice].to_vec();
        }
        let values = node_values(&body.body, &operands, &[]);
        for (carry, id) in operands.iter_mut().zip(body.body.outputs()) {
            *carry = values[id.index()].clone();
        }
        if let LoopOutput::Each(id) = output {
            slices[t] = values[id.index()].clone();
        }
    }
    match output {
        LoopOutput::Final(n) => operands.swap_remove(n as usize),
        LoopOutput::Each(_) => slices.concat(),
    }
}

/// Where the element at `index` of a movement's result comes from; `None` is a pad's fill.
fn source(op: &Op, from: &Shape, index: &[usize]) -> Option<Vec<usize>> {
    let mut i = index.to_vec();
    match op {
        Op::Permute(perm) => perm.iter().enumerate().for_each(|(to, &axis)| i[axis] = index[to]),
        Op::Expand(_) => (0..i.len()).filter(|&axis| from[axis] == 1).for_each(|axis| i[axis] = 0),
        Op::Slice { ranges } => i.iter_mut().zip(ranges).for_each(|(i, r)| *i = r.0 + *i * r.2),
        Op::Flip(axes) => axes.iter().for_each(|&axis| i[axis] = from[axis] - 1 - i[axis]),
        Op::Window { axis, step, dilation, .. } => {
            let j = i.pop().unwrap_or(0);
            i[*axis] = i[*axis] * step + j * dilation;
        }
        Op::Pad { widths, .. } => {
            for (axis, &(before, _)) in widths.iter().enumerate() {
                i[axis] = i[axis].checked_sub(before).filter(|&x| x < from[axis])?;
            }
        }
        other => unreachable!("{} moves no elements by index", other.name()),
    }
    Some(i)
}

/// The element at `index` of operands joined along an axis.
fn concat(axis: usize, parts: &[Operand<'_>], mut index: Vec<usize>) -> f64 {
    let mut part = 0;
    while index[axis] >= parts[part].shape()[axis] {
        index[axis] -= parts[part].shape()[axis];
        part += 1;
    }
    parts[part].at(&index)
}

/// The element at `index` of a batched matrix product.
fn dot(a: &Operand<'_>, b: &Operand<'_>, index: &[usize]) -> f64 {
    let last = index.len() - 1;
    let term = |k: usize| {
        let (mut left, mut right) = (index.to_vec(), index.to_vec());
        left[last] = k;
        right[last - 1] = k;
        a.at(&left) * b.at(&right)
    };
    reduce(ReduceOp::Sum, a.node.dtype, (0..a.shape()[last]).map(term))
}

/// The element that an output of a convolution sees through a tap.
pub(super) fn conv_element(
    spec: &ConvSpec,
    p: &[usize],
    taps: &[usize],
    extents: &[usize],
) -> Option<Vec<usize>> {
    let axes = spec.axes.iter().zip(p.iter().zip(taps)).zip(extents);
    axes.map(|((axis, (&p, &j)), &len)| axis.element(p, j, len)).collect()
}

/// A table's number of rows and their length.
fn rows(table: &Shape) -> (usize, usize) {
    (table[0], table[1..].iter().product())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn a_small_network_computes_what_a_hand_does() {
        let mut g = Graph::new();
        let input = |index, shape: [usize; 2]| Op::Input { index, shape: shape.into(), dtype: DType::F32 };
        let x = g.push(input(0, [2, 2]), &[]).unwrap();
        let w = g.push(input(1, [2, 3]), &[]).unwrap();
        let y = g.push(Op::Dot, &[x, w]).unwrap();
        let joined = g.push(Op::Concat { axis: 1 }, &[y, x]).unwrap();
        let slice = Op::Slice { ranges: [(0, 2, 1), (1, 2, 2)].into_iter().collect() };
        let odd = g.push(slice, &[joined]).unwrap();
        let total = Op::Reduce { op: ReduceOp::Sum, axes: [0].into_iter().collect() };
        let total = g.push(total, &[odd]).unwrap();
        g.set_outputs(vec![y, odd, total]);
        // [1 2; 3 4] [1 0 2; 0 1 3] = [1 2 8; 3 4 18]; columns 1 and 3 of [y x] are [2 1; 4 3].
        let got = run_graph(&g, &[vec![1.0, 2.0, 3.0, 4.0], vec![1.0, 0.0, 2.0, 0.0, 1.0, 3.0]], &[]);
        let want = [vec![1.0, 2.0, 8.0, 3.0, 4.0, 18.0], vec![2.0, 1.0, 4.0, 3.0], vec![6.0, 4.0]];
        assert_eq!(got, want);
    }
}
