//! Neural-network modules, parameters, losses and initialisers, written once in terms of tensors.
//!
//! A model is a plain struct whose fields are [`Param`]s and other modules. `#[derive(Module)]` gives it named traversal, and
//! with it counting, freezing, saving and loading; a method `forward` computes. There are no globals: whether dropout is on,
//! and which random numbers it draws, is in the [`Context`] that `forward` is given.
#![forbid(unsafe_code)]

// So that the derive's paths hold in this crate's own modules, tests and examples too.
extern crate self as wgrad_nn;

mod activation;
mod context;
mod error;
mod files;
pub mod functional;
pub mod init;
mod layers;
pub mod lora;
mod module;
pub mod multi_task;
pub mod numpy;
mod param;
pub mod safetensors;

pub use activation::Activation;
pub use context::Context;
pub use error::NnError;
pub use init::{Init, Initializer};
pub use layers::{
    AdaptiveAvgPool, AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d, AdaptiveMaxPool,
    AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d, AlphaDropout, AvgPool, AvgPool1d, AvgPool2d,
    AvgPool3d, BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d, CausalSelfAttention, Conv, Conv1D, Conv1d,
    Conv2d, Conv3d, ConvTranspose, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, Dropout, Dropout1d,
    Dropout2d, Dropout3d, Embedding, FeatureDropout, GRU, GroupNorm, InstanceNorm, LSTM, Layer, LayerNorm,
    Linear, MaxPool, MaxPool1d, MaxPool2d, MaxPool3d, MultiheadAttention, RMSNorm, RNN, RecurrentOptions,
    Sequential, TransformerConfig, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder,
    TransformerEncoderLayer,
};
pub use module::{Module, Visitor, matches as name_matches};
pub use param::Param;
pub use wgrad_derive::Module;
