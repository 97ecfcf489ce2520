//! Convolutions.

use wgrad_ir::Shape;
use wgrad_tensor::Tensor;

use crate::{
    Init, Initializer, Module, Param,
    functional::{Conv as Options, ConvTranspose as TransposedOptions, conv, conv_transpose},
};

/// A convolution with weight and bias as PyTorch's `Conv1d`, `Conv2d` and `Conv3d` have them; see
/// [`functional::conv`](crate::functional::conv()).
#[derive(Clone, Debug, Module)]
pub struct Conv<const N: usize> {
    /// `[out, in / groups, taps..]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// Strides, padding, dilation, groups.
    #[module(skip)]
    pub options: Options<N>,
}

/// Over `[n, channels, t]`.
pub type Conv1d = Conv<1>;
/// Over `[n, channels, h, w]`.
pub type Conv2d = Conv<2>;
/// Over `[n, channels, d, h, w]`.
pub type Conv3d = Conv<3>;

impl<const N: usize> Conv<N> {
    /// Weight and bias uniform on `±1/√(in / groups * taps)`: PyTorch's default (`kaiming_uniform_` with `a = √5`).
    pub fn new(
        init: &Init,
        inputs: usize,
        outputs: usize,
        kernel: [usize; N],
        options: Options<N>,
        bias: bool,
    ) -> Self {
        let channels = inputs / options.groups.max(1);
        let shape: Shape = [outputs, channels].into_iter().chain(kernel).collect();
        let initializer = Initializer::linear_default(channels * kernel.iter().product::<usize>());
        Conv {
            weight: init.param(shape, initializer),
            bias: bias.then(|| init.param([outputs], initializer)),
            options,
        }
    }

    /// `[n, in, sp..]` to `[n, out, ..]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        conv(x, &self.weight.tensor(), self.bias.as_ref().map(Param::tensor).as_ref(), &self.options)
    }
}

/// A transposed convolution with weight and bias as PyTorch's `ConvTranspose1d`, `ConvTranspose2d` and `ConvTranspose3d` have them;
/// see [`functional::conv_transpose`](crate::functional::conv_transpose).
#[derive(Clone, Debug, Module)]
pub struct ConvTranspose<const N: usize> {
    /// `[in, out / groups, taps..]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// Strides, paddings, dilation, groups.
    #[module(skip)]
    pub options: TransposedOptions<N>,
}

/// Over `[n, channels, t]`.
pub type ConvTranspose1d = ConvTranspose<1>;
/// Over `[n, channels, h, w]`.
pub type ConvTranspose2d = ConvTranspose<2>;
/// Over `[n, channels, d, h, w]`.
pub type ConvTranspose3d = ConvTranspose<3>;

impl<const N: usize> ConvTranspose<N> {
    /// Weight and bias uniform on `±1/√(out / groups * taps)`: PyTorch's default.
    pub fn new(
        init: &Init,
        inputs: usize,
        outputs: usize,
        kernel: [usize; N],
        options: TransposedOptions<N>,
        bias: bool,
    ) -> Self {
        let channels = outputs / options.groups.max(1);
        let shape: Shape = [inputs, channels].into_iter().chain(kernel).collect();
        let initializer = Initializer::linear_default(channels * kernel.iter().product::<usize>());
        ConvTranspose {
            weight: init.param(shape, initializer),
            bias: bias.then(|| init.param([outputs], initializer)),
            options,
        }
    }

    /// `[n, in, sp..]` to `[n, out, ..]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        conv_transpose(
            x,
            &self.weight.tensor(),
            self.bias.as_ref().map(Param::tensor).as_ref(),
            &self.options,
        )
    }
}
