//! Dropout.

use wgrad_tensor::Tensor;

use crate::{Context, Module, functional};

/// Sets elements to zero with probability `p` in training; see [`functional::dropout`].
#[derive(Clone, Copy, Debug, Module)]
pub struct Dropout {
    /// The probability.
    pub p: f64,
}

impl Dropout {
    /// With this probability; one outside of `[0, 1]` is reported by [`Dropout::forward`].
    pub fn new(p: f64) -> Self {
        Dropout { p }
    }

    /// The same shape.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, ctx: &Context) -> Tensor {
        functional::dropout(x, self.p, ctx)
    }
}
