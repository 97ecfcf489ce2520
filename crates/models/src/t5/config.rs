//! The configuration of T5.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wgrad_nn::Activation;

use crate::ModelError;

/// The keys of Hugging Face's `config.json` for T5. Keys that do not matter here are kept in `other` and written back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct T5Config {
    /// `t5`.
    pub model_type: String,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width.
    pub d_model: usize,
    /// Width of a head.
    pub d_kv: usize,
    /// Inner width of the feed-forward part.
    pub d_ff: usize,
    /// Number of blocks of the encoder.
    pub num_layers: usize,
    /// Number of blocks of the decoder; that of the encoder if not given.
    pub num_decoder_layers: Option<usize>,
    /// Heads per block.
    pub num_heads: usize,
    /// How many learned terms there are for distances.
    pub relative_attention_num_buckets: usize,
    /// Distances from this one on share a term.
    pub relative_attention_max_distance: usize,
    /// All dropout.
    pub dropout_rate: f64,
    /// Added to the mean of squares in norms.
    pub layer_norm_epsilon: f64,
    /// A factor of the standard deviations of initial weights.
    pub initializer_factor: f64,
    /// An activation (`relu`), or `gated-` and one (`gated-gelu`, of which the activation is the approximation by tanh).
    pub feed_forward_proj: String,
    /// The id of padding.
    pub pad_token_id: usize,
    /// The id that ends a text.
    pub eos_token_id: Option<usize>,
    /// The id before the first one of a target; that of padding if not given.
    pub decoder_start_token_id: Option<usize>,
    /// Whether the output layer is the transposed token table.
    pub tie_word_embeddings: bool,
    /// Whether the states are scaled by `1/√d_model` before the output layer; if not given, where it is tied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_decoder_outputs: Option<bool>,
    /// The other keys.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for T5Config {
    /// Hugging Face's defaults: the smallest published T5.
    fn default() -> Self {
        T5Config {
            model_type: "t5".to_owned(),
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: 0.1,
            layer_norm_epsilon: 1e-6,
            initializer_factor: 1.0,
            feed_forward_proj: "relu".to_owned(),
            pad_token_id: 0,
            eos_token_id: Some(1),
            decoder_start_token_id: Some(0),
            tie_word_embeddings: true,
            scale_decoder_outputs: None,
            other: Map::from_iter([
                ("architectures".to_owned(), json!(["T5ForConditionalGeneration"])),
                ("is_encoder_decoder".to_owned(), json!(true)),
            ]),
        }
    }
}

impl T5Config {
    /// Number of blocks of the decoder.
    pub fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// Whether states are scaled before the output layer.
    pub fn scales_outputs(&self) -> bool {
        self.scale_decoder_outputs.unwrap_or(self.tie_word_embeddings)
    }

    /// Whether the feed-forward part is gated, and its activation; `linear` where [`T5Config::validate`] refuses it.
    pub(crate) fn activation(&self) -> (bool, Activation) {
        let (gated, name) = match self.feed_forward_proj.strip_prefix("gated-") {
            // What version 1.1 calls so is the approximation.
            Some("gelu") => (true, "gelu_new"),
            Some(name) => (true, name),
            None => (false, self.feed_forward_proj.as_str()),
        };
        (gated, name.parse().unwrap_or(Activation::Linear))
    }

    /// Number of parameters, saturating.
    pub fn parameters(&self) -> usize {
        let (c, f, v) = (self.d_model as u128, self.d_ff as u128, self.vocab_size as u128);
        let attention = 4 * c * (self.num_heads as u128).saturating_mul(self.d_kv as u128) + c;
        let feed_forward = c * f * if self.activation().0 { 3 } else { 2 } + c;
        let encoder = (self.num_layers as u128).saturating_mul(attention + feed_forward);
        let decoder = (self.decoder_layers() as u128).saturating_mul(2 * attention + feed_forward);
        let tables = v * c * if self.tie_word_embeddings { 1 } else { 2 };
        let positions = 2 * self.relative_attention_num_buckets as u128 * self.num_heads as u128;
        let all = tables.saturating_add(encoder).saturating_add(decoder).saturating_add(positions + 2 * c);
        usize::try_from(all).unwrap_or(usize::MAX)
    }

    /// Whether such a model can be made.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the key that cannot be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let refuse = |message: String| Err(ModelError::Config { model: "T5", message });
        if self.model_type != "t5" {
            return refuse(format!("`model_type` is `{}`, expected `t5`", self.model_type));
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
            ("num_decoder_layers", self.decoder_layers()),
            ("num_heads", self.num_heads),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets),
            ("relative_attention_max_distance", self.relative_attention_max_distance),
        ];
        if let Some((key, size)) = sizes.iter().find(|(_, size)| *size == 0 || *size > i32::MAX as usize) {
            return refuse(format!("`{key}` is {size}, expected 1 to {}", i32::MAX));
        }
        if self.relative_attention_num_buckets < 4
            || self.relative_attention_max_distance <= self.relative_attention_num_buckets / 2
        {
            return refuse(format!(
                "`relative_attention_num_buckets` is {} and `relative_attention_max_distance` {}; expected at least 4, and more \
                than half of the former",
                self.relative_attention_num_buckets, self.relative_attention_max_distance
            ));
        }
        if !(0.0..=1.0).contains(&self.dropout_rate) {
            return refuse(format!(
                "`dropout_rate` is {}, expected a probability in [0, 1]",
                self.dropout_rate
            ));
        }
        let positive = [
            ("layer_norm_epsilon", self.layer_norm_epsilon),
            ("initializer_factor", self.initializer_factor),
        ];
        if let Some((key, value)) = positive.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            return refuse(format!("`{key}` is {value}, expected 0 or more"));
        }
        let name = self.feed_forward_proj.strip_prefix("gated-").unwrap_or(&self.feed_forward_proj);
        if name.parse::<Activation>().is_err() {
            let message = format!(
                "`feed_forward_proj` is `{}`, expected an activation such as `relu`, or `gated-` and one",
                self.feed_forward_proj
            );
            return refuse(message);
        }
        let ids = [
            ("pad_token_id", Some(self.pad_token_id)),
            ("decoder_start_token_id", self.decoder_start_token_id),
            ("eos_token_id", self.eos_token_id),
        ];
        if let Some((key, id)) =
            ids.iter().find_map(|(key, id)| id.filter(|id| *id >= self.vocab_size).map(|id| (key, id)))
        {
            return refuse(format!("`{key}` is {id}, but there are {} tokens", self.vocab_size));
        }
        Ok(())
    }
}
