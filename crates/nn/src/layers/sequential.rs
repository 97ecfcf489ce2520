//! Layers one after the other.

use std::fmt;

use wgrad_tensor::Tensor;

use super::{
    AdaptiveAvgPool, AdaptiveMaxPool, AlphaDropout, AvgPool, BatchNorm, Conv, Conv1D, ConvTranspose, Dropout,
    Embedding, FeatureDropout, GroupNorm, InstanceNorm, LayerNorm, Linear, MaxPool, RMSNorm,
};
use crate::{Activation, Context, Module, Visitor};

/// A module that takes one tensor and gives one: what a [`Sequential`] holds. Implement it for layers of your own.
pub trait Layer: Module + fmt::Debug + Send + Sync {
    /// The result for `x`, in a pass that `ctx` describes.
    #[track_caller]
    fn forward(&self, x: &Tensor, ctx: &Context) -> Tensor;
}

/// Layers one after the other; parameters are named by number, `0.weight`, as in PyTorch.
///
/// ```
/// # let device: wgrad_tensor::DeviceHandle = std::sync::Arc::new(wgrad_cpu::CpuDevice::new());
/// use wgrad_nn::{Activation, Context, Dropout, Init, Linear, Module, Sequential};
/// use wgrad_tensor::{DType, Tensor};
/// let init = Init::new(&device, 1);
/// let mlp = Sequential::new()
///     .push(Linear::new(&init, 4, 8, true))
///     .push(Activation::Relu)
///     .push(Dropout::new(0.1))
///     .push(Linear::new(&init, 8, 2, true));
/// let y = mlp.forward(&Tensor::zeros([3, 4], DType::F32, &device), &Context::eval());
/// assert_eq!(y.shape().dims(), [3, 2]);
/// let names: Vec<String> = mlp.named_parameters().into_iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["0.weight", "0.bias", "3.weight", "3.bias"]);
/// ```
#[derive(Debug, Default)]
pub struct Sequential {
    layers: Vec<Box<dyn Layer>>,
}

impl Sequential {
    /// Without layers: the identity.
    pub fn new() -> Self {
        Sequential::default()
    }

    /// With one more layer at the end.
    #[must_use]
    pub fn push(mut self, layer: impl Layer + 'static) -> Self {
        self.layers.push(Box::new(layer));
        self
    }

    /// The layers, from input to output.
    pub fn layers(&self) -> &[Box<dyn Layer>] {
        &self.layers
    }

    /// The last layer's result.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, ctx: &Context) -> Tensor {
        self.layers.iter().fold(x.clone(), |x, layer| layer.forward(&x, ctx))
    }
}

impl Module for Sequential {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        for (i, layer) in self.layers.iter().enumerate() {
            visitor.field(&i.to_string(), |visitor| layer.visit(visitor));
        }
    }
}

/// Layers: those after the semicolon have a number of axes. `passing` ones tell training and evaluation apart.
macro_rules! layers {
    ($($layer:ident)*; $($of_axes:ident)*) => {$(
        impl Layer for $layer {
            #[track_caller]
            fn forward(&self, x: &Tensor, _: &Context) -> Tensor {
                <$layer>::forward(self, x)
            }
        }
    )*$(
        impl<const N: usize> Layer for $of_axes<N> {
            #[track_caller]
            fn forward(&self, x: &Tensor, _: &Context) -> Tensor {
                <$of_axes<N>>::forward(self, x)
            }
        }
    )*};
    (passing: $($layer:ident)*; $($of_axes:ident)*) => {$(
        impl Layer for $layer {
            #[track_caller]
            fn forward(&self, x: &Tensor, ctx: &Context) -> Tensor {
                <$layer>::forward(self, x, ctx)
            }
        }
    )*$(
        impl<const N: usize> Layer for $of_axes<N> {
            #[track_caller]
            fn forward(&self, x: &Tensor, ctx: &Context) -> Tensor {
                <$of_axes<N>>::forward(self, x, ctx)
            }
        }
    )*};
}

layers! {
    Linear Conv1D Embedding LayerNorm RMSNorm GroupNorm InstanceNorm;
    Conv ConvTranspose MaxPool AvgPool AdaptiveAvgPool AdaptiveMaxPool
}

layers! {
    passing: Dropout AlphaDropout BatchNorm Sequential;
    FeatureDropout
}

impl Layer for Activation {
    #[track_caller]
    fn forward(&self, x: &Tensor, _: &Context) -> Tensor {
        Activation::forward(*self, x)
    }
}

/// Nothing to train.
impl Module for Activation {
    fn visit(&self, _: &mut Visitor<'_>) {}
}
