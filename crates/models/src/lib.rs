//! Model definitions, one file each, which read from top to bottom and name their parameters as Hugging Face does, so that a
//! folder of `config.json` and `model.safetensors` goes in and out unchanged.
#![forbid(unsafe_code)]

mod auto;
pub mod bart;
pub mod bert;
mod cache;
mod causal_lm;
pub mod cnn;
mod decoder;
mod error;
mod folders;
pub mod generate;
pub mod gguf;
pub mod gpt2;
pub mod gpt_neox;
mod heads;
pub mod llama;
mod loss;
pub mod marian;
mod pretrained;
pub mod roberta;
mod rotary;
pub mod seq2seq;
pub mod t5;
pub mod text_classifier;
pub mod transformer;

pub use auto::AutoModelForCausalLM;
pub use bart::{BartConfig, BartForConditionalGeneration};
pub use bert::{
    BertConfig, BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification,
    BertForTokenClassification, BertModel,
};
pub use cache::{CacheSpec, KeyValueCache};
pub use causal_lm::CausalLanguageModel;
pub use cnn::{Cnn, CnnConfig};
pub use decoder::InitScheme;
pub use error::ModelError;
pub use generate::{GenerateOptions, generate};
pub use gpt_neox::{GptNeoXConfig, GptNeoXForCausalLM};
pub use gpt2::{Gpt2Config, Gpt2Init, Gpt2LMHead};
pub use llama::{LlamaConfig, LlamaForCausalLM};
pub use loss::{IGNORED_LABEL, causal_loss};
pub use marian::MarianMTModel;
pub use roberta::{
    RobertaForMaskedLM, RobertaForQuestionAnswering, RobertaForSequenceClassification,
    RobertaForTokenClassification,
};
pub use rotary::RopeParameters;
pub use seq2seq::EncoderDecoder;
pub use t5::{T5Config, T5ForConditionalGeneration};
pub use text_classifier::{TextClassifier, TextClassifierConfig};
pub use transformer::{MultiTaskConfig, MultiTaskEncoder, TransformerSeq2Seq, TransformerSeq2SeqConfig};
