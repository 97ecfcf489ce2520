//! Text to token ids and back.

mod bpe;
mod bytes;
mod decode;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::bpe::{BpeOptions, BpeTokenizer};
pub use self::decode::DecodeStream;
use crate::{DataError, Documents, Result};

/// The file that holds a tokenizer in a model's folder, as Hugging Face names it.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Which tokenizer a recipe wants.
///
/// ```toml
/// tokenizer = { kind = "bytes" }
/// tokenizer = { kind = "bpe", vocab_size = 8192 }               # trained on the training text
/// tokenizer = { kind = "file", path = "smollm/tokenizer.json" } # relative to the recipe's folder
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum TokenizerSpec {
    /// One token per byte.
    #[default]
    Bytes,
    /// A byte-level BPE, trained on the training text.
    Bpe(BpeOptions),
    /// An existing `tokenizer.json`.
    File {
        /// The file, or the folder that holds it, relative to the recipe's folder.
        path: PathBuf,
    },
}

impl TokenizerSpec {
    /// Makes the tokenizer; `text` is the training text, `base` the folder of the recipe.
    ///
    /// # Errors
    /// Those of [`Tokenizer::train_bpe`] and [`Tokenizer::load`].
    pub fn build(&self, text: &Documents, base: &Path) -> Result<Tokenizer> {
        match self {
            Self::Bytes => Ok(Tokenizer::Bytes),
            Self::Bpe(options) => Tokenizer::train_bpe(text, options),
            Self::File { path } => Tokenizer::load(&base.join(path)),
        }
    }
}

/// Turns text into token ids and back.
#[derive(Clone, Debug)]
pub enum Tokenizer {
    /// One token per byte, the id being the byte: 256 tokens, any file, nothing to train.
    Bytes,
    /// A byte-level BPE, or any other tokenizer that a Hugging Face `tokenizer.json` describes.
    Bpe(Box<BpeTokenizer>),
}

impl Tokenizer {
    /// Trains a byte-level BPE on `text`. The same text and options give the same tokenizer.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if the vocabulary cannot hold the 256 bytes and the special tokens,
    /// [`DataError::NotUtf8`] or [`DataError::Io`] for a text that cannot be read, [`DataError::Tokenizer`] if the
    /// training fails.
    pub fn train_bpe(text: &Documents, options: &BpeOptions) -> Result<Self> {
        Ok(Self::Bpe(Box::new(BpeTokenizer::train(text, options)?)))
    }

    /// Reads the tokenizer of a model's folder (its `tokenizer.json`), or a file of that format.
    ///
    /// A file written by [`save`](Self::save) for [`Tokenizer::Bytes`] comes back as that.
    ///
    /// # Errors
    /// [`DataError::Io`] if the file cannot be read, [`DataError::Tokenizer`] if it describes no tokenizer.
    pub fn load(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_path_buf() };
        let json = fs::read_to_string(&file).map_err(DataError::io("read", &file))?;
        Self::from_json(json, &file.display().to_string())
    }

    /// The tokenizer that the contents of a `tokenizer.json` describe; `origin` is where they come from, for messages.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if they describe none.
    pub fn from_json(json: String, origin: &str) -> Result<Self> {
        if bytes::is_bytes_tokenizer(&json) {
            return Ok(Self::Bytes);
        }
        let action = format!("load the tokenizer `{origin}`");
        Ok(Self::Bpe(Box::new(BpeTokenizer::from_json(json, &action)?)))
    }

    /// Writes `tokenizer.json` into the existing folder `dir`.
    ///
    /// A loaded tokenizer is written back byte for byte. [`Tokenizer::Bytes`] is written as a byte-level BPE
    /// without merges whose ids are the bytes, so that other programs that read a model's folder need to know
    /// nothing of this one.
    ///
    /// # Errors
    /// [`DataError::Io`] if the file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let file = dir.join(TOKENIZER_FILE);
        let json = match self {
            Self::Bytes => bytes::tokenizer_json(),
            Self::Bpe(bpe) => bpe.json().to_owned(),
        };
        fs::write(&file, json).map_err(DataError::io("write", &file))
    }

    /// Number of token ids a model needs: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bytes => 256,
            Self::Bpe(bpe) => bpe.vocab_size(),
        }
    }

    /// The token ids of `text`; no special tokens are added around it.
    ///
    /// # Errors
    /// [`DataError::NotUtf8`] unless this is [`Tokenizer::Bytes`], which takes any bytes;
    /// [`DataError::Tokenizer`] if the tokenizer refuses the text.
    pub fn encode(&self, text: impl AsRef<[u8]>) -> Result<Vec<u32>> {
        let text = text.as_ref();
        match self {
            Self::Bytes => Ok(text.iter().map(|&byte| u32::from(byte)).collect()),
            Self::Bpe(bpe) => bpe.encode(text),
        }
    }

    /// The token ids of each text, computed in parallel where that pays.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_batch(&self, texts: &[Vec<u8>]) -> Result<Vec<Vec<u32>>> {
        match self {
            Self::Bytes => texts.iter().map(|text| self.encode(text)).collect(),
            Self::Bpe(bpe) => bpe.encode_batch(texts),
        }
    }

    /// The text of `ids`. Bytes that are not UTF-8 become U+FFFD; special tokens are kept.
    ///
    /// # Errors
    /// [`DataError::UnknownToken`] for an id outside the vocabulary, [`DataError::Tokenizer`] if the tokenizer's
    /// decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match self {
            Self::Bytes => {
                let bytes: Vec<u8> = ids.iter().map(|&id| byte_of(id)).collect::<Result<_>>()?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Self::Bpe(bpe) => bpe.decode(ids),
        }
    }

    /// Decodes ids one at a time, as generation yields them.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// Bytes that differ between tokenizers with different results; part of the key of a token cache.
    pub(crate) fn identity(&self) -> &[u8] {
        match self {
            Self::Bytes => b"bytes",
            Self::Bpe(bpe) => bpe.json().as_bytes(),
        }
    }
}

fn byte_of(id: u32) -> Result<u8> {
    u8::try_from(id).map_err(|_| DataError::UnknownToken { id, vocab_size: 256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_ids_are_the_bytes() {
        let ids = Tokenizer::Bytes.encode("hé").expect("any text");
        assert_eq!(ids, [0x68, 0xc3, 0xa9]);
        assert_eq!(Tokenizer::Bytes.decode(&ids).expect("bytes"), "hé");
        assert_eq!(Tokenizer::Bytes.encode([0xff_u8]).expect("any bytes"), [255]);
        assert_eq!(Tokenizer::Bytes.decode(&[0xff]).expect("bytes"), "\u{fffd}");
    }

    #[test]
    fn a_byte_id_above_255_is_an_error() {
        assert!(matches!(Tokenizer::Bytes.decode(&[256]), Err(DataError::UnknownToken { id: 256, .. })));
    }

    #[test]
    fn the_bytes_tokenizer_survives_its_folder() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Tokenizer::Bytes.save(dir.path()).expect("saved");
        assert!(matches!(Tokenizer::load(dir.path()), Ok(Tokenizer::Bytes)));
    }

    #[test]
    fn a_folder_without_a_tokenizer_and_a_broken_file_are_errors() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert!(matches!(Tokenizer::load(dir.path()), Err(DataError::Io { .. })));
        fs::write(dir.path().join(TOKENIZER_FILE), "{\"model\": 3}").expect("written");
        let error = Tokenizer::load(dir.path()).expect_err("no tokenizer").to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
    }

    #[test]
    fn a_recipe_names_each_kind_of_tokenizer() {
        #[derive(Deserialize)]
        struct Recipe {
            tokenizer: TokenizerSpec,
        }
        let spec = |text: &str| toml::from_str::<Recipe>(text).map(|recipe| recipe.tokenizer);
        assert_eq!(spec("tokenizer = { kind = 'bytes' }"), Ok(TokenizerSpec::Bytes));
        let bpe = spec("tokenizer = { kind = 'bpe', vocab_size = 512 }");
        assert_eq!(bpe, Ok(TokenizerSpec::Bpe(BpeOptions::new(512))));
        let file = spec("tokenizer = { kind = 'file', path = 'a/tokenizer.json' }");
        assert_eq!(file, Ok(TokenizerSpec::File { path: "a/tokenizer.json".into() }));
        assert!(spec("tokenizer = { kind = 'bpe', vocab = 512 }").is_err());
    }
}
