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

/// Sets whole channels to zero with probability `p` in training, where there are `N` axes besides; see
/// [`functional::feature_dropout`].
#[derive(Clone, Copy, Debug, Module)]
pub struct FeatureDropout<const N: usize> {
    /// The probability.
    pub p: f64,
}

/// [`FeatureDropout`] of `[n, channels, t]`.
pub type Dropout1d = FeatureDropout<1>;
/// [`FeatureDropout`] of `[n, channels, h, w]`.
pub type Dropout2d = FeatureDropout<2>;
/// [`FeatureDropout`] of `[n, channels, d, h, w]`.
pub type Dropout3d = FeatureDropout<3>;

impl<const N: usize> FeatureDropout<N> {
    /// With this probability; one outside of `[0, 1]` is reported by [`FeatureDropout::forward`].
    pub fn new(p: f64) -> Self {
        FeatureDropout { p }
    }

    /// The same shape.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, ctx: &Context) -> Tensor {
        functional::feature_dropout(x, self.p, N, ctx)
    }
}

/// Dropout for networks of SELUs; see [`functional::alpha_dropout`].
#[derive(Clone, Copy, Debug, Module)]
pub struct AlphaDropout {
    /// The probability.
    pub p: f64,
}

impl AlphaDropout {
    /// With this probability; one outside of `[0, 1]` is reported by [`AlphaDropout::forward`].
    pub fn new(p: f64) -> Self {
        AlphaDropout { p }
    }

    /// The same shape.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, ctx: &Context) -> Tensor {
        functional::alpha_dropout(x, self.p, ctx)
    }
}
