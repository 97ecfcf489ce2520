//! What the compiler makes of the graphs that matter: readable programs, so that a lost fusion shows in review.

use expect_test::{Expect, expect};
use smallvec::SmallVec;
use wgrad_compile::{Options, compile};
use wgrad_ir::{BinaryOp, DType, DeviceCaps, Graph, Literal, NodeId, Op, ReduceOp, UnaryOp};

fn check(g: &Graph, expected: Expect) {
    let program = compile(g, &DeviceCaps::cpu(), &Options::default()).unwrap();
    expected.assert_eq(&program.to_string());
}

fn input(g: &mut Graph, index: u32, shape: &[usize]) -> NodeId {
    g.push(Op::Input { index, shape: shape.into(), dtype: DType::F32 }, &[]).unwrap()
}

fn binary(g: &mut Graph, op: BinaryOp, a: NodeId, b: NodeId) -> NodeId {
    g.push(Op::Binary(op), &[a, b]).unwrap()
}

#[test]
fn softmax_is_one_row_kernel() {
    let mut g = Graph::new();
    let x = input(&mut g, 0, &[8, 16]);
    let last: SmallVec<[usize; 6]> = SmallVec::from_slice(&[1]);
    let max = g.push(Op::Reduce { op: ReduceOp::Max, axes: last.clone() }, &[x]).unwrap();
    let max = g.push(Op::Expand([8, 16].into()), &[max]).unwrap();
    let shifted = binary(&mut g, BinaryOp::Sub, x, max);
    let e = g.push(Op::Unary(UnaryOp::Exp), &[shifted]).unwrap();
    let sum = g.push(Op::Reduce { op: ReduceOp::Sum, axes: last }, &[e]).unwrap();
    let sum = g.push(Op::Expand([8, 16].into()), &[sum]).unwrap();
    let y = binary(&mut g, BinaryOp::Div, e, sum);
    g.set_outputs(vec![y]);
    check(
        &g,
        expect![[r#"
            input 0: f32[8, 16]
            [Output(0), Input(0)] reduce_max+exp+sub+reduce_sum+div+exp+1: row [8] of [16]
                v0: f32 = load a1 [8, 16]
                v1: f32 = row reduce_max v0
                v2: f32 = sub v0 v1
                v3: f32 = exp v2
                v4: f32 = row reduce_sum v3
                v5: f32 = div v3 v4
                store a0 [8, 16] = v5
            output 0: f32[8, 16] = result 0
        "#]],
    );
}

#[test]
fn a_transposed_head_split_feeds_a_contraction_without_copies() {
    let mut g = Graph::new();
    let qkv = input(&mut g, 0, &[2, 5, 24]);
    let slice = |g: &mut Graph, start| {
        let part = g
            .push(Op::Slice { ranges: SmallVec::from_slice(&[(0, 2, 1), (0, 5, 1), (start, 8, 1)]) }, &[qkv])
            .unwrap();
        let heads = g.push(Op::Reshape([2, 5, 2, 4].into()), &[part]).unwrap();
        g.push(Op::Permute(SmallVec::from_slice(&[0, 2, 1, 3])), &[heads]).unwrap()
    };
    let q = slice(&mut g, 0);
    let k = slice(&mut g, 8);
    let kt = g.push(Op::Permute(SmallVec::from_slice(&[0, 1, 3, 2])), &[k]).unwrap();
    let scores = g.push(Op::Dot, &[q, kt]).unwrap();
    g.set_outputs(vec![scores]);
    check(
        &g,
        expect![[r#"
            input 0: f32[2, 5, 24]
            [Output(0), Input(0)] dot: matmul f32 batch [2, 2] m=5 n=5 k=4 a=a1 [2, 2, 5, 4]:[120, 4, 24, 1] b=a1 [2, 2, 4, 5]:[120, 4, 1, 24]+8
                v0: f32 = product
                store a0 [2, 2, 5, 5] = v0
            output 0: f32[2, 2, 5, 5] = result 0
        "#]],
    );
}

#[test]
fn a_momentum_update_is_one_kernel_with_two_results() {
    let mut g = Graph::new();
    let (p, grad, m) = (input(&mut g, 0, &[6]), input(&mut g, 1, &[6]), input(&mut g, 2, &[6]));
    let repeat = |g: &mut Graph, s| {
        let s = g.push(Op::Reshape([1].into()), &[s]).unwrap();
        g.push(Op::Expand([6].into()), &[s]).unwrap()
    };
    let lr = g.push(Op::Scalar { index: 0, dtype: DType::F32 }, &[]).unwrap();
    let lr = repeat(&mut g, lr);
    let beta = g.push(Op::Const(Literal::from_f64(DType::F32, 0.5)), &[]).unwrap();
    let beta = repeat(&mut g, beta);
    let decayed = binary(&mut g, BinaryOp::Mul, m, beta);
    let m = binary(&mut g, BinaryOp::Add, decayed, grad);
    let update = binary(&mut g, BinaryOp::Mul, m, lr);
    let p = binary(&mut g, BinaryOp::Sub, p, update);
    g.set_outputs(vec![p, m]);
    check(
        &g,
        expect![[r#"
        input 0: f32[6]
        input 1: f32[6]
        input 2: f32[6]
        scalar 0: f32
        [Output(1), Output(0), Input(2), Input(1), Input(0)] add+mul+sub+mul: map [6]
            v0: f32 = load a2 [6]
            v1: f32 = 0.5
            v2: f32 = mul v0 v1
            v3: f32 = load a3 [6]
            v4: f32 = add v2 v3
            v5: f32 = load a4 [6]
            v6: f32 = scalar 0
            v7: f32 = mul v4 v6
            v8: f32 = sub v5 v7
            store a0 [6] = v4
            store a1 [6] = v8
        output 0: f32[6] = result 0
        output 1: f32[6] = result 1
    "#]],
    );
}

#[test]
fn chains_of_contractions_share_two_buffers() {
    let mut g = Graph::new();
    let w = input(&mut g, 0, &[4, 4]);
    let mut x = input(&mut g, 1, &[4, 4]);
    for _ in 0..6 {
        x = g.push(Op::Dot, &[x, w]).unwrap();
    }
    g.set_outputs(vec![x]);
    let program = compile(&g, &DeviceCaps::cpu(), &Options::default()).unwrap();
    assert_eq!((program.steps.len(), program.temps.as_slice()), (6, [64, 64].as_slice()));
}

#[test]
fn long_chains_are_cut_so_that_no_kernel_grows_without_bound() {
    let mut g = Graph::new();
    let mut x = input(&mut g, 0, &[2, 20_000]);
    for _ in 0..10_000 {
        let ranges = SmallVec::from_slice(&[(0, 2, 1), (1, g.node(x).shape[1] - 1, 1)]);
        x = g.push(Op::Slice { ranges }, &[x]).unwrap();
    }
    for _ in 0..10_000 {
        x = g.push(Op::Unary(UnaryOp::Abs), &[x]).unwrap();
    }
    g.set_outputs(vec![x]);
    let program = compile(&g, &DeviceCaps::cpu(), &Options::default()).unwrap();
    assert!((150..500).contains(&program.steps.len()), "{} kernels", program.steps.len());
    assert_eq!(program.temps.len(), 2);
}
