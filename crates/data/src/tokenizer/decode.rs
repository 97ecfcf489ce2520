//! Decoding token by token, without ever showing half a character.

use super::{Tokenizer, byte_of, bytes};
use crate::Result;

/// After this many tokens without a complete character the text is taken as it is: no character has more than
/// four bytes, so the bytes are not UTF-8.
const PATIENCE: usize = 8;

/// Turns token ids that arrive one at a time into text, holding back a character until it is complete.
///
/// What [`push`](Self::push) and [`finish`](Self::finish) return, one after the other, is the text that
/// [`Tokenizer::decode`] gives for all ids at once (for decoders other than byte-level ones: up to bytes that are
/// not UTF-8).
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Bytes of a character that is not yet complete.
    pending: Vec<u8>,
    window: Window,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new(), window: Window::default() }
    }

    /// Takes the next token and returns the text that became complete with it, which may be empty.
    ///
    /// # Errors
    /// [`UnknownToken`](crate::DataError::UnknownToken) for an id outside the vocabulary,
    /// [`Tokenizer`](crate::DataError::Tokenizer) if the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        match self.tokenizer {
            Tokenizer::Bytes => self.pending.push(byte_of(id)?),
            Tokenizer::Json(json) if json.is_byte_level() => {
                bytes::push_token_bytes(&json.token(id)?, &mut self.pending);
            }
            Tokenizer::Json(_) | Tokenizer::Words(_) => return self.window.push(self.tokenizer, id),
        }
        Ok(take_complete(&mut self.pending))
    }

    /// Returns what was held back: U+FFFD for a character that never became complete.
    ///
    /// # Errors
    /// [`Tokenizer`](crate::DataError::Tokenizer) if the tokenizer's decoder fails.
    pub fn finish(mut self) -> Result<String> {
        match self.tokenizer {
            Tokenizer::Json(json) if !json.is_byte_level() => self.window.flush(self.tokenizer),
            Tokenizer::Words(_) => self.window.flush(self.tokenizer),
            Tokenizer::Json(_) | Tokenizer::Bytes => Ok(String::from_utf8_lossy(&self.pending).into_owned()),
        }
    }
}

/// Removes the complete characters from the front of `bytes`, with U+FFFD for what can never become one.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut keep = 0;
    if let Some(last) = bytes.utf8_chunks().last() {
        // Only the end can be incomplete, and only if more bytes could still make a character of it.
        let tail = last.invalid();
        let incomplete = std::str::from_utf8(tail).is_err_and(|error| error.error_len().is_none());
        keep = if incomplete { tail.len() } else { 0 };
    }
    let rest = bytes.split_off(bytes.len() - keep);
    let complete = std::mem::replace(bytes, rest);
    String::from_utf8_lossy(&complete).into_owned()
}

/// For decoders whose output for a token depends on its neighbours (a leading space that is dropped at the start
/// of a text, bytes spelled as tokens): decodes a short window of ids with and without the new ones, and the
/// difference is the new text.
#[derive(Debug, Default)]
struct Window {
    ids: Vec<u32>,
    /// The first `shown` ids have been returned as text.
    shown: usize,
}

impl Window {
    fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.new_text(tokenizer)?;
        let waits = text.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.shown < PATIENCE;
        if waits { Ok(String::new()) } else { self.show(text) }
    }

    fn flush(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let text = self.new_text(tokenizer)?;
        self.show(text)
    }

    fn new_text(&self, tokenizer: &Tokenizer) -> Result<String> {
        let before = tokenizer.decode(&self.ids[..self.shown])?;
        let after = tokenizer.decode(&self.ids)?;
        Ok(after.get(before.len()..).unwrap_or_default().to_owned())
    }

    fn show(&mut self, text: String) -> Result<String> {
        // The ids of the last text stay as the left neighbours of the next.
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BpeOptions, Documents, JsonTokenizer};

    fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = tokenizer.decode_stream();
        let mut parts: Vec<String> = ids.iter().map(|&id| stream.push(id).expect("known id")).collect();
        parts.push(stream.finish().expect("decoded"));
        parts
    }

    fn byte_ids(text: &[u8]) -> Vec<u32> {
        text.iter().map(|&byte| u32::from(byte)).collect()
    }

    #[test]
    fn a_character_of_several_bytes_comes_out_whole() {
        assert_eq!(stream(&Tokenizer::Bytes, &byte_ids("aé€".as_bytes())), ["a", "", "é", "", "", "€", ""]);
    }

    #[test]
    fn bytes_that_are_no_text_come_out_as_decode_gives_them() {
        for text in [&b"\xff\xffa"[..], b"\xc3a\xc3", b"\xe2\x82", b"\xf0\x9f\x98a", b"\xed\xa0\x80"] {
            let parts = stream(&Tokenizer::Bytes, &byte_ids(text));
            assert_eq!(parts.concat(), String::from_utf8_lossy(text), "{text:?}");
        }
    }

    #[test]
    fn a_trained_tokenizer_streams_what_it_decodes() {
        let text = "the lowest of the lowest \u{1F600}\u{1F600} naïve";
        let tokenizer =
            Tokenizer::train_bpe(&Documents::from_texts([text]), &BpeOptions::new(270)).expect("trained");
        let ids = tokenizer.encode(text).expect("encoded");
        let parts = stream(&tokenizer, &ids);
        assert_eq!(parts.concat(), text);
        assert!(parts.iter().all(|part| !part.contains(char::REPLACEMENT_CHARACTER)));
        assert!(tokenizer.decode_stream().push(9999).is_err());
    }

    /// A word-level vocabulary with SentencePiece's spaces and byte tokens, as LLaMA's files have.
    const METASPACE: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
        "normalizer":null,"pre_tokenizer":null,"post_processor":null,
        "decoder":{"type":"Sequence","decoders":[
            {"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},
            {"type":"Strip","content":" ","start":1,"stop":0}]},
        "model":{"type":"WordLevel","unk_token":"<unk>",
            "vocab":{"<unk>":0,"▁the":1,"▁cat":2,"s":3,"<0xC3>":4,"<0xA9>":5}}}"#;

    #[test]
    fn decoders_that_look_at_neighbours_stream_what_they_decode() {
        let json = JsonTokenizer::from_json(METASPACE.into(), "load").expect("a tokenizer");
        let tokenizer = Tokenizer::Json(Box::new(json));
        let ids = [1, 2, 3, 1, 4, 5, 2];
        assert_eq!(tokenizer.decode(&ids).expect("decoded"), "the cats theé cat");
        assert_eq!(stream(&tokenizer, &ids), ["the", " cat", "s", " the", "", "é", " cat", ""]);
    }
}
