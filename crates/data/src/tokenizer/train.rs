//! Trains tokenizers: byte-level BPE as GPT-2's, WordPiece as BERT's, and a unigram model as SentencePiece's.
//!
//! The same text and options give the same tokenizer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{BertNormalizer, NFKC, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer, Trainer,
};

use super::bytes;
use super::json::{JsonTokenizer, into_utf8};
use crate::{DataError, Documents, Result};

/// The largest vocabulary that is trained: far above any in use, and its tables fit in memory.
const MOST_TOKENS: usize = 1 << 22;

/// Characters of a WordPiece vocabulary at most, as BERT's: rarer ones are unknown.
const MOST_CHARACTERS: usize = 1000;

/// Room for as many.
const PRIVATE_PLANE: RangeInclusive<char> = '\u{F0000}'..='\u{F0FFF}';

/// BERT's special tokens, with the ids 0 to 4.
const BERT_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// T5's special tokens, with the ids 0 to 2.
const T5_TOKENS: [&str; 3] = ["<pad>", "</s>", "<unk>"];

/// How a byte-level BPE is trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BpeOptions {
    /// Number of tokens at most: 256 bytes, the special tokens, and merges for the rest. A short text may run out
    /// of merges before.
    pub vocab_size: usize,
    /// A pair is merged only if it occurs at least this often.
    #[serde(default = "default_min_frequency")]
    pub min_frequency: u64,
    /// Tokens such as `<|endoftext|>` that are never split; they take the first ids.
    #[serde(default)]
    pub special_tokens: Vec<String>,
}

impl BpeOptions {
    /// A vocabulary of `vocab_size` without special tokens, in which every merge occurred twice or more.
    pub fn new(vocab_size: usize) -> Self {
        Self { vocab_size, min_frequency: default_min_frequency(), special_tokens: Vec::new() }
    }
}

/// How a WordPiece tokenizer is trained: BERT's normalisation and splitting into words, `##` before the later pieces
/// of a word, `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]` around texts and pairs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WordPieceOptions {
    /// Number of tokens at most, the special ones included.
    pub vocab_size: usize,
    /// A pair is merged only if it occurs at least this often.
    #[serde(default = "default_min_frequency")]
    pub min_frequency: u64,
    /// Whether text becomes lower case and loses its accents.
    #[serde(default = "yes")]
    pub lowercase: bool,
    /// Tokens that are never split, besides `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` and `[MASK]`, which take the ids 0 to 4.
    #[serde(default)]
    pub special_tokens: Vec<String>,
}

impl WordPieceOptions {
    /// A lower-case vocabulary of `vocab_size`, in which every merge occurred twice or more.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            min_frequency: default_min_frequency(),
            lowercase: true,
            special_tokens: Vec::new(),
        }
    }
}

/// How a unigram tokenizer is trained: NFKC, whitespace as single spaces, `▁` before words, `</s>` after each text, as
/// T5's. T. Kudo, "Subword Regularization", ACL 2018.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnigramOptions {
    /// Number of tokens at most, the special ones and every character of the text included.
    pub vocab_size: usize,
    /// Tokens that are never split, besides `<pad>`, `</s>` and `<unk>`, which take the ids 0 to 2.
    #[serde(default)]
    pub special_tokens: Vec<String>,
}

impl UnigramOptions {
    /// A vocabulary of `vocab_size`.
    pub fn new(vocab_size: usize) -> Self {
        Self { vocab_size, special_tokens: Vec::new() }
    }
}

fn default_min_frequency() -> u64 {
    2
}

fn yes() -> bool {
    true
}

impl JsonTokenizer {
    /// Trains a byte-level BPE: pre-tokenised by GPT-2's rule, without normalisation, so that every text comes
    /// back unchanged.
    ///
    /// # Errors
    /// As [`Tokenizer::train_bpe`](crate::Tokenizer::train_bpe).
    pub fn train_bpe(text: &Documents, options: &BpeOptions) -> Result<Self> {
        let action = "train a BPE tokenizer";
        let least = bytes::alphabet().len() + options.special_tokens.len();
        check_vocab_size(options.vocab_size, least, "256 bytes and the special tokens")?;
        let trainer = BpeTrainer::builder()
            .vocab_size(options.vocab_size)
            .min_frequency(options.min_frequency)
            .special_tokens(added(options.special_tokens.iter()))
            .initial_alphabet(bytes::alphabet().iter().copied().collect())
            .show_progress(false)
            .build();
        let byte_level = ByteLevel::new(false, true, true);
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
        train(tokenizer, trainer, text, action)
    }

    /// Trains a WordPiece vocabulary as BERT's.
    ///
    /// # Errors
    /// As [`Tokenizer::train_bpe`](crate::Tokenizer::train_bpe).
    pub fn train_wordpiece(text: &Documents, options: &WordPieceOptions) -> Result<Self> {
        let action = "train a WordPiece tokenizer";
        let special = BERT_TOKENS.iter().map(ToString::to_string).chain(options.special_tokens.clone());
        let special: Vec<String> = special.collect();
        check_vocab_size(options.vocab_size, special.len() + 1, "the special tokens and a character")?;
        let normalizer = BertNormalizer::new(true, true, None, options.lowercase);
        let (words, _) = words(text, &normalizer, &BertPreTokenizer, action)?;
        let alphabet = Alphabet::of(&words, options.vocab_size - special.len());
        let mut trainer = BpeTrainer::builder()
            .vocab_size(options.vocab_size)
            .min_frequency(options.min_frequency)
            .special_tokens(added(special.iter()))
            .limit_alphabet(alphabet.letters.len())
            .initial_alphabet(alphabet.letters.iter().copied().collect())
            .show_progress(false)
            .build();
        let failed = |error: tokenizers::Error| DataError::tokenizer(action, error);
        let texts = text.texts().map(|text| into_utf8(text?)).collect::<Result<Vec<String>>>()?;
        let marked = |text: &str| {
            let words = split(text, &normalizer, &BertPreTokenizer)?;
            Ok(words.iter().map(|word| alphabet.mark(word)).collect())
        };
        trainer.feed(texts.iter(), marked).map_err(failed)?;
        let mut bpe = BPE::default();
        trainer.train(&mut bpe).map_err(failed)?;
        let vocab = bpe.get_vocab().into_iter().map(|(token, id)| (alphabet.unmark(&token), id.into()));
        let model = json!({
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": Value::Object(vocab.collect()),
        });
        let model: WordPiece =
            serde_json::from_str(&model.to_string()).map_err(|error| DataError::tokenizer(action, error))?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.add_special_tokens(added(special.iter())).map_err(failed)?;
        let template =
            template("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]);
        tokenizer
            .with_normalizer(Some(normalizer))
            .map_err(failed)?
            .with_pre_tokenizer(Some(BertPreTokenizer))
            .with_post_processor(Some(template.map_err(|error| DataError::tokenizer(action, error))?))
            .with_decoder(Some(WordPieceDecoder::default()));
        JsonTokenizer::from_library(&tokenizer, action)
    }

    /// Trains a unigram vocabulary as SentencePiece's.
    ///
    /// # Errors
    /// As [`Tokenizer::train_bpe`](crate::Tokenizer::train_bpe); [`DataError::Invalid`] too if the vocabulary cannot hold
    /// every character of the text.
    pub fn train_unigram(text: &Documents, options: &UnigramOptions) -> Result<Self> {
        let action = "train a unigram tokenizer";
        let failed = |error: tokenizers::Error| DataError::tokenizer(action, error);
        let special = T5_TOKENS.iter().map(ToString::to_string).chain(options.special_tokens.clone());
        let special = added(special.collect::<Vec<_>>().iter());
        let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(failed)?;
        let normalizer = Sequence::new(vec![NFKC.into(), spaces.into(), Strip::new(true, true).into()]);
        let metaspace = Metaspace::new('▁', PrependScheme::Always, true);
        let (words, characters) = words(text, &normalizer, &metaspace, action)?;
        let least = special.len() + characters;
        check_vocab_size(options.vocab_size, least, "the special tokens and the characters of the text")?;

        let trainer = UnigramTrainer::builder()
            // The trainer counts its own unknown piece among them.
            .vocab_size(options.vocab_size as u32)
            .special_tokens(special.clone())
            .unk_token(Some("<unk>".into()))
            .show_progress(false)
            .build()
            .map_err(|error| DataError::tokenizer(action, error))?;
        let mut model = Unigram::default();
        alone(action, || trainer.do_train(words, &mut model))?.map_err(failed)?;
        let model = in_order(&model, special.len()).map_err(failed)?;

        let mut tokenizer = Tokenizer::new(model);
        let template = template("$A </s>", "$A </s> $B </s>", [("</s>", 1)]);
        tokenizer
            .with_normalizer(Some(normalizer))
            .map_err(failed)?
            .with_pre_tokenizer(Some(metaspace.clone()))
            .with_post_processor(Some(template.map_err(|error| DataError::tokenizer(action, error))?))
            .with_decoder(Some(metaspace));
        tokenizer.add_special_tokens(special).map_err(failed)?;
        JsonTokenizer::from_library(&tokenizer, action)
    }
}

fn check_vocab_size(vocab_size: usize, least: usize, of: &str) -> Result<()> {
    if (least..=MOST_TOKENS).contains(&vocab_size) {
        return Ok(());
    }
    Err(DataError::Invalid {
        name: "vocab_size",
        expected: format!("{least} ({of}) to {MOST_TOKENS}"),
        found: vocab_size.to_string(),
    })
}

fn added<'a>(tokens: impl Iterator<Item = &'a String>) -> Vec<AddedToken> {
    tokens.map(|token| AddedToken::from(token, true)).collect()
}

fn template<const N: usize>(
    single: &str,
    pair: &str,
    special: [(&str, u32); N],
) -> std::result::Result<TemplateProcessing, String> {
    let mut builder = TemplateProcessing::builder();
    builder.try_single(single)?.try_pair(pair)?;
    builder.special_tokens(special.to_vec()).build().map_err(|error| error.to_string())
}

fn train(
    mut tokenizer: Tokenizer,
    trainer: impl Into<TrainerWrapper>,
    text: &Documents,
    action: &str,
) -> Result<JsonTokenizer> {
    // The library's training takes texts, not errors: all are read and checked before.
    let texts = text.pieces().map(|piece| into_utf8(piece?)).collect::<Result<Vec<String>>>()?;
    tokenizer
        .train(&mut trainer.into(), texts.iter())
        .map_err(|error| DataError::tokenizer(action, error))?;
    JsonTokenizer::from_library(&tokenizer, action)
}

/// The characters of a WordPiece vocabulary.
///
/// The library numbers the pieces `##x` in the order of a hash table, and merges that are as frequent in the order of these
/// numbers. So the characters that continue a word are marked by being others, of a private plane, while a plain BPE is trained.
struct Alphabet {
    /// Characters, then the marked ones.
    letters: Vec<char>,
    marks: HashMap<char, char>,
    plain: HashMap<char, char>,
}

impl Alphabet {
    /// The most frequent characters of `words`, `most` with their marks; `BertNormalizer` has removed what is of a private plane.
    fn of(words: &[(String, u32)], most: usize) -> Self {
        let mut counts: BTreeMap<char, u64> = BTreeMap::new();
        for (word, count) in words {
            word.chars().for_each(|c| *counts.entry(c).or_default() += u64::from(*count));
        }
        let later: BTreeSet<char> = words.iter().flat_map(|(word, _)| word.chars().skip(1)).collect();
        let mut letters: Vec<char> = counts.keys().copied().collect();
        letters.sort_by_key(|c| std::cmp::Reverse(counts[c]));
        letters.truncate(MOST_CHARACTERS);
        let mut room = most;
        letters.retain(|c| {
            let pieces = 1 + usize::from(later.contains(c));
            let fits = pieces <= room;
            room -= if fits { pieces } else { 0 };
            fits
        });
        letters.sort_unstable();
        let continuing = letters.iter().copied().filter(|c| later.contains(c));
        let marks: HashMap<char, char> = continuing.zip(PRIVATE_PLANE).collect();
        let plain: HashMap<char, char> = marks.iter().map(|(&c, &mark)| (mark, c)).collect();
        let plain_letters = letters.len();
        letters.extend(plain.keys());
        letters[plain_letters..].sort_unstable();
        Self { letters, marks, plain }
    }

    fn mark(&self, word: &str) -> String {
        let mark = |(i, c)| if i == 0 { c } else { self.marks.get(&c).copied().unwrap_or(c) };
        word.chars().enumerate().map(mark).collect()
    }

    fn unmark(&self, token: &str) -> String {
        let continues = token.chars().next().is_some_and(|c| self.plain.contains_key(&c));
        let letters = token.chars().map(|c| self.plain.get(&c).copied().unwrap_or(c));
        if continues { "##".chars().chain(letters).collect() } else { letters.collect() }
    }
}

/// The words of one text.
fn split(
    text: &str,
    normalizer: &impl Normalizer,
    pre_tokenizer: &impl PreTokenizer,
) -> tokenizers::Result<Vec<String>> {
    let mut normalized = NormalizedString::from(text);
    normalizer.normalize(&mut normalized)?;
    let mut pieces = PreTokenizedString::from(normalized);
    pre_tokenizer.pre_tokenize(&mut pieces)?;
    let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(splits.into_iter().map(|(word, ..)| word.to_owned()).collect())
}

/// The words of a text with how often each occurs, in alphabetic order, and the number of distinct characters.
fn words(
    text: &Documents,
    normalizer: &impl Normalizer,
    pre_tokenizer: &impl PreTokenizer,
    action: &str,
) -> Result<(Vec<(String, u32)>, usize)> {
    let mut words: BTreeMap<String, u32> = BTreeMap::new();
    for text in text.texts() {
        let split = split(&into_utf8(text?)?, normalizer, pre_tokenizer);
        for word in split.map_err(|error| DataError::tokenizer(action, error))? {
            let count = words.entry(word).or_default();
            *count = count.saturating_add(1);
        }
    }
    let characters: BTreeSet<char> = words.keys().flat_map(|word| word.chars()).collect();
    if characters.is_empty() {
        return Err(DataError::tokenizer(action, "the text is empty; use one with words"));
    }
    Ok((words.into_iter().collect(), characters.len()))
}

/// Runs `train` on a thread of its own, where sums of floats do not depend on how work is shared among threads; a panic of the
/// library, which it has for degenerate texts, is an error.
fn alone<T: Send>(action: &str, train: impl FnOnce() -> T + Send) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|error| DataError::tokenizer(action, error))?;
    let result = pool.install(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(train)));
    result
        .map_err(|_| DataError::tokenizer(action, "the text does not suffice; use more text or fewer tokens"))
}

/// The model with its pieces in an order that the text decides: by score, then alphabetic. The library gives characters that
/// training had dropped scores of `least + 1e-4 i` in the order of a hash table; here `i` counts them alphabetically.
fn in_order(model: &Unigram, special: usize) -> tokenizers::Result<Unigram> {
    const STEP: f64 = 1e-4;
    let mut pieces: Vec<(String, f64)> = model.iter().skip(special).cloned().collect();
    let least = pieces.iter().map(|piece| piece.1).fold(f64::INFINITY, f64::min);
    pieces.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
    let mut dropped: Vec<usize> = Vec::new();
    for (i, (piece, score)) in pieces.iter().enumerate() {
        let due = least + STEP * dropped.len() as f64;
        if (score - due).abs() < STEP * 1e-3 && piece.chars().count() == 1 {
            dropped.push(i);
        }
    }
    let scores: Vec<f64> = dropped.iter().map(|&i| pieces[i].1).collect();
    let mut names: Vec<String> = dropped.iter().map(|&i| pieces[i].0.clone()).collect();
    names.sort_unstable();
    for ((&i, score), name) in dropped.iter().zip(scores).zip(names) {
        pieces[i] = (name, score);
    }
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let all = model.iter().take(special).cloned().chain(pieces).collect();
    Unigram::from(all, Some(T5_TOKENS.len() - 1), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "Low lower lowest, new newer newest:\n the lowest of the newest. 12 monkeys don't know caf\u{e9}s";

    fn documents() -> Documents {
        Documents::from_texts([TEXT, "and a second text about the newest monkeys"])
    }

    fn ids(tokenizer: &JsonTokenizer, text: &str) -> Vec<u32> {
        tokenizer.library().encode_fast(text, true).expect("encoded").get_ids().to_vec()
    }

    fn wordpiece(options: &WordPieceOptions) -> JsonTokenizer {
        JsonTokenizer::train_wordpiece(&documents(), options).expect("trained")
    }

    fn unigram(vocab_size: usize) -> JsonTokenizer {
        JsonTokenizer::train_unigram(&documents(), &UnigramOptions::new(vocab_size)).expect("trained")
    }

    #[test]
    fn wordpiece_lowers_strips_accents_and_frames_texts() {
        let tokenizer = wordpiece(&WordPieceOptions::new(100));
        let special = tokenizer.special_tokens();
        let ids_of_roles = [special.pad, special.unk, special.cls, special.sep, special.mask];
        assert_eq!(ids_of_roles, [0, 1, 2, 3, 4].map(Some));
        let lowest = ids(&tokenizer, "LOWEST caf\u{e9}s");
        assert_eq!(lowest, ids(&tokenizer, "lowest cafes"));
        assert_eq!((lowest.first(), lowest.last()), (Some(&2), Some(&3)));
        assert!(ids(&tokenizer, "\u{4e2d}").contains(&1), "an unseen character is unknown");
        assert!((6..30).all(|size| wordpiece(&WordPieceOptions::new(size)).vocab_size() <= size));
        let cased = wordpiece(&WordPieceOptions { lowercase: false, ..WordPieceOptions::new(100) });
        assert!(cased.token_to_id("L").is_some() && tokenizer.token_to_id("L").is_none());
    }

    #[test]
    fn a_unigram_model_marks_words_and_ends_texts() {
        let tokenizer = unigram(60);
        assert!(tokenizer.vocab_size() <= 60 && tokenizer.token_to_id("\u{2581}newest").is_some());
        let ids = ids(&tokenizer, "  the lowest\n monkeys ");
        assert_eq!(ids.last(), Some(&1));
        assert_eq!(tokenizer.decode(&ids[..ids.len() - 1]).expect("decoded"), "the lowest monkeys");
        let special = tokenizer.special_tokens();
        assert_eq!((special.pad, special.eos, special.unk), (Some(0), Some(1), Some(2)));
    }

    #[test]
    fn training_twice_gives_the_same_tokenizers() {
        let options = WordPieceOptions::new(90);
        let first = (wordpiece(&options), unigram(50));
        for _ in 0..5 {
            assert_eq!(wordpiece(&options).json(), first.0.json());
            assert_eq!(unigram(50).json(), first.1.json());
        }
    }

    #[test]
    fn vocabularies_and_texts_that_are_too_small_are_errors() {
        let few = JsonTokenizer::train_wordpiece(&documents(), &WordPieceOptions::new(5));
        assert!(matches!(few, Err(DataError::Invalid { name: "vocab_size", .. })));
        let few = JsonTokenizer::train_unigram(&documents(), &UnigramOptions::new(20));
        assert!(matches!(few, Err(DataError::Invalid { name: "vocab_size", .. })));
        for text in ["", " \n ", "a", "aaaa"] {
            let documents = Documents::from_texts([text]);
            let trained = JsonTokenizer::train_unigram(&documents, &UnigramOptions::new(20));
            assert_eq!(trained.is_err(), text.trim().is_empty(), "{text:?}: {trained:?}");
            let trained = JsonTokenizer::train_wordpiece(&documents, &WordPieceOptions::new(20));
            assert_eq!(trained.is_err(), text.trim().is_empty(), "{text:?}: {trained:?}");
        }
    }
}
