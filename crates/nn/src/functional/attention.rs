//! Attention.
//!
//! Legend: b batch, h heads, i queries, j keys, d width of a head.

use wgrad_ir::DType;
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::{Context, functional::dropout};

/// What [`scaled_dot_product_attention`] may be told besides its operands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attention<'a> {
    /// Query `i` sees key `j` only if `j <= i`.
    pub causal: bool,
    /// Which keys are there, `bool [b, j]`: false hides padding.
    pub key_mask: Option<&'a Tensor>,
    /// What the scores are multiplied by; `1/√d` if it is not given.
    pub scale: Option<f64>,
    /// Probability with which an attention weight is dropped in training.
    pub dropout: f64,
}

/// `softmax(scale * q kᵀ + mask) v` (Vaswani et al., 2017): `q [b, h, i, d]`, `k` and `v` `[b, h, j, d]` give `[b, h, i, d]`.
///
/// A query that sees no key at all gives zeros.
#[track_caller]
pub fn scaled_dot_product_attention(
    q_bhid: &Tensor,
    k_bhjd: &Tensor,
    v_bhjd: &Tensor,
    options: &Attention<'_>,
    ctx: &Context,
) -> Tensor {
    let [.., queries, width] = q_bhid.dims::<4>();
    let [.., keys, _] = k_bhjd.dims::<4>();
    let (dtype, device) = (q_bhid.dtype(), q_bhid.device());
    let scale = options.scale.unwrap_or_else(|| (width.max(1) as f64).sqrt().recip());
    let scores_bhij = q_bhid.matmul(&k_bhjd.transpose(-2, -1)).mul(scale);

    let causal_ij = options.causal.then(|| causal_mask(queries, keys, device));
    let present_b11j = options.key_mask.map(|mask| mask.unsqueeze(1).unsqueeze(1));
    let visible = match (&causal_ij, &present_b11j) {
        (Some(causal), Some(present)) => Some(causal.logical_and(present)),
        (causal, present) => causal.as_ref().or(present.as_ref()).cloned(),
    };
    let weights_bhij = match &visible {
        Some(visible) => {
            // A finite minimum: shaders may assume that infinities do not occur.
            let lowest = Tensor::constant(f64::from(f32::MIN), dtype, device);
            let weights = visible.where_(&scores_bhij, &lowest).softmax(-1);
            match options.key_mask {
                // Where all keys of a query are hidden the softmax is uniform over them; such rows become zero.
                Some(_) => visible.where_(&weights, &Tensor::constant(0.0, dtype, device)),
                None => weights,
            }
        }
        None => scores_bhij.softmax(-1),
    };
    dropout(&weights_bhij, options.dropout, ctx).matmul(v_bhjd)
}

/// `bool [queries, keys]`, true where `key <= query`; computed from two ranges wherever it is used, not stored.
pub fn causal_mask(queries: usize, keys: usize, device: &DeviceHandle) -> Tensor {
    let query = Tensor::arange(queries, device).unsqueeze(-1);
    let mask = query.ge(Tensor::arange(keys, device));
    debug_assert!(mask.error().is_some() || mask.dtype() == DType::Bool);
    mask
}
