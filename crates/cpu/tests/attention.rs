//! Attention and its gradient against their definition.

mod common;

use common::*;
use proptest::prelude::*;
use wgrad_ir::{
    AttentionDims, AttentionGradKernel, AttentionKernel, AttentionSpec, BufferRef, BufferSpec, DType, Kernel,
    Literal, Operand, Program, Shape, View,
};

/// `[batch, time, heads, width]` in a buffer of its own.
fn operand(draw: &mut Draw, arg: u32, shape: [usize; 4]) -> Operand {
    Operand { arg, view: strided_view(draw, &shape.into()) }
}

fn floats(operand: &Operand) -> BufferSpec {
    spec([reach(&operand.view)], DType::F32)
}

fn small(draw: &mut Draw, n: usize) -> Buf {
    (0..n).map(|_| Literal::from_f64(DType::F32, draw.next(2001) as f64 * 1e-3 - 1.0)).collect()
}

/// The forward kernel with random operands, and its inputs.
fn forward(draw: &mut Draw, dims: AttentionDims) -> (AttentionKernel, Program, Vec<Buf>) {
    let (by_query, by_key) = (
        [dims.batch, dims.queries, dims.heads, dims.width],
        [dims.batch, dims.keys, dims.kv_heads, dims.width],
    );
    let kernel = AttentionKernel {
        q: operand(draw, 2, by_query),
        k: operand(draw, 3, by_key),
        v: operand(draw, 4, by_key),
        mask: dims.spec.masked.then_some(5),
        out: operand(draw, 0, by_query),
        lse: 1,
        dims,
    };
    let mut inputs = vec![floats(&kernel.q), floats(&kernel.k), floats(&kernel.v)];
    let mut buffers: Vec<Buf> = inputs.iter().map(|s| small(draw, s.shape.elements())).collect();
    if kernel.mask.is_some() {
        let keys = kernel.dims.batch * kernel.dims.keys;
        inputs.push(spec([keys], DType::Bool));
        // Some sequences have no key at all.
        let mut mask = draw.buffer(keys, DType::Bool);
        if draw.next(2) == 0 {
            mask[..kernel.dims.keys].fill(Literal::from_f64(DType::Bool, 0.0));
        }
        buffers.push(mask);
    }
    let lse = Shape::from([kernel.dims.batch, kernel.dims.heads, kernel.dims.queries]);
    let results = vec![floats(&kernel.out), spec(lse, DType::F32)];
    let mut args = vec![BufferRef::Output(0), BufferRef::Output(1)];
    args.extend((0..inputs.len() as u32).map(BufferRef::Input));
    let p = program(inputs, results, vec![], Kernel::Attention(kernel.clone()), args);
    (kernel, p, buffers)
}

fn check_both(draw: &mut Draw, dims: AttentionDims) -> Result<(), TestCaseError> {
    let (kernel, p, mut buffers) = forward(draw, dims);
    let got = run(&p, &buffers, &[]).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let want = evaluate(&p, &buffers, &[]);
    check_view(&kernel.out.view, &got[0], &want[0], 2e-6)?;
    check_view(&View::contiguous(p.results[1].shape.clone()), &got[1], &want[1], 2e-6)?;

    let AttentionDims { batch, heads, kv_heads, queries, keys, width, .. } = kernel.dims;
    let shifted = |operand: &Operand, arg| Operand { arg, view: operand.view.clone() };
    let mask = kernel.mask.map(|_| 10);
    // The gradients of keys and values lie beside each other in one buffer.
    let pair = strided_view(draw, &[batch, keys, kv_heads, 2 * width].into());
    let half = |first: usize| Operand {
        arg: 1,
        view: View {
            shape: [batch, keys, kv_heads, width].into(),
            offset: pair.offset + first as i64 * pair.strides[3],
            ..pair.clone()
        },
    };
    let grad = AttentionGradKernel {
        q: shifted(&kernel.q, 3),
        k: shifted(&kernel.k, 4),
        v: shifted(&kernel.v, 5),
        mask,
        out: shifted(&kernel.out, 6),
        lse: 7,
        grad_out: operand(draw, 8, [batch, queries, heads, width]),
        grad_q: operand(draw, 0, [batch, queries, heads, width]),
        grad_k: half(0),
        grad_v: half(width),
        delta: 2,
        dims: kernel.dims,
    };
    let mut inputs = p.inputs[..3].to_vec();
    inputs.extend([p.results[0].clone(), p.results[1].clone(), floats(&grad.grad_out)]);
    let grad_out = small(draw, inputs[5].shape.elements());
    let mask_bits = buffers.split_off(3);
    // What the forward kernel did not write is not a number.
    buffers.extend([want[0].clone(), want[1].clone(), grad_out]);
    let mut args = vec![BufferRef::Output(0), BufferRef::Output(1), BufferRef::Temp(0)];
    args.extend((0..6).map(BufferRef::Input));
    if mask.is_some() {
        inputs.push(p.inputs[3].clone());
        buffers.extend(mask_bits);
        // Argument 9 is unused, so that the mask is 10 in both cases.
        args.extend([BufferRef::Input(0), BufferRef::Input(6)]);
    }
    let results = vec![floats(&grad.grad_q), spec([reach(&pair)], DType::F32)];
    let delta = 4 * (batch * heads * queries) as u64;
    let views = [grad.grad_q.view.clone(), grad.grad_k.view.clone(), grad.grad_v.view.clone()];
    let p = program(inputs, results, vec![delta], Kernel::AttentionGrad(grad), args);
    let got = run(&p, &buffers, &[]).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let want = evaluate(&p, &buffers, &[]);
    for (i, view) in views.iter().enumerate() {
        check_view(view, &got[i.min(1)], &want[i.min(1)], 2e-5)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn attention_and_its_gradient_equal_their_definition(
        batch in 1usize..3, kv_heads in 1usize..3, group in 1usize..3, queries in 1usize..41, keys in 1usize..41,
        width in 1usize..34, causal: bool, window in prop::option::of(1usize..45), masked: bool, seed: u64,
    ) {
        let scale = Literal::from_f64(DType::F32, 1.0 / (width as f64).sqrt());
        let spec = AttentionSpec { causal, window, masked, scale };
        let dims = AttentionDims { batch, heads: kv_heads * group, kv_heads, queries, keys, width, spec };
        check_both(&mut Draw(seed), dims)?;
    }
}

#[test]
fn attention_over_many_blocks_and_wide_heads_equals_its_definition() {
    let cases = [
        (300, 300, None, true, 8),
        (130, 600, None, false, 8),
        (300, 300, Some(70), true, 8),
        (20, 30, None, true, 256),
    ];
    for (queries, keys, window, causal, width) in cases {
        let scale = Literal::from_f64(DType::F32, if width == 8 { 2.0 } else { 0.1 });
        let spec = AttentionSpec { causal, window, masked: true, scale };
        let dims = AttentionDims { batch: 1, heads: 2, kv_heads: 1, queries, keys, width, spec };
        check_both(&mut Draw(7), dims).unwrap();
    }
}
