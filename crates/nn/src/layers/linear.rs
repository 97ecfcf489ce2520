//! Affine maps.

use std::sync::{Arc, PoisonError, RwLock};

use wgrad_tensor::Tensor;

use crate::{Init, Initializer, Module, Param, Visitor, functional, lora::Lora};

/// `x Wᵀ + b`, with the weight stored as PyTorch's `Linear` stores it.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// Shared by clones, as the parameters are.
    adapter: Arc<RwLock<Option<Lora>>>,
}

impl Module for Linear {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.linear(self);
        visitor.field("weight", |visitor| self.weight.visit(visitor));
        visitor.field("bias", |visitor| self.bias.visit(visitor));
        if let Some(Lora { a, b, .. }) = self.adapter() {
            visitor.field("lora_A.weight", |visitor| a.visit(visitor));
            visitor.field("lora_B.weight", |visitor| b.visit(visitor));
        }
    }
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
        let weight = init.param([outputs, inputs], weight);
        Self::of(weight, bias.map(|initializer| init.param([outputs], initializer)))
    }

    /// Of parameters that there are: `weight [out, in]` and `bias [out]`; clones of another module's are tied to it.
    pub fn of(weight: Param, bias: Option<Param>) -> Self {
        Linear { weight, bias, adapter: Arc::default() }
    }

    /// `[.., in]` to `[.., out]`; with what an adapter ([`crate::lora`]) adds, where there is one.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let bias = self.bias.as_ref().map(Param::tensor);
        let y = functional::linear(x, &self.weight.tensor(), bias.as_ref());
        match self.adapter() {
            Some(lora) => y.add(lora.forward(x)),
            None => y,
        }
    }

    /// Whether an adapter ([`crate::lora`]) adds to what it computes, so that its weight alone does not say that.
    pub fn is_adapted(&self) -> bool {
        self.adapter().is_some()
    }

    pub(crate) fn adapter(&self) -> Option<Lora> {
        self.adapter.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn adapt(&self, adapter: Option<Lora>) {
        *self.adapter.write().unwrap_or_else(PoisonError::into_inner) = adapter;
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
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.matmul(&self.weight.tensor()).add(self.bias.tensor())
    }
}
