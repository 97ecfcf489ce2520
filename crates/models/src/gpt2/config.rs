//! The configuration of GPT-2.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wgrad_nn::Activation;

use crate::ModelError;

/// The keys of Hugging Face's `config.json` for GPT-2. Keys that do not matter here are kept in `other` and written back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpt2Config {
    /// `gpt2`.
    pub model_type: String,
    /// Number of tokens.
    pub vocab_size: usize,
    /// The longest context.
    pub n_positions: usize,
    /// Width.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Heads per block; divides the width.
    pub n_head: usize,
    /// Inner width of the feed-forward part; four times the width if not given.
    pub n_inner: Option<usize>,
    /// Of the feed-forward part.
    pub activation_function: Activation,
    /// Dropout after each part of a block.
    pub resid_pdrop: f64,
    /// Dropout after the embeddings.
    pub embd_pdrop: f64,
    /// Dropout of attention weights.
    pub attn_pdrop: f64,
    /// Added to the variance in layer norms.
    pub layer_norm_epsilon: f64,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// Whether attention scores are divided by `√d`.
    pub scale_attn_weights: bool,
    /// Whether attention scores of block `i` are also divided by `i + 1`.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether the output layer is the transposed token table.
    pub tie_word_embeddings: bool,
    /// Not supported; must be false.
    pub add_cross_attention: bool,
    /// The other keys.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for Gpt2Config {
    /// Hugging Face's defaults: the smallest published GPT-2.
    fn default() -> Self {
        Gpt2Config {
            model_type: "gpt2".to_owned(),
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: Activation::GeluTanh,
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
            add_cross_attention: false,
            other: Map::from_iter([("architectures".to_owned(), json!(["GPT2LMHeadModel"]))]),
        }
    }
}

impl Gpt2Config {
    /// The inner width of the feed-forward part.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// Number of parameters, saturating.
    pub fn parameters(&self) -> usize {
        let (c, f, v) = (self.n_embd as u128, self.inner() as u128, self.vocab_size as u128);
        // Two norms, four projections and their biases.
        let block = 4 * c + (3 * c * c + 3 * c) + (c * c + c) + (c * f + f) + (f * c + c);
        let head = if self.tie_word_embeddings { 0 } else { v * c };
        let tables = (v + self.n_positions as u128) * c;
        let all = tables + (self.n_layer as u128).saturating_mul(block) + 2 * c + head;
        usize::try_from(all).unwrap_or(usize::MAX)
    }

    /// Whether such a model can be made.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the key that cannot be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let refuse = |message: String| Err(ModelError::Config { model: "GPT-2", message });
        if self.model_type != "gpt2" {
            return refuse(format!("`model_type` is `{}`, expected `gpt2`", self.model_type));
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_inner", self.inner()),
        ];
        // Ids and positions are i32 on devices.
        if let Some((key, size)) = sizes.iter().find(|(_, size)| *size == 0 || *size > i32::MAX as usize) {
            return refuse(format!("`{key}` is {size}, expected 1 to {}", i32::MAX));
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return refuse(format!("`n_head` ({}) does not divide `n_embd` ({})", self.n_head, self.n_embd));
        }
        let rates = [
            ("resid_pdrop", self.resid_pdrop),
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
        ];
        if let Some((key, p)) = rates.iter().find(|(_, p)| !(0.0..=1.0).contains(p)) {
            return refuse(format!("`{key}` is {p}, expected a probability in [0, 1]"));
        }
        let positive =
            [("layer_norm_epsilon", self.layer_norm_epsilon), ("initializer_range", self.initializer_range)];
        if let Some((key, value)) = positive.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            return refuse(format!("`{key}` is {value}, expected 0 or more"));
        }
        if self.add_cross_attention {
            return refuse("`add_cross_attention` is true, which is not supported; set it to false".into());
        }
        Ok(())
    }
}
