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
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        functional::layer_norm(x, &self.weight.tensor(), tensor(&self.bias).as_ref(), self.eps)
    }
}

/// Divides the last axis by its root mean square, then scales it; see [`functional::rms_norm`].
#[derive(Clone, Debug, Module)]
pub struct RMSNorm {
    /// `[width]`, initially 1.
    pub weight: Param,
    /// Added to the mean of squares.
    pub eps: f64,
}

impl RMSNorm {
    /// With weights of 1.
    pub fn new(init: &Init, width: usize, eps: f64) -> Self {
        RMSNorm { weight: init.param([width], Initializer::Ones), eps }
    }

    /// `[.., width]` to the same shape.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        functional::rms_norm(x, &self.weight.tensor(), self.eps)
    }
}

/// Normalises groups of channels of each sample; see [`functional::group_norm`].
#[derive(Clone, Debug, Module)]
pub struct GroupNorm {
    /// `[channels]`, initially 1.
    pub weight: Option<Param>,
    /// `[channels]`, initially 0.
    pub bias: Option<Param>,
    /// How many groups; they divide the channels.
    pub num_groups: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl GroupNorm {
    /// With weight and bias, PyTorch's default.
    pub fn new(init: &Init, num_groups: usize, channels: usize, eps: f64) -> Self {
        GroupNorm {
            weight: Some(init.param([channels], Initializer::Ones)),
            bias: Some(init.param([channels], Initializer::Zeros)),
            num_groups,
            eps,
        }
    }

    /// `[n, channels, ..]` to the same shape.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let (weight, bias) = (tensor(&self.weight), tensor(&self.bias));
        functional::group_norm(x, self.num_groups, weight.as_ref(), bias.as_ref(), self.eps)
    }
}

/// Normalises each channel of each sample; see [`functional::instance_norm`].
#[derive(Clone, Debug, Module)]
pub struct InstanceNorm {
    /// `[channels]`, initially 1.
    pub weight: Option<Param>,
    /// `[channels]`, initially 0.
    pub bias: Option<Param>,
    /// Added to the variance.
    pub eps: f64,
}

impl InstanceNorm {
    /// Without weight and bias, PyTorch's default, unless `affine`.
    pub fn new(init: &Init, channels: usize, eps: f64, affine: bool) -> Self {
        let param = |initializer| affine.then(|| init.param([channels], initializer));
        InstanceNorm { weight: param(Initializer::Ones), bias: param(Initializer::Zeros), eps }
    }

    /// `[n, channels, ..]` to the same shape.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        functional::instance_norm(x, tensor(&self.weight).as_ref(), tensor(&self.bias).as_ref(), self.eps)
    }
}

fn tensor(param: &Option<Param>) -> Option<Tensor> {
    param.as_ref().map(Param::tensor)
}
