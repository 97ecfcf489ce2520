//! Activation functions.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use crate::Tensor;

impl Tensor {
    /// `max(x, 0)`; the gradient at 0 is 0.
    #[track_caller]
    pub fn relu(&self) -> Tensor {
        // Selecting on `x <= 0` (not on `x > 0`) lets NaN through.
        let zero = self.constant_like(0.0);
        self.le(&zero).where_(&zero, self)
    }

    /// `1 / (1 + e^(-x))`, without overflow at either end.
    #[track_caller]
    pub fn sigmoid(&self) -> Tensor {
        // With z = |x| written as a choice, so that the gradient at 0 is that of the right branch.
        let positive = self.ge(self.constant_like(0.0));
        let e = positive.where_(&self.neg(), self).exp();
        let one = self.constant_like(1.0);
        positive.where_(&one, &e).div(one.add(&e))
    }

    /// `x sigmoid(x)`, also called swish.
    #[track_caller]
    pub fn silu(&self) -> Tensor {
        self.mul(self.sigmoid())
    }

    /// The Gaussian error linear unit `x Φ(x) = x/2 (1 + erf(x/√2))` (Hendrycks and Gimpel, 2016).
    #[track_caller]
    pub fn gelu(&self) -> Tensor {
        let half = self.constant_like(0.5);
        let one = self.constant_like(1.0);
        let phi = self.mul(self.constant_like(FRAC_1_SQRT_2)).erf().add(one).mul(half);
        self.mul(phi)
    }

    /// GELU by `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`, as GPT-2 uses it (`gelu_new` in Hugging Face's names).
    #[track_caller]
    pub fn gelu_tanh(&self) -> Tensor {
        let c = |value: f64| self.constant_like(value);
        let cubic = self.square().mul(self).mul(c(0.044715));
        let inner = self.add(cubic).mul(c((2.0 / PI).sqrt()));
        self.mul(c(0.5)).mul(inner.tanh().add(c(1.0)))
    }

    /// The elements limited to `[min, max]`; the gradient is that of the identity from `min` to `max`, both included, else 0.
    /// Where `min` is above `max`, all elements are `max`, as in PyTorch. The limits are parameters of the program.
    #[track_caller]
    pub fn clamp(&self, min: f64, max: f64) -> Tensor {
        let floor = if min > max { max } else { min };
        self.clamp_min(floor).clamp_max(max)
    }
}
