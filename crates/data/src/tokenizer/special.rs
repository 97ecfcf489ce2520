//! Tokens with a role, and `tokenizer_config.json`, which names them.

use serde_json::{Value, json};

use crate::{DataError, Result};

/// The file beside `tokenizer.json` that names special tokens and holds the chat template.
pub(crate) const CONFIG_FILE: &str = "tokenizer_config.json";

/// Ids of the tokens with a role; those that a vocabulary lacks are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Fills rows up.
    pub pad: Option<u32>,
    /// Stands for what the vocabulary cannot spell.
    pub unk: Option<u32>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Begins the input of a BERT; classification reads its vector.
    pub cls: Option<u32>,
    /// Ends each part of a BERT's input.
    pub sep: Option<u32>,
    /// Hides a token that a masked language model shall guess.
    pub mask: Option<u32>,
}

/// Role, key in `tokenizer_config.json`, and usual names: those of BERT, RoBERTa and T5, LLaMA, GPT-2.
const ROLES: [(&str, &[&str]); 7] = [
    ("pad_token", &["[PAD]", "<pad>", "<|pad|>"]),
    ("unk_token", &["[UNK]", "<unk>"]),
    ("bos_token", &["<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"]),
    ("eos_token", &["</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"]),
    ("cls_token", &["[CLS]", "<s>"]),
    ("sep_token", &["[SEP]", "</s>"]),
    ("mask_token", &["[MASK]", "<mask>"]),
];

impl SpecialTokens {
    /// The tokens that `config`, the text of a `tokenizer_config.json`, names, and for roles that it does not speak of the
    /// usual names that `id_of` knows.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if `config` is not a JSON object, or names a token that `id_of` does not know.
    pub(crate) fn find(
        config: Option<&str>,
        action: &str,
        id_of: impl Fn(&str) -> Option<u32>,
    ) -> Result<Self> {
        let config = match config {
            Some(text) => serde_json::from_str(text)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| DataError::tokenizer(action, format!("{CONFIG_FILE} is not a JSON object")))?,
            None => Value::Null,
        };
        let mut ids = [None; ROLES.len()];
        for (id, (key, names)) in ids.iter_mut().zip(ROLES) {
            let named = match &config[key] {
                Value::String(name) => Some(name.as_str()),
                Value::Object(token) => token.get("content").and_then(Value::as_str),
                _ => None,
            };
            *id = match named {
                // A name that was never put into the vocabulary is no token; transformers would add it as a new one.
                Some(name) => id_of(name),
                None if config.get(key).is_some() => None,
                None => names.iter().find_map(|name| id_of(name)),
            };
        }
        let [pad, unk, bos, eos, cls, sep, mask] = ids;
        Ok(Self { pad, unk, bos, eos, cls, sep, mask })
    }

    /// A `tokenizer_config.json` with which transformers takes a trained tokenizer as it is.
    pub(crate) fn config(&self, name_of: impl Fn(u32) -> Option<String>) -> String {
        let Self { pad, unk, bos, eos, cls, sep, mask } = *self;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        for ((key, _), id) in ROLES.into_iter().zip([pad, unk, bos, eos, cls, sep, mask]) {
            if let Some(name) = id.and_then(&name_of) {
                config[key] = name.into();
            }
        }
        format!("{config:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(name: &str) -> Option<u32> {
        ["<pad>", "</s>", "<unk>", "<|im_end|>"].iter().position(|token| *token == name).map(|i| i as u32)
    }

    #[test]
    fn a_config_decides_and_usual_names_fill_in() {
        let guessed = SpecialTokens::find(None, "load", id_of).expect("tokens");
        assert_eq!((guessed.pad, guessed.eos, guessed.sep, guessed.mask), (Some(0), Some(1), Some(1), None));
        let config = r#"{"eos_token": {"content": "<|im_end|>"}, "sep_token": null, "mask_token": "<none>"}"#;
        let told = SpecialTokens::find(Some(config), "load", id_of).expect("tokens");
        assert_eq!((told.pad, told.eos, told.sep, told.mask), (Some(0), Some(3), None, None));
        for broken in ["[]", "{"] {
            assert!(SpecialTokens::find(Some(broken), "load", id_of).is_err());
        }
    }

    #[test]
    fn a_written_config_names_the_same_tokens() {
        let tokens = SpecialTokens { pad: Some(0), eos: Some(3), ..SpecialTokens::default() };
        let names = ["<pad>", "</s>", "<unk>", "<|im_end|>"];
        let config = tokens.config(|id| names.get(id as usize).map(ToString::to_string));
        let again = SpecialTokens::find(Some(&config), "load", id_of).expect("tokens");
        assert_eq!((again.pad, again.eos), (Some(0), Some(3)));
    }
}
