//! Random graphs and random movements: what the property tests of compiler and devices have in common.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{random_attention::attention, random_loop::random_loop};
use crate::{
    BinaryOp, CompareOp, ConvAxis, ConvSpec, CumulateOp, DType, Function, Graph, Literal, NodeId, Op,
    RandomKind, ReduceOp, Shape, UnaryOp, philox,
};

/// One random decision: which operation, on which operands, with which numbers.
pub type Choice = (u8, usize, usize, [usize; 3]);

/// No node of a random graph has more elements.
const MAX_ELEMENTS: usize = 2000;

/// What [`random_graph`] takes for its scalars: a number and the word of a random key.
pub const RANDOM_GRAPH_SCALARS: [f64; 2] = [0.625, 77.0];

/// What a random graph is made of: extents of its first input, decisions, and which nodes are outputs.
pub type RandomGraph = (Vec<usize>, Vec<Choice>, Vec<usize>);

/// Extents that fill vectors, blocks and tiles, and some more: graphs of small ones alone never leave the first.
pub const LARGE_EXTENTS: [usize; 6] = [8, 17, 33, 67, 130, 257];

/// The parts of a random graph by number, the same ones every time.
pub fn random_parts(number: u32) -> RandomGraph {
    let mut drawn = 0;
    let mut draw = |limit: usize| {
        drawn += 1;
        philox::word(drawn, 0, number, [5, 9]) as usize % limit
    };
    let mut dims: Vec<usize> = (0..1 + draw(3)).map(|_| 1 + draw(4)).collect();
    let choices = (0..1 + draw(23))
        .map(|_| (draw(256) as u8, draw(1 << 16), draw(1 << 16), [draw(9), draw(9), draw(9)]))
        .collect();
    let wanted = (0..draw(3)).map(|_| draw(1 << 16)).collect();
    if draw(4) == 0 {
        let axis = draw(dims.len());
        dims[axis] = LARGE_EXTENTS[draw(LARGE_EXTENTS.len())];
    }
    (dims, choices, wanted)
}

/// A graph of `f32` with two inputs, of extents `dims` and `dims[last]`, and the scalars [`RANDOM_GRAPH_SCALARS`]. Choices that
/// do not fit are passed over. The outputs are the nodes that `wanted` names, and the newest.
///
/// # Panics
/// Where `dims` is empty or has an extent of 0.
pub fn random_graph(dims: &[usize], choices: &[Choice], wanted: &[usize]) -> Graph {
    let mut g = Graph::new();
    let input = |index, shape: Shape| Op::Input { index, shape, dtype: DType::F32 };
    let a = g.push(input(0, dims.into()), &[]).unwrap();
    let b = g.push(input(1, [dims[dims.len() - 1]].into()), &[]).unwrap();
    let scalar = g.push(Op::Scalar { index: 0, dtype: DType::F32 }, &[]).unwrap();
    let key = g.push(Op::Scalar { index: 1, dtype: DType::U32 }, &[]).unwrap();
    let noise = Op::Random { stream: 3, kind: RandomKind::Uniform, shape: dims.into() };
    let noise = g.push(noise, &[key, key, key]).unwrap();
    let iota = g.push(Op::Iota { len: dims[dims.len() - 1] }, &[]).unwrap();
    let iota = g.push(Op::Cast(DType::F32), &[iota]).unwrap();
    let mut nodes = vec![a, b, scalar, noise, iota];
    for &choice in choices {
        if let Some(id) = grow(&mut g, &nodes, choice)
            && g.node(id).shape.elements() <= MAX_ELEMENTS
            && g.node(id).dtype == DType::F32
        {
            nodes.push(id);
        }
    }
    // The newest nodes depend on most; older ones make values shared between kernels and outputs.
    let mut outputs: Vec<NodeId> = wanted.iter().map(|w| nodes[w % nodes.len()]).collect();
    outputs.extend(nodes.last());
    g.set_outputs(outputs);
    g
}

/// Elements for the inputs of a random graph, exact in `f32`.
pub fn random_graph_inputs(dims: &[usize]) -> [Vec<f64>; 2] {
    let numbers =
        |n: usize, salt: f64| (0..n).map(|i| f64::from(((i as f64 + salt) * 0.7).sin() as f32)).collect();
    [numbers(dims.iter().product(), 0.3), numbers(dims[dims.len() - 1], 5.0)]
}

/// A movement that fits `shape`, which has no extent of 0, chosen by a few random numbers.
pub fn random_movement(shape: &Shape, kind: u8, r: [usize; 3]) -> Op {
    let rank = shape.rank();
    match kind % 7 {
        6 if rank > 0 => random_window(shape, r),
        0 if rank > 0 => {
            let mut perm: SmallVec<[usize; 6]> = (0..rank).collect();
            perm.rotate_left(r[0] % rank);
            perm.swap(r[1] % rank, r[2] % rank);
            Op::Permute(perm)
        }
        1 => Op::Expand(shape.iter().map(|&d| if d == 1 { 1 + r[0] % 3 } else { d }).collect()),
        2 => Op::Slice { ranges: slice_ranges(shape, r) },
        3 => Op::Pad {
            widths: (0..rank).map(|d| (r[d % 3] % 2, r[(d + 1) % 3] % 3)).collect(),
            fill: Literal::zero(DType::F32),
        },
        4 if rank > 0 => Op::Flip(SmallVec::from_slice(&[r[0] % rank])),
        _ => {
            // Merge everything, then split off a divisor.
            let n = shape.elements();
            let divisor = (1..=n).filter(|d| n.is_multiple_of(*d)).nth(r[0] % 3).unwrap_or(1);
            Op::Reshape(match r[1] % 3 {
                0 => [divisor, n / divisor].into(),
                1 => [n / divisor, divisor].into(),
                _ => [n / divisor, 1, divisor].into(),
            })
        }
    }
}

/// Windows along some axis of a shape without extents of 0.
fn random_window(shape: &Shape, r: [usize; 3]) -> Op {
    let axis = r[0] % shape.rank();
    let n = shape[axis];
    let size = 1 + r[1] % n.min(3);
    let dilation = 1 + r[2] % if size > 1 { (n - 1) / (size - 1) } else { 2 };
    Op::Window { axis, size, step: 1 + (r[1] + r[2]) % 3, dilation }
}

fn slice_ranges(shape: &Shape, r: [usize; 3]) -> SmallVec<[(usize, usize, usize); 6]> {
    let range = |(d, &n): (usize, &usize)| {
        let (start, step) = (r[d % 3] % n, 1 + r[(d + 1) % 3] % 2);
        (start, 1 + (n - 1 - start) / step, step)
    };
    shape.iter().enumerate().map(range).collect()
}

/// Adds `b` broadcast to the shape of `a`, or something of that shape where it does not broadcast.
fn matched(g: &mut Graph, a: NodeId, b: NodeId) -> NodeId {
    let (sa, sb) = (g.node(a).shape.clone(), g.node(b).shape.clone());
    if g.node(a).dtype != g.node(b).dtype || sa.broadcast(&sb) != Some(sa.clone()) {
        return a;
    }
    let padded: Shape = std::iter::repeat_n(1, sa.rank() - sb.rank()).chain(sb.iter().copied()).collect();
    let b = g.push(Op::Reshape(padded), &[b]).unwrap();
    g.push(Op::Expand(sa), &[b]).unwrap()
}

/// Work on 16-bit floats: elementwise, along rows, and as a product.
fn in_halves(g: &mut Graph, x: NodeId, other: NodeId, r: [usize; 3]) -> Option<NodeId> {
    let half = [DType::BF16, DType::F16][r[0] % 2];
    let other = matched(g, x, other);
    let x = g.push(Op::Cast(half), &[x]).ok()?;
    let other = g.push(Op::Cast(half), &[other]).ok()?;
    let rank = g.node(x).shape.rank();
    let y = match r[1] % 4 {
        0 if rank >= 2 => {
            let mut perm: SmallVec<[usize; 6]> = (0..rank).collect();
            perm.swap(rank - 1, rank - 2);
            let t = g.push(Op::Permute(perm), &[other]).ok()?;
            g.push(Op::Dot, &[x, t]).ok()?
        }
        1 if rank > 0 && g.node(x).shape.elements() > 0 => {
            let axes = SmallVec::from_slice(&[r[2] % rank]);
            let sum = g.push(Op::Reduce { op: ReduceOp::Sum, axes }, &[x]).ok()?;
            g.push(Op::Unary(UnaryOp::Tanh), &[sum]).ok()?
        }
        2 if rank > 0 => g.push(Op::Concat { axis: r[2] % rank }, &[x, other, x]).ok()?,
        _ => g.push(Op::Binary([BinaryOp::Add, BinaryOp::Mul][r[2] % 2]), &[x, other]).ok()?,
    };
    g.push(Op::Cast(DType::F32), &[y]).ok()
}

/// `x -> (x cos x, cos x)` as a function.
fn swish(shape: &Shape) -> Function {
    let mut body = Graph::new();
    let x = body.push(Op::Input { index: 0, shape: shape.clone(), dtype: DType::F32 }, &[]).unwrap();
    let c = body.push(Op::Unary(UnaryOp::Cos), &[x]).unwrap();
    let y = body.push(Op::Binary(BinaryOp::Mul), &[x, c]).unwrap();
    body.set_outputs(vec![y, c]);
    Function { name: "swish".into(), body, public: 2, gradient: None, kernel: None, recompute: false }
}

/// A convolution of `x` by filters made of `other`, with what may follow it.
fn convolution(g: &mut Graph, x: NodeId, other: NodeId, r: [usize; 3]) -> Option<NodeId> {
    let elements = g.node(x).shape.elements();
    let filters = g.node(other).shape.elements();
    if elements == 0 || filters == 0 || g.node(x).dtype != DType::F32 || g.node(other).dtype != DType::F32 {
        return None;
    }
    // One or two spatial axes, and whatever divides the elements as batch, groups and channels.
    let divisor =
        |n: usize, nth: usize| (1..=n.min(4)).filter(|d| n.is_multiple_of(*d)).nth(nth % 3).unwrap_or(1);
    let groups = divisor(elements, r[0] % 2);
    let channels = divisor(elements / groups, r[1]);
    let batch = divisor(elements / groups / channels, r[2]);
    let rest = elements / groups / channels / batch;
    let across = if !r[0].is_multiple_of(3) { divisor(rest, r[0] + 1) } else { 1 };
    let mut extents: Shape = [batch, groups, channels, rest / across].into();
    let axis = |n: usize| ConvAxis {
        stride: 1 + r[n % 3] % 2,
        dilation: 1 + (r[(n + 1) % 3] / 2) % 2,
        spread: 1 + (r[(n + 2) % 3] / 4) % 2,
        before: r[n % 3] as i64 % 4 - 1,
        after: r[(n + 1) % 3] as i64 % 3,
    };
    let mut axes: SmallVec<[ConvAxis; 3]> = SmallVec::from_slice(&[axis(r[1])]);
    let mut taps: Shape = [groups, 1 + r[2] % 3, channels, 1 + r[1] % 3].into();
    if !r[0].is_multiple_of(3) {
        extents.push(across);
        axes.push(axis(r[2]));
        taps.push(1 + r[0] % 2);
    }
    let x = g.push(Op::Reshape(extents), &[x]).ok()?;
    // As many filters as wanted, repeated from the elements that there are.
    let flat = g.push(Op::Reshape([1, filters].into()), &[other]).ok()?;
    let copies = taps.elements().div_ceil(filters);
    let many = g.push(Op::Expand([copies, filters].into()), &[flat]).ok()?;
    let many = g.push(Op::Reshape([copies * filters].into()), &[many]).ok()?;
    let ranges = SmallVec::from_slice(&[(0, taps.elements(), 1)]);
    let w = g.push(Op::Slice { ranges }, &[many]).ok()?;
    let w = g.push(Op::Reshape(taps), &[w]).ok()?;
    let by_group = r[1] % 3 == 2;
    let y = g.push(Op::Conv(ConvSpec { axes, by_group }), &[x, w]).ok()?;
    if g.node(y).shape.elements() > MAX_ELEMENTS || r[2].is_multiple_of(3) {
        return Some(y);
    }
    let z = matched(g, y, other);
    let z = g.push(Op::Binary(BinaryOp::Add), &[y, z]).ok()?;
    g.push(Op::Unary(UnaryOp::Tanh), &[z]).ok()
}

/// Appends the operation that a choice names; `None` where it does not fit.
fn grow(g: &mut Graph, nodes: &[NodeId], (kind, a, b, r): Choice) -> Option<NodeId> {
    let x = nodes[a % nodes.len()];
    let other = nodes[b % nodes.len()];
    let (shape, dtype) = (g.node(x).shape.clone(), g.node(x).dtype);
    let rank = shape.rank();
    let float = dtype == DType::F32;
    match kind {
        240.. => return attention(g, x, r),
        230.. => return random_loop(g, x, r),
        212..=221 => return convolution(g, x, other, r),
        200..=211 if float => return in_halves(g, x, other, r),
        222.. if float && rank > 0 => {
            let axis = r[0] % rank;
            return match r[1] % 3 {
                0 => g.push(Op::Cumulate { op: CumulateOp::Sum, axis }, &[x]).ok(),
                1 => {
                    let y = matched(g, x, other);
                    g.push(Op::Cumulate { op: CumulateOp::Linear, axis }, &[y, x]).ok()
                }
                // Backwards.
                _ => {
                    let flip = Op::Flip(SmallVec::from_slice(&[axis]));
                    let turned = g.push(flip.clone(), &[x]).ok()?;
                    let sums = g.push(Op::Cumulate { op: CumulateOp::Sum, axis }, &[turned]).ok()?;
                    g.push(flip, &[sums]).ok()
                }
            };
        }
        _ => {}
    }
    let op = match kind % 25 {
        24 if rank > 0 && shape.elements() > 0 => random_window(&shape, r),
        0 | 1 if float => {
            let smooth =
                [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Tanh, UnaryOp::Sin, UnaryOp::Cos, UnaryOp::Floor];
            Op::Unary(smooth[r[0] % smooth.len()])
        }
        2..=5 if float => {
            let y = matched(g, x, other);
            let ops = [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Max, BinaryOp::Min];
            return g.push(Op::Binary(ops[r[0] % ops.len()]), &[x, y]).ok();
        }
        6 if float => {
            let y = matched(g, x, other);
            let c = g.push(Op::Compare([CompareOp::Lt, CompareOp::Ge][r[0] % 2]), &[x, y]).unwrap();
            return g.push(Op::Select, &[c, x, y]).ok();
        }
        7 if rank > 0 => {
            let mut perm: SmallVec<[usize; 6]> = (0..rank).collect();
            perm.rotate_left(r[0] % rank);
            Op::Permute(perm)
        }
        8 => Op::Expand(shape.iter().map(|&d| if d == 1 { 1 + r[0] % 3 } else { d }).collect()),
        9 if rank > 0 && shape.elements() > 0 => Op::Slice { ranges: slice_ranges(&shape, r) },
        10 if float => Op::Pad {
            widths: (0..rank).map(|d| (r[d % 3] % 2, r[(d + 1) % 3] % 2)).collect(),
            fill: Literal::from_f64(dtype, [0.0, 0.0, 1.5][r[2] % 3]),
        },
        11 if rank > 0 => Op::Flip(SmallVec::from_slice(&[r[0] % rank])),
        12 | 13 => {
            let n = shape.elements();
            let d = (1..=n).filter(|d| n.is_multiple_of(*d)).nth(r[0] % 4).unwrap_or(n);
            Op::Reshape(if d == 0 { [n].into() } else { [d, n / d].into() })
        }
        14 | 15 if rank > 0 && float => {
            let ops = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min];
            let mut axes: SmallVec<[usize; 6]> = SmallVec::from_slice(&[r[1] % rank]);
            if r[2] % 2 == 1 && rank > 1 && axes[0] + 1 < rank {
                axes.push(axes[0] + 1);
            }
            Op::Reduce { op: ops[r[0] % 3], axes }
        }
        16 if float && rank >= 2 => {
            let mut perm: SmallVec<[usize; 6]> = (0..rank).collect();
            perm.swap(rank - 1, rank - 2);
            let t = g.push(Op::Permute(perm), &[x]).unwrap();
            let operands = if r[0].is_multiple_of(2) { [x, t] } else { [t, x] };
            let product = g.push(Op::Dot, &operands).ok()?;
            if r[2].is_multiple_of(3) && rank == 2 {
                // The gradient of a bias beside that of a weight.
                let axes = SmallVec::from_slice(&[0]);
                let sums = g.push(Op::Reduce { op: ReduceOp::Sum, axes }, &[operands[1]]).ok()?;
                return g.push(Op::Concat { axis: 0 }, &[product, sums]).ok();
            }
            if r[1] % 3 == 0 {
                return Some(product);
            }
            let y = matched(g, product, other);
            let y = g.push(Op::Binary(BinaryOp::Add), &[product, y]).unwrap();
            return g.push(Op::Unary(UnaryOp::Tanh), &[y]).ok();
        }
        17 if float && rank > 0 && r[2] % 4 == 3 => {
            let order = g.push(Op::Sort { descending: r[0].is_multiple_of(2) }, &[x]).ok()?;
            return g.push(Op::Cast(dtype), &[order]).ok();
        }
        17 if float && rank > 0 && shape[0] > 0 => {
            let count = 1 + r[0] % 4;
            let ids = g.push(Op::Iota { len: count }, &[]).unwrap();
            let limit = g.push(Op::Const(Literal::from_f64(DType::I32, shape[0] as f64)), &[]).unwrap();
            let limit = g.push(Op::Reshape([1].into()), &[limit]).unwrap();
            let limit = g.push(Op::Expand([count].into()), &[limit]).unwrap();
            let ids = g.push(Op::Binary(BinaryOp::Rem), &[ids, limit]).unwrap();
            let rows = g.push(Op::Gather, &[x, ids]).unwrap();
            if r[1] % 2 == 0 {
                return Some(rows);
            }
            return g.push(Op::ScatterAdd { rows: shape[0] + 1 }, &[ids, rows]).ok();
        }
        18 => {
            let y = matched(g, x, other);
            if rank == 0 {
                return None;
            }
            return g.push(Op::Concat { axis: r[0] % rank }, &[x, y]).ok();
        }
        // The gradient of slices: pieces that tile an axis, padded and added up.
        19 if float && rank > 0 && shape[rank - 1] > 1 => {
            let (axis, cut) = (rank - 1, 1 + r[0] % (shape[rank - 1] - 1));
            let mut piece = |start: usize, len: usize| {
                let ranges = shape
                    .iter()
                    .enumerate()
                    .map(|(d, &n)| if d == axis { (start, len, 1) } else { (0, n, 1) });
                let slice = g.push(Op::Slice { ranges: ranges.collect() }, &[x]).unwrap();
                let piece = g.push(Op::Unary(UnaryOp::Sin), &[slice]).unwrap();
                let piece = if r[1] % 2 == 0 {
                    piece
                } else {
                    g.push(Op::Reshape(g.node(piece).shape.clone()), &[piece]).unwrap()
                };
                let end = shape[axis] - start - len;
                let widths = (0..rank).map(|d| if d == axis { (start, end) } else { (0, 0) }).collect();
                g.push(Op::Pad { widths, fill: Literal::zero(dtype) }, &[piece]).unwrap()
            };
            let (low, high) = (piece(0, cut), piece(cut, shape[axis] - cut));
            return g.push(Op::Binary(BinaryOp::Add), &[high, low]).ok();
        }
        20 => Op::Barrier,
        21 if float => {
            let function = Arc::new(swish(&shape));
            return g.push(Op::Call { function, output: (r[0] % 2) as u32 }, &[x]).ok();
        }
        // Sums over rows, as the gradients of a scale and a shift are.
        23 if float && rank > 1 && shape.elements() > 0 => {
            let axes: SmallVec<[usize; 6]> = SmallVec::from_slice(&[0]);
            let square = g.push(Op::Binary(BinaryOp::Mul), &[x, x]).unwrap();
            let scale = g.push(Op::Reduce { op: ReduceOp::Sum, axes: axes.clone() }, &[square]).unwrap();
            let shift = g.push(Op::Reduce { op: ReduceOp::Max, axes }, &[x]).unwrap();
            return g.push(Op::Concat { axis: 0 }, &[scale, shift]).ok();
        }
        // A norm along the last axis: rows.
        22 if float && rank > 0 && shape.elements() > 0 => {
            let axes: SmallVec<[usize; 6]> = SmallVec::from_slice(&[rank - 1]);
            let sum = g.push(Op::Reduce { op: ReduceOp::Sum, axes: axes.clone() }, &[x]).unwrap();
            let sum = g.push(Op::Expand(shape.clone()), &[sum]).unwrap();
            let centred = g.push(Op::Binary(BinaryOp::Sub), &[x, sum]).unwrap();
            let top = g.push(Op::Reduce { op: ReduceOp::Max, axes }, &[centred]).unwrap();
            let top = g.push(Op::Unary(UnaryOp::Tanh), &[top]).unwrap();
            let top = g.push(Op::Expand(shape), &[top]).unwrap();
            return g.push(Op::Binary(BinaryOp::Mul), &[centred, top]).ok();
        }
        _ => return None,
    };
    let op_shape = op.infer(&[(&shape, dtype)]).ok()?.0;
    (op_shape.elements() <= MAX_ELEMENTS).then(|| g.push(op, &[x]).ok()).flatten()
}
