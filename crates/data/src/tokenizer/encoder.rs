//! Texts and pairs of texts as what a model reads: special tokens, segment ids, truncation, offsets.

use serde::{Deserialize, Serialize};
use tokenizers::{
    EncodeInput, InputSequence, PostProcessor, PostProcessorWrapper, Tokenizer as Library,
    TruncationDirection,
};

use super::{Tokenizer, bytes};
use crate::masking::IGNORED_LABEL;
use crate::{DataError, Result, WordTokenizer};

/// Which part of a pair loses tokens when both are too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The longer one, until both are as long, then both.
    #[default]
    LongestFirst,
    /// The first.
    OnlyFirst,
    /// The second: the context of a question, which [`TextEncoder::windows`] cuts into overlapping windows.
    OnlySecond,
}

/// How a [`TextEncoder`] makes model input of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Whether the tokenizer's special tokens are put around the text: `[CLS] A [SEP]`.
    pub add_special_tokens: bool,
    /// Most tokens, special ones included. Default: no limit.
    pub max_length: Option<usize>,
    /// Which part of a pair is cut.
    pub truncation: Truncation,
    /// Tokens that two windows of [`TextEncoder::windows`] share.
    pub stride: usize,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { add_special_tokens: true, max_length: None, truncation: Truncation::LongestFirst, stride: 0 }
    }
}

/// One text or pair as a model reads it; all lists are as long as `ids`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment of each token: 0 for the first text, 1 for the second where the tokenizer tells them apart.
    pub type_ids: Vec<u32>,
    /// Which text each token is from, 0 or 1; `None` for special tokens.
    pub sequence_ids: Vec<Option<usize>>,
    /// Word within its text to which each token belongs; `None` for special tokens.
    pub word_ids: Vec<Option<u32>>,
    /// Bytes `start..end` of its text that each token stands for; `0..0` for special tokens, and for all tokens of Keras'
    /// word tokenizer.
    pub offsets: Vec<(usize, usize)>,
}

impl Encoding {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The tokens of text `sequence` that overlap the bytes `start..end` of it, first to last: an answer's tokens.
    pub fn tokens_of(&self, sequence: usize, start: usize, end: usize) -> Option<(usize, usize)> {
        let overlaps = |i: &usize| {
            let (from, to) = self.offsets[*i];
            self.sequence_ids[*i] == Some(sequence) && from < end && to > start
        };
        Some(((0..self.len()).find(overlaps)?, (0..self.len()).rev().find(overlaps)?))
    }

    /// A label for each token of labelled words: that of its word for the first token of a word, [`IGNORED_LABEL`] for all others
    /// and for words without a label.
    pub fn token_labels(&self, words: &[i32]) -> Vec<i32> {
        let mut last = None;
        let label = |&word: &Option<u32>| {
            let first = word.is_some() && word != last;
            last = word;
            let label = word.filter(|_| first).and_then(|word| words.get(word as usize));
            label.copied().unwrap_or(IGNORED_LABEL)
        };
        self.word_ids.iter().map(label).collect()
    }

    fn from_library(encoding: &tokenizers::Encoding) -> Self {
        let special = encoding.get_special_tokens_mask();
        let sequence_ids = encoding.get_sequence_ids();
        let sequence_ids = (0..encoding.len())
            .map(|i| if special[i] == 1 { None } else { sequence_ids[i].or(Some(0)) })
            .collect();
        Self {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            sequence_ids,
            word_ids: encoding.get_word_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        }
    }
}

/// Makes model input of text by one tokenizer and one set of options.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    kind: Kind,
    options: EncodeOptions,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Without its post-processor, which puts special tokens around what has been cut.
    Library(Box<Library>, Option<PostProcessorWrapper>),
    Words(Box<WordTokenizer>),
}

impl TextEncoder {
    /// An encoder with `tokenizer`'s vocabulary and special tokens.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if `max_length` leaves no room beside the special tokens and the stride.
    pub fn new(tokenizer: &Tokenizer, options: &EncodeOptions) -> Result<Self> {
        let failed = |error: tokenizers::Error| DataError::tokenizer("prepare the tokenizer", error);
        let mut library: Library = match tokenizer {
            Tokenizer::Words(words) => {
                return Ok(Self { kind: Kind::Words(words.clone()), options: *options });
            }
            Tokenizer::Bytes => bytes::tokenizer_json().parse().map_err(failed)?,
            Tokenizer::Json(json) => json.library().clone(),
        };
        let processor = library.get_post_processor().cloned();
        library.with_post_processor(None::<PostProcessorWrapper>);
        let encoder = Self { kind: Kind::Library(Box::new(library), processor.clone()), options: *options };
        let (special, stride) = (encoder.special(processor.as_ref(), false), options.stride);
        match options.max_length {
            Some(max_length) if max_length <= special + stride => Err(DataError::Invalid {
                name: "max_length",
                expected: format!("above {} ({special} special tokens, stride {stride})", special + stride),
                found: max_length.to_string(),
            }),
            _ => Ok(encoder),
        }
    }

    /// The options that it was made with.
    pub fn options(&self) -> &EncodeOptions {
        &self.options
    }

    /// A text, or a pair of texts, cut to `max_length` tokens.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if the part that is not to be cut is too long, or the tokenizer refuses the text.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Encoding> {
        Ok(self.windows(text, pair)?.swap_remove(0))
    }

    /// A text or a pair as windows of at most `max_length` tokens, at least one: of a long text all of it. Windows share `stride`
    /// tokens, and the part of a pair that is not cut is in all of them; where both parts may be cut, there is one window.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn windows(&self, text: &str, pair: Option<&str>) -> Result<Vec<Encoding>> {
        match &self.kind {
            Kind::Words(words) => Ok(vec![self.encode_with_keras(words, text, pair)]),
            Kind::Library(library, processor) => {
                self.cut_and_framed(library, processor.as_ref(), text.into(), pair.map(Into::into))
            }
        }
    }

    /// A sentence that is split into words already, cut to `max_length` tokens: [`Encoding::word_ids`] are the numbers of the words.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_words(&self, words: &[&str]) -> Result<Encoding> {
        match &self.kind {
            Kind::Words(tokenizer) => Ok(self.encode_with_keras(tokenizer, &words.join(" "), None)),
            Kind::Library(library, processor) => {
                let windows = self.cut_and_framed(library, processor.as_ref(), words.into(), None);
                Ok(windows?.swap_remove(0))
            }
        }
    }

    /// [`encode`](Self::encode) for many, computed in parallel.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_batch(&self, texts: &[(&str, Option<&str>)]) -> Result<Vec<Encoding>> {
        use rayon::prelude::*;
        texts.par_iter().map(|(text, pair)| self.encode(text, *pair)).collect()
    }

    /// The windows of a text or a pair, at least one.
    fn cut_and_framed<'a>(
        &self,
        library: &Library,
        processor: Option<&PostProcessorWrapper>,
        text: InputSequence<'a>,
        pair: Option<InputSequence<'a>>,
    ) -> Result<Vec<Encoding>> {
        let failed = |error: tokenizers::Error| DataError::tokenizer("encode the text", error);
        let plain = |text| library.encode(EncodeInput::Single(text), false).map_err(failed);
        let (mut text, mut pair) = (plain(text)?, pair.map(plain).transpose()?);
        let special = self.special(processor, pair.is_some());
        let length = text.len() + pair.as_ref().map_or(0, |pair| pair.len());
        let parts: Vec<(tokenizers::Encoding, Option<tokenizers::Encoding>)> = match self.options.max_length {
            Some(most) if length + special > most => {
                let room = most.saturating_sub(special);
                match (&mut pair, self.options.truncation) {
                    (Some(second), Truncation::OnlySecond) => {
                        let windows = self.cut(second, room.saturating_sub(text.len()), text.len())?;
                        windows.into_iter().map(|second| (text.clone(), Some(second))).collect()
                    }
                    (Some(second), Truncation::OnlyFirst) => {
                        let windows = self.cut(&mut text, room.saturating_sub(second.len()), second.len())?;
                        windows.into_iter().map(|text| (text, pair.clone())).collect()
                    }
                    (Some(second), Truncation::LongestFirst) => {
                        // The longer one down to the shorter one, then both; an odd token is the longer one's.
                        let (a, b) = (text.len(), second.len());
                        let (a, b) = match a <= b {
                            true => (a.min(room / 2), room - a.min(room / 2)),
                            false => (room - b.min(room / 2), b.min(room / 2)),
                        };
                        text.truncate(a, 0, TruncationDirection::Right);
                        second.truncate(b, 0, TruncationDirection::Right);
                        text.take_overflowing();
                        second.take_overflowing();
                        vec![(text, pair)]
                    }
                    (None, _) => self.cut(&mut text, room, 0)?.into_iter().map(|text| (text, None)).collect(),
                }
            }
            _ => vec![(text, pair)],
        };
        let framed = |(text, pair): (tokenizers::Encoding, Option<tokenizers::Encoding>)| {
            let framed = match (processor, pair) {
                (Some(processor), pair) => processor.process(text, pair, self.options.add_special_tokens),
                (None, None) => Ok(text),
                (None, Some(pair)) => {
                    let both = <dyn PostProcessor>::default_process(vec![text, pair], false);
                    both.map(|both| tokenizers::Encoding::merge(both, false))
                }
            };
            framed.map(|framed| Encoding::from_library(&framed)).map_err(failed)
        };
        parts.into_iter().map(framed).collect()
    }

    /// Windows of at most `room` tokens of the part that is cut, beside `kept` tokens of the other.
    fn cut(
        &self,
        part: &mut tokenizers::Encoding,
        room: usize,
        kept: usize,
    ) -> Result<Vec<tokenizers::Encoding>> {
        let (stride, most) = (self.options.stride, self.options.max_length.unwrap_or_default());
        if room <= stride {
            return Err(DataError::tokenizer(
                "cut a pair of texts",
                format!(
                    "the part that is not to be cut has {kept} tokens, which leaves {room} of max_length {most} to the other, and a \
                     stride of {stride} needs more; use a larger max_length, or truncation = \"longest_first\""
                ),
            ));
        }
        part.truncate(room, stride, TruncationDirection::Right);
        let rest = part.take_overflowing();
        Ok(std::iter::once(part.clone()).chain(rest).collect())
    }

    /// Special tokens around a text or a pair.
    fn special(&self, processor: Option<&PostProcessorWrapper>, pair: bool) -> usize {
        let added = processor.map_or(0, |processor| processor.added_tokens(pair));
        if self.options.add_special_tokens { added } else { 0 }
    }

    /// Keras' tokenizer knows no special tokens; long texts lose their beginning, as in Keras.
    fn encode_with_keras(&self, words: &WordTokenizer, text: &str, pair: Option<&str>) -> Encoding {
        let mut encoding = Encoding::default();
        for (sequence, text) in std::iter::once(text).chain(pair).enumerate() {
            let ids = words.text_to_sequence(text);
            let count = ids.len();
            encoding.ids.extend(ids);
            encoding.sequence_ids.extend(std::iter::repeat_n(Some(sequence), count));
            encoding.word_ids.extend((0..count as u32).map(Some));
        }
        let surplus = encoding.len().saturating_sub(self.options.max_length.unwrap_or(usize::MAX));
        encoding.ids.drain(..surplus);
        encoding.sequence_ids.drain(..surplus);
        encoding.word_ids.drain(..surplus);
        encoding.type_ids = vec![0; encoding.len()];
        encoding.offsets = vec![(0, 0); encoding.len()];
        encoding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Documents, UnigramOptions, WordOptions, WordPieceOptions};

    const TEXT: &str =
        "The tower is in Paris, the tower of iron. Who built the tower? Eiffel built it in Paris.";

    fn wordpiece() -> Tokenizer {
        let text = Documents::from_texts([TEXT, TEXT]);
        Tokenizer::train_wordpiece(&text, &WordPieceOptions::new(80)).expect("trained")
    }

    fn encoder(options: EncodeOptions) -> TextEncoder {
        TextEncoder::new(&wordpiece(), &options).expect("an encoder")
    }

    #[test]
    fn a_pair_has_special_tokens_segments_and_offsets() {
        let encoding = encoder(EncodeOptions::default()).encode("Who?", Some("the tower")).expect("encoded");
        let [cls, sep] = [2, 3];
        assert_eq!(encoding.ids[0], cls);
        assert_eq!(encoding.ids.iter().filter(|&&id| id == sep).count(), 2);
        assert_eq!((encoding.ids.last(), encoding.type_ids.last()), (Some(&sep), Some(&1)));
        assert_eq!((encoding.type_ids[0], encoding.sequence_ids[0], encoding.offsets[0]), (0, None, (0, 0)));
        for (i, &(start, end)) in encoding.offsets.iter().enumerate() {
            let text = match encoding.sequence_ids[i] {
                Some(0) => "Who?",
                Some(1) => "the tower",
                _ => continue,
            };
            assert!(start < end && end <= text.len(), "{start}..{end}");
        }
        let (first, last) = encoding.tokens_of(1, 4, 9).expect("the tower's tokens");
        assert_eq!((encoding.offsets[first].0, encoding.offsets[last].1), (4, 9));
        assert_eq!(encoding.tokens_of(1, 9, 20), None);
    }

    #[test]
    fn labels_of_words_stand_at_their_first_tokens() {
        let words = ["Eiffel", "built", "Parisian", "towers"];
        let encoding = encoder(EncodeOptions::default()).encode_words(&words).expect("encoded");
        let labels = encoding.token_labels(&[7, 0, 8, 9]);
        assert_eq!(labels.iter().filter(|&&label| label >= 0).copied().collect::<Vec<_>>(), [7, 0, 8, 9]);
        assert_eq!(
            (labels.len(), labels[0], labels.last()),
            (encoding.len(), IGNORED_LABEL, Some(&IGNORED_LABEL))
        );
        assert!(encoding.len() > 6, "a word of several tokens");
        assert_eq!(encoding.token_labels(&[7]).iter().filter(|&&label| label >= 0).count(), 1);
    }

    #[test]
    fn long_texts_are_cut_or_become_windows_that_overlap() {
        let cut = EncodeOptions { max_length: Some(12), ..EncodeOptions::default() };
        let encoding = encoder(cut).encode(TEXT, None).expect("encoded");
        assert_eq!((encoding.len(), encoding.ids[0], encoding.ids[11]), (12, 2, 3));

        let options =
            EncodeOptions { truncation: Truncation::OnlySecond, stride: 3, max_length: Some(14), ..cut };
        let windows = encoder(options).windows("Who?", Some(TEXT)).expect("windows");
        assert!(windows.len() > 2, "{windows:?}");
        let spans: Vec<Vec<(usize, usize)>> = windows
            .iter()
            .map(|w| (0..w.len()).filter(|&i| w.sequence_ids[i] == Some(1)).map(|i| w.offsets[i]).collect())
            .collect();
        assert_eq!((spans[0][0].0, spans[spans.len() - 1].last().map(|s| s.1)), (0, Some(TEXT.len())));
        for pair in spans.windows(2) {
            assert_eq!(pair[0][pair[0].len() - 3..], pair[1][..3], "three tokens are shared");
        }
        assert!(windows.iter().all(|w| w.len() <= 14 && w.ids[..3] == windows[0].ids[..3]));
    }

    #[test]
    fn lengths_without_room_are_errors_and_no_panics() {
        let new = |options| TextEncoder::new(&wordpiece(), &options);
        for max_length in [0, 1, 2] {
            let options = EncodeOptions { max_length: Some(max_length), ..EncodeOptions::default() };
            assert!(matches!(new(options), Err(DataError::Invalid { name: "max_length", .. })));
        }
        let stride = EncodeOptions { stride: 7, max_length: Some(9), ..EncodeOptions::default() };
        assert!(matches!(new(stride), Err(DataError::Invalid { name: "max_length", .. })));
        for (truncation, text, pair) in
            [(Truncation::OnlySecond, TEXT, "who"), (Truncation::OnlyFirst, "who", TEXT)]
        {
            let options =
                EncodeOptions { truncation, stride: 2, max_length: Some(10), ..EncodeOptions::default() };
            let error = encoder(options).windows(text, Some(pair)).expect_err("too long").to_string();
            assert!(error.contains("max_length 10"), "{error}");
        }
        for max_length in 3..8 {
            let options = EncodeOptions { max_length: Some(max_length), ..EncodeOptions::default() };
            let encoding = encoder(options).encode(TEXT, Some(TEXT)).expect("cut");
            assert_eq!(encoding.len(), max_length);
        }
    }

    #[test]
    fn every_kind_of_tokenizer_encodes() {
        let text = Documents::from_texts([TEXT]);
        let words = Tokenizer::train_words(&text, &WordOptions::default()).expect("fitted");
        let unigram = Tokenizer::train_unigram(&text, &UnigramOptions::new(60)).expect("trained");
        let options = EncodeOptions { max_length: Some(4), ..EncodeOptions::default() };
        let end = 1; // `</s>`
        for (tokenizer, last) in [(Tokenizer::Bytes, u32::from(b'e')), (words, 1), (unigram, end)] {
            let encoder = TextEncoder::new(&tokenizer, &options).expect("an encoder");
            let texts = [("tower is in the tower is the", None), ("a", Some("")), ("", None)];
            let encodings = encoder.encode_batch(&texts).expect("encoded");
            assert_eq!(encodings[0].len(), 4, "{tokenizer:?}");
            assert!(encodings.iter().all(|e| e.len() == e.offsets.len() && e.len() == e.type_ids.len()));
            assert_eq!(encodings[0].ids.last(), Some(&last));
        }
    }
}
