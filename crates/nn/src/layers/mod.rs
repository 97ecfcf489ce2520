//! Layers: modules with parameters of their own, one file each.

mod attention;
mod dropout;
mod embedding;
mod linear;
mod multihead;
mod norm;
mod transformer;

pub use attention::CausalSelfAttention;
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use linear::{Conv1D, Linear};
pub use multihead::MultiheadAttention;
pub use norm::{GroupNorm, InstanceNorm, LayerNorm, RMSNorm};
pub use transformer::{
    TransformerConfig, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder,
    TransformerEncoderLayer,
};
