//! Model definitions, one file each, which read from top to bottom and name their parameters as Hugging Face does, so that a
//! folder of `config.json` and `model.safetensors` goes in and out unchanged.
#![forbid(unsafe_code)]

mod auto;
pub mod cnn;
mod error;
pub mod generate;
pub mod gpt2;
mod loss;
mod pretrained;

pub use auto::AutoModelForCausalLM;
pub use cnn::{Cnn, CnnConfig};
pub use error::ModelError;
pub use generate::{CausalLanguageModel, GenerateOptions, generate};
pub use gpt2::{Gpt2Config, Gpt2Init, Gpt2LMHead};
pub use loss::{IGNORED_LABEL, causal_loss};
