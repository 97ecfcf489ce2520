//! The bytes tokenizer as a `tokenizer.json`, and the alphabet of byte-level tokenizers.
//!
//! A byte-level BPE writes each byte as one printable character, so that its vocabulary is text. Without merges,
//! and with the byte as the id of its character, it *is* the bytes tokenizer: so a model trained on bytes has a
//! folder that any reader of `tokenizer.json` understands.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

/// The character that stands for each byte in byte-level vocabularies, as GPT-2's `bytes_to_unicode` defines it:
/// the printable characters of Latin-1 stand for themselves, the other bytes are numbered from U+0100.
static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut unprintable = 0x100_u16..;
    std::array::from_fn(|i| {
        let byte = i as u8;
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            return char::from(byte);
        }
        unprintable
            .next()
            .and_then(|code| char::from_u32(u32::from(code)))
            .unwrap_or(char::REPLACEMENT_CHARACTER)
    })
});

static BYTES: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| CHARS.iter().enumerate().map(|(byte, &c)| (c, byte as u8)).collect());

/// The character for each byte.
pub(crate) fn alphabet() -> &'static [char; 256] {
    &CHARS
}

/// Appends the bytes of a byte-level token; a token with other characters (a special one) stands for itself.
pub(crate) fn push_token_bytes(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in token.chars() {
        match BYTES.get(&c) {
            Some(&byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// A `tokenizer.json` whose token ids are the bytes of the text.
pub(crate) fn tokenizer_json() -> String {
    let vocab: serde_json::Map<String, Value> =
        alphabet().iter().enumerate().map(|(byte, c)| (c.to_string(), byte.into())).collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": [],
        },
    });
    format!("{document:#}\n")
}

/// Whether a `tokenizer.json` describes a tokenizer whose ids are the bytes, also after another program has rewritten it.
pub(crate) fn is_bytes_tokenizer(document: &Value) -> bool {
    let model = &document["model"];
    let Some(vocab) = model["vocab"].as_object() else { return false };
    let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    let ids_are_bytes = vocab.len() == 256
        && alphabet().iter().enumerate().all(|(byte, c)| {
            vocab.get(c.encode_utf8(&mut [0; 4])).and_then(Value::as_u64) == Some(byte as u64)
        });
    ids_are_bytes
        && model["type"] == "BPE"
        && empty(&model["merges"])
        && empty(&document["added_tokens"])
        && document["normalizer"].is_null()
        && document["pre_tokenizer"]["type"] == "ByteLevel"
        && document["pre_tokenizer"]["add_prefix_space"] == false
        && document["decoder"]["type"] == "ByteLevel"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_that_of_the_tokenizers_library() {
        let theirs = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut theirs: Vec<char> = theirs.into_iter().collect();
        let mut ours = alphabet().to_vec();
        theirs.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn another_reader_of_tokenizer_json_gets_the_bytes_too() {
        let json = tokenizer_json();
        let theirs: tokenizers::Tokenizer = json.parse().expect("a valid tokenizer.json");
        let text = "Straße,\n\t\u{1F600} \u{a0}x \u{0}";
        let encoding = theirs.encode(text, true).expect("any text");
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        assert_eq!(encoding.get_ids(), ids);
        assert_eq!(theirs.decode(&ids, true).expect("bytes"), text);
        let rewritten = theirs.to_string(false).expect("json");
        assert!(is_bytes_tokenizer(&serde_json::from_str(&rewritten).expect("json")));
    }

    #[test]
    fn a_tokenizer_with_other_ids_or_tokens_is_not_the_bytes_tokenizer() {
        let mut document: Value = serde_json::from_str(&tokenizer_json()).expect("json");
        document["added_tokens"] = json!([{ "id": 256, "content": "<end>", "special": true }]);
        assert!(!is_bytes_tokenizer(&document));
        document["added_tokens"] = json!([]);
        assert!(is_bytes_tokenizer(&document));
        document["model"]["vocab"]["A"] = json!(66);
        assert!(!is_bytes_tokenizer(&document));
    }
}
