//! A trained model in a folder: weights, configuration and tokenizer.

use std::path::{Path, PathBuf};

use wgrad_data::Tokenizer;
use wgrad_models::Gpt2LMHead;
use wgrad_tensor::DeviceHandle;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
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
        let folder = model_folder(path, warn)?;
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

/// The folder that `path` means: itself where it holds a model, a checkpoint (its files are compared with their checksums), or a run
/// folder's last valid checkpoint.
pub(crate) fn model_folder(path: &Path, warn: impl FnMut(String)) -> Result<PathBuf> {
    if path.join("config.json").is_file() && !Checkpoint::is_at(path) {
        return Ok(path.to_owned());
    }
    Ok(Checkpoint::find(path, warn)?.0.path)
}
