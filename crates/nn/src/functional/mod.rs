//! Layers and losses as functions of tensors, without parameters of their own; names as in `torch.nn.functional`.

mod attention;
mod known;
mod linear_cross_entropy;
mod loss;

use wgrad_ir::Shape;
use wgrad_tensor::Tensor;

use crate::Context;

pub use attention::{Attention, causal_mask, scaled_dot_product_attention};
pub use linear_cross_entropy::linear_cross_entropy;
pub use loss::{cross_entropy, mse_loss};

/// `x Φ(x)`, exact.
pub fn gelu(x: &Tensor) -> Tensor {
    x.gelu()
}

/// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
pub fn gelu_tanh(x: &Tensor) -> Tensor {
    x.gelu_tanh()
}

/// `x Wᵀ + b`: `x [.., in]`, `weight [out, in]`, `bias [out]` give `[.., out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    add_bias(x.matmul(&weight.t()), bias)
}

pub(crate) fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Tensor {
    match bias {
        Some(bias) => y.add(bias),
        None => y,
    }
}

/// `(x - E[x]) / √(Var[x] + eps) * weight + bias` over the last axis, with the biased variance (Ba, Kiros and Hinton,
/// 2016). `x [.., d]`, `weight` and `bias` `[d]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Tensor {
    let centred = x.sub(x.mean(&[-1], true));
    let variance = centred.square().mean(&[-1], true);
    add_bias(centred.mul(variance.add(eps).rsqrt()).mul(weight), bias)
}

/// In training, sets each element to zero with probability `p` and divides the others by `1 - p` (Srivastava et al.,
/// 2014); the identity in evaluation. The mask depends on the context's seed, step and stream, on no device.
///
/// A `p` outside of `[0, 1]` is an error that the result carries.
#[track_caller]
pub fn dropout(x: &Tensor, p: f64, ctx: &Context) -> Tensor {
    if !(0.0..=1.0).contains(&p) {
        return x.invalid("dropout", format!("expects a probability in [0, 1], got {p}"));
    }
    if !ctx.is_training() || p == 0.0 {
        return x.clone();
    }
    // At p = 1 nothing is kept; a scale of 1/0 would turn the gradient into 0 * inf.
    let scale = if p < 1.0 { (1.0 - p).recip() } else { 0.0 };
    let uniform = Tensor::random_uniform(Shape::from(x.shape()), &ctx.next_key(), x.device());
    uniform.ge(p).where_(&x.mul(scale), &Tensor::constant(0.0, x.dtype(), x.device()))
}
