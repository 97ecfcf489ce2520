//! Language models that predict the next token.

pub(super) mod corpus;
mod evaluate;
mod recipe;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wgrad_data::{Tokenizer, TokenizerSpec, WindowSampler};
use wgrad_models::{
    AutoModelForCausalLM, CausalLanguageModel, Gpt2Init, Gpt2LMHead, InitScheme, LlamaForCausalLM,
    gguf::GgufFile,
};
use wgrad_nn::{Context, Init, Module};
use wgrad_tensor::{DType, DeviceHandle, Tensor};

use self::corpus::{Corpus, Validation, fingerprint};
use self::evaluate::{next_token_loss, validation_loss};
use super::batch::{Batch, Column, HostBatch};
use super::{
    BatchMaker, Measured, Offers, Opening, Task, TaskOptions, TaskRecipe, TaskSpec, Units, Writer, check_room,
};
use crate::error::{Result, TrainError};
use crate::plan::Savings;
use crate::pretrained::{Pretrained, is_gguf};
use crate::recipe::{Precision, Recipe, RecipeError, SampleRecipe, Sections, TrainRecipe, check};
use crate::sample::{self, SampleOptions};
use crate::scores::{bits_per_byte, perplexity};

pub use self::recipe::{DecoderRecipe, ModelKind, TextRecipe};

/// `[model]` and `[data]` of a language model.
pub type CausalLmRecipe = Sections<TaskOptions, DecoderRecipe, TextRecipe>;

/// Fewer tokens than this make products too flat to be fast.
const SMALLEST_CHUNK: usize = 128;

impl TaskSpec for CausalLmRecipe {
    fn validate(
        &mut self,
        train: &mut TrainRecipe,
        sample: &mut Option<SampleRecipe>,
    ) -> Result<(), RecipeError> {
        self.model.validate()?;
        let own = self.model.pretrained.is_none() || self.data.tokenizer == TokenizerSpec::default();
        check("data.tokenizer", own, "another one", || "absent: model.pretrained has its own".into())?;
        self.model.complete(train, sample)
    }

    fn root(&mut self) -> &mut Option<PathBuf> {
        &mut self.data.root
    }

    fn width(&self) -> Option<usize> {
        self.model.n_embd
    }

    fn adapts(&self) -> Option<PathBuf> {
        self.model.folder(self.data.root())
    }

    /// Dropout may change.
    fn changed(&self, other: &TaskRecipe) -> Option<&'static str> {
        let TaskRecipe::CausalLm(other) = other else { return Some("task.kind") };
        let mut expected = self.model.clone();
        expected.resid_pdrop = other.model.resid_pdrop;
        expected.embd_pdrop = other.model.embd_pdrop;
        expected.attn_pdrop = other.model.attn_pdrop;
        let is_file = |r: &CausalLmRecipe| matches!(r.data.tokenizer, TokenizerSpec::File { .. });
        let same_tokens = self.data.tokenizer == other.data.tokenizer || is_file(self) && is_file(other);
        match (expected == other.model, same_tokens) {
            (true, true) => None,
            (false, _) => Some("[model]"),
            (true, false) => Some("data.tokenizer"),
        }
    }

    fn open(
        &self,
        recipe: &Recipe,
        opening: &Opening<'_>,
        device: &DeviceHandle,
        warn: &mut dyn FnMut(String),
    ) -> Result<Box<dyn Task>> {
        let train = &recipe.train;
        let init = Init::new(device, train.seed);
        let new = |vocab_size, scheme| -> Result<Box<dyn CausalLanguageModel>> {
            Ok(Box::new(Gpt2LMHead::new(&self.model.config(vocab_size), &init, scheme)?))
        };
        let base = self.model.folder(self.data.root());
        let (mut model, corpus) = match (opening, &base) {
            (Opening::Plan, Some(base)) => (planned(base, &init)?, None),
            (Opening::Plan, None) => (new(self.vocabulary()?, Gpt2Init::Zeros)?, None),
            (Opening::Begin { cache }, Some(base)) => {
                let (model, tokenizer) = load(base, device, warn)?;
                let parameters = model.num_parameters();
                check_room(recipe, parameters, "another model.pretrained, or `[lora]`", device)?;
                (model, Some(Corpus::build(&self.data, train, Some(tokenizer), *cache, warn)?))
            }
            (Opening::Begin { cache }, None) => {
                let corpus = Corpus::build(&self.data, train, None, *cache, warn)?;
                let vocab_size = corpus.tokenizer.vocab_size();
                let parameters = self.model.config(vocab_size).parameters();
                check_room(recipe, parameters, "model.n_layer, model.n_embd, the vocabulary", device)?;
                (new(vocab_size, self.model.scheme())?, Some(corpus))
            }
            (Opening::Resume { cache, checkpoint }, base) => {
                let (model, tokenizer) = match base {
                    Some(base) if recipe.lora.is_some() => {
                        (load(base, device, warn)?.0, Tokenizer::load(checkpoint)?)
                    }
                    Some(_) => load(checkpoint, device, warn)?,
                    None => {
                        let tokenizer = Tokenizer::load(checkpoint)?;
                        (new(tokenizer.vocab_size(), Gpt2Init::Zeros)?, tokenizer)
                    }
                };
                (model, Some(Corpus::build(&self.data, train, Some(tokenizer), Some(*cache), warn)?))
            }
            (Opening::Evaluate { folder }, _) => {
                let (model, tokenizer) = load(folder, device, warn)?;
                let validation = Validation::build(&self.data, train, &tokenizer, None, warn)?;
                (model, Some(Corpus { tokenizer, train: None, validation }))
            }
        };
        check("train.context", train.context() <= model.max_context(), train.context(), || {
            format!("at most the longest context of the model, {}", model.max_context())
        })?;
        model.set_gradient_checkpointing(train.gradient_checkpointing.unwrap_or_default());
        let loss_chunk = train.loss_chunk.unwrap_or_default();
        Ok(Box::new(CausalLm { model, corpus, context: train.context(), loss_chunk }))
    }
}

/// A trained model with its tokenizer.
fn load(
    path: &Path,
    device: &DeviceHandle,
    warn: &mut dyn FnMut(String),
) -> Result<(Box<dyn CausalLanguageModel>, Tokenizer)> {
    Ok(Pretrained::load(path, device, warn)?.into_parts())
}

/// A model like the one in a folder or file, to be planned with: its weights are zeros where that is cheaper than reading them.
fn planned(path: &Path, init: &Init) -> Result<Box<dyn CausalLanguageModel>> {
    if is_gguf(path) {
        let config = GgufFile::open(path)?.llama_config()?;
        return Ok(Box::new(LlamaForCausalLM::new(&config, init, InitScheme::Zeros)?));
    }
    Ok(AutoModelForCausalLM::from_pretrained_as(path, init)?)
}

impl CausalLmRecipe {
    /// Token ids that the model needs, without the training text where the recipe says how many.
    fn vocabulary(&self) -> Result<usize> {
        let root = self.data.root();
        match self.data.tokenizer.vocab_size(root)? {
            Some(size) => Ok(size),
            None => Ok(self.data.tokenizer.build(&self.data.train.resolve(root)?, root)?.vocab_size()),
        }
    }
}

/// A language model and its text.
struct CausalLm {
    model: Box<dyn CausalLanguageModel>,
    /// Not there where a step is only planned.
    corpus: Option<Corpus>,
    context: usize,
    loss_chunk: usize,
}

impl CausalLm {
    fn corpus(&self) -> Result<&Corpus> {
        self.corpus.as_ref().ok_or(TrainError::NoData("text"))
    }

    fn train(&self) -> Result<&Arc<wgrad_data::TokenStream>> {
        self.corpus()?.train.as_ref().ok_or(TrainError::NoData("training text"))
    }
}

impl Task for CausalLm {
    fn module(&self) -> &dyn Module {
        &*self.model
    }

    fn units(&self) -> Units {
        Units { example: "window", unit: "token", per_example: self.context, data: "text" }
    }

    fn columns(&self) -> Vec<Column> {
        ["input_ids", "labels"].map(|name| Column::new(name, DType::I32, [self.context])).to_vec()
    }

    fn loss(&self, batch: &Batch, ctx: &Context) -> Tensor {
        let (inputs, targets) = (batch.get("input_ids"), batch.get("labels"));
        next_token_loss(&*self.model, &inputs, &targets, self.loss_chunk, ctx)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        Ok(self.model.save_pretrained(folder)?)
    }

    fn save_beside(&self, folder: &Path) -> Result<()> {
        Ok(self.corpus()?.tokenizer.save(folder)?)
    }

    fn batches(&self, examples: usize, seed: u64) -> Result<BatchMaker> {
        let stream = Arc::clone(self.train()?);
        let sampler = WindowSampler::new(stream.len(), self.context, examples, seed)?;
        let context = self.context;
        Ok(Box::new(move |step| {
            let windows = sampler.batch(&stream, step)?;
            let batch = HostBatch::default().with("input_ids", &[context], windows.inputs);
            Ok(batch.with("labels", &[context], windows.targets))
        }))
    }

    fn fingerprint(&self) -> Result<(u64, u32)> {
        fingerprint(self.train()?)
    }

    fn describe(&self) -> String {
        let Some(corpus) = &self.corpus else { return String::new() };
        let train = corpus.train.as_ref().map_or(0, |stream| stream.len());
        format!("{train} training tokens, {} validation tokens", corpus.validation.stream.len())
    }

    fn evaluate(&self, examples: usize, precision: Precision) -> Result<Measured> {
        let validation = &self.corpus()?.validation;
        let loss = validation_loss(&*self.model, validation, examples, self.loss_chunk, precision)?;
        Ok(Measured { loss, metrics: Vec::new(), units: validation.tokens() })
    }

    fn report(&self, measured: &Measured) -> Vec<(String, String)> {
        let loss = measured.loss;
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| lines.push((name.to_owned(), value));
        let validation = self.corpus.as_ref().map(|corpus| &corpus.validation);
        if let Some(v) = validation {
            line("windows", format!("{} of {} tokens", v.starts.len(), v.context));
        }
        line("validation loss", format!("{loss:.4} nats per token"));
        line("perplexity", format!("{:.3}", perplexity(loss)));
        if let Some(v) = validation {
            line("bits per byte", format!("{:.4}", bits_per_byte(loss, v.bytes_per_token())));
        }
        lines
    }

    fn writer(&self) -> Option<&dyn Writer> {
        Some(self)
    }

    fn offers(&self, examples: usize) -> Offers {
        let (width, vocab_size) = (self.model.hidden_size(), self.model.vocab_size());
        let chunk = suggested_chunk(examples * self.context, width, vocab_size);
        Offers { gradient_checkpointing: true, loss_chunk: chunk }
    }

    fn set_savings(&mut self, savings: Savings) {
        self.model.set_gradient_checkpointing(savings.gradient_checkpointing);
        self.loss_chunk = savings.loss_chunk;
    }
}

impl Writer for CausalLm {
    fn write(&self, prompt: &str, options: &SampleOptions, each: &mut dyn FnMut(&str) -> bool) -> Result<()> {
        sample::generate(&*self.model, &self.corpus()?.tokenizer, prompt, options, each)
    }
}

/// A chunk whose logits take about as much memory as the gradient of the output layer, which two chunks hand to each other; nothing
/// where that is all tokens, or the vocabulary so small that logits do not matter.
fn suggested_chunk(tokens: usize, width: usize, vocab_size: usize) -> Option<usize> {
    let chunk = width.next_power_of_two().max(SMALLEST_CHUNK);
    (chunk < tokens && vocab_size > (4 * width).max(1024)).then_some(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_of_logits_is_about_as_large_as_the_gradient_of_the_output_layer() {
        assert_eq!(suggested_chunk(8192, 768, 50_257), Some(1024));
        assert_eq!(suggested_chunk(8192, 32, 4096), Some(128));
        // Few tokens, or a vocabulary that is not much wider than the model.
        assert_eq!(suggested_chunk(128, 32, 50_257), None);
        assert_eq!(suggested_chunk(1024, 128, 512), None);
        assert_eq!(suggested_chunk(1024, 32, 256), None);
    }
}
