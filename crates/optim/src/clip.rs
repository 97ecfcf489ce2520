//! Clipping of gradients.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use crate::{OptimError, error::check};

/// What is done to gradients that are too long.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Clipping {
    /// All gradients are scaled by `min(1, max_norm / (‖g‖ + 1e-6))`, where `‖g‖` is their global norm (Pascanu, Mikolov and
    /// Bengio, 2013): PyTorch's `clip_grad_norm_`.
    Norm(f64),
    /// Every element is moved into `-value..=value`: PyTorch's `clip_grad_value_`.
    Value(f64),
    /// Adaptive gradient clipping (Brock et al., 2021). The unit `i` of a parameter is what belongs to index `i` of its first
    /// dimension (a row of a linear layer, a filter of a convolution); a vector or scalar is one unit. Where
    /// `‖gᵢ‖ > λ max(‖wᵢ‖, ε)`, it becomes `gᵢ λ max(‖wᵢ‖, ε) / ‖gᵢ‖`.
    Adaptive {
        /// `λ`; the paper's 0.01 suits large batches.
        clip_factor: f64,
        /// `ε`, so that units of zeros can grow; the paper's is 1e-3.
        eps: f64,
    },
}

impl Clipping {
    /// Whether the limits make sense: numbers of 0 or more.
    ///
    /// # Errors
    /// [`OptimError::Value`] names the one that does not.
    pub fn check(&self) -> Result<(), OptimError> {
        let limit = |name: &str, found: f64| check(name, found >= 0.0, found, "0 or more");
        match *self {
            Clipping::Norm(max_norm) => limit("max_norm", max_norm),
            Clipping::Value(value) => limit("clip_value", value),
            Clipping::Adaptive { clip_factor, eps } => {
                limit("clip_factor", clip_factor)?;
                limit("eps", eps)
            }
        }
    }
}

/// `√(Σ g²)` over all elements of all gradients, rank 0; `None` for no gradients.
pub fn global_norm<'a>(gradients: impl IntoIterator<Item = &'a Tensor>) -> Option<Tensor> {
    gradients.into_iter().map(|g| g.square().sum_all()).reduce(|a, b| a.add(&b)).map(|sum| sum.sqrt())
}

/// `min(1, max_norm / (norm + 1e-6))`, what PyTorch's `clip_grad_norm_` multiplies each gradient by.
pub fn clip_coefficient(norm: &Tensor, max_norm: f64) -> Tensor {
    let constant = |value| Tensor::constant(value, norm.dtype(), norm.device());
    let max_norm = Tensor::scalar(max_norm, norm.dtype(), norm.device());
    max_norm.div(norm.add(constant(1e-6))).minimum(constant(1.0))
}

/// The elements of a gradient moved into `-value..=value`.
pub fn clip_value(gradient: &Tensor, value: f64) -> Tensor {
    gradient.minimum(value).maximum(-value)
}

/// A gradient, no unit of which is longer than `clip_factor` times the parameter's unit; see [`Clipping::Adaptive`].
pub fn clip_adaptive(param: &Tensor, gradient: &Tensor, clip_factor: f64, eps: f64) -> Tensor {
    let largest = unit_norm(param).maximum(eps).mul(clip_factor);
    let norm = unit_norm(gradient);
    // Where nothing is clipped the quotient is not used; its divisor must not be 0.
    let clipped = gradient.mul(largest.div(norm.maximum(1e-6)));
    norm.lt(&largest).where_(gradient, &clipped)
}

/// The norm of each unit, in a shape that broadcasts with the parameter's.
fn unit_norm(tensor: &Tensor) -> Tensor {
    if tensor.rank() < 2 {
        return tensor.square().sum_all().sqrt();
    }
    let others: Vec<isize> = (1..tensor.rank() as isize).collect();
    tensor.square().sum(&others, true).sqrt()
}
