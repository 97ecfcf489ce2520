//! Text from a language model, token by token.

use std::{fmt::Debug, ops::ControlFlow, path::Path};

use wgrad_ir::philox;
use wgrad_nn::{Context, Module};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::{CacheSpec, KeyValueCache, ModelError};

/// A model that predicts the next token.
///
/// Legend of shapes: b batch, t time, c width, v vocabulary.
pub trait CausalLanguageModel: Module + Debug {
    /// Number of tokens.
    fn vocab_size(&self) -> usize;

    /// The longest context.
    fn max_context(&self) -> usize;

    /// Where it computes.
    fn device(&self) -> DeviceHandle;

    /// Logits `[b, t, v]` of the token after each position, for ids `[b, t]` (i32). `attention_mask [b, t]` (bool, or numbers of which
    /// 0 means the same as false) hides padding from the other positions.
    ///
    /// Ids of another rank, longer than the context, or (where the host knows them) not in the vocabulary are an error that
    /// the result carries.
    fn forward(&self, ids: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.logits(&self.transform(ids, attention_mask, ctx))
    }

    /// The residual stream `[b, t, c]` after the final norm: what the output layer sees.
    fn transform(&self, ids: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor;

    /// The residual stream `[b, t, c]`: first the embeddings, then after each block; the last one is after the final norm.
    fn hidden_states(&self, ids: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Vec<Tensor>;

    /// The output layer: `[.., c]` to `[.., v]`.
    fn logits(&self, x: &Tensor) -> Tensor;

    /// Of what size its keys and values are.
    fn cache_spec(&self) -> CacheSpec;

    /// As [`CausalLanguageModel::transform`], in evaluation mode, for the next ids `[b, t]` of the texts in a cache, which then holds
    /// their keys and values too. Where they go is [`KeyValueCache::position`]; it is for the caller to move on.
    fn transform_next(&self, ids: &Tensor, cache: &mut KeyValueCache) -> Tensor;

    /// Writes `config.json` and `model.safetensors` into a folder, as Hugging Face's `from_pretrained` reads them.
    ///
    /// # Errors
    /// The parameters cannot be read back, or the files cannot be written.
    fn save_pretrained(&self, dir: &Path) -> Result<(), ModelError>;
}

/// How to choose the next token.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GenerateOptions {
    /// How many tokens to write at most.
    pub max_new_tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f64,
    /// Draws from this many likeliest tokens only.
    pub top_k: Option<usize>,
    /// Of the draws; the same seed writes the same text.
    pub seed: u64,
    /// Ends the text; it is not part of it.
    pub stop_token: Option<u32>,
}

impl Default for GenerateOptions {
    /// 100 tokens, drawn at temperature 1 from all tokens, with seed 0 and no stop token.
    fn default() -> Self {
        GenerateOptions { max_new_tokens: 100, temperature: 1.0, top_k: None, seed: 0, stop_token: None }
    }
}

/// Continues `prompt`; `each` is shown every new token at once and may end the text. Returns the new tokens.
///
/// Each token is computed from the whole context, padded to one length, so that one program serves all of them. A text
/// longer than the model's context goes on from its last half, so that the window moves seldom.
///
/// # Errors
/// The prompt is empty or holds a token that the model does not have, the temperature is negative or not a number, or the
/// model cannot be evaluated or gives logits that are not numbers.
pub fn generate(
    model: &(impl CausalLanguageModel + ?Sized),
    prompt: &[u32],
    options: &GenerateOptions,
    mut each: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, ModelError> {
    let (vocab, limit) = (model.vocab_size(), model.max_context());
    let refuse = |message: String| Err(ModelError::Generate(message));
    if prompt.is_empty() {
        return refuse("the prompt is empty; give at least one token".into());
    }
    if let Some(token) = prompt.iter().find(|&&token| token as usize >= vocab) {
        return refuse(format!(
            "token {token} of the prompt is not among the model's {vocab} tokens; use its tokenizer"
        ));
    }
    if !options.temperature.is_finite() || options.temperature < 0.0 {
        return refuse(format!("the temperature is {}; give 0 or more", options.temperature));
    }
    if options.top_k == Some(0) {
        return refuse("top-k is 0; give 1 or more, or leave it out".into());
    }

    // A power of two, so that texts of similar length share a program.
    let wanted = prompt.len().saturating_add(options.max_new_tokens);
    let capacity = wanted.checked_next_power_of_two().unwrap_or(limit).min(limit);
    let device = model.device();
    let mut window: Vec<i32> =
        prompt[prompt.len().saturating_sub(capacity)..].iter().map(|&t| t as i32).collect();
    let mut text = Vec::new();
    for index in 0..options.max_new_tokens {
        if window.len() > capacity {
            window.drain(..window.len() - capacity.div_ceil(2));
        }
        let mut padded = window.clone();
        padded.resize(capacity, 0);
        let ids = Tensor::from_vec(padded, [1, capacity], &device);
        let position = Tensor::from_vec(vec![window.len() as i32 - 1], [1], &device);
        let last = model.transform(&ids, None, &Context::eval()).squeeze(0).embedding(&position);
        let logits = model.logits(&last).to_f64_vec()?;
        if logits.iter().any(|l| l.is_nan()) {
            return refuse("the model gives logits that are not numbers; its parameters are damaged".into());
        }
        let Some(token) = choose(&logits, options, index as u32) else {
            return refuse("the model has no tokens".into());
        };
        if options.stop_token == Some(token) {
            break;
        }
        text.push(token);
        window.push(token as i32);
        if each(token).is_break() {
            break;
        }
    }
    Ok(text)
}

/// The next token: the likeliest, or drawn from `softmax(logits / temperature)` of the `top_k` likeliest.
fn choose(logits: &[f64], options: &GenerateOptions, index: u32) -> Option<u32> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // The smaller id wins a tie, as with argmax.
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let best = *order.first()?;
    if options.temperature == 0.0 {
        return Some(best as u32);
    }
    order.truncate(options.top_k.unwrap_or(usize::MAX));
    let weights: Vec<f64> =
        order.iter().map(|&i| ((logits[i] - logits[best]) / options.temperature).exp()).collect();
    let mut left = uniform(options.seed, index) * weights.iter().sum::<f64>();
    for (&token, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left < 0.0 {
            return Some(token as u32);
        }
    }
    // Rounding may leave a crumb after the last one.
    order.last().map(|&token| token as u32)
}

/// The `index`-th number in `[0, 1)` of a seed.
fn uniform(seed: u64, index: u32) -> f64 {
    let [high, low, ..] = philox::philox4x32([index, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
    ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_softmax_of_the_likeliest_tokens() {
        let logits = [0.0, 3f64.ln(), -1e30, 2f64.ln()];
        let options = GenerateOptions { top_k: Some(3), ..Default::default() };
        let mut counts = [0usize; 4];
        for index in 0..60_000 {
            counts[choose(&logits, &options, index).expect("there are tokens") as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([10_000.0, 30_000.0, 0.0, 20_000.0]) {
            assert!((count as f64 - expected).abs() < 500.0, "{counts:?}");
        }
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_likeliest() {
        let options = GenerateOptions { temperature: 0.0, ..Default::default() };
        assert_eq!(choose(&[1.0, 5.0, 5.0, 2.0], &options, 9), Some(1));
        assert_eq!(choose(&[], &options, 0), None);
    }

    #[test]
    fn low_temperatures_do_not_overflow() {
        let options = GenerateOptions { temperature: 1e-300, ..Default::default() };
        assert_eq!(choose(&[1.0, 5.0, 4.0], &options, 0), Some(1));
    }
}
