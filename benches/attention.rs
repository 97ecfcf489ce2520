//! Attention and its gradient as functions: a kernel and the definition that it replaces.

use std::sync::Arc;

use wgrad_ir::{AttentionSpec, DType, Function, FunctionKernel, Literal, NodeId, Op, ReduceOp, UnaryOp};

use crate::builder::{Builder, Built};

/// `[batch, time, heads, width]` of the bench.
pub(crate) const SHAPE: [usize; 4] = [4, 256, 8, 64];

fn spec() -> AttentionSpec {
    let scale = Literal::from_f64(DType::F32, (SHAPE[3] as f64).sqrt().recip());
    AttentionSpec { causal: true, window: None, masked: false, scale }
}

/// A call of attention on three inputs.
pub(crate) fn forward() -> Built<Builder> {
    let function = Arc::new(forward_function()?);
    let mut b = Builder::new();
    let operands = inputs(&mut b, 3)?;
    let out = b.0.push(Op::Call { function, output: 0 }, &operands)?;
    b.0.set_outputs(vec![out]);
    Ok(b)
}

/// A call of the gradient; `out` and `lse` are inputs too.
pub(crate) fn backward() -> Built<Builder> {
    let function = Arc::new(backward_function()?);
    let mut b = Builder::new();
    let operands = backward_inputs(&mut b)?;
    let call = |b: &mut Builder, output| b.0.push(Op::Call { function: function.clone(), output }, &operands);
    let grads = [call(&mut b, 0)?, call(&mut b, 1)?, call(&mut b, 2)?];
    b.0.set_outputs(grads.to_vec());
    Ok(b)
}

fn inputs(b: &mut Builder, count: u32) -> Built<Vec<NodeId>> {
    (0..count).map(|index| b.input(index, &SHAPE)).collect()
}

/// `q`, `k`, `v`, `out`, `lse`, `grad_out`.
fn backward_inputs(b: &mut Builder) -> Built<Vec<NodeId>> {
    let [batch, time, heads, _] = SHAPE;
    let mut operands = inputs(b, 4)?;
    operands.push(b.input(4, &[batch, heads, time])?);
    operands.push(b.input(5, &SHAPE)?);
    Ok(operands)
}

/// `[b, t, h, d]` as `[b, h, t, d]`, and back.
fn heads_first(b: &mut Builder, x: NodeId) -> Built {
    b.permute(x, &[0, 2, 1, 3])
}

/// The scaled scores `[b, h, i, j]` of heads that come first.
fn scores(b: &mut Builder, q: NodeId, k: NodeId) -> Built {
    let k = b.permute(k, &[0, 1, 3, 2])?;
    let scores = b.dot(q, k)?;
    let scores = b.scale(scores, spec().scale.as_f64())?;
    b.causal(scores, f64::from(f32::MIN))
}

fn forward_function() -> Built<Function> {
    let mut b = Builder::new();
    let operands = inputs(&mut b, 3)?;
    let [q, k, v] = [0, 1, 2].map(|n| heads_first(&mut b, operands[n]));
    let scores = scores(&mut b, q?, k?)?;
    let max = b.along(ReduceOp::Max, scores)?;
    let shifted = b.sub(scores, max)?;
    let exp = b.unary(UnaryOp::Exp, shifted)?;
    let sum = b.along(ReduceOp::Sum, exp)?;
    let weights = b.div(exp, sum)?;
    let out = b.dot(weights, v?)?;
    let out = heads_first(&mut b, out)?;
    let log = b.unary(UnaryOp::Log, sum)?;
    let lse = b.add(log, max)?;
    let [batch, time, heads, _] = SHAPE;
    let lse = b.reshape(lse, &[batch, heads, time])?;
    b.0.set_outputs(vec![out, lse]);
    Ok(function("attention", b, 1, FunctionKernel::Attention(spec())))
}

fn backward_function() -> Built<Function> {
    let mut b = Builder::new();
    let operands = backward_inputs(&mut b)?;
    let [q, k, v, out, grad] = [0, 1, 2, 3, 5].map(|n| heads_first(&mut b, operands[n]));
    let (q, k, grad) = (q?, k?, grad?);
    let scores = scores(&mut b, q, k)?;
    let [batch, time, heads, _] = SHAPE;
    let lse = b.reshape(operands[4], &[batch, heads, time, 1])?;
    let shifted = b.sub(scores, lse)?;
    let p = b.unary(UnaryOp::Exp, shifted)?;
    let p = b.causal(p, 0.0)?;
    let p_t = b.permute(p, &[0, 1, 3, 2])?;
    let grad_v = b.dot(p_t, grad)?;
    let v_t = b.permute(v?, &[0, 1, 3, 2])?;
    let grad_p = b.dot(grad, v_t)?;
    let product = b.mul(out?, grad)?;
    let delta = b.along(ReduceOp::Sum, product)?;
    let centred = b.sub(grad_p, delta)?;
    let ds = b.mul(p, centred)?;
    let ds = b.scale(ds, spec().scale.as_f64())?;
    let grad_q = b.dot(ds, k)?;
    let ds_t = b.permute(ds, &[0, 1, 3, 2])?;
    let grad_k = b.dot(ds_t, q)?;
    let outputs = [grad_q, grad_k, grad_v].map(|g| heads_first(&mut b, g));
    b.0.set_outputs(outputs.into_iter().collect::<Built<_>>()?);
    Ok(function("attention_grad", b, 3, FunctionKernel::AttentionGrad(spec())))
}

fn function(name: &str, body: Builder, public: usize, kernel: FunctionKernel) -> Function {
    Function {
        name: name.into(),
        body: body.0,
        public,
        gradient: None,
        kernel: Some(kernel),
        recompute: false,
    }
}
