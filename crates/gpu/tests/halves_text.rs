//! Kernels on 16-bit floats are valid WGSL, SPIR-V, MSL and HLSL. Needs no adapter.

use wgrad_compile::{Options, compile};
use wgrad_ir::{BinaryOp, ConvAxis, ConvSpec, DType, DeviceCaps, Graph, NodeId, Op, ReduceOp, UnaryOp};
use wgrad_kernels::{Choices, MatMulVariant, check, generate};

fn caps(subgroup_size: u32) -> DeviceCaps {
    DeviceCaps {
        f64: false,
        bool_bytes: 4,
        half_operands: true,
        max_bindings: 16,
        subgroup_size,
        max_workgroup_invocations: 256,
        max_workgroup_bytes: 32 << 10,
        max_workgroups_per_dim: 65_535,
        ..DeviceCaps::cpu()
    }
}

/// Sums, rows, products, convolutions, lookups and maps of `[m, n]` in one dtype.
fn graph(dtype: DType, [m, n]: [usize; 2]) -> Graph {
    let mut g = Graph::new();
    let mut input =
        |index, shape: &[usize], dtype| g.push(Op::Input { index, shape: shape.into(), dtype }, &[]).unwrap();
    let (x, w) = (input(0, &[m, n], dtype), input(1, &[n, m], dtype));
    let (ids, scalars) = (input(2, &[5], DType::I32), input(3, &[m, n], dtype));
    let mut push = |op: Op, x: &[NodeId]| g.push(op, x).unwrap();
    let axes = |axes: &[usize]| axes.iter().copied().collect();
    let product = push(Op::Dot, &[x, w]);
    let active = push(Op::Unary(UnaryOp::Tanh), &[product]);
    let top = push(Op::Reduce { op: ReduceOp::Max, axes: axes(&[1]) }, &[x]);
    let top = push(Op::Expand([m, n].into()), &[top]);
    let row = push(Op::Binary(BinaryOp::Sub), &[x, top]);
    let column = push(Op::Reduce { op: ReduceOp::Sum, axes: axes(&[0]) }, &[x]);
    let found = push(Op::Gather, &[x, ids]);
    let turned = push(Op::Permute([1, 0].into_iter().collect()), &[x]);
    let turned = push(Op::Binary(BinaryOp::Mul), &[turned, w]);
    let updated = push(Op::Binary(BinaryOp::Add), &[scalars, x]);
    let added = push(Op::ScatterAdd { rows: 3 }, &[ids, found]);
    let image = push(Op::Reshape([1, 1, 1, m, n].into()), &[x]);
    let filter = push(Op::Slice { ranges: [(0, 2, 1), (0, 2, 1)].into_iter().collect() }, &[w]);
    let filter = push(Op::Reshape([1, 1, 1, 2, 2].into()), &[filter]);
    let axis = ConvAxis { stride: 1, dilation: 1, spread: 1, before: 1, after: 0 };
    let spec = ConvSpec { axes: [axis; 2].into_iter().collect(), by_group: false };
    let filtered = push(Op::Conv(spec), &[image, filter]);
    let joined = push(Op::Concat { axis: 1 }, &[row, product]);
    g.set_outputs(vec![product, active, row, column, found, turned, updated, added, filtered, joined]);
    g.set_donated(vec![3]);
    g
}

#[test]
fn kernels_on_halves_are_valid_on_every_platform() {
    let variants = [
        None,
        Some(MatMulVariant::Direct { rows: 8, quads: 2 }),
        Some(MatMulVariant::Subgroup { rows: 16, quads: 1 }),
        Some(MatMulVariant::Tiled { block: 32 }),
    ];
    let mut shaders = std::collections::BTreeSet::new();
    for dtype in [DType::F16, DType::BF16, DType::U8] {
        for shape in [[8, 16], [7, 5], [4, 6]] {
            for subgroup_size in [0, 32] {
                let mut g = graph(if dtype == DType::U8 { DType::F16 } else { dtype }, shape);
                if dtype == DType::U8 {
                    g = bytes(shape);
                }
                let caps = caps(subgroup_size);
                let program = compile(&g, &caps, &Options::default()).unwrap();
                for step in &program.steps {
                    for matmul in variants {
                        let choices = Choices { matmul, ..Choices::default() };
                        let dispatches = generate(&step.kernel, &caps, &choices)
                            .unwrap_or_else(|e| panic!("{}: {e}", step.label));
                        shaders.extend(dispatches.into_iter().map(|d| d.source));
                    }
                }
            }
        }
    }
    assert!(shaders.len() > 40, "{}", shaders.len());
    for source in &shaders {
        check(source).unwrap_or_else(|e| panic!("{e}\n{source}"));
    }
    let atomic = |s: &&std::sync::Arc<str>| s.contains("atomicOr(&b") && s.contains("array<atomic<u32>>");
    assert!(shaders.iter().any(|s| atomic(&s)), "no neighbours share a word");
    assert!(shaders.iter().any(|s| s.contains("array<vec2<u32>>")), "nothing is stored as fours");
}

/// Arithmetic and conversions of bytes.
fn bytes(shape: [usize; 2]) -> Graph {
    let mut g = Graph::new();
    let x = g.push(Op::Input { index: 0, shape: shape.into(), dtype: DType::U8 }, &[]).unwrap();
    let y = g.push(Op::Binary(BinaryOp::Add), &[x, x]).unwrap();
    let f = g.push(Op::Cast(DType::BF16), &[y]).unwrap();
    let f = g.push(Op::Unary(UnaryOp::Exp), &[f]).unwrap();
    let f = g.push(Op::Cast(DType::U8), &[f]).unwrap();
    let b = g.push(Op::Cast(DType::Bool), &[f]).unwrap();
    let b = g.push(Op::Cast(DType::U8), &[b]).unwrap();
    g.set_outputs(vec![y, f, b]);
    g
}
