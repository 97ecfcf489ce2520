//! Sliding windows, and the convolution that all others are made of.

use wgrad_ir::{ConvAxis, ConvSpec, Op};

use crate::Tensor;

impl Tensor {
    /// Overlapping windows along an axis, which becomes the number of the window; the places within a window are a new last axis:
    /// element `(o, .., j)` is element `o * step + j * dilation` of the axis. As many windows as fit (PyTorch's `unfold`, with
    /// holes). Its gradient adds up what windows share.
    ///
    /// `size`, `step` and `dilation` are at least 1, and one window must fit.
    #[track_caller]
    pub fn window(&self, dim: isize, size: usize, step: usize, dilation: usize) -> Tensor {
        match self.axis(dim, 0) {
            Ok(axis) => Tensor::apply("window", Op::Window { axis, size, step, dilation }, &[self]),
            Err(message) => self.fail("window", message),
        }
    }

    /// The convolution (cross-correlation) `y [n, g, o, p..] = Σ_{c, taps} filters [g, o, c, taps..] x [n, g, c, ..]` of floats, with
    /// an axis of its own for groups, and strides, dilations and paddings for each spatial axis. Layers' convolutions are reshapes
    /// around it: see `wgrad_nn::functional::conv2d`.
    #[track_caller]
    pub fn conv(&self, filters: &Tensor, axes: &[ConvAxis]) -> Tensor {
        let spec = ConvSpec { axes: axes.iter().copied().collect(), by_group: false };
        Tensor::apply("conv", Op::Conv(spec), &[self, filters])
    }
}
