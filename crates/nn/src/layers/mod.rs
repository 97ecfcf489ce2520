//! Layers: modules with parameters of their own, one file each.

mod attention;
mod dropout;
mod embedding;
mod linear;
mod norm;

pub use attention::CausalSelfAttention;
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use linear::{Conv1D, Linear};
pub use norm::LayerNorm;
