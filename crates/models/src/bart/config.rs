//! The configuration of BART and Marian.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wgrad_nn::Activation;

use crate::ModelError;

/// The keys of Hugging Face's `config.json` for BART and Marian. Keys that do not matter here are kept in `other` and written back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct BartConfig {
    /// `bart` or `marian`.
    pub model_type: String,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width.
    pub d_model: usize,
    /// Number of blocks of the encoder.
    pub encoder_layers: usize,
    /// Its heads; they divide the width.
    pub encoder_attention_heads: usize,
    /// Inner width of its feed-forward parts.
    pub encoder_ffn_dim: usize,
    /// Number of blocks of the decoder.
    pub decoder_layers: usize,
    /// Its heads; they divide the width.
    pub decoder_attention_heads: usize,
    /// Inner width of its feed-forward parts.
    pub decoder_ffn_dim: usize,
    /// The longest text.
    pub max_position_embeddings: usize,
    /// Dropout after the embeddings and each part of a block.
    pub dropout: f64,
    /// Dropout of attention weights.
    pub attention_dropout: f64,
    /// Dropout of the inner activations of feed-forward parts.
    pub activation_dropout: f64,
    /// Of feed-forward parts.
    pub activation_function: Activation,
    /// Standard deviation of initial weights.
    pub init_std: f64,
    /// Whether token embeddings are multiplied by `√d_model`.
    pub scale_embedding: bool,
    /// The id of padding, whose embedding is not trained by look-ups.
    pub pad_token_id: usize,
    /// The id that ends a text.
    pub eos_token_id: Option<usize>,
    /// The id before the first one of a target.
    pub decoder_start_token_id: usize,
    /// Whether the output layer is the transposed token table.
    pub tie_word_embeddings: bool,
    /// The other keys.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for BartConfig {
    /// Hugging Face's defaults: the larger published BART.
    fn default() -> Self {
        BartConfig {
            model_type: "bart".to_owned(),
            vocab_size: 50265,
            d_model: 1024,
            encoder_layers: 12,
            encoder_attention_heads: 16,
            encoder_ffn_dim: 4096,
            decoder_layers: 12,
            decoder_attention_heads: 16,
            decoder_ffn_dim: 4096,
            max_position_embeddings: 1024,
            dropout: 0.1,
            attention_dropout: 0.0,
            activation_dropout: 0.0,
            activation_function: Activation::Gelu,
            init_std: 0.02,
            scale_embedding: false,
            pad_token_id: 1,
            eos_token_id: Some(2),
            decoder_start_token_id: 2,
            tie_word_embeddings: true,
            other: Map::from_iter([
                ("architectures".to_owned(), json!(["BartForConditionalGeneration"])),
                ("is_encoder_decoder".to_owned(), json!(true)),
            ]),
        }
    }
}

impl BartConfig {
    /// A published Marian translator: six blocks of width 512 on each side.
    pub fn marian() -> Self {
        let mut config = BartConfig {
            model_type: "marian".to_owned(),
            vocab_size: 58101,
            d_model: 512,
            encoder_layers: 6,
            encoder_attention_heads: 8,
            encoder_ffn_dim: 2048,
            decoder_layers: 6,
            decoder_attention_heads: 8,
            decoder_ffn_dim: 2048,
            max_position_embeddings: 512,
            activation_function: Activation::Silu,
            scale_embedding: true,
            pad_token_id: 58100,
            eos_token_id: Some(0),
            decoder_start_token_id: 58100,
            ..BartConfig::default()
        };
        config.other.insert("architectures".to_owned(), json!(["MarianMTModel"]));
        config
    }

    /// Whether this is Marian's: sinusoidal positions, embeddings that are not normed.
    pub(crate) fn is_marian(&self) -> bool {
        self.model_type == "marian"
    }

    /// `forced_eos_token_id`: the token that a text ends with that is cut. Hugging Face's default where the key is missing is 2 for BART
    /// and 0 for Marian; `null` is none.
    pub(crate) fn forced_eos_token_id(&self) -> Option<i32> {
        let id = match self.other.get("forced_eos_token_id") {
            Some(value) => value.as_i64()?,
            None if self.is_marian() => 0,
            None => 2,
        };
        i32::try_from(id).ok().filter(|id| (0..self.vocab_size as i64).contains(&i64::from(*id)))
    }

    /// `bad_words_ids`, those of one token: Marian's translators do not write padding.
    pub(crate) fn suppressed_tokens(&self) -> Vec<i32> {
        let words = self.other.get("bad_words_ids").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let single = |word: &Value| match word.as_array().map(Vec::as_slice) {
            Some([token]) => token.as_i64().and_then(|id| i32::try_from(id).ok()).filter(|id| *id >= 0),
            _ => None,
        };
        words.iter().filter_map(single).collect()
    }

    /// Number of parameters, saturating.
    pub fn parameters(&self) -> usize {
        let c = self.d_model as u128;
        let attention = 4 * (c * c + c) + 2 * c;
        let feed_forward = |f: usize| 2 * c * f as u128 + f as u128 + 3 * c;
        let encoder =
            (self.encoder_layers as u128).saturating_mul(attention + feed_forward(self.encoder_ffn_dim));
        let decoder =
            (self.decoder_layers as u128).saturating_mul(2 * attention + feed_forward(self.decoder_ffn_dim));
        let tables = self.vocab_size as u128 * c * if self.tie_word_embeddings { 1 } else { 2 };
        let positions =
            if self.is_marian() { 0 } else { 2 * (self.max_position_embeddings as u128 + 2) * c + 4 * c };
        let all = tables.saturating_add(encoder).saturating_add(decoder).saturating_add(positions);
        usize::try_from(all).unwrap_or(usize::MAX)
    }

    /// Whether such a model can be made.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the key that cannot be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let model = if self.is_marian() { "Marian" } else { "BART" };
        let refuse = |message: String| Err(ModelError::Config { model, message });
        if !["bart", "marian"].contains(&self.model_type.as_str()) {
            return refuse(format!("`model_type` is `{}`, expected `bart` or `marian`", self.model_type));
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("encoder_layers", self.encoder_layers),
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("decoder_layers", self.decoder_layers),
            ("decoder_attention_heads", self.decoder_attention_heads),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((key, size)) = sizes.iter().find(|(_, size)| *size == 0 || *size > i32::MAX as usize - 2)
        {
            return refuse(format!("`{key}` is {size}, expected 1 to {}", i32::MAX - 2));
        }
        let heads = [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ];
        if let Some((key, h)) = heads.iter().find(|(_, h)| !self.d_model.is_multiple_of(*h)) {
            return refuse(format!("`{key}` ({h}) does not divide `d_model` ({})", self.d_model));
        }
        let rates = [
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("activation_dropout", self.activation_dropout),
        ];
        if let Some((key, p)) = rates.iter().find(|(_, p)| !(0.0..=1.0).contains(p)) {
            return refuse(format!("`{key}` is {p}, expected a probability in [0, 1]"));
        }
        if !(self.init_std.is_finite() && self.init_std >= 0.0) {
            return refuse(format!("`init_std` is {}, expected 0 or more", self.init_std));
        }
        let ids = [
            ("pad_token_id", Some(self.pad_token_id)),
            ("decoder_start_token_id", Some(self.decoder_start_token_id)),
            ("eos_token_id", self.eos_token_id),
        ];
        for (key, id) in ids {
            if let Some(id) = id.filter(|id| *id >= self.vocab_size) {
                return refuse(format!("`{key}` is {id}, but there are {} tokens", self.vocab_size));
            }
        }
        let number = |key: &str| self.other.get(key).and_then(Value::as_f64);
        if let Some(key) =
            ["encoder_layerdrop", "decoder_layerdrop"].into_iter().find(|key| number(key) > Some(0.0))
        {
            return refuse(format!("`{key}` is above 0, which is not supported; set it to 0"));
        }
        let apart = self.other.get("share_encoder_decoder_embeddings") == Some(&Value::Bool(false));
        if apart || number("decoder_vocab_size").is_some_and(|v| v != self.vocab_size as f64) {
            return refuse(
                "encoder and decoder have vocabularies of their own, which is not supported".into(),
            );
        }
        Ok(())
    }
}
