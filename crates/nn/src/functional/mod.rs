//! Layers and losses as functions of tensors, without parameters of their own; names as in `torch.nn.functional`.

mod activation;
mod assignment;
mod attention;
mod batch_norm;
pub mod boxes;
mod conv;
mod ctc;
mod ctc_decode;
mod dropout;
mod known;
mod linear_cross_entropy;
mod loss;
mod norm;
mod pool;
mod positions;
mod recurrent;

use wgrad_tensor::Tensor;

pub use activation::{
    celu, elu, geglu, gelu, gelu_tanh, glu, hardshrink, hardsigmoid, hardswish, hardtanh, leaky_relu,
    logsigmoid, mish, prelu, quick_gelu, relu, relu6, selu, sigmoid, silu, softplus, softshrink, softsign,
    swiglu, tanh, tanhshrink, threshold,
};
pub use assignment::linear_sum_assignment;
pub use attention::{Attention, attention_weights, causal_mask, scaled_dot_product_attention};
pub use batch_norm::{Statistics, batch_norm, batch_norm_train};
pub use conv::{
    Conv, ConvTranspose, Padding, conv, conv_transpose, conv_transpose1d, conv_transpose2d, conv_transpose3d,
    conv1d, conv2d, conv3d,
};
pub use ctc::{CtcOptions, ctc_loss};
pub use ctc_decode::{CtcDecoded, ctc_beam_decode, ctc_greedy_decode};
pub(crate) use dropout::dropout_by;
pub use dropout::{alpha_dropout, dropout, feature_dropout};
pub use linear_cross_entropy::linear_cross_entropy;
pub use loss::{
    CrossEntropy, Reduction, binary_cross_entropy, binary_cross_entropy_with_logits, cosine_embedding_loss,
    cross_entropy, cross_entropy_with, dice_loss, gaussian_nll_loss, hinge_embedding_loss, hinge_loss,
    huber_loss, info_nce, kl_div, l1_loss, margin_ranking_loss, mse_loss, multi_margin_loss, nll_loss,
    pairwise_distance, poisson_nll_loss, sigmoid_focal_loss, smooth_l1_loss, triplet_margin_loss,
};
pub use norm::{group_norm, instance_norm, layer_norm, local_response_norm, rms_norm, weight_norm};
pub use pool::{
    AvgPool, MaxPool, adaptive_avg_pool, adaptive_max_pool, avg_pool, avg_pool1d, avg_pool2d, avg_pool3d,
    max_pool, max_pool1d, max_pool2d, max_pool3d, pixel_shuffle, pixel_unshuffle, unfold,
};
pub use positions::{alibi, alibi_slopes, sinusoidal_positions};
pub(crate) use recurrent::misfit as recurrent_misfit;
pub use recurrent::{Cell, CellWeights, recurrence};

/// A number of a formula, in the dtype and on the device of `x`.
pub(crate) fn like(value: f64, x: &Tensor) -> Tensor {
    Tensor::constant(value, x.dtype(), x.device())
}

/// `x Wᵀ + b`: `x [.., in]`, `weight [out, in]`, `bias [out]` give `[.., out]`.
#[track_caller]
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    add_bias(x.matmul(&weight.t()), bias)
}

#[track_caller]
pub(crate) fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Tensor {
    match bias {
        Some(bias) => y.add(bias),
        None => y,
    }
}
