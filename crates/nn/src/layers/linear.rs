//! Affine maps.

use wgrad_tensor::Tensor;

use crate::{Init, Initializer, Module, Param, functional};

/// `x Wᵀ + b`, with the weight stored as PyTorch's `Linear` stores it.
#[derive(Clone, Debug, Module)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
}

impl Linear {
    /// Weight and bias uniform on `±1/√in`, PyTorch's default.
    pub fn new(init: &Init, inputs: usize, outputs: usize, bias: bool) -> Self {
        let initializer = Initializer::linear_default(inputs);
        Self::with(init, inputs, outputs, initializer, bias.then_some(initializer))
    }

    /// With the given initial values; no bias where none are given.
    pub fn with(
        init: &Init,
        inputs: usize,
        outputs: usize,
        weight: Initializer,
        bias: Option<Initializer>,
    ) -> Self {
        Linear {
            weight: init.param([outputs, inputs], weight),
            bias: bias.map(|initializer| init.param([outputs], initializer)),
        }
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        functional::linear(x, &self.weight.tensor(), self.bias.as_ref().map(Param::tensor).as_ref())
    }
}

/// `x W + b`: an affine map whose weight is stored the other way round, as in Hugging Face's GPT-2 (where it is called so
/// because it is a convolution of width 1).
#[derive(Clone, Debug, Module)]
pub struct Conv1D {
    /// `[in, out]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Param,
}

impl Conv1D {
    /// With the given initial weights, and a bias of zeros.
    pub fn new(init: &Init, inputs: usize, outputs: usize, weight: Initializer) -> Self {
        Conv1D {
            weight: init.param([inputs, outputs], weight),
            bias: init.param([outputs], Initializer::Zeros),
        }
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.matmul(&self.weight.tensor()).add(self.bias.tensor())
    }
}
