//! The configuration of LLaMA and of the models that are built like it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wgrad_nn::Activation;

use crate::{ModelError, RopeParameters};

/// The models that are LLaMA with other switches.
pub(crate) const MODEL_TYPES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// The keys of Hugging Face's `config.json` for LLaMA, Mistral, Qwen2 and Qwen3; defaults are those of the `model_type`. Keys that do not
/// matter here are kept in `other` and written back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LlamaConfig {
    /// `llama`, `mistral`, `qwen2` or `qwen3`.
    pub model_type: String,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads per block.
    pub num_attention_heads: usize,
    /// Key heads per block, which divide the heads; as many as heads if not given.
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; the width over the heads if not given.
    pub head_dim: Option<usize>,
    /// Of the gate of the feed-forward part.
    pub hidden_act: Activation,
    /// The context.
    pub max_position_embeddings: usize,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// Whether the output layer is the transposed token table.
    pub tie_word_embeddings: bool,
    /// Rotary embeddings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// The base of rotary embeddings, where older files have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// The scaling of rotary embeddings, where older files have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeParameters>,
    /// Whether the projections of attention have biases. Qwen2 has them for queries, keys and values whatever this says.
    pub attention_bias: bool,
    /// Whether the projections of the feed-forward part have biases.
    pub mlp_bias: bool,
    /// Dropout of attention weights.
    pub attention_dropout: f64,
    /// How many keys a query of Mistral sees, or of Qwen in the blocks with a window.
    pub sliding_window: Option<usize>,
    /// Whether some blocks of Qwen have a window.
    pub use_sliding_window: bool,
    /// Of Qwen: from which block on, where `layer_types` does not say.
    pub max_window_layers: usize,
    /// Of Qwen: `full_attention` or `sliding_attention` for each block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_types: Option<Vec<String>>,
    /// The other keys.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for LlamaConfig {
    /// Hugging Face's defaults for `llama`.
    fn default() -> Self {
        LlamaConfig {
            model_type: "llama".to_owned(),
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 2048,
            initializer_range: 0.02,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            rope_parameters: None,
            rope_theta: None,
            rope_scaling: None,
            attention_bias: false,
            mlp_bias: false,
            attention_dropout: 0.0,
            sliding_window: None,
            use_sliding_window: false,
            max_window_layers: 28,
            layer_types: None,
            other: Map::from_iter([("architectures".to_owned(), json!(["LlamaForCausalLM"]))]),
        }
    }
}

impl LlamaConfig {
    /// The given keys over the defaults of their `model_type`.
    ///
    /// # Errors
    /// A value is of another kind than its key's.
    pub fn from_keys(given: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let name = given.get("model_type").and_then(Value::as_str).unwrap_or("llama");
        let mut keys = match serde_json::to_value(LlamaConfig::of_type(name))? {
            Value::Object(defaults) => defaults,
            _ => Map::new(),
        };
        keys.extend(given);
        serde_json::from_value(Value::Object(keys))
    }

    /// The defaults of a `model_type`.
    pub fn of_type(name: &str) -> Self {
        let llama = LlamaConfig { model_type: name.to_owned(), ..LlamaConfig::default() };
        let architecture = |name: &str| Map::from_iter([("architectures".to_owned(), json!([name]))]);
        let qwen = LlamaConfig {
            vocab_size: 151_936,
            intermediate_size: 22_016,
            num_key_value_heads: Some(32),
            max_position_embeddings: 32_768,
            sliding_window: Some(4096),
            ..llama.clone()
        };
        match name {
            "mistral" => LlamaConfig {
                intermediate_size: 14_336,
                num_key_value_heads: Some(8),
                max_position_embeddings: 131_072,
                sliding_window: Some(4096),
                other: architecture("MistralForCausalLM"),
                ..llama
            },
            "qwen2" => LlamaConfig { other: architecture("Qwen2ForCausalLM"), ..qwen },
            "qwen3" => LlamaConfig { head_dim: Some(128), other: architecture("Qwen3ForCausalLM"), ..qwen },
            _ => llama,
        }
    }

    /// Key heads per block.
    pub fn key_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width of a head.
    pub fn head_width(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Whether queries, keys and values have biases, and whether the output projection has one.
    pub fn attention_biases(&self) -> (bool, bool) {
        match self.model_type.as_str() {
            "qwen2" => (true, false),
            "mistral" => (false, false),
            _ => (self.attention_bias, self.attention_bias),
        }
    }

    /// Whether the queries and keys of each head are normed.
    pub fn norms_heads(&self) -> bool {
        self.model_type == "qwen3"
    }

    /// How many keys a query of a block sees; all if not given.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let windowed = match (self.model_type.as_str(), &self.layer_types) {
            ("mistral", _) => true,
            ("qwen2" | "qwen3", _) if !self.use_sliding_window => false,
            ("qwen2" | "qwen3", Some(types)) => types.get(layer).is_some_and(|t| t == "sliding_attention"),
            ("qwen2" | "qwen3", None) => layer >= self.max_window_layers,
            _ => false,
        };
        self.sliding_window.filter(|_| windowed)
    }

    /// The parameters of rotary embeddings, wherever the file has them.
    pub fn rope(&self) -> RopeParameters {
        let mut rope = self.rope_parameters.clone().or_else(|| self.rope_scaling.clone()).unwrap_or_default();
        rope.rope_theta = rope.rope_theta.or(self.rope_theta);
        rope
    }

    /// Number of parameters, saturating.
    pub fn parameters(&self) -> usize {
        let wide = |x: usize| x as u128;
        let (c, f, v) = (wide(self.hidden_size), wide(self.intermediate_size), wide(self.vocab_size));
        let (q, kv) = (
            wide(self.num_attention_heads) * wide(self.head_width()),
            wide(self.key_heads()) * wide(self.head_width()),
        );
        let bias = |there: bool, size: u128| if there { size } else { 0 };
        let (qkv_bias, o_bias) = self.attention_biases();
        let attention = 2 * c * q + 2 * c * kv + bias(qkv_bias, q + 2 * kv) + bias(o_bias, c);
        let mlp = 3 * c * f + bias(self.mlp_bias, 2 * f + c);
        let norms = 2 * c + bias(self.norms_heads(), 2 * wide(self.head_width()));
        let head = bias(!self.tie_word_embeddings, v * c);
        let all = (v * c + c + head).saturating_add(
            wide(self.num_hidden_layers).saturating_mul(attention.saturating_add(mlp).saturating_add(norms)),
        );
        usize::try_from(all).unwrap_or(usize::MAX)
    }

    /// Whether such a model can be made.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the key that cannot be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let refuse = |message: String| Err(ModelError::Config { model: "LLaMA", message });
        if !MODEL_TYPES.contains(&self.model_type.as_str()) {
            let known = MODEL_TYPES.join(", ");
            return refuse(format!("`model_type` is `{}`, expected one of {known}", self.model_type));
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.key_heads()),
            ("head_dim", self.head_width()),
            ("max_position_embeddings", self.max_position_embeddings),
            ("sliding_window", self.sliding_window.unwrap_or(1)),
        ];
        // Ids and positions are i32 on devices.
        if let Some((key, size)) = sizes.iter().find(|(_, size)| *size == 0 || *size > i32::MAX as usize) {
            return refuse(format!("`{key}` is {size}, expected 1 to {}", i32::MAX));
        }
        let (heads, key_heads) = (self.num_attention_heads, self.key_heads());
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(heads) {
            let width = self.hidden_size;
            return refuse(format!(
                "`num_attention_heads` ({heads}) does not divide `hidden_size` ({width})"
            ));
        }
        if !heads.is_multiple_of(key_heads) {
            return refuse(format!(
                "`num_key_value_heads` ({key_heads}) does not divide `num_attention_heads` ({heads})"
            ));
        }
        let numbers = [("rms_norm_eps", self.rms_norm_eps), ("initializer_range", self.initializer_range)];
        if let Some((key, value)) = numbers.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            return refuse(format!("`{key}` is {value}, expected 0 or more"));
        }
        if !(0.0..=1.0).contains(&self.attention_dropout) {
            let p = self.attention_dropout;
            return refuse(format!("`attention_dropout` is {p}, expected a probability in [0, 1]"));
        }
        match &self.layer_types {
            Some(types) if types.len() != self.num_hidden_layers => refuse(format!(
                "`layer_types` has {} entries for {} blocks",
                types.len(),
                self.num_hidden_layers
            )),
            _ => Ok(()),
        }
    }
}
