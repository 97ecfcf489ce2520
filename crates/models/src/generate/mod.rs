//! Text from a language model, token by token.

use std::ops::ControlFlow;

use crate::{CausalLanguageModel, ModelError};

mod beam;
mod reader;
mod sampling;

pub use beam::{Beam, BeamOptions, beam_search};
pub use reader::Reader;
use sampling::Sampler;

/// How to choose the next token. Rules apply in the order of the fields, as Hugging Face applies them.
#[derive(Clone, PartialEq, Debug)]
pub struct GenerateOptions {
    /// How many tokens to write at most.
    pub max_new_tokens: usize,
    /// Logits of tokens that have occurred are divided by this where they are positive, and multiplied where they are negative
    /// (Keskar et al., *CTRL*, 2019); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f64,
    /// Draws from this many likeliest tokens only.
    pub top_k: Option<usize>,
    /// Draws from the fewest likeliest tokens that together have this probability (Holtzman et al., 2020).
    pub top_p: Option<f64>,
    /// Draws from tokens that are at least this times as likely as the likeliest one (Nguyen et al., 2024).
    pub min_p: Option<f64>,
    /// Of the draws; the same seed writes the same text.
    pub seed: u64,
    /// Each ends the text; it is not part of it.
    pub stop_tokens: Vec<u32>,
}

impl Default for GenerateOptions {
    /// 100 tokens, drawn at temperature 1 from all tokens, with seed 0 and no stop token.
    fn default() -> Self {
        GenerateOptions {
            max_new_tokens: 100,
            repetition_penalty: 1.0,
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            seed: 0,
            stop_tokens: Vec::new(),
        }
    }
}

impl GenerateOptions {
    /// Whether tokens can be chosen so.
    ///
    /// # Errors
    /// [`ModelError::Generate`] names the option that cannot be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let refuse = |message: String| Err(ModelError::Generate(message));
        let share = |p: &f64| !(*p > 0.0 && *p <= 1.0);
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            return refuse(format!("the temperature is {}; give 0 or more", self.temperature));
        }
        if self.top_k == Some(0) {
            return refuse("top-k is 0; give 1 or more, or leave it out".into());
        }
        if let Some(p) = self.top_p.filter(share) {
            return refuse(format!("top-p is {p}; give a probability above 0, at most 1"));
        }
        if let Some(p) = self.min_p.filter(|p| !(0.0..=1.0).contains(p)) {
            return refuse(format!("min-p is {p}; give a probability"));
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return refuse(format!(
                "the repetition penalty is {}; give a number above 0",
                self.repetition_penalty
            ));
        }
        Ok(())
    }
}

/// Continues `prompt`; `each` is shown every new token at once and may end the text. Returns the new tokens.
///
/// Keys and values of what was read are kept, so that a token costs one pass over itself, by one program for all of them. A text
/// longer than the model's context goes on from its last half, which is read again.
///
/// # Errors
/// The prompt is empty or holds a token that the model does not have, an option cannot be, or the model cannot be evaluated or
/// gives logits that are not numbers.
pub fn generate(
    model: &(impl CausalLanguageModel + ?Sized),
    prompt: &[u32],
    options: &GenerateOptions,
    mut each: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, ModelError> {
    let texts = generate_batch(model, &[prompt], options, |_, token| each(token))?;
    Ok(texts.into_iter().next().unwrap_or_default())
}

/// Continues several prompts side by side; `each` is shown the number of a prompt with every new token of its text. Returns the new
/// tokens of each. Prompts of different lengths are padded in front, which changes no text.
///
/// # Errors
/// As [`generate`], of any of the prompts.
pub fn generate_batch(
    model: &(impl CausalLanguageModel + ?Sized),
    prompts: &[&[u32]],
    options: &GenerateOptions,
    mut each: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>, ModelError> {
    options.validate()?;
    for prompt in prompts {
        check_prompt(model, prompt)?;
    }
    let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
    let mut reader = Reader::new(model, longest.saturating_add(options.max_new_tokens));
    let mut samplers: Vec<Sampler<'_>> =
        prompts.iter().enumerate().map(|(row, prompt)| Sampler::new(options, row as u32, prompt)).collect();
    let mut texts: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let mut ended = vec![options.max_new_tokens == 0; prompts.len()];
    let mut logits = if ended.iter().all(|e| *e) { Vec::new() } else { reader.start(prompts)? };
    while ended.iter().any(|ended| !ended) {
        let vocab = model.vocab_size();
        let mut next = vec![0; prompts.len()];
        for (row, text) in texts.iter_mut().enumerate() {
            if ended[row] {
                continue;
            }
            let token = samplers[row].choose(&logits[row * vocab..(row + 1) * vocab])?;
            if options.stop_tokens.contains(&token) {
                ended[row] = true;
                continue;
            }
            text.push(token);
            next[row] = token;
            ended[row] = each(row, token).is_break() || text.len() >= options.max_new_tokens;
        }
        if ended.iter().any(|ended| !ended) {
            logits = reader.read(&next)?;
        }
    }
    Ok(texts)
}

/// Whether the model can read a prompt.
fn check_prompt(model: &(impl CausalLanguageModel + ?Sized), prompt: &[u32]) -> Result<(), ModelError> {
    let vocab = model.vocab_size();
    let refuse = |message: String| Err(ModelError::Generate(message));
    if prompt.is_empty() {
        return refuse("the prompt is empty; give at least one token".into());
    }
    match prompt.iter().find(|&&token| token as usize >= vocab) {
        Some(token) => refuse(format!(
            "token {token} of the prompt is not among the model's {vocab} tokens; use its tokenizer"
        )),
        None => Ok(()),
    }
}
