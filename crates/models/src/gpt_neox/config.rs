//! The configuration of GPT-NeoX.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wgrad_nn::Activation;

use crate::{ModelError, RopeParameters};

/// The keys of Hugging Face's `config.json` for GPT-NeoX. Keys that do not matter here are kept in `other` and written back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct GptNeoXConfig {
    /// `gpt_neox`.
    pub model_type: String,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads per block; divides the width.
    pub num_attention_heads: usize,
    /// Inner width of the feed-forward part.
    pub intermediate_size: usize,
    /// Of the feed-forward part.
    pub hidden_act: Activation,
    /// Dropout of attention weights.
    pub attention_dropout: f64,
    /// Dropout after the token table and after each part of a block.
    pub hidden_dropout: f64,
    /// The context.
    pub max_position_embeddings: usize,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
    /// Whether the output layer is the transposed token table.
    pub tie_word_embeddings: bool,
    /// Whether the feed-forward part sees the stream from before attention.
    pub use_parallel_residual: bool,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,
    /// Rotary embeddings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// The scaling of rotary embeddings, where older files have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeParameters>,
    /// The base of rotary embeddings, where older files have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotary_emb_base: Option<f64>,
    /// The share of a head that is rotated, where older files have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotary_pct: Option<f64>,
    /// The other keys.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for GptNeoXConfig {
    /// Hugging Face's defaults: the 20 billion parameters of the paper.
    fn default() -> Self {
        GptNeoXConfig {
            model_type: "gpt_neox".to_owned(),
            vocab_size: 50_432,
            hidden_size: 6144,
            num_hidden_layers: 44,
            num_attention_heads: 64,
            intermediate_size: 24_576,
            hidden_act: Activation::Gelu,
            attention_dropout: 0.0,
            hidden_dropout: 0.0,
            max_position_embeddings: 2048,
            initializer_range: 0.02,
            layer_norm_eps: 1e-5,
            tie_word_embeddings: false,
            use_parallel_residual: true,
            attention_bias: true,
            rope_parameters: None,
            rope_scaling: None,
            rotary_emb_base: None,
            rotary_pct: None,
            other: Map::from_iter([("architectures".to_owned(), json!(["GPTNeoXForCausalLM"]))]),
        }
    }
}

impl GptNeoXConfig {
    /// The parameters of rotary embeddings, wherever the file has them.
    pub fn rope(&self) -> RopeParameters {
        let mut rope = self.rope_scaling.clone().or_else(|| self.rope_parameters.clone()).unwrap_or_default();
        rope.rope_theta = rope.rope_theta.or(self.rotary_emb_base);
        rope.partial_rotary_factor = rope.partial_rotary_factor.or(self.rotary_pct).or(Some(0.25));
        rope
    }

    /// Number of parameters, saturating.
    pub fn parameters(&self) -> usize {
        let (c, f, v) = (self.hidden_size as u128, self.intermediate_size as u128, self.vocab_size as u128);
        let attention_bias = if self.attention_bias { 4 * c } else { 0 };
        // Two norms, four projections, their biases.
        let block = 4 * c + 4 * c * c + attention_bias + 2 * c * f + f + c;
        let head = if self.tie_word_embeddings { 0 } else { v * c };
        let all = (self.num_hidden_layers as u128).saturating_mul(block).saturating_add(v * c + head + 2 * c);
        usize::try_from(all).unwrap_or(usize::MAX)
    }

    /// Whether such a model can be made.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the key that cannot be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let refuse = |message: String| Err(ModelError::Config { model: "GPT-NeoX", message });
        if self.model_type != "gpt_neox" {
            return refuse(format!("`model_type` is `{}`, expected `gpt_neox`", self.model_type));
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        // Ids and positions are i32 on devices.
        if let Some((key, size)) = sizes.iter().find(|(_, size)| *size == 0 || *size > i32::MAX as usize) {
            return refuse(format!("`{key}` is {size}, expected 1 to {}", i32::MAX));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return refuse(format!(
                "`num_attention_heads` ({}) does not divide `hidden_size` ({})",
                self.num_attention_heads, self.hidden_size
            ));
        }
        let rates = [("attention_dropout", self.attention_dropout), ("hidden_dropout", self.hidden_dropout)];
        if let Some((key, p)) = rates.iter().find(|(_, p)| !(0.0..=1.0).contains(p)) {
            return refuse(format!("`{key}` is {p}, expected a probability in [0, 1]"));
        }
        let positive =
            [("layer_norm_eps", self.layer_norm_eps), ("initializer_range", self.initializer_range)];
        match positive.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            Some((key, value)) => refuse(format!("`{key}` is {value}, expected 0 or more")),
            None => Ok(()),
        }
    }
}
