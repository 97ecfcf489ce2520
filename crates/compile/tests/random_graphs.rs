//! Compiled programs compute what their graphs say, whichever passes run: random graphs against the reference interpreters.

use std::sync::Arc;

use proptest::{prelude::*, strategy::ValueTree};
use smallvec::SmallVec;
use wgrad_compile::{Options, compile};
use wgrad_ir::reference::{Rounding, run_graph, run_program};
use wgrad_ir::{
    BinaryOp, CompareOp, DType, DeviceCaps, Function, Graph, Kernel, Literal, NodeId, Op, RandomKind,
    ReduceOp, Shape, UnaryOp,
};

/// One random decision: which operation, on which operands, with which numbers.
type Choice = (u8, usize, usize, [usize; 3]);

fn is(g: &Graph, id: NodeId, dtype: DType) -> bool {
    g.node(id).dtype == dtype
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

/// `x -> (x cos x, cos x)` as a function.
fn swish(shape: &Shape) -> Function {
    let mut body = Graph::new();
    let x = body.push(Op::Input { index: 0, shape: shape.clone(), dtype: DType::F32 }, &[]).unwrap();
    let c = body.push(Op::Unary(UnaryOp::Cos), &[x]).unwrap();
    let y = body.push(Op::Binary(BinaryOp::Mul), &[x, c]).unwrap();
    body.set_outputs(vec![y, c]);
    Function { name: "swish".into(), body, public: 2, gradient: None, kernel: None, recompute: false }
}

fn grow(g: &mut Graph, nodes: &[NodeId], (kind, a, b, r): Choice) -> Option<NodeId> {
    let x = nodes[a % nodes.len()];
    let other = nodes[b % nodes.len()];
    let (shape, dtype) = (g.node(x).shape.clone(), g.node(x).dtype);
    let rank = shape.rank();
    let float = dtype == DType::F32;
    let op = match kind % 24 {
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
        9 if rank > 0 && shape.elements() > 0 => Op::Slice {
            ranges: (0..rank)
                .map(|d| {
                    let (start, step) = (r[d % 3] % shape[d], 1 + r[(d + 1) % 3] % 2);
                    (start, 1 + (shape[d] - 1 - start) / step, step)
                })
                .collect(),
        },
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
            if r[2] % 3 == 0 && rank == 2 {
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
    (op_shape.elements() <= 300).then(|| g.push(op, &[x]).ok()).flatten()
}

fn build(dims: &[usize], choices: &[Choice], wanted: &[usize]) -> Graph {
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
            && g.node(id).shape.elements() <= 300
            && is(&g, id, DType::F32)
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

fn gpu_like() -> DeviceCaps {
    DeviceCaps {
        bool_bytes: 4,
        max_bindings: 8,
        max_workgroup_invocations: 256,
        f64: false,
        ..DeviceCaps::cpu()
    }
}

/// The random graphs would prove little if they never met a mechanism: each occurs in some of them.
#[test]
fn random_graphs_meet_every_mechanism() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (dims(), choices(), prop::collection::vec(any::<usize>(), 0..3));
    let mut met = [
        ("row", 0),
        ("epilogue", 0),
        ("several reductions", 0),
        ("update", 0),
        ("part", 0),
        ("column sums", 0),
    ];
    for _ in 0..2000 {
        let (dims, choices, wanted) = strategy.new_tree(&mut runner).unwrap().current();
        let mut g = build(&dims, &choices, &wanted);
        g.set_donated(vec![0, 1]);
        let program =
            compile(&g, &DeviceCaps::cpu(), &Options::default()).unwrap_or_else(|e| panic!("{e}\n{g}"));
        let any = |f: &dyn Fn(&Kernel) -> bool| program.steps.iter().any(|s| f(&s.kernel));
        let part = |s: &wgrad_ir::Step| s.args.iter().any(|a| a.bytes < program.bytes(a.buffer));
        let hits = [
            any(&|k| matches!(k, Kernel::Row(_))),
            any(&|k| matches!(k, Kernel::MatMul(k) if !k.is_plain())),
            any(&|k| matches!(k, Kernel::Reduce(k) if k.outs.len() > 1)),
            !program.updates.is_empty(),
            program.steps.iter().any(part),
            any(&|k| matches!(k, Kernel::MatMul(k) if k.column_sums.is_some())),
        ];
        met.iter_mut().zip(hits).for_each(|(m, hit)| m.1 += usize::from(hit));
    }
    assert!(met.iter().all(|m| m.1 >= MET), "{met:?}");
}

/// In how many of two thousand programs each mechanism occurs, at least.
const MET: usize = 4;

fn dims() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..5, 1..4)
}

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let numbers = [0usize..9, 0usize..9, 0usize..9];
    prop::collection::vec((any::<u8>(), any::<usize>(), any::<usize>(), numbers), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn programs_compute_what_graphs_say(
        dims in dims(),
        choices in choices(),
        wanted in prop::collection::vec(any::<usize>(), 0..3),
        passes in any::<u16>(),
        donate in any::<bool>(),
        gpu in any::<bool>(),
    ) {
        let mut g = build(&dims, &choices, &wanted);
        if donate {
            g.set_donated(vec![0, 1]);
        }
        let numbers = |n: usize, salt: f64| -> Vec<f64> { (0..n).map(|i| ((i as f64 + salt) * 0.7).sin()).collect() };
        let inputs = [numbers(dims.iter().product(), 0.3), numbers(dims[dims.len() - 1], 5.0)];
        let scalars = [0.625, 77.0];
        let want = run_graph(&g, &inputs, &scalars);
        let caps = if gpu { gpu_like() } else { DeviceCaps::cpu() };
        for options in [Options::default(), Options::from_bits(passes)] {
            let program = compile(&g, &caps, &options).unwrap_or_else(|e| panic!("{e}\n{options:?}\n{g}"));
            for step in &program.steps {
                prop_assert!(step.args.len() <= caps.max_bindings.saturating_sub(1), "{}", program);
            }
            let got = run_program(&program, &inputs, &scalars, Rounding::None);
            for (want, got) in want.iter().zip(&got) {
                for (w, g_) in want.iter().zip(got) {
                    let close = (w - g_).abs() <= 1e-5 * w.abs().max(1.0) || w == g_ || w.is_nan() && g_.is_nan();
                    prop_assert!(close, "want {want:?}, got {got:?}\n{g}\n{program}");
                }
            }
        }
    }
}
