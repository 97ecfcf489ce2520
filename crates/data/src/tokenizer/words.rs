//! Keras' word tokenizer, to the last id.
//!
//! Reference: `keras.src.legacy.preprocessing.text.Tokenizer` of Keras 3.

use std::collections::HashMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::{DataError, Result};

/// How Keras' word tokenizer splits and numbers; the defaults are Keras'.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WordOptions {
    /// Ids from this one on are left out, or become the unknown token: so the `num_words - 1` most frequent words stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_words: Option<usize>,
    /// Characters that separate words and vanish.
    pub filters: String,
    /// Whether text becomes lower case.
    pub lower: bool,
    /// What stands between words, after filtered characters have become it.
    pub split: String,
    /// Whether every character is a word; nothing is filtered then.
    pub char_level: bool,
    /// Stands for words that are not known, with id 1. Without it they are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oov_token: Option<String>,
}

impl Default for WordOptions {
    fn default() -> Self {
        Self {
            num_words: None,
            filters: "!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n".into(),
            lower: true,
            split: " ".into(),
            char_level: false,
            oov_token: None,
        }
    }
}

/// Words numbered by falling frequency, then first appearance, from 1 on; 0 is for padding.
///
/// ```
/// use wgrad_data::{PadOptions, WordOptions, WordTokenizer, pad_sequences};
///
/// # fn main() -> wgrad_data::Result<()> {
/// let texts = ["This is the first example.", "And this is the second one."];
/// let tokenizer = WordTokenizer::fit(texts, &WordOptions::default())?;
/// let sequences = tokenizer.texts_to_sequences(&["This second example, unseen"]);
/// assert_eq!(sequences, [[1, 7, 5]]);
/// let padded = pad_sequences(&sequences, &PadOptions { maxlen: Some(5), ..PadOptions::default() });
/// assert_eq!(padded.ids, [0, 0, 1, 7, 5]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WordTokenizer {
    options: WordOptions,
    index: HashMap<String, u32>,
    words: HashMap<u32, String>,
    /// What `Tokenizer.to_json` gives.
    json: String,
}

impl WordTokenizer {
    /// Counts the words of `texts` and numbers them.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if `num_words` is 0 or leaves no room for the unknown token, or `split` is empty.
    pub fn fit<T: AsRef<str>>(texts: impl IntoIterator<Item = T>, options: &WordOptions) -> Result<Self> {
        check(options)?;
        let mut counts = Counts::default();
        for text in texts {
            counts.add(&split_words(text.as_ref(), options));
        }
        let mut order: Vec<usize> = (0..counts.words.len()).collect();
        // A stable sort: words that are as frequent stay in the order of their first appearance.
        order.sort_by_key(|&i| std::cmp::Reverse(counts.words[i].1));
        let oov = options.oov_token.iter();
        let names: Vec<&String> = oov.chain(order.iter().map(|&i| &counts.words[i].0)).collect();
        // An unknown token that is a word of the texts too keeps the id of the word, as in Keras.
        let index: HashMap<String, u32> = (1..).zip(&names).map(|(id, &name)| (name.clone(), id)).collect();
        let words = index.iter().map(|(name, &id)| (id, name.clone())).collect();
        let mut tokenizer = Self { options: options.clone(), index, words, json: String::new() };
        tokenizer.check_oov()?;
        tokenizer.json = tokenizer.keras_json(&counts);
        Ok(tokenizer)
    }

    /// Reads what Keras' `Tokenizer.to_json` wrote, or [`json`](Self::json).
    pub(crate) fn from_json(json: String, action: &str) -> Result<Self> {
        let failed = |reason: String| DataError::tokenizer(action, reason);
        let document: Value = serde_json::from_str(&json).map_err(|error| failed(error.to_string()))?;
        let config = &document["config"];
        let index = config["word_index"].as_str().ok_or_else(|| {
            failed("expected Keras' Tokenizer.to_json with a `word_index` that is a string of JSON".into())
        })?;
        let index: HashMap<String, u32> =
            serde_json::from_str(index).map_err(|error| failed(format!("`word_index`: {error}")))?;
        let mut settings = serde_json::Map::new();
        for key in ["num_words", "filters", "lower", "split", "char_level", "oov_token"] {
            match config.get(key) {
                None | Some(Value::Null) => {}
                Some(value) => _ = settings.insert(key.into(), value.clone()),
            }
        }
        let options: WordOptions =
            serde_json::from_value(Value::Object(settings)).map_err(|error| failed(error.to_string()))?;
        check(&options)?;
        let words: HashMap<u32, String> = index.iter().map(|(name, &id)| (id, name.clone())).collect();
        if words.len() != index.len() || words.keys().any(|&id| id == 0 || id > 1 << 30) {
            return Err(failed("`word_index` must give each word an id of its own, from 1 on".into()));
        }
        let tokenizer = Self { options, index, words, json };
        tokenizer.check_oov()?;
        Ok(tokenizer)
    }

    /// Whether `json` is a tokenizer of Keras.
    pub(crate) fn is_keras(document: &Value) -> bool {
        document["class_name"] == "Tokenizer" && document["config"].is_object()
    }

    /// What Keras' `Tokenizer.to_json` gives, which `tokenizer_from_json` reads.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// How words are split and numbered.
    pub fn options(&self) -> &WordOptions {
        &self.options
    }

    /// Every word with its id, by id. Ids from `num_words` on are here too, as in Keras.
    pub fn word_index(&self) -> Vec<(&str, u32)> {
        let mut index: Vec<_> = self.index.iter().map(|(name, &id)| (name.as_str(), id)).collect();
        index.sort_unstable_by_key(|&(_, id)| id);
        index
    }

    /// Rows that an embedding of the ids needs: `num_words`, or the number of words and one for the padding.
    pub fn vocab_size(&self) -> usize {
        let all = || self.words.keys().max().map_or(1, |&id| id as usize + 1);
        self.options.num_words.unwrap_or_else(all)
    }

    /// The id of unknown words.
    pub fn oov_id(&self) -> Option<u32> {
        self.options.oov_token.as_ref().and_then(|token| self.index.get(token)).copied()
    }

    /// The ids of a text.
    pub fn text_to_sequence(&self, text: &str) -> Vec<u32> {
        let known = |word: &String| self.index.get(word).copied().filter(|&id| self.keeps(id));
        split_words(text, &self.options)
            .iter()
            .filter_map(|word| known(word).or_else(|| self.oov_id()))
            .collect()
    }

    /// The ids of each text.
    pub fn texts_to_sequences<T: AsRef<str>>(&self, texts: &[T]) -> Vec<Vec<u32>> {
        texts.iter().map(|text| self.text_to_sequence(text.as_ref())).collect()
    }

    /// The words of the ids, with spaces between them; ids without a word are left out, or become the unknown token.
    pub fn sequence_to_text(&self, ids: &[u32]) -> String {
        let oov = self.options.oov_token.as_deref();
        let word = |id: &u32| match self.words.get(id) {
            Some(word) if self.keeps(*id) => Some(word.as_str()),
            _ => oov,
        };
        ids.iter().filter_map(word).collect::<Vec<_>>().join(" ")
    }

    /// Refuses ids outside the vocabulary; ids without a word within it are fine.
    pub(super) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab_size = self.vocab_size();
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(DataError::UnknownToken { id, vocab_size }),
            None => Ok(()),
        }
    }

    fn keeps(&self, id: u32) -> bool {
        self.options.num_words.is_none_or(|most| (id as usize) < most)
    }

    /// An unknown token from `num_words` on would be an id outside the embedding.
    fn check_oov(&self) -> Result<()> {
        match (self.oov_id(), self.options.num_words) {
            (Some(id), Some(most)) if !self.keeps(id) => Err(DataError::Invalid {
                name: "num_words",
                expected: format!("above {id}, the id of the unknown token"),
                found: most.to_string(),
            }),
            _ => Ok(()),
        }
    }

    fn keras_json(&self, counts: &Counts) -> String {
        let entries = |pairs: Vec<(String, u64)>| {
            // Pairs of strings and numbers always are JSON.
            serde_json::to_string(&InOrder(pairs)).unwrap_or_default()
        };
        let id_of = |word: &String| u64::from(self.index.get(word).copied().unwrap_or_default());
        let docs = || counts.words.iter().map(|(word, _)| (word, counts.docs[word]));
        let by_id = self.word_index();
        let index_word = serde_json::Map::from_iter(
            by_id.iter().map(|&(name, id)| (id.to_string(), Value::String(name.to_owned()))),
        );
        let options = &self.options;
        let config = serde_json::json!({
            "num_words": options.num_words,
            "filters": options.filters,
            "lower": options.lower,
            "split": options.split,
            "char_level": options.char_level,
            "oov_token": options.oov_token,
            "document_count": counts.texts,
            "word_counts": entries(counts.words.clone()),
            "word_docs": entries(docs().map(|(word, n)| (word.clone(), n)).collect()),
            "index_docs": entries(docs().map(|(word, n)| (id_of(word).to_string(), n)).collect()),
            "index_word": Value::Object(index_word).to_string(),
            "word_index": entries(by_id.iter().map(|&(name, id)| (name.to_owned(), id.into())).collect()),
        });
        serde_json::json!({ "class_name": "Tokenizer", "config": config }).to_string()
    }
}

/// How often each word came, in the order of first appearance, and in how many texts.
#[derive(Default)]
struct Counts {
    words: Vec<(String, u64)>,
    places: HashMap<String, usize>,
    docs: HashMap<String, u64>,
    texts: u64,
}

impl Counts {
    fn add(&mut self, words: &[String]) {
        self.texts += 1;
        let mut seen = std::collections::HashSet::new();
        for word in words {
            match self.places.get(word) {
                Some(&place) => self.words[place].1 += 1,
                None => {
                    self.places.insert(word.clone(), self.words.len());
                    self.words.push((word.clone(), 1));
                }
            }
            if seen.insert(word) {
                *self.docs.entry(word.clone()).or_default() += 1;
            }
        }
    }
}

/// A JSON object whose keys keep their order.
struct InOrder(Vec<(String, u64)>);

impl Serialize for InOrder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

fn check(options: &WordOptions) -> Result<()> {
    if options.num_words == Some(0) {
        return Err(DataError::Invalid {
            name: "num_words",
            expected: "1 or more".into(),
            found: "0".into(),
        });
    }
    if options.split.is_empty() {
        let expected = "one or more characters, usually a space".into();
        return Err(DataError::Invalid { name: "split", expected, found: "nothing".into() });
    }
    Ok(())
}

/// Keras' `text_to_word_sequence`: lower case, filtered characters become `split`, and what stands between them is a word.
fn split_words(text: &str, options: &WordOptions) -> Vec<String> {
    let text = if options.lower { text.to_lowercase() } else { text.to_owned() };
    if options.char_level {
        return text.chars().map(String::from).collect();
    }
    let mut filtered = String::with_capacity(text.len());
    for c in text.chars() {
        if options.filters.contains(c) { filtered.push_str(&options.split) } else { filtered.push(c) }
    }
    filtered.split(&options.split).filter(|word| !word.is_empty()).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Facts from Keras 3.15.1.
    const TEXTS: [&str; 3] =
        ["This is the first example.", "This is the second example.", "And this is the third one."];

    fn fitted(options: &WordOptions) -> WordTokenizer {
        WordTokenizer::fit(TEXTS, options).expect("fitted")
    }

    #[test]
    fn words_are_numbered_by_frequency_then_first_appearance() {
        let tokenizer = fitted(&WordOptions::default());
        let expected = ["this", "is", "the", "example", "first", "second", "and", "third", "one"];
        let expected: Vec<(&str, u32)> = expected.into_iter().zip(1..).collect();
        assert_eq!(tokenizer.word_index(), expected);
        let sequences = tokenizer.texts_to_sequences(&TEXTS);
        assert_eq!(sequences, [vec![1, 2, 3, 5, 4], vec![1, 2, 3, 6, 4], vec![7, 1, 2, 3, 8, 9]]);
        let unseen = tokenizer.texts_to_sequences(&["Another example here.", "More examples to follow."]);
        assert_eq!(unseen, [vec![4], vec![]]);
        assert_eq!(tokenizer.vocab_size(), 10);
    }

    #[test]
    fn rare_words_are_left_out_or_become_the_unknown_token() {
        let few = WordOptions { num_words: Some(4), ..WordOptions::default() };
        assert_eq!(fitted(&few).text_to_sequence(TEXTS[0]), [1, 2, 3]);
        let oov = WordOptions { oov_token: Some("<OOV>".into()), ..few };
        let tokenizer = fitted(&oov);
        assert_eq!(tokenizer.word_index()[0], ("<OOV>", 1));
        assert_eq!(tokenizer.text_to_sequence("this, new example IS"), [2, 1, 1, 3]);
        assert_eq!(tokenizer.sequence_to_text(&[2, 1, 3, 9, 0]), "this <OOV> is <OOV> <OOV>");
        assert_eq!((tokenizer.vocab_size(), tokenizer.oov_id()), (4, Some(1)));
    }

    #[test]
    fn filtered_characters_and_case_are_as_in_keras() {
        let texts = ["Don't stop-me\tnow_please\r\nΣΑΣ İ", "a  b\u{a0}c"];
        let tokenizer = WordTokenizer::fit(texts, &WordOptions::default()).expect("fitted");
        let words: Vec<&str> = tokenizer.word_index().into_iter().map(|(word, _)| word).collect();
        let expected = ["don't", "stop", "me", "now", "please\r", "σας", "i\u{307}", "a", "b\u{a0}c"];
        assert_eq!(words, expected);
    }

    #[test]
    fn characters_and_an_unknown_token_among_the_words_are_as_in_keras() {
        let options = WordOptions { char_level: true, ..WordOptions::default() };
        let tokenizer = WordTokenizer::fit(["Ab, a"], &options).expect("fitted");
        assert_eq!(tokenizer.word_index(), [("a", 1), ("b", 2), (",", 3), (" ", 4)]);
        let options = WordOptions { oov_token: Some("is".into()), ..WordOptions::default() };
        let tokenizer = fitted(&options);
        assert_eq!(tokenizer.word_index()[..2], [("this", 2), ("is", 3)]);
        assert_eq!(tokenizer.text_to_sequence("what is this"), [3, 3, 2]);
    }

    #[test]
    fn what_keras_would_read_comes_back() {
        let options = WordOptions {
            num_words: Some(6),
            oov_token: Some("?".into()),
            lower: false,
            ..WordOptions::default()
        };
        let tokenizer = fitted(&options);
        let again = WordTokenizer::from_json(tokenizer.json().into(), "load").expect("read");
        assert_eq!(again.options(), tokenizer.options());
        assert_eq!(again.word_index(), tokenizer.word_index());
        assert_eq!(again.json(), tokenizer.json());
    }

    /// `Tokenizer(num_words=6, oov_token="?")`, fitted on the texts, by `to_json`.
    const KERAS: &str = r##"{"class_name": "Tokenizer", "config": {"num_words": 6, "filters": "!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n",
        "lower": true, "split": " ", "char_level": false, "oov_token": "?", "document_count": 3,
        "word_counts": "{\"this\": 3, \"is\": 3, \"the\": 3, \"first\": 1, \"example\": 2, \"second\": 1, \"and\": 1, \"third\": 1, \"one\": 1}",
        "word_docs": "{\"example\": 2, \"this\": 3, \"first\": 1, \"the\": 3, \"is\": 3, \"second\": 1, \"and\": 1, \"third\": 1, \"one\": 1}",
        "index_docs": "{\"5\": 2, \"2\": 3, \"6\": 1, \"4\": 3, \"3\": 3, \"7\": 1, \"8\": 1, \"9\": 1, \"10\": 1}",
        "index_word": "{\"1\": \"?\", \"2\": \"this\", \"3\": \"is\", \"4\": \"the\", \"5\": \"example\", \"6\": \"first\", \"7\": \"second\"}",
        "word_index": "{\"?\": 1, \"this\": 2, \"is\": 3, \"the\": 4, \"example\": 5, \"first\": 6, \"second\": 7, \"and\": 8, \"third\": 9, \"one\": 10}"}}"##;

    #[test]
    fn what_keras_wrote_is_what_is_fitted_here() {
        let read = WordTokenizer::from_json(KERAS.into(), "load").expect("read");
        let options =
            WordOptions { num_words: Some(6), oov_token: Some("?".into()), ..WordOptions::default() };
        let fitted = fitted(&options);
        assert_eq!((read.options(), read.word_index()), (fitted.options(), fitted.word_index()));
        let parsed = |json: &str| -> Value { serde_json::from_str(json).expect("JSON") };
        let (theirs, ours) = (parsed(KERAS), parsed(fitted.json()));
        for key in ["word_counts", "word_index"] {
            let inner =
                |document: &Value| document["config"][key].as_str().expect("a string").replace(' ', "");
            assert_eq!(inner(&ours), inner(&theirs), "{key}, in this order");
        }
        assert_eq!(
            ours["config"].as_object().map(|c| c.len()),
            theirs["config"].as_object().map(|c| c.len())
        );
    }

    #[test]
    fn settings_and_files_without_sense_are_errors() {
        for options in [
            WordOptions { num_words: Some(0), ..WordOptions::default() },
            WordOptions { split: String::new(), ..WordOptions::default() },
            WordOptions { num_words: Some(1), oov_token: Some("?".into()), ..WordOptions::default() },
        ] {
            assert!(matches!(WordTokenizer::fit(TEXTS, &options), Err(DataError::Invalid { .. })));
        }
        for json in [
            r#"{"class_name":"Tokenizer","config":{}}"#,
            r#"{"class_name":"Tokenizer","config":{"word_index":"{\"a\":0}"}}"#,
            r#"{"class_name":"Tokenizer","config":{"word_index":"{\"a\":1,\"b\":1}"}}"#,
            r#"{"class_name":"Tokenizer","config":{"word_index":"[]"}}"#,
            "{",
        ] {
            assert!(WordTokenizer::from_json(json.into(), "load").is_err(), "{json}");
        }
    }
}
