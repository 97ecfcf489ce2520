//! A recipe's text as token streams.

use std::path::Path;
use std::sync::Arc;

use wgrad_data::{Documents, TokenStream, Tokenizer, validation_windows};

use super::TextRecipe;
use crate::error::{Result, TrainError};
use crate::recipe::TrainRecipe;

/// The splits of a recipe, and the tokenizer between them and the model.
#[derive(Clone, Debug)]
pub(super) struct Corpus {
    /// Text to ids and back.
    pub(super) tokenizer: Tokenizer,
    /// What is trained on, if it is wanted.
    pub(super) train: Option<Arc<TokenStream>>,
    /// What the loss is measured on.
    pub(super) validation: Validation,
}

/// The fixed windows on which a validation loss is measured.
#[derive(Clone, Debug)]
pub(super) struct Validation {
    /// The whole split.
    pub(super) stream: Arc<TokenStream>,
    /// Bytes of its text, to compare losses between tokenizers.
    pub(super) bytes: u64,
    /// Where the windows begin.
    pub(super) starts: Vec<usize>,
    /// Tokens per window.
    pub(super) context: usize,
}

impl Corpus {
    /// Reads and tokenises both splits; streams are cached in `cache`, where damaged ones are replaced, or in memory. `warn` gets a
    /// sentence about each damaged one. What cleaning does to the training split is told by `cleaning.json` beside the streams. `tokenizer` is that of a run which goes on; without one it is made as the recipe says.
    ///
    /// # Errors
    /// Text that cannot be read, or is shorter than one window.
    pub(super) fn build(
        data: &TextRecipe,
        train: &TrainRecipe,
        tokenizer: Option<Tokenizer>,
        cache: Option<&Path>,
        warn: &mut dyn FnMut(String),
    ) -> Result<Self> {
        let documents = data.train.resolve(data.root())?;
        report_cleaning(&documents, cache)?;
        let tokenizer = match tokenizer {
            Some(tokenizer) => tokenizer,
            None => data.tokenizer.build(&documents, data.root())?,
        };
        let stream = stream(&documents, &tokenizer, cache, warn)?;
        let validation = Validation::build(data, train, &tokenizer, cache, warn)?;
        Ok(Corpus { tokenizer, train: Some(Arc::new(stream)), validation })
    }
}

impl Validation {
    /// Reads and tokenises the validation split only.
    ///
    /// # Errors
    /// As [`Corpus::build`].
    pub(super) fn build(
        data: &TextRecipe,
        train: &TrainRecipe,
        tokenizer: &Tokenizer,
        cache: Option<&Path>,
        warn: &mut dyn FnMut(String),
    ) -> Result<Self> {
        let documents = data.validation.resolve(data.root())?;
        let stream = stream(&documents, tokenizer, cache, warn)?;
        let bytes = documents.text()?.len() as u64;
        let (context, windows) = (train.context(), train.validation_windows());
        let starts = validation_windows(stream.len(), context, windows)?;
        Ok(Validation { stream: Arc::new(stream), bytes, starts, context })
    }

    /// Mean bytes of text per token, over the whole split.
    pub(super) fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.stream.len() as f64
    }

    /// Tokens that are predicted.
    pub(super) fn tokens(&self) -> usize {
        self.starts.len() * self.context
    }
}

/// Makes the folder of streams, and tells there by `cleaning.json` what cleaning does to a text.
pub(in crate::task) fn report_cleaning(documents: &Documents, cache: Option<&Path>) -> Result<()> {
    let Some(cache) = cache else { return Ok(()) };
    std::fs::create_dir_all(cache).map_err(TrainError::io("make", cache))?;
    let Some(report) = documents.clean_report()? else { return Ok(()) };
    let path = cache.join("cleaning.json");
    let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::from);
    text.and_then(|text| std::fs::write(&path, text + "\n")).map_err(TrainError::io("write", &path))
}

/// The ids of a text, kept in `cache` where there is one.
pub(in crate::task) fn stream(
    documents: &Documents,
    tokenizer: &Tokenizer,
    cache: Option<&Path>,
    warn: &mut dyn FnMut(String),
) -> Result<TokenStream> {
    Ok(match cache {
        Some(cache) => TokenStream::build(documents, tokenizer, cache, warn)?,
        None => TokenStream::in_memory(documents, tokenizer)?,
    })
}

/// Length and CRC-32 of a stream's ids: equal for equal streams, wherever they are stored.
pub(in crate::task) fn fingerprint(stream: &TokenStream) -> Result<(u64, u32)> {
    const BLOCK: usize = 1 << 16;
    let mut hasher = crc32fast::Hasher::new();
    let mut bytes = Vec::with_capacity(BLOCK * 4);
    for start in (0..stream.len()).step_by(BLOCK) {
        bytes.clear();
        for id in stream.get(start..stream.len().min(start + BLOCK))? {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        hasher.update(&bytes);
    }
    Ok((stream.len() as u64, hasher.finalize()))
}
