//! Text to token ids and back.

mod bytes;
mod decode;
mod encoder;
mod json;
mod special;
mod train;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::decode::DecodeStream;
pub use self::encoder::{EncodeOptions, Encoding, TextEncoder, Truncation};
pub use self::json::JsonTokenizer;
use self::special::CONFIG_FILE;
pub use self::special::SpecialTokens;
pub use self::train::{BpeOptions, UnigramOptions, WordPieceOptions};
pub use self::words::{WordOptions, WordTokenizer};
use crate::{DataError, Documents, Result};

/// The file that holds a tokenizer in a model's folder, as Hugging Face names it.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Which tokenizer a recipe wants. All but `bytes` and `file` are trained on the training text.
///
/// ```toml
/// tokenizer = { kind = "bytes" }
/// tokenizer = { kind = "bpe", vocab_size = 8192 }               # as GPT-2's
/// tokenizer = { kind = "wordpiece", vocab_size = 8192 }         # as BERT's
/// tokenizer = { kind = "unigram", vocab_size = 8192 }           # as SentencePiece's
/// tokenizer = { kind = "words", num_words = 1000, oov_token = "<unk>" } # as Keras'
/// tokenizer = { kind = "file", path = "smollm/tokenizer.json" } # relative to the recipe's folder
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum TokenizerSpec {
    /// One token per byte.
    #[default]
    Bytes,
    /// A byte-level BPE.
    Bpe(BpeOptions),
    /// A WordPiece tokenizer.
    WordPiece(WordPieceOptions),
    /// A unigram tokenizer.
    Unigram(UnigramOptions),
    /// Keras' word tokenizer; every file is one text.
    Words(WordOptions),
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
    /// Those of [`Tokenizer::train_bpe`] and its like, and of [`Tokenizer::load`].
    pub fn build(&self, text: &Documents, base: &Path) -> Result<Tokenizer> {
        match self {
            Self::Bytes => Ok(Tokenizer::Bytes),
            Self::Bpe(options) => Tokenizer::train_bpe(text, options),
            Self::WordPiece(options) => Tokenizer::train_wordpiece(text, options),
            Self::Unigram(options) => Tokenizer::train_unigram(text, options),
            Self::Words(options) => Tokenizer::train_words(text, options),
            Self::File { path } => Tokenizer::load(&base.join(path)),
        }
    }

    /// Token ids that a model needs at most, where that is known without the training text.
    ///
    /// # Errors
    /// A `file` that cannot be read.
    pub fn vocab_size(&self, base: &Path) -> Result<Option<usize>> {
        Ok(match self {
            Self::Bytes => Some(Tokenizer::Bytes.vocab_size()),
            Self::Bpe(options) => Some(options.vocab_size),
            Self::WordPiece(options) => Some(options.vocab_size),
            Self::Unigram(options) => Some(options.vocab_size),
            Self::Words(options) => options.num_words,
            Self::File { path } => Some(Tokenizer::load(&base.join(path))?.vocab_size()),
        })
    }
}

/// Turns text into token ids and back.
#[derive(Clone, Debug)]
pub enum Tokenizer {
    /// One token per byte, the id being the byte: 256 tokens, any file, nothing to train.
    Bytes,
    /// Any tokenizer that a Hugging Face `tokenizer.json` describes.
    Json(Box<JsonTokenizer>),
    /// Keras' word tokenizer.
    Words(Box<WordTokenizer>),
}

impl Tokenizer {
    /// Trains a byte-level BPE on `text`. The same text and options give the same tokenizer.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if the vocabulary cannot hold the 256 bytes and the special tokens,
    /// [`DataError::NotUtf8`] or [`DataError::Io`] for a text that cannot be read, [`DataError::Tokenizer`] if the
    /// training fails.
    pub fn train_bpe(text: &Documents, options: &BpeOptions) -> Result<Self> {
        Ok(Self::Json(Box::new(JsonTokenizer::train_bpe(text, options)?)))
    }

    /// Trains a WordPiece tokenizer on `text`.
    ///
    /// # Errors
    /// As [`train_bpe`](Self::train_bpe).
    pub fn train_wordpiece(text: &Documents, options: &WordPieceOptions) -> Result<Self> {
        Ok(Self::Json(Box::new(JsonTokenizer::train_wordpiece(text, options)?)))
    }

    /// Trains a unigram tokenizer on `text`.
    ///
    /// # Errors
    /// As [`train_bpe`](Self::train_bpe).
    pub fn train_unigram(text: &Documents, options: &UnigramOptions) -> Result<Self> {
        Ok(Self::Json(Box::new(JsonTokenizer::train_unigram(text, options)?)))
    }

    /// Fits Keras' word tokenizer on the documents of `text`.
    ///
    /// # Errors
    /// As [`WordTokenizer::fit`], and for a document that cannot be read or is not UTF-8.
    pub fn train_words(text: &Documents, options: &WordOptions) -> Result<Self> {
        let texts = text.texts().map(|text| json::into_utf8(text?)).collect::<Result<Vec<String>>>()?;
        Ok(Self::Words(Box::new(WordTokenizer::fit(texts, options)?)))
    }

    /// Reads the tokenizer of a model's folder (its `tokenizer.json`, and `tokenizer_config.json` where there is one), or a
    /// file of the former's format.
    ///
    /// A file written by [`save`](Self::save) for [`Tokenizer::Bytes`] comes back as that, and what Keras'
    /// `Tokenizer.to_json` wrote as [`Tokenizer::Words`].
    ///
    /// # Errors
    /// [`DataError::Io`] if a file cannot be read, [`DataError::Tokenizer`] if it describes no tokenizer.
    pub fn load(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_path_buf() };
        let json = fs::read_to_string(&file).map_err(DataError::io("read", &file))?;
        let origin = file.display().to_string();
        let tokenizer = Self::from_json(json, &origin)?;
        let config = file.with_file_name(CONFIG_FILE);
        match (tokenizer, fs::read_to_string(&config)) {
            (Self::Json(json), Ok(text)) => {
                let action = format!("load the tokenizer `{origin}`");
                Ok(Self::Json(Box::new(json.with_config(text, &action)?)))
            }
            (Self::Json(_), Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(DataError::io("read", &config)(error))
            }
            (tokenizer, _) => Ok(tokenizer),
        }
    }

    /// The tokenizer that the contents of a `tokenizer.json` describe; `origin` is where they come from, for messages.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if they describe none.
    pub fn from_json(json: String, origin: &str) -> Result<Self> {
        let action = format!("load the tokenizer `{origin}`");
        let document: Value = serde_json::from_str(&json)
            .map_err(|error| DataError::tokenizer(&action, format!("expected JSON, found: {error}")))?;
        if bytes::is_bytes_tokenizer(&document) {
            return Ok(Self::Bytes);
        }
        if WordTokenizer::is_keras(&document) {
            return Ok(Self::Words(Box::new(WordTokenizer::from_json(json, &action)?)));
        }
        Ok(Self::Json(Box::new(JsonTokenizer::from_json(json, &action)?)))
    }

    /// Writes `tokenizer.json` into the existing folder `dir`, and `tokenizer_config.json` where there is one.
    ///
    /// A loaded tokenizer is written back byte for byte. [`Tokenizer::Bytes`] is written as a byte-level BPE
    /// without merges whose ids are the bytes, so that other programs that read a model's folder need to know
    /// nothing of this one; [`Tokenizer::Words`] as Keras' `Tokenizer.to_json`.
    ///
    /// # Errors
    /// [`DataError::Io`] if a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let write = |name: &str, text: &str| {
            let file = dir.join(name);
            fs::write(&file, text).map_err(DataError::io("write", &file))
        };
        match self {
            Self::Bytes => write(TOKENIZER_FILE, &bytes::tokenizer_json()),
            Self::Words(words) => write(TOKENIZER_FILE, words.json()),
            Self::Json(json) => {
                write(TOKENIZER_FILE, json.json())?;
                json.config().map_or(Ok(()), |config| write(CONFIG_FILE, config))
            }
        }
    }

    /// Number of token ids a model needs: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bytes => 256,
            Self::Json(json) => json.vocab_size(),
            Self::Words(words) => words.vocab_size(),
        }
    }

    /// The ids of tokens with a role.
    pub fn special_tokens(&self) -> SpecialTokens {
        match self {
            Self::Bytes => SpecialTokens::default(),
            Self::Json(json) => json.special_tokens(),
            Self::Words(words) => {
                SpecialTokens { pad: Some(0), unk: words.oov_id(), ..SpecialTokens::default() }
            }
        }
    }

    /// Refuses a model whose embedding has no row for some token: the folder's tokenizer is another model's. More rows than
    /// tokens are usual, since they are padded to a round number.
    ///
    /// # Errors
    /// [`DataError::Vocabulary`] if `rows` is less than [`vocab_size`](Self::vocab_size).
    pub fn check_model(&self, rows: usize) -> Result<()> {
        match self.vocab_size() {
            tokens if tokens > rows => Err(DataError::Vocabulary { tokens, rows }),
            _ => Ok(()),
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
            Self::Json(json) => json.encode(text),
            Self::Words(words) => Ok(words.text_to_sequence(json::as_utf8(text)?)),
        }
    }

    /// The token ids of each text, computed in parallel where that pays.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_batch(&self, texts: &[Vec<u8>]) -> Result<Vec<Vec<u32>>> {
        match self {
            Self::Bytes | Self::Words(_) => texts.iter().map(|text| self.encode(text)).collect(),
            Self::Json(json) => json.encode_batch(texts),
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
            Self::Json(json) => json.decode(ids),
            Self::Words(words) => {
                words.check_ids(ids)?;
                Ok(words.sequence_to_text(ids))
            }
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
            Self::Json(json) => json.json().as_bytes(),
            Self::Words(words) => words.json().as_bytes(),
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
    fn every_tokenizer_survives_its_folder() {
        const TEXT: &str = "the lowest of the low and the newest of the new";
        let text = Documents::from_texts([TEXT, "and more of it"]);
        for spec in [
            TokenizerSpec::Bpe(BpeOptions::new(270)),
            TokenizerSpec::WordPiece(WordPieceOptions::new(60)),
            TokenizerSpec::Unigram(UnigramOptions::new(40)),
            TokenizerSpec::Words(WordOptions { num_words: Some(6), ..WordOptions::default() }),
        ] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let tokenizer = spec.build(&text, dir.path()).expect("trained");
            let most = spec.vocab_size(dir.path()).expect("known");
            assert!(most.is_some_and(|most| tokenizer.vocab_size() <= most), "{spec:?}");
            tokenizer.save(dir.path()).expect("saved");
            let again = Tokenizer::load(dir.path()).expect("loaded");
            assert_eq!(again.special_tokens(), tokenizer.special_tokens());
            let ids = tokenizer.encode(TEXT).expect("encoded");
            assert!(!ids.is_empty() && ids == again.encode(TEXT).expect("encoded"), "{spec:?}");
            let few = matches!(spec, TokenizerSpec::Words(_));
            let text = again.decode(&ids).expect("decoded");
            assert_eq!(text, if few { "the lowest of the low and the of the" } else { TEXT }, "{spec:?}");
            let mut stream = again.decode_stream();
            let pieces: String = ids.iter().map(|&id| stream.push(id).expect("known")).collect();
            assert_eq!(pieces + &stream.finish().expect("decoded"), text, "{spec:?}");
        }
    }

    #[test]
    fn a_model_with_fewer_rows_than_tokens_is_refused() {
        assert!(Tokenizer::Bytes.check_model(300).is_ok() && Tokenizer::Bytes.check_model(256).is_ok());
        let error = Tokenizer::Bytes.check_model(255).expect_err("too few rows").to_string();
        assert!(error.contains("256 tokens") && error.contains("255"), "{error}");
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
        let wordpiece = spec("tokenizer = { kind = 'wordpiece', vocab_size = 512 }");
        assert_eq!(wordpiece, Ok(TokenizerSpec::WordPiece(WordPieceOptions::new(512))));
        let words = spec("tokenizer = { kind = 'words', num_words = 9 }");
        let options = WordOptions { num_words: Some(9), ..WordOptions::default() };
        assert_eq!(words, Ok(TokenizerSpec::Words(options)));
        let file = spec("tokenizer = { kind = 'file', path = 'a/tokenizer.json' }");
        assert_eq!(file, Ok(TokenizerSpec::File { path: "a/tokenizer.json".into() }));
        assert!(spec("tokenizer = { kind = 'bpe', vocab = 512 }").is_err());
    }
}
