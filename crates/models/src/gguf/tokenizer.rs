//! The tokenizer of a GGUF file, as Hugging Face's `tokenizer.json`.

use serde_json::{Map, Value, json};

use super::{GgufFile, GgufValue};
use crate::ModelError;

/// Kinds of tokens in files.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

impl GgufFile {
    /// The byte-level BPE of the file as the contents of a `tokenizer.json`.
    ///
    /// # Errors
    /// The file holds no tokenizer, or one of another kind, or one whose parts do not fit together.
    pub fn tokenizer_json(&self) -> Result<String, ModelError> {
        let kind = self.find_text("tokenizer.ggml.model")?.unwrap_or("");
        if kind != "gpt2" {
            return Err(
                self.refuse(format!("its tokenizer is `{kind}`, which is not supported; known: gpt2"))
            );
        }
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let merges = self.texts("tokenizer.ggml.merges")?;
        let vocab: Map<String, Value> =
            tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
        let kinds = match self.get("tokenizer.ggml.token_type") {
            Some(GgufValue::List(kinds)) => kinds.as_slice(),
            _ => &[],
        };
        let added: Vec<Value> = tokens
            .iter()
            .zip(kinds)
            .enumerate()
            .filter_map(|(id, (token, kind))| {
                let special = match kind {
                    GgufValue::Int(CONTROL) => true,
                    GgufValue::Int(USER_DEFINED) => false,
                    _ => return None,
                };
                Some(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                }))
            })
            .collect();
        let merges = merges
            .iter()
            .map(|merge| {
                let pair = merge
                    .split_once(' ')
                    .ok_or_else(|| self.refuse(format!("the merge `{merge}` has no two parts")))?;
                Ok(json!([pair.0, pair.1]))
            })
            .collect::<Result<Vec<Value>, ModelError>>()?;
        let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
        let pre = self.find_text("tokenizer.ggml.pre")?.unwrap_or("default");
        let pre_tokenizer = match pre {
            "default" | "gpt-2" | "gpt2" => byte_level(true),
            "smollm" | "codeshell" | "refact" => {
                sequence(json!({ "type": "Digits", "individual_digits": true }), byte_level(true))
            }
            "llama-bpe" | "llama3" => sequence(words(r"\p{N}{1,3}"), byte_level(false)),
            "qwen2" => sequence(words(r"\p{N}"), byte_level(false)),
            other => {
                let known = "default, gpt-2, smollm, llama-bpe, qwen2";
                let message = format!("the pre-tokenizer `{other}` is not supported; known: {known}");
                return Err(self.refuse(message));
            }
        };
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": pre_tokenizer, "post_processor": byte_level(true), "decoder": byte_level(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": pre.starts_with("llama"), "vocab": vocab, "merges": merges,
            },
        });
        Ok(tokenizer.to_string())
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>, ModelError> {
        let wrong = || self.refuse(format!("has no list of texts `{key}`"));
        let Some(GgufValue::List(list)) = self.get(key) else { return Err(wrong()) };
        let texts = list.iter().map(|value| match value {
            GgufValue::Text(text) => Ok(text.as_str()),
            _ => Err(wrong()),
        });
        texts.collect()
    }
}

fn sequence(first: Value, second: Value) -> Value {
    json!({ "type": "Sequence", "pretokenizers": [first, second] })
}

/// Words as Llama 3 and Qwen2 cut them, which differ in how many digits are one.
fn words(digits: &str) -> Value {
    let regex = format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
}
