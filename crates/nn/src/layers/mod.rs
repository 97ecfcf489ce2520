//! Layers: modules with parameters of their own, one file each.

mod attention;
mod batch_norm;
mod conv;
mod dropout;
mod embedding;
mod linear;
mod multihead;
mod norm;
mod pool;
mod recurrent;
mod sequential;
mod transformer;

pub use attention::CausalSelfAttention;
pub use batch_norm::{BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d};
pub use conv::{
    Conv, Conv1d, Conv2d, Conv3d, ConvTranspose, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d,
};
pub use dropout::{AlphaDropout, Dropout, Dropout1d, Dropout2d, Dropout3d, FeatureDropout};
pub use embedding::Embedding;
pub use linear::{Conv1D, Linear};
pub use multihead::MultiheadAttention;
pub use norm::{GroupNorm, InstanceNorm, LayerNorm, RMSNorm};
pub use pool::{
    AdaptiveAvgPool, AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d, AdaptiveMaxPool,
    AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d, AvgPool, AvgPool1d, AvgPool2d, AvgPool3d,
    MaxPool, MaxPool1d, MaxPool2d, MaxPool3d,
};
pub use recurrent::{GRU, LSTM, RNN, RecurrentOptions};
pub use sequential::{Layer, Sequential};
pub use transformer::{
    TransformerConfig, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder,
    TransformerEncoderLayer,
};
