//! Pooling, as layers without parameters.

use wgrad_tensor::Tensor;

use crate::{
    Module,
    functional::{self, adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool},
};

/// The largest element of each window; see [`functional::max_pool`].
#[derive(Clone, Copy, Debug, Module)]
pub struct MaxPool<const N: usize> {
    /// Kernel, strides, padding.
    #[module(skip)]
    pub options: functional::MaxPool<N>,
}

/// The mean of each window; see [`functional::avg_pool`].
#[derive(Clone, Copy, Debug, Module)]
pub struct AvgPool<const N: usize> {
    /// Kernel, strides, padding.
    #[module(skip)]
    pub options: functional::AvgPool<N>,
}

/// Means over as many windows as wanted; see [`functional::adaptive_avg_pool`].
#[derive(Clone, Copy, Debug, Module)]
pub struct AdaptiveAvgPool<const N: usize> {
    /// How many windows along each axis.
    #[module(skip)]
    pub output: [usize; N],
}

/// Maxima over as many windows as wanted; see [`functional::adaptive_max_pool`].
#[derive(Clone, Copy, Debug, Module)]
pub struct AdaptiveMaxPool<const N: usize> {
    /// How many windows along each axis.
    #[module(skip)]
    pub output: [usize; N],
}

macro_rules! dimensions {
    ($($general:ident: $one:ident $two:ident $three:ident),* $(,)?) => {$(
        #[doc = concat!("[`", stringify!($general), "`] along the last axis.")]
        pub type $one = $general<1>;
        #[doc = concat!("[`", stringify!($general), "`] along the last two axes.")]
        pub type $two = $general<2>;
        #[doc = concat!("[`", stringify!($general), "`] along the last three axes.")]
        pub type $three = $general<3>;
    )*};
}

dimensions!(
    MaxPool: MaxPool1d MaxPool2d MaxPool3d,
    AvgPool: AvgPool1d AvgPool2d AvgPool3d,
    AdaptiveAvgPool: AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d,
    AdaptiveMaxPool: AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d,
);

impl<const N: usize> MaxPool<N> {
    /// Windows side by side.
    pub fn new(kernel: [usize; N]) -> Self {
        MaxPool { options: functional::MaxPool::new(kernel) }
    }

    /// `[.., sp..]` to `[.., windows..]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        max_pool(x, &self.options)
    }
}

impl<const N: usize> AvgPool<N> {
    /// Windows side by side.
    pub fn new(kernel: [usize; N]) -> Self {
        AvgPool { options: functional::AvgPool::new(kernel) }
    }

    /// `[.., sp..]` to `[.., windows..]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        avg_pool(x, &self.options)
    }
}

impl<const N: usize> AdaptiveAvgPool<N> {
    /// So many windows.
    pub fn new(output: [usize; N]) -> Self {
        AdaptiveAvgPool { output }
    }

    /// `[.., sp..]` to `[.., output..]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        adaptive_avg_pool(x, self.output)
    }
}

impl<const N: usize> AdaptiveMaxPool<N> {
    /// So many windows.
    pub fn new(output: [usize; N]) -> Self {
        AdaptiveMaxPool { output }
    }

    /// `[.., sp..]` to `[.., output..]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        adaptive_max_pool(x, self.output)
    }
}
