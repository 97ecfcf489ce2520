//! Normalisation.

use wgrad_tensor::Tensor;

use crate::{Init, Initializer, Module, Param, functional};

/// Normalises the last axis to mean 0 and variance 1, then scales and shifts it; see [`functional::layer_norm`].
#[derive(Clone, Debug, Module)]
pub struct LayerNorm {
    /// `[width]`, initially 1.
    pub weight: Param,
    /// `[width]`, initially 0.
    pub bias: Option<Param>,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// With a bias.
    pub fn new(init: &Init, width: usize, eps: f64) -> Self {
        LayerNorm {
            weight: init.param([width], Initializer::Ones),
            bias: Some(init.param([width], Initializer::Zeros)),
            eps,
        }
    }

    /// `[.., width]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        functional::layer_norm(
            x,
            &self.weight.tensor(),
            self.bias.as_ref().map(Param::tensor).as_ref(),
            self.eps,
        )
    }
}
