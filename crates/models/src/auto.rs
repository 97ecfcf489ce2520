//! Models by the name that their folder gives them.

use std::path::Path;

use wgrad_nn::Init;
use wgrad_runtime::DeviceHandle;

use crate::{
    CausalLanguageModel, Gpt2LMHead, GptNeoXForCausalLM, LlamaForCausalLM, ModelError, llama::MODEL_TYPES,
    pretrained::read_model_type,
};

type Load = fn(&Path, &Init) -> Result<Box<dyn CausalLanguageModel>, ModelError>;

const CAUSAL: &[(&str, Load)] = &[
    ("gpt2", |dir, init| Ok(Box::new(Gpt2LMHead::from_pretrained_as(dir, init)?))),
    ("gpt_neox", |dir, init| Ok(Box::new(GptNeoXForCausalLM::from_pretrained_as(dir, init)?))),
    (MODEL_TYPES[0], llama),
    (MODEL_TYPES[1], llama),
    (MODEL_TYPES[2], llama),
    (MODEL_TYPES[3], llama),
];

fn llama(dir: &Path, init: &Init) -> Result<Box<dyn CausalLanguageModel>, ModelError> {
    Ok(Box::new(LlamaForCausalLM::from_pretrained_as(dir, init)?))
}

/// Language models by the `model_type` of a folder's `config.json`.
#[derive(Clone, Copy, Debug)]
pub struct AutoModelForCausalLM;

impl AutoModelForCausalLM {
    /// Reads a folder of `config.json` and `model.safetensors` (whole or in shards); weights become f32.
    ///
    /// # Errors
    /// The folder holds another kind of model, a file is missing or damaged, or the two do not fit together.
    pub fn from_pretrained(
        dir: &Path,
        device: &DeviceHandle,
    ) -> Result<Box<dyn CausalLanguageModel>, ModelError> {
        Self::from_pretrained_as(dir, &Init::new(device, 0))
    }

    /// As [`AutoModelForCausalLM::from_pretrained`], with the weights converted to the dtype of `init`.
    ///
    /// # Errors
    /// As there.
    pub fn from_pretrained_as(dir: &Path, init: &Init) -> Result<Box<dyn CausalLanguageModel>, ModelError> {
        let known: Vec<&str> = Self::model_types().collect();
        let name = read_model_type(dir, &known)?;
        let found = CAUSAL.iter().find(|(known, _)| *known == name);
        found.map_or_else(
            || Err(ModelError::Generate(format!("`{name}` is not a language model"))),
            |(_, load)| load(dir, init),
        )
    }

    /// The kinds that there are.
    pub fn model_types() -> impl Iterator<Item = &'static str> {
        CAUSAL.iter().map(|(name, _)| *name)
    }
}
