//! Text from a model.

use std::ops::ControlFlow;

use wgrad_data::Tokenizer;
use wgrad_models::{GenerateOptions, Gpt2LMHead};

use crate::error::Result;

/// How to draw text.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Tokens at most.
    pub tokens: usize,
    /// Bytes of text at most; absent for no such bound.
    pub bytes: Option<usize>,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Draws among that many likeliest tokens; absent for all.
    pub top_k: Option<usize>,
    /// Another seed, another text.
    pub seed: u64,
}

/// Continues `prompt`; `each` gets the text piece by piece, without the prompt and only in whole characters, and returns whether
/// to go on.
///
/// # Errors
/// A prompt that the tokenizer refuses or that is empty, or the device.
pub(crate) fn generate(
    model: &Gpt2LMHead,
    tokenizer: &Tokenizer,
    prompt: &str,
    options: &SampleOptions,
    mut each: impl FnMut(&str) -> bool,
) -> Result<()> {
    let ids = tokenizer.encode(prompt)?;
    let mut decoder = tokenizer.decode_stream();
    let mut left = options.bytes.unwrap_or(usize::MAX);
    let mut failure = None;
    // Passes on what fits, and says whether there is more to come.
    let mut pass_on = |piece: &str| {
        // Only whole characters; the text ends at the first one that does not fit.
        let fits = (0..=piece.len().min(left)).rev().find(|&end| piece.is_char_boundary(end)).unwrap_or(0);
        left = if fits < piece.len() { 0 } else { left - fits };
        let piece = &piece[..fits];
        (piece.is_empty() || each(piece)) && left > 0
    };
    let drawing = GenerateOptions {
        max_new_tokens: options.tokens,
        temperature: options.temperature,
        top_k: options.top_k,
        seed: options.seed,
        stop_token: None,
    };
    let mut go_on = true;
    wgrad_models::generate(model, &ids, &drawing, |id| {
        go_on = match decoder.push(id) {
            Ok(piece) => pass_on(&piece),
            Err(error) => {
                failure = Some(error);
                false
            }
        };
        if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    match failure {
        Some(error) => Err(error.into()),
        None => {
            if go_on {
                pass_on(&decoder.finish()?);
            }
            Ok(())
        }
    }
}
