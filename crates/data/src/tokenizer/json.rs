//! The tokenizer that a `tokenizer.json` describes.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{AddedToken, Tokenizer};

use super::special::SpecialTokens;
use crate::{DataError, Result};

/// Texts are cut into pieces of about this many bytes where the cut cannot change a token, so that tokenising
/// holds little in memory and runs in parallel.
const PIECE: usize = 1 << 20;

/// A tokenizer of the `tokenizers` library together with its `tokenizer.json`.
#[derive(Clone, Debug)]
pub struct JsonTokenizer {
    tokenizer: Tokenizer,
    json: String,
    /// The text of its `tokenizer_config.json`.
    config: Option<String>,
    special: SpecialTokens,
    vocab_size: usize,
    cuttable: bool,
    byte_level: bool,
}

impl JsonTokenizer {
    /// A tokenizer that was just made; `action` says in errors what was tried.
    pub(super) fn from_library(tokenizer: &Tokenizer, action: &str) -> Result<Self> {
        let json = tokenizer.to_string(true).map_err(|error| DataError::tokenizer(action, error))?;
        let trained = Self::from_json(json, action)?;
        let config = trained.special.config(|id| trained.tokenizer.id_to_token(id));
        trained.with_config(config, action)
    }

    /// Reads the text of a `tokenizer.json`; `action` says in errors what was tried.
    pub(crate) fn from_json(json: String, action: &str) -> Result<Self> {
        // The library panics on some files that are none.
        let parsed =
            std::panic::catch_unwind(|| json.parse::<Tokenizer>().map_err(|error| error.to_string()));
        let parsed = parsed.unwrap_or_else(|_| Err("a file that contradicts itself".into()));
        let mut tokenizer = parsed.map_err(|error| {
            DataError::tokenizer(action, format!("expected a Hugging Face tokenizer.json, found: {error}"))
        })?;
        // A file may ask to truncate to a model's length; a token stream needs the whole text.
        tokenizer
            .with_padding(None)
            .with_truncation(None)
            .map_err(|error| DataError::tokenizer(action, error))?;
        let last = tokenizer.get_vocab(true).into_values().max();
        let Some(last) = last else {
            return Err(DataError::tokenizer(action, "its vocabulary is empty; use a trained tokenizer"));
        };
        if last >= 1 << 31 {
            return Err(DataError::tokenizer(
                action,
                format!("it has the token id {last}; expected ids below 2^31"),
            ));
        }
        let cuttable = may_be_cut(&tokenizer);
        let byte_level = matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let special = SpecialTokens::find(None, action, |token| tokenizer.token_to_id(token))?;
        let vocab_size = last as usize + 1;
        Ok(Self { tokenizer, json, config: None, special, vocab_size, cuttable, byte_level })
    }

    /// With the text of the `tokenizer_config.json` beside it, which names the special tokens.
    pub(super) fn with_config(mut self, config: String, action: &str) -> Result<Self> {
        self.special = SpecialTokens::find(Some(&config), action, |token| self.token_to_id(token))?;
        self.config = Some(config);
        Ok(self)
    }

    /// The `tokenizer.json`, as it was read or trained.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The text of the `tokenizer_config.json` that lay beside it: chat template, names of special tokens.
    pub fn config(&self) -> Option<&str> {
        self.config.as_deref()
    }

    /// The ids of tokens with a role.
    pub fn special_tokens(&self) -> SpecialTokens {
        self.special
    }

    /// For each id whether its token goes on with the word before it, as far as its spelling tells: `##ing` of WordPiece, and what has
    /// no space before it in byte-level and SentencePiece's vocabularies.
    pub fn continues_word(&self) -> Vec<bool> {
        let mut continues = vec![false; self.vocab_size];
        let vocab = self.tokenizer.get_vocab(true);
        let marked = |mark: char| vocab.keys().any(|token| token.starts_with(mark));
        let space = ['\u{2581}', '\u{120}'].into_iter().find(|&mark| marked(mark));
        let special = self.tokenizer.get_added_tokens_decoder();
        for (token, &id) in &vocab {
            let goes_on = match space {
                Some(space) => !token.starts_with(space) && token.chars().any(char::is_alphanumeric),
                None => token.len() > 2 && token.starts_with("##"),
            };
            continues[id as usize] = goes_on && !special.contains_key(&id);
        }
        continues
    }

    pub(super) fn library(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The largest token id plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token as it stands in the vocabulary, `<|endoftext|>` for example.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    pub(super) fn encode(&self, text: &[u8]) -> Result<Vec<u32>> {
        Ok(self.encode_texts(&[as_utf8(text)?])?.concat())
    }

    pub(super) fn encode_batch(&self, texts: &[Vec<u8>]) -> Result<Vec<Vec<u32>>> {
        let texts = texts.iter().map(|text| as_utf8(text)).collect::<Result<Vec<&str>>>()?;
        self.encode_texts(&texts)
    }

    fn encode_texts(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let mut pieces: Vec<&str> = Vec::new();
        let mut owners = Vec::new();
        for (owner, &text) in texts.iter().enumerate() {
            let cuts = if self.cuttable { cut(text, PIECE) } else { vec![text] };
            owners.extend(std::iter::repeat_n(owner, cuts.len()));
            pieces.extend(cuts);
        }
        let encodings = self
            .tokenizer
            .encode_batch_fast(pieces, false)
            .map_err(|error| DataError::tokenizer("tokenise the text", error))?;
        let mut ids = vec![Vec::new(); texts.len()];
        for (owner, encoding) in owners.into_iter().zip(&encodings) {
            ids[owner].extend_from_slice(encoding.get_ids());
        }
        Ok(ids)
    }

    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        for &id in ids {
            self.token(id)?;
        }
        self.tokenizer.decode(ids, false).map_err(|error| DataError::tokenizer("decode token ids", error))
    }

    /// The token of `id` as it stands in the vocabulary.
    pub(super) fn token(&self, id: u32) -> Result<String> {
        let unknown = DataError::UnknownToken { id, vocab_size: self.vocab_size };
        self.tokenizer.id_to_token(id).ok_or(unknown)
    }

    /// Whether each token is a string of bytes that does not depend on its neighbours.
    pub(super) fn is_byte_level(&self) -> bool {
        self.byte_level
    }
}

/// Whether cutting a text between a visible character and a space leaves its tokens as they are. It does under
/// GPT-2's rule, where such a place is always a boundary, if no added token reaches across it.
fn may_be_cut(tokenizer: &Tokenizer) -> bool {
    let gpt2_rule = match tokenizer.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::ByteLevel(rule)) => rule.use_regex && !rule.add_prefix_space,
        _ => false,
    };
    let narrow =
        |token: &AddedToken| !token.lstrip && !token.rstrip && !token.content.contains(char::is_whitespace);
    gpt2_rule
        && tokenizer.get_normalizer().is_none()
        && tokenizer.get_added_tokens_decoder().values().all(narrow)
}

/// The pieces of about `size` bytes that make up `text`, cut between a visible ASCII character and an ASCII space
/// or newline; longer where there is no such place.
fn cut(mut text: &str, size: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    while text.len() > size {
        let bytes = text.as_bytes();
        let may_cut = |&i: &usize| bytes[i - 1].is_ascii_graphic() && matches!(bytes[i], b' ' | b'\n');
        let Some(place) = (size.max(1)..bytes.len()).find(may_cut) else { break };
        let (piece, rest) = text.split_at(place);
        pieces.push(piece);
        text = rest;
    }
    pieces.push(text);
    pieces
}

pub(super) fn as_utf8(text: &[u8]) -> Result<&str> {
    std::str::from_utf8(text).map_err(|error| DataError::NotUtf8 { offset: error.valid_up_to() })
}

pub(super) fn into_utf8(text: Vec<u8>) -> Result<String> {
    String::from_utf8(text).map_err(|error| DataError::NotUtf8 { offset: error.utf8_error().valid_up_to() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BpeOptions, Documents};

    const TEXT: &str =
        "low lower lowest, new newer newest: the lowest of the newest. 12 monkeys' don't  \n\n  know";

    fn trained(vocab_size: usize) -> JsonTokenizer {
        JsonTokenizer::train_bpe(&Documents::from_texts([TEXT]), &BpeOptions::new(vocab_size))
            .expect("trained")
    }

    #[test]
    fn merges_shorten_the_text_and_decoding_restores_it() {
        let bpe = trained(280);
        assert!(bpe.vocab_size() > 256 && bpe.vocab_size() <= 280);
        for text in [TEXT, "", " ", "unseen Straße \u{1F600}\u{a0}\u{0}"] {
            let ids = bpe.encode(text.as_bytes()).expect("encoded");
            assert_eq!(bpe.decode(&ids).expect("decoded"), text);
        }
        assert!(bpe.encode(TEXT.as_bytes()).expect("encoded").len() < TEXT.len() * 3 / 4);
    }

    #[test]
    fn training_twice_gives_the_same_tokenizer() {
        assert_eq!(trained(300).json(), trained(300).json());
    }

    #[test]
    fn special_tokens_take_the_first_ids_and_are_not_split() {
        let options = BpeOptions { special_tokens: vec!["<|end|>".into()], ..BpeOptions::new(260) };
        let bpe = JsonTokenizer::train_bpe(&Documents::from_texts([TEXT]), &options).expect("trained");
        assert_eq!(bpe.token_to_id("<|end|>"), Some(0));
        let ids = bpe.encode(b"a<|end|>b").expect("encoded");
        assert_eq!((ids.len(), ids[1]), (3, 0));
        assert_eq!(bpe.decode(&ids).expect("decoded"), "a<|end|>b");
    }

    #[test]
    fn a_vocabulary_below_the_bytes_invalid_text_and_unknown_ids_are_errors() {
        let documents = Documents::from_texts([TEXT]);
        let small = JsonTokenizer::train_bpe(&documents, &BpeOptions::new(255));
        assert!(matches!(small, Err(DataError::Invalid { name: "vocab_size", .. })));
        let huge = JsonTokenizer::train_bpe(&Documents::from_texts([TEXT]), &BpeOptions::new(usize::MAX));
        assert!(matches!(huge, Err(DataError::Invalid { name: "vocab_size", .. })));
        let binary =
            JsonTokenizer::train_bpe(&Documents::from_texts([vec![b'a', 0xff]]), &BpeOptions::new(256));
        assert!(matches!(binary, Err(DataError::NotUtf8 { offset: 1 })));
        let bpe = trained(256);
        assert!(matches!(bpe.encode(&[b'a', b'b', 0xff]), Err(DataError::NotUtf8 { offset: 2 })));
        assert!(matches!(bpe.decode(&[256]), Err(DataError::UnknownToken { id: 256, vocab_size: 256 })));
    }

    #[test]
    fn cutting_a_text_leaves_its_tokens_as_they_are() {
        let bpe = trained(300);
        let whole = bpe.tokenizer.encode(TEXT, false).expect("encoded");
        for size in 1..40 {
            let pieces = cut(TEXT, size);
            assert_eq!(pieces.concat(), TEXT);
            let ids: Vec<u32> = pieces
                .iter()
                .flat_map(|piece| bpe.tokenizer.encode(*piece, false).expect("encoded").get_ids().to_vec())
                .collect();
            assert_eq!(ids, whole.get_ids(), "pieces of {size} bytes");
        }
        assert_eq!(cut("aaaa", 2), ["aaaa"]);
        assert_eq!(cut("aa bb", 1), ["aa", " bb"]);
    }

    #[test]
    fn truncation_asked_for_by_a_file_is_ignored_but_kept_in_it() {
        let mut document: serde_json::Value = serde_json::from_str(trained(256).json()).expect("json");
        document["truncation"] = serde_json::json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 });
        let json = document.to_string();
        let bpe = JsonTokenizer::from_json(json.clone(), "load").expect("a tokenizer");
        assert_eq!(bpe.encode(b"abcdef").expect("encoded").len(), 6);
        assert_eq!(bpe.json(), json);
    }
}
