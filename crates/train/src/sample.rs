//! Text from a model.

use std::ops::ControlFlow;

use wgrad_data::Tokenizer;
use wgrad_models::{
    CausalLanguageModel, GenerateOptions,
    generate::{BeamOptions, beam_search},
};

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
    /// Draws among the fewest tokens that together have this probability; absent for all.
    pub top_p: Option<f64>,
    /// Draws among tokens at least this times as likely as the likeliest; absent for all.
    pub min_p: Option<f64>,
    /// What the logits of tokens that have occurred are divided by; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Another seed, another text.
    pub seed: u64,
    /// Each ends the text, before its first occurrence.
    pub stop: Vec<String>,
    /// Each ends the text.
    pub stop_tokens: Vec<u32>,
    /// How many texts a beam search follows; 1 draws token by token instead.
    pub num_beams: usize,
}

impl Default for SampleOptions {
    /// 200 tokens at temperature 1, whatever they are.
    fn default() -> Self {
        SampleOptions {
            tokens: 200,
            bytes: None,
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            seed: 0,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            num_beams: 1,
        }
    }
}

/// Continues `prompt`; `each` gets the text piece by piece, without the prompt and only in whole characters, and returns whether
/// to go on.
///
/// # Errors
/// A prompt that the tokenizer refuses or that is empty, options that cannot be, or the device.
pub(crate) fn generate(
    model: &dyn CausalLanguageModel,
    tokenizer: &Tokenizer,
    prompt: &str,
    options: &SampleOptions,
    mut each: impl FnMut(&str) -> bool,
) -> Result<()> {
    let ids = tokenizer.encode(prompt)?;
    let mut decoder = tokenizer.decode_stream();
    let mut left = options.bytes.unwrap_or(usize::MAX);
    let mut stops = StopStrings::new(&options.stop);
    let mut failure = None;
    // Passes on what fits, and says whether there is more to come.
    let mut pass_on = |piece: &str| {
        // Only whole characters; the text ends at the first one that does not fit.
        let fits = (0..=piece.len().min(left)).rev().find(|&end| piece.is_char_boundary(end)).unwrap_or(0);
        left = if fits < piece.len() { 0 } else { left - fits };
        let piece = &piece[..fits];
        (piece.is_empty() || each(piece)) && left > 0
    };
    let mut go_on = true;
    let mut next = |id: u32| {
        go_on = match decoder.push(id) {
            Ok(piece) => {
                let (piece, ended) = stops.push(&piece);
                pass_on(&piece) && !ended
            }
            Err(error) => {
                failure = Some(error);
                false
            }
        };
        if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    if options.num_beams > 1 {
        let search = BeamOptions {
            num_beams: options.num_beams,
            max_new_tokens: options.tokens,
            stop_tokens: options.stop_tokens.clone(),
            ..BeamOptions::default()
        };
        let best = beam_search(model, &ids, &search)?.into_iter().next();
        let tokens = best.map(|beam| beam.tokens).unwrap_or_default();
        let _ = tokens.into_iter().try_for_each(&mut next);
    } else {
        let drawing = GenerateOptions {
            max_new_tokens: options.tokens,
            repetition_penalty: options.repetition_penalty,
            temperature: options.temperature,
            top_k: options.top_k,
            top_p: options.top_p,
            min_p: options.min_p,
            seed: options.seed,
            stop_tokens: options.stop_tokens.clone(),
        };
        wgrad_models::generate(model, &ids, &drawing, &mut next)?;
    }
    match failure {
        Some(error) => Err(error.into()),
        None => {
            if go_on {
                let (piece, ended) = stops.push(&decoder.finish()?);
                if pass_on(&piece) && !ended {
                    pass_on(&stops.finish());
                }
            }
            Ok(())
        }
    }
}

/// Looks for strings that end a text in a text that comes in pieces.
struct StopStrings<'a> {
    stops: &'a [String],
    /// The end of the text so far, which may be the beginning of a stop.
    held: String,
}

impl<'a> StopStrings<'a> {
    fn new(stops: &'a [String]) -> Self {
        StopStrings { stops, held: String::new() }
    }

    /// What of the text can be shown after another piece, and whether it has ended.
    fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let stops = || self.stops.iter().filter(|stop| !stop.is_empty());
        if let Some(end) = stops().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), true);
        }
        let begins = |start: usize| stops().any(|stop| stop.starts_with(&self.held[start..]));
        let starts = self.held.char_indices().map(|(start, _)| start);
        let shown = starts.into_iter().find(|&start| begins(start)).unwrap_or(self.held.len());
        let rest = self.held.split_off(shown);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back when the text ends.
    fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::StopStrings;

    /// What is shown of a text in pieces.
    fn shown(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut search = StopStrings::new(&stops);
        let mut all = Vec::new();
        for piece in pieces {
            let (text, ended) = search.push(piece);
            all.push(text);
            if ended {
                return (all, true);
            }
        }
        all.push(search.finish());
        (all, false)
    }

    #[test]
    fn a_stop_ends_the_text_before_it_however_it_is_cut_into_pieces() {
        assert_eq!(shown(&["\nQ:"], &["yes", "\n", "Q", ": more"]).0.concat(), "yes");
        assert_eq!(
            shown(&["\nQ:"], &["yes", "\n", "A: no"]),
            (["yes", "", "\nA: no", ""].map(String::from).to_vec(), false)
        );
        assert_eq!(shown(&["b", "ab"], &["xab"]), (vec!["x".to_owned()], true));
        assert_eq!(shown(&["aab"], &["aa", "ab", "c"]), (["", "a"].map(String::from).to_vec(), true));
        assert_eq!(shown(&["äö"], &["ä", "ä"]).0.concat(), "ää");
        assert_eq!(shown(&[""], &["a"]), (["a", ""].map(String::from).to_vec(), false));
    }
}
