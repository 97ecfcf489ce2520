//! A trained model in a folder: weights, configuration and tokenizer.

use std::path::{Path, PathBuf};

use wgrad_data::Tokenizer;
use wgrad_models::Gpt2LMHead;
use wgrad_tensor::DeviceHandle;

use crate::checkpoint::Checkpoint;
use crate::corpus::Validation;
use crate::error::Result;
use crate::evaluate::validation_loss;
use crate::recipe::Precision;
use crate::sample::{self, SampleOptions};

/// A language model and its tokenizer, as a checkpoint or a Hugging Face folder holds them: `config.json`,
/// `model.safetensors`, `tokenizer.json`.
#[derive(Debug)]
pub struct Pretrained {
    folder: PathBuf,
    model: Gpt2LMHead,
    tokenizer: Tokenizer,
}

impl Pretrained {
    /// Loads the model that `path` means: a run folder's last valid checkpoint, a checkpoint (its files are compared with their
    /// checksums), or any folder with the three files. A damaged checkpoint of a run is passed over; `warn` gets a sentence
    /// about it.
    ///
    /// # Errors
    /// There is no model, or its files are damaged or of another kind.
    pub fn load(path: &Path, device: &DeviceHandle, warn: impl FnMut(String)) -> Result<Self> {
        let folder = if path.join("config.json").is_file() && !Checkpoint::is_at(path) {
            path.to_owned()
        } else {
            Checkpoint::find(path, warn)?.0.path
        };
        let tokenizer = Tokenizer::load(&folder)?;
        let model = Gpt2LMHead::from_pretrained(&folder, device)?;
        Ok(Pretrained { folder, model, tokenizer })
    }

    /// The folder that was loaded.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model.
    pub fn model(&self) -> &Gpt2LMHead {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Mean cross-entropy on validation windows in nats per token, computed `batch` windows at a time, with logits of
    /// `loss_chunk` tokens at a time (0 for all of the batch).
    ///
    /// # Errors
    /// The windows are longer than the model's context, or the device fails.
    pub fn evaluate(&self, validation: &Validation, batch: usize, loss_chunk: usize) -> Result<f64> {
        validation_loss(&self.model, validation, batch, loss_chunk, Precision::F32)
    }

    /// Continues `prompt`; `each` gets the text piece by piece, without the prompt and only in whole characters, and returns
    /// whether to go on.
    ///
    /// # Errors
    /// A prompt that the tokenizer refuses or that is empty, or the device.
    pub fn generate(
        &self,
        prompt: &str,
        options: &SampleOptions,
        each: impl FnMut(&str) -> bool,
    ) -> Result<()> {
        sample::generate(&self.model, &self.tokenizer, prompt, options, each)
    }
}
