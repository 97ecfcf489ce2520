//! Attention.
//!
//! Legend: b batch, h query heads, g key heads, r query heads per key head, i queries, j keys, d width of a head.

use std::sync::Arc;

use wgrad_ir::{AttentionSpec, DType, Function, FunctionKernel, Literal, Shape};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::{Backward, Tensor, TensorError, call, trace_function_with_gradient};

use super::known::Known;
use crate::{Context, functional::dropout};

/// What [`scaled_dot_product_attention`] may be told besides its operands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attention<'a> {
    /// Query `i` sees key `j` only if `j <= i`.
    pub causal: bool,
    /// Query `i` sees key `j` only if `|i - j| < window` (at least 1): local attention, as in Mistral and Longformer.
    pub window: Option<usize>,
    /// Which keys are there, `bool [b, j]`: false hides padding.
    pub key_mask: Option<&'a Tensor>,
    /// What each query sees or adds to its scores, broadcast to `[b, h, i, j]`: bool (true may attend) or float (added, with a
    /// gradient of its own; ALiBi's slopes, say; `-inf` hides a key). With it the weights exist as a whole.
    pub mask: Option<&'a Tensor>,
    /// What the scores are multiplied by, a finite number; `1/√d` if it is not given. It is part of the compiled program.
    pub scale: Option<f64>,
    /// Probability with which an attention weight is dropped in training.
    pub dropout: f64,
}

/// `softmax(scale * q kᵀ + mask) v` (Vaswani et al., 2017): `q [b, h, i, d]`, `k` and `v` `[b, g, j, d]` give `[b, h, i, d]`, where `g`
/// divides `h`, and query head `n` uses key head `n / (h / g)` (grouped queries; Ainslie et al., 2023).
///
/// A query that sees no key at all gives zeros. Without dropout no matrix of weights is kept, in either direction, where the
/// device has a kernel for it (flash attention; Dao et al., 2022).
#[track_caller]
pub fn scaled_dot_product_attention(
    q_bhid: &Tensor,
    k_bgjd: &Tensor,
    v_bgjd: &Tensor,
    options: &Attention<'_>,
    ctx: &Context,
) -> Tensor {
    let [q, k, v] = [q_bhid, k_bgjd, v_bgjd];
    if let Some(message) = misfit([q, k, v], options) {
        return q.invalid("scaled_dot_product_attention", message);
    }
    if q.dtype().is_half() && options.mask.is_none() {
        // Computed in f32, as PyTorch's kernels do inside, and rounded once.
        let [q, k, v] = [q, k, v].map(|t| t.cast(DType::F32));
        return scaled_dot_product_attention(&q, &k, &v, options, ctx).cast(q_bhid.dtype());
    }
    let [b, h, i, d] = q.dims::<4>();
    let j = k.dims::<4>()[2];
    let scale = scale_of(options, d);
    let mask_bj = options.key_mask.map(|mask| mask.expand([b, j]));
    let drops = options.dropout != 0.0 && ctx.is_training();
    if !drops && j > 0 && options.mask.is_none() {
        let by_time = |t: &Tensor| t.permute(&[0, 2, 1, 3]);
        let mut operands = vec![by_time(q), by_time(k), by_time(v)];
        operands.extend(mask_bj);
        let spec = AttentionSpec {
            causal: options.causal,
            window: options.window,
            masked: options.key_mask.is_some(),
            scale: Literal::from_f64(DType::F32, scale),
        };
        return attention(&operands, spec, scale).permute(&[0, 2, 1, 3]);
    }
    let weights = dropout(&weights(q, k, options), options.dropout, ctx);
    weights.matmul(&v.unsqueeze(2)).reshape([b, h, i, d])
}

/// The weights `softmax(scale * q kᵀ + mask)` of [`scaled_dot_product_attention`], `[b, h, i, j]`, for pictures and for layers that
/// return them; a query that sees no key has weights of 0.
#[track_caller]
pub fn attention_weights(q_bhid: &Tensor, k_bgjd: &Tensor, options: &Attention<'_>) -> Tensor {
    let [q, k] = [q_bhid, k_bgjd];
    if let Some(message) = misfit([q, k, k], options) {
        return q.invalid("attention_weights", message);
    }
    let [b, h, i, _] = q.dims::<4>();
    weights(q, k, options).reshape([b, h, i, k.dims::<4>()[2]])
}

/// `[b, g, r, i, j]`
#[track_caller]
fn weights(q: &Tensor, k: &Tensor, options: &Attention<'_>) -> Tensor {
    let [b, h, i, d] = q.dims::<4>();
    let [_, g, j, _] = k.dims::<4>();
    let mask_bj = options.key_mask.map(|mask| mask.expand([b, j]));
    let see = Visible { causal: options.causal, window: options.window };
    let scale = scale_of(options, d);
    let mut scores = Scores::new(&grouped(q, g), &k.unsqueeze(2), mask_bj.as_ref(), see, scale);
    if let Some(mask) = options.mask {
        scores = scores.with(&mask.expand([b, h, i, j]).reshape([b, g, h / g.max(1), i, j]));
    }
    scores.weights()
}

fn scale_of(options: &Attention<'_>, width: usize) -> f64 {
    options.scale.unwrap_or_else(|| (width.max(1) as f64).sqrt().recip())
}

/// What does not fit together; `None` also where an operand carries an error, which then passes on.
fn misfit([q, k, v]: [&Tensor; 3], options: &Attention<'_>) -> Option<String> {
    if [q, k, v].into_iter().chain(options.key_mask).chain(options.mask).any(|t| t.error().is_some()) {
        return None;
    }
    let got = || {
        format!(
            "got q {}{}, k {}{}, v {}{}",
            q.dtype(),
            q.shape(),
            k.dtype(),
            k.shape(),
            v.dtype(),
            v.shape()
        )
    };
    if let ([b, h, _, d], [bk, g, _, dk]) = (q.shape().dims(), k.shape().dims()) {
        let dtypes = q.dtype().is_float() && q.dtype() == k.dtype() && k.dtype() == v.dtype();
        if dtypes && b == bk && d == dk && k.shape() == v.shape() && *g > 0 && h % g == 0 {
            return misfit_of_options(q, k, options);
        }
    }
    let expected = "expects q [batch, heads, queries, width], k and v [batch, key heads, keys, width] of one float dtype, \
        with key heads that divide the heads";
    Some(format!("{expected}; {}", got()))
}

/// What settings do not make sense, or not with these queries and keys.
fn misfit_of_options(q: &Tensor, k: &Tensor, options: &Attention<'_>) -> Option<String> {
    let ([b, h, i, _], [_, _, j, _]) = (q.dims::<4>(), k.dims::<4>());
    if options.window == Some(0) {
        return Some("a window of 0 keys shows nothing; use 1 or more".into());
    }
    if let Some(scale) = options.scale.filter(|scale| !scale.is_finite()) {
        return Some(format!("expects a finite scale, got {scale}"));
    }
    let fits = |mask: &Tensor, to: &[usize]| {
        let to = Shape::from(to);
        mask.shape().broadcast(&to).as_ref() == Some(&to)
    };
    if let Some(mask) = options.key_mask.filter(|m| m.dtype() != DType::Bool || !fits(m, &[b, j])) {
        let got = format!("{}{}", mask.dtype(), mask.shape());
        return Some(format!(
            "expects a key_mask bool[{b}, {j}] that is false where a key is padding, got {got}"
        ));
    }
    let wrong =
        |mask: &&Tensor| ![DType::Bool, q.dtype()].contains(&mask.dtype()) || !fits(mask, &[b, h, i, j]);
    let mask = options.mask.filter(wrong)?;
    let (float, got) = (q.dtype(), format!("{}{}", mask.dtype(), mask.shape()));
    Some(format!("expects a mask of bool or {float} that broadcasts to [{b}, {h}, {i}, {j}], got {got}"))
}

/// Flash attention as a function: `q [b, i, h, d]`, `k` and `v` `[b, j, g, d]`, and `mask [b, j]` give `[b, i, h, d]`.
#[track_caller]
fn attention(operands: &[Tensor], spec: AttentionSpec, scale: f64) -> Tensor {
    static KNOWN: Known<(AttentionSpec, u64, DType, Shape, Shape)> = Known::new();
    let operands: Vec<&Tensor> = operands.iter().collect();
    let (q, k) = (operands[0], operands[1]);
    if let Some(faulty) = operands.iter().find(|t| t.error().is_some()) {
        return (*faulty).clone();
    }
    // The exact scale matters where the body computes in f64.
    let key = (spec, scale.to_bits(), q.dtype(), q.shape().clone(), k.shape().clone());
    match KNOWN.get_or_make(key, || define(&operands, spec, scale)) {
        Ok(function) => call(&function, &operands)[0].clone(),
        Err(error) => q.invalid("scaled_dot_product_attention", error.to_string()),
    }
}

fn define(operands: &[&Tensor], spec: AttentionSpec, scale: f64) -> Result<Function, TensorError> {
    let forward = |args: &[Tensor]| forward(args, spec, scale).to_vec();
    let gradient = |b: &Backward<'_>| gradient(b, spec, scale).to_vec();
    let mut function = trace_function_with_gradient("attention", operands, 1, forward, gradient)?;
    function.kernel = Some(FunctionKernel::Attention(spec));
    function.gradient = function.gradient.map(|gradient| {
        let kernel = Some(FunctionKernel::AttentionGrad(spec));
        Arc::new(Function { kernel, ..Arc::unwrap_or_clone(gradient) })
    });
    Ok(function)
}

/// `out [b, i, h, d]` and the logarithms of the sums of exponentials `[b, h, i]`, 0 where nothing is visible.
#[track_caller]
fn forward(args: &[Tensor], spec: AttentionSpec, scale: f64) -> [Tensor; 2] {
    let [q, k, v] = [0, 1, 2].map(|n| args[n].permute(&[0, 2, 1, 3]));
    let [b, h, i, _] = q.dims::<4>();
    let scores =
        Scores::new(&grouped(&q, k.dims::<4>()[1]), &k.unsqueeze(2), args.get(3), spec.into(), scale);
    let max = scores.masked.amax(&[-1], true).detach();
    let e = scores.hide(&scores.masked.sub(&max).exp());
    let sum = e.sum(&[-1], true);
    let (zero, one) = (constant(0.0, &q), constant(1.0, &q));
    // A sum of exponentials that contains its largest term is at least 1, unless nothing is visible.
    let some = sum.gt(&zero);
    let total = some.where_(&sum, &one);
    let out = e.div(&total).matmul(&v.unsqueeze(2)).reshape(q.shape());
    let lse = some.where_(&max.add(total.log()), &zero).reshape([b, h, i]);
    [out.permute(&[0, 2, 1, 3]), lse]
}

/// The formulas of [`wgrad_ir::AttentionGradKernel`].
#[track_caller]
fn gradient(back: &Backward<'_>, spec: AttentionSpec, scale: f64) -> [Tensor; 3] {
    let heads_first = |t: &Tensor| t.permute(&[0, 2, 1, 3]);
    let [q, k, v] = [0, 1, 2].map(|n| heads_first(&back.operands[n]));
    let g = k.dims::<4>()[1];
    let [out, grad_out] = [&back.outputs[0], &back.cotangents[0]].map(|t| grouped(&heads_first(t), g));
    let (q_bgrid, k_bg1jd, v_bg1jd) = (grouped(&q, g), k.unsqueeze(2), v.unsqueeze(2));
    let lse = back.outputs[1].reshape(&q_bgrid.shape()[..4]).unsqueeze(-1);
    let scores = Scores::new(&q_bgrid, &k_bg1jd, back.operands.get(3), spec.into(), scale);
    let p = scores.hide(&scores.masked.sub(&lse).exp());
    let delta = grad_out.mul(&out).sum(&[-1], true);
    let slope = grad_out.matmul(&v_bg1jd.transpose(-2, -1)).sub(&delta);
    let ds = p.mul(&slope).mul(constant(scale, &q));
    let sum_heads = |t: Tensor| heads_first(&t.sum(&[2], false));
    let grad_q = heads_first(&ds.matmul(&k_bg1jd).reshape(q.shape()));
    let grad_k = sum_heads(ds.transpose(-2, -1).matmul(&q_bgrid));
    let grad_v = sum_heads(p.transpose(-2, -1).matmul(&grad_out));
    [grad_q, grad_k, grad_v]
}

/// `[b, h, i, d]` as `[b, g, r, i, d]`.
#[track_caller]
fn grouped(x_bhid: &Tensor, g: usize) -> Tensor {
    let [b, h, i, d] = x_bhid.dims::<4>();
    x_bhid.reshape([b, g, h / g.max(1), i, d])
}

fn constant(value: f64, like: &Tensor) -> Tensor {
    Tensor::constant(value, like.dtype(), like.device())
}

/// Which keys a query sees by its place.
#[derive(Clone, Copy)]
struct Visible {
    causal: bool,
    window: Option<usize>,
}

impl From<AttentionSpec> for Visible {
    fn from(spec: AttentionSpec) -> Self {
        Visible { causal: spec.causal, window: spec.window }
    }
}

impl Visible {
    /// `bool [i, j]`, computed from two ranges wherever it is used.
    #[track_caller]
    fn mask(self, queries: usize, keys: usize, device: &DeviceHandle) -> Option<Tensor> {
        let causal = self.causal.then(|| causal_mask(queries, keys, device));
        let window = self.window.map(|window| {
            let (query, key) = (Tensor::arange(queries, device).unsqueeze(-1), Tensor::arange(keys, device));
            let window = Tensor::constant(window as f64, DType::I32, device);
            query.sub(&key).abs().lt(&window)
        });
        match (causal, window) {
            (Some(causal), Some(window)) => Some(causal.logical_and(&window)),
            (causal, window) => causal.or(window),
        }
    }
}

/// Scaled scores `[b, g, r, i, j]`, the lowest finite number where a key is hidden.
struct Scores {
    masked: Tensor,
    visible: Option<Tensor>,
}

impl Scores {
    fn new(q_bgrid: &Tensor, k_bg1jd: &Tensor, mask_bj: Option<&Tensor>, see: Visible, scale: f64) -> Self {
        let [.., i, _] = q_bgrid.dims::<5>();
        let [b, _, _, j, _] = k_bg1jd.dims::<5>();
        let scores = q_bgrid.matmul(&k_bg1jd.transpose(-2, -1)).mul(constant(scale, q_bgrid));
        let by_place = see.mask(i, j, q_bgrid.device());
        let there = mask_bj.map(|mask| mask.reshape([b, 1, 1, 1, j]));
        let visible = match (by_place, there) {
            (Some(a), Some(b)) => Some(a.logical_and(&b)),
            (a, b) => a.or(b),
        };
        // A finite minimum: shaders may assume that infinities do not occur.
        let lowest = constant(f64::from(f32::MIN), q_bgrid);
        let masked = visible.as_ref().map_or_else(|| scores.clone(), |v| v.where_(&scores, &lowest));
        Scores { masked, visible }
    }

    /// With a mask `[b, g, r, i, j]`: bool hides, floats are added, of which minus infinity hides, too.
    fn with(self, mask: &Tensor) -> Self {
        let lowest = constant(f64::from(f32::MIN), &self.masked);
        let (masked, shown) = if mask.dtype() == DType::Bool {
            (self.masked, mask.clone())
        } else {
            let hides = mask.isinf().logical_and(mask.lt(constant(0.0, mask)));
            (self.masked.add(mask), hides.logical_not())
        };
        let visible = self.visible.map_or_else(|| shown.clone(), |visible| visible.logical_and(&shown));
        Scores { masked: visible.where_(&masked, &lowest), visible: Some(visible) }
    }

    /// `x`, and 0 where a key is hidden.
    #[track_caller]
    fn hide(&self, x: &Tensor) -> Tensor {
        self.visible.as_ref().map_or_else(|| x.clone(), |v| v.where_(x, &constant(0.0, x)))
    }

    /// The softmax over visible keys. Where all keys of a query are hidden it is uniform over them; such rows become zero.
    #[track_caller]
    fn weights(&self) -> Tensor {
        self.hide(&self.masked.softmax(-1))
    }
}

/// `bool [queries, keys]`, true where `key <= query`; computed from two ranges wherever it is used, not stored.
#[track_caller]
pub fn causal_mask(queries: usize, keys: usize, device: &DeviceHandle) -> Tensor {
    let query = Tensor::arange(queries, device).unsqueeze(-1);
    let mask = query.ge(Tensor::arange(keys, device));
    debug_assert!(mask.error().is_some() || mask.dtype() == DType::Bool);
    mask
}
