//! Hiding tokens that a masked language model shall guess.
//!
//! J. Devlin et al., "BERT", NAACL 2019; drawn anew for every epoch, as Y. Liu et al., "RoBERTa", 2019, do.

use serde::{Deserialize, Serialize};

use crate::philox::{below, philox4x32};
use crate::{DataError, Encoding, Result, Tokenizer};

/// Last word of the counter, the letters `MASK`: keeps these draws apart from others with the same seed.
const DOMAIN: u32 = 0x4D41_534B;

/// Label of a token that is not to be guessed; losses ignore it.
pub const IGNORED_LABEL: i32 = -100;

/// Which tokens are hidden, and how; the defaults are BERT's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaskingOptions {
    /// Share of the tokens that are to be guessed.
    pub probability: f64,
    /// Share of these that become the mask token.
    pub masked: f64,
    /// Share of these that become any token; the rest stays as it is.
    pub random: f64,
    /// Whether all tokens of a word are to be guessed if one is.
    pub whole_words: bool,
}

impl Default for MaskingOptions {
    fn default() -> Self {
        Self { probability: 0.15, masked: 0.8, random: 0.1, whole_words: false }
    }
}

/// Hides tokens; what it hides is a pure function of seed, epoch and example.
#[derive(Clone, Debug, PartialEq)]
pub struct Masking {
    options: MaskingOptions,
    mask: u32,
    vocab_size: u32,
    /// Of windows: which ids go on with the word before them; empty where that does not matter.
    continues: Vec<bool>,
    seed: u64,
}

/// An example with hidden tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masked {
    /// What the model sees.
    pub ids: Vec<u32>,
    /// The hidden ids, and [`IGNORED_LABEL`] for tokens that are not to be guessed.
    pub labels: Vec<i32>,
}

impl Masking {
    /// Hides tokens of a tokenizer which has a mask token.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if a share is not within 0 to 1, or the tokenizer has no mask token.
    pub fn new(tokenizer: &Tokenizer, options: &MaskingOptions, seed: u64) -> Result<Self> {
        let shares = [
            ("probability", options.probability),
            ("masked", options.masked),
            ("random", options.random),
            ("masked + random", options.masked + options.random),
        ];
        for (name, share) in shares {
            // A sum of decimal shares may be an ulp above 1.
            if !(0.0..=1.0 + 1e-9).contains(&share) {
                let expected = "0 to 1".into();
                return Err(DataError::Invalid { name, expected, found: share.to_string() });
            }
        }
        let mask = tokenizer.special_tokens().mask.ok_or_else(|| DataError::Invalid {
            name: "tokenizer",
            expected: "one with a mask token, [MASK] or <mask>, for masked language modelling".into(),
            found: "one without".into(),
        })?;
        let continues = match tokenizer {
            Tokenizer::Json(json) if options.whole_words => json.continues_word(),
            _ => Vec::new(),
        };
        // Vocabularies have at most 2^31 ids.
        Ok(Self { options: *options, mask, vocab_size: tokenizer.vocab_size() as u32, continues, seed })
    }

    /// Hides tokens of example `index` in `epoch`; special tokens are never hidden. At least one token is, if there is any.
    pub fn mask(&self, encoding: &Encoding, epoch: u64, index: u64) -> Masked {
        let special = |i: usize| encoding.sequence_ids[i].is_none();
        let word = |i: usize| (encoding.sequence_ids[i], encoding.word_ids[i]);
        let starts =
            |i: usize| !self.options.whole_words || i == 0 || word(i) != word(i - 1) || word(i).1.is_none();
        self.hide(&encoding.ids, special, starts, epoch, index)
    }

    /// Hides tokens of a window of a text without special tokens, as [`mask`](Self::mask) does; what a word is, spellings of tokens tell.
    pub fn mask_window(&self, ids: &[u32], epoch: u64, index: u64) -> Masked {
        let continues = |i: usize| self.continues.get(ids[i] as usize).copied().unwrap_or_default();
        self.hide(ids, |_| false, |i| i == 0 || !continues(i), epoch, index)
    }

    fn hide(
        &self,
        ids: &[u32],
        special: impl Fn(usize) -> bool,
        starts: impl Fn(usize) -> bool,
        epoch: u64,
        index: u64,
    ) -> Masked {
        let [a, b, ..] = philox4x32(
            [epoch as u32, (epoch >> 32) as u32, 0, DOMAIN],
            [self.seed as u32, (self.seed >> 32) as u32],
        );
        let draw = |i: usize| philox4x32([index as u32, (index >> 32) as u32, i as u32, DOMAIN], [a, b]);
        let mut masked = Masked { ids: ids.to_vec(), labels: vec![IGNORED_LABEL; ids.len()] };
        let mut hidden = false;
        for i in 0..ids.len() {
            if starts(i) {
                hidden = share(draw(i)[0]) < self.options.probability;
            }
            if hidden && !special(i) {
                self.replace(&mut masked, i, draw(i));
            }
        }
        if masked.labels.iter().all(|&label| label == IGNORED_LABEL) && self.options.probability > 0.0 {
            let candidates: Vec<usize> = (0..ids.len()).filter(|&i| !special(i)).collect();
            let [a, b, ..] = draw(ids.len());
            let chosen = below(u64::from(a) << 32 | u64::from(b), candidates.len() as u64) as usize;
            if let Some(&i) = candidates.get(chosen) {
                self.replace(&mut masked, i, draw(i));
            }
        }
        masked
    }

    fn replace(&self, masked: &mut Masked, i: usize, [_, kind, high, low]: [u32; 4]) {
        masked.labels[i] = masked.ids[i] as i32;
        let kind = share(kind);
        if kind < self.options.masked {
            masked.ids[i] = self.mask;
        } else if kind < self.options.masked + self.options.random {
            masked.ids[i] = below(u64::from(high) << 32 | u64::from(low), u64::from(self.vocab_size)) as u32;
        }
    }
}

/// A word as a number in `0..1`.
fn share(word: u32) -> f64 {
    f64::from(word) / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Documents, EncodeOptions, TextEncoder, WordPieceOptions};

    const TEXT: &str = "unbelievable towers of unbelievable iron";

    fn encoded() -> (Tokenizer, Encoding) {
        // Few tokens: words fall into many pieces.
        let text = Documents::from_texts([TEXT]);
        let tokenizer = Tokenizer::train_wordpiece(&text, &WordPieceOptions::new(40)).expect("trained");
        let encoder = TextEncoder::new(&tokenizer, &EncodeOptions::default()).expect("an encoder");
        let encoding = encoder.encode(TEXT, Some("iron")).expect("encoded");
        (tokenizer, encoding)
    }

    #[test]
    fn shares_of_hidden_masked_random_and_kept_tokens_are_as_asked() {
        let (tokenizer, encoding) = encoded();
        let masking = Masking::new(&tokenizer, &MaskingOptions::default(), 7).expect("a mask token");
        let (mut all, mut hidden, mut masked, mut kept) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64);
        for index in 0..4000 {
            let example = masking.mask(&encoding, 3, index);
            for (i, &label) in example.labels.iter().enumerate() {
                if encoding.sequence_ids[i].is_none() {
                    assert_eq!((label, example.ids[i]), (IGNORED_LABEL, encoding.ids[i]));
                    continue;
                }
                all += 1.0;
                if label != IGNORED_LABEL {
                    assert_eq!(label, encoding.ids[i] as i32);
                    hidden += 1.0;
                    masked += f64::from(u8::from(example.ids[i] == 4));
                    kept += f64::from(u8::from(example.ids[i] == encoding.ids[i]));
                } else {
                    assert_eq!(example.ids[i], encoding.ids[i]);
                }
            }
        }
        // 10 % are drawn from 40 tokens, of which one is the mask and one the token itself.
        assert!((hidden / all - 0.15).abs() < 0.006, "{}", hidden / all);
        assert!((masked / hidden - 0.8025).abs() < 0.01, "{}", masked / hidden);
        assert!((kept / hidden - 0.1025).abs() < 0.01, "{}", kept / hidden);
    }

    #[test]
    fn the_same_seed_epoch_and_example_hide_the_same_tokens() {
        let (tokenizer, encoding) = encoded();
        let of = |seed| Masking::new(&tokenizer, &MaskingOptions::default(), seed).expect("a mask token");
        assert_eq!(of(1).mask(&encoding, 2, 3), of(1).mask(&encoding, 2, 3));
        let differs = |seed, epoch, base: u64| {
            (0..20).any(|i| of(seed).mask(&encoding, epoch, base + i) != of(1).mask(&encoding, 2, 3 + i))
        };
        assert!(differs(4, 2, 3) && differs(1, 4, 3) && differs(1, 2, 40));
    }

    #[test]
    fn whole_words_are_hidden_together() {
        let (tokenizer, encoding) = encoded();
        let options = MaskingOptions { whole_words: true, ..MaskingOptions::default() };
        let masking = Masking::new(&tokenizer, &options, 7).expect("a mask token");
        let word = |i: usize| (encoding.sequence_ids[i], encoding.word_ids[i]);
        assert!((1..encoding.len()).any(|i| word(i) == word(i - 1)), "a word of several pieces");
        let (mut hidden, mut alone) = (0, 0);
        for index in 0..500 {
            let labels = masking.mask(&encoding, 0, index).labels;
            let count = labels.iter().filter(|&&label| label != IGNORED_LABEL).count();
            let split =
                (1..labels.len()).any(|i| word(i) == word(i - 1) && (labels[i] < 0) != (labels[i - 1] < 0));
            // A piece alone is what stands in for examples without any hidden word.
            assert!(!split || count == 1, "{labels:?}");
            hidden += usize::from(count > 1);
            alone += usize::from(count == 1);
            let inner = 1..encoding.ids.len() - 3;
            let window = masking.mask_window(&encoding.ids[inner.clone()], 0, index).labels;
            let split = inner.clone().skip(1).any(|i| {
                word(i) == word(i - 1) && (window[i - inner.start] < 0) != (window[i - 1 - inner.start] < 0)
            });
            assert!(!split || window.iter().filter(|&&label| label >= 0).count() == 1, "{window:?}");
        }
        assert!(hidden > 100 && alone > 100);
    }

    #[test]
    fn every_example_has_something_to_guess_and_nothing_has_nothing() {
        let (tokenizer, _) = encoded();
        let options = MaskingOptions { probability: 0.01, ..MaskingOptions::default() };
        let masking = Masking::new(&tokenizer, &options, 0).expect("a mask token");
        for index in 0..50 {
            let labels = masking.mask_window(&[7, 8, 9], 0, index).labels;
            assert!(labels.iter().any(|&label| label >= 0));
        }
        assert!(masking.mask_window(&[], 0, 0).ids.is_empty());
        let never = MaskingOptions { probability: 0.0, ..MaskingOptions::default() };
        let never = Masking::new(&tokenizer, &never, 0).expect("a mask token").mask_window(&[7], 0, 0);
        assert_eq!((never.ids, never.labels), (vec![7], vec![IGNORED_LABEL]));
    }

    #[test]
    fn shares_out_of_range_and_tokenizers_without_a_mask_are_errors() {
        let (tokenizer, _) = encoded();
        for options in [
            MaskingOptions { probability: -0.1, ..MaskingOptions::default() },
            MaskingOptions { probability: f64::NAN, ..MaskingOptions::default() },
            MaskingOptions { masked: 0.8, random: 0.3, ..MaskingOptions::default() },
        ] {
            assert!(matches!(Masking::new(&tokenizer, &options, 0), Err(DataError::Invalid { .. })));
        }
        let error =
            Masking::new(&Tokenizer::Bytes, &MaskingOptions::default(), 0).expect_err("no mask token");
        assert!(error.to_string().contains("[MASK]"), "{error}");
    }
}
