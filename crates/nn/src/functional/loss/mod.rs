//! Losses, as functions of predictions and targets.

mod binary;
mod classification;
mod embedding;
mod reduction;
mod regression;

use wgrad_tensor::Tensor;

pub use binary::{
    binary_cross_entropy, binary_cross_entropy_with_logits, dice_loss, hinge_loss, sigmoid_focal_loss,
};
pub use classification::{
    CrossEntropy, cross_entropy, cross_entropy_with, kl_div, multi_margin_loss, nll_loss,
};
pub(in crate::functional) use classification::{checked, misfit};
pub use embedding::{
    cosine_embedding_loss, hinge_embedding_loss, info_nce, margin_ranking_loss, pairwise_distance,
    triplet_margin_loss,
};
pub use reduction::Reduction;
pub use regression::{gaussian_nll_loss, huber_loss, l1_loss, mse_loss, poisson_nll_loss, smooth_l1_loss};

/// A loss of two tensors of one shape; others are an error that the result carries, for broadcasting would hide a mistake.
#[track_caller]
fn equal_shapes(
    name: &'static str,
    prediction: &Tensor,
    target: &Tensor,
    loss: impl FnOnce(&Tensor, &Tensor) -> Tensor,
) -> Tensor {
    if let Some(faulty) = [prediction, target].into_iter().find(|t| t.error().is_some()) {
        return faulty.clone();
    }
    if prediction.shape() != target.shape() || prediction.dtype() != target.dtype() {
        let message = format!(
            "expects operands of one shape and dtype, got {}{} and {}{}",
            prediction.dtype(),
            prediction.shape(),
            target.dtype(),
            target.shape()
        );
        return prediction.invalid(name, message);
    }
    loss(prediction, target).blame_caller(&[prediction, target])
}
