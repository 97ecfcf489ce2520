//! A recipe's text as token streams.

use std::path::Path;
use std::sync::Arc;

use wgrad_data::{TokenStream, Tokenizer, validation_windows};

use crate::error::{Result, TrainError};
use crate::recipe::Recipe;

/// The two splits of a recipe, and the tokenizer between them and the model.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// What is trained on.
    pub train: Arc<TokenStream>,
    /// What the loss is measured on.
    pub validation: Validation,
}

/// The fixed windows on which a validation loss is measured.
#[derive(Clone, Debug)]
pub struct Validation {
    /// The whole split.
    pub stream: Arc<TokenStream>,
    /// Bytes of its text, to compare losses between tokenizers.
    pub bytes: u64,
    /// Where the windows begin.
    pub starts: Vec<usize>,
    /// Tokens per window.
    pub context: usize,
}

impl Corpus {
    /// Reads and tokenises both splits; streams are cached in `cache`, where damaged ones are replaced: `warn` gets a sentence
    /// about each. `tokenizer` is that of a run which goes on; without one it is made as the recipe says.
    ///
    /// # Errors
    /// Text that cannot be read, or is shorter than one window.
    pub fn build(
        recipe: &Recipe,
        tokenizer: Option<Tokenizer>,
        cache: &Path,
        mut warn: impl FnMut(String),
    ) -> Result<Self> {
        std::fs::create_dir_all(cache).map_err(TrainError::io("make", cache))?;
        let root = recipe.data.root.as_deref().unwrap_or(Path::new(""));
        let documents = recipe.data.train.resolve(root)?;
        let tokenizer = match tokenizer {
            Some(tokenizer) => tokenizer,
            None => recipe.data.tokenizer.build(&documents, root)?,
        };
        let train = Arc::new(TokenStream::build(&documents, &tokenizer, cache, &mut warn)?);
        let validation = Validation::build(recipe, &tokenizer, Some(cache), warn)?;
        Ok(Corpus { tokenizer, train, validation })
    }
}

impl Validation {
    /// Reads and tokenises the validation split only; in memory where there is no `cache`.
    ///
    /// # Errors
    /// As [`Corpus::build`].
    pub fn build(
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        cache: Option<&Path>,
        warn: impl FnOnce(String),
    ) -> Result<Self> {
        let root = recipe.data.root.as_deref().unwrap_or(Path::new(""));
        let documents = recipe.data.validation.resolve(root)?;
        let stream = match cache {
            Some(cache) => TokenStream::build(&documents, tokenizer, cache, warn)?,
            None => TokenStream::in_memory(&documents, tokenizer)?,
        };
        let bytes = documents.text()?.len() as u64;
        let context = recipe.train.context;
        let starts = validation_windows(stream.len(), context, recipe.train.validation_windows)?;
        Ok(Validation { stream: Arc::new(stream), bytes, starts, context })
    }

    /// Mean bytes of text per token, over the whole split.
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.stream.len() as f64
    }
}

/// Length and CRC-32 of a stream's ids: equal for equal streams, wherever they are stored.
pub(crate) fn fingerprint(stream: &TokenStream) -> Result<(u64, u32)> {
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
