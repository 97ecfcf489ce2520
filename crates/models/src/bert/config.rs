//! The configuration of BERT and RoBERTa.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wgrad_nn::Activation;

use crate::ModelError;

/// The keys of Hugging Face's `config.json` for BERT and RoBERTa. Keys that do not matter here are kept in `other` and written back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// `bert` or `roberta`.
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
    /// Of the feed-forward part and of the masked-language-model head.
    pub hidden_act: Activation,
    /// Dropout after the embeddings and each part of a block.
    pub hidden_dropout_prob: f64,
    /// Dropout of attention weights.
    pub attention_probs_dropout_prob: f64,
    /// Dropout before a classifier; that of the blocks if not given.
    pub classifier_dropout: Option<f64>,
    /// Rows of the position table; RoBERTa's positions begin after that of padding.
    pub max_position_embeddings: usize,
    /// Number of segment types.
    pub type_vocab_size: usize,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
    /// The id of padding, whose embedding is not trained by look-ups.
    pub pad_token_id: Option<usize>,
    /// Names of classes, by their numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id2label: Option<Map<String, Value>>,
    /// Numbers of classes, by their names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label2id: Option<Map<String, Value>>,
    /// Whether the output layer of the masked language model is the transposed token table.
    pub tie_word_embeddings: bool,
    /// Not supported; must be false.
    pub is_decoder: bool,
    /// Not supported; must be false.
    pub add_cross_attention: bool,
    /// The other keys.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for BertConfig {
    /// Hugging Face's defaults: the smaller published BERT, lower case.
    fn default() -> Self {
        BertConfig {
            model_type: "bert".to_owned(),
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            classifier_dropout: None,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: Some(0),
            id2label: None,
            label2id: None,
            tie_word_embeddings: true,
            is_decoder: false,
            add_cross_attention: false,
            other: Map::new(),
        }
    }
}

impl BertConfig {
    /// The smaller published RoBERTa.
    pub fn roberta() -> Self {
        BertConfig {
            model_type: "roberta".to_owned(),
            vocab_size: 50265,
            max_position_embeddings: 514,
            type_vocab_size: 1,
            layer_norm_eps: 1e-5,
            pad_token_id: Some(1),
            ..BertConfig::default()
        }
    }

    /// How many classes there are: 2, as Hugging Face counts, if neither `id2label` nor `num_labels` says.
    pub fn num_labels(&self) -> usize {
        let number = self.other.get("num_labels").and_then(Value::as_u64);
        let named = self.id2label.as_ref().map(Map::len);
        named.or(number.map(|n| usize::try_from(n).unwrap_or(usize::MAX))).unwrap_or(2)
    }

    /// The same for classes of these names.
    #[must_use]
    pub fn with_labels<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        let names = || names.iter().map(AsRef::as_ref).enumerate();
        self.id2label = Some(names().map(|(id, name)| (id.to_string(), json!(name))).collect());
        self.label2id = Some(names().map(|(id, name)| (name.to_owned(), json!(id))).collect());
        self.other.remove("num_labels");
        self
    }

    /// The same, naming the class of models that is saved.
    pub(crate) fn of(&self, architecture: &str) -> Self {
        let mut config = self.clone();
        config.other.insert("architectures".to_owned(), json!([architecture]));
        config
    }

    /// Number of parameters without heads, saturating.
    pub fn parameters(&self) -> usize {
        let (c, f) = (self.hidden_size as u128, self.intermediate_size as u128);
        let rows = (self.vocab_size as u128)
            .saturating_add(self.max_position_embeddings as u128)
            .saturating_add(self.type_vocab_size as u128);
        // Four projections of attention, two of the feed-forward part, their biases, and two norms.
        let block = 4 * (c * c + c) + (c * f + f) + (f * c + c) + 4 * c;
        let all =
            rows.saturating_mul(c).saturating_add((self.num_hidden_layers as u128).saturating_mul(block));
        usize::try_from(all + 2 * c).unwrap_or(usize::MAX)
    }

    /// Whether such a model can be made.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the key that cannot be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let model = if self.model_type == "roberta" { "RoBERTa" } else { "BERT" };
        let refuse = |message: String| Err(ModelError::Config { model, message });
        if !["bert", "roberta"].contains(&self.model_type.as_str()) {
            return refuse(format!("`model_type` is `{}`, expected `bert` or `roberta`", self.model_type));
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("num_labels", self.num_labels()),
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
        let rates = [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ];
        if let Some((key, p)) = rates.iter().find(|(_, p)| !(0.0..=1.0).contains(p)) {
            return refuse(format!("`{key}` is {p}, expected a probability in [0, 1]"));
        }
        let positive =
            [("layer_norm_eps", self.layer_norm_eps), ("initializer_range", self.initializer_range)];
        if let Some((key, value)) = positive.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            return refuse(format!("`{key}` is {value}, expected 0 or more"));
        }
        match self.pad_token_id {
            Some(pad) if pad >= self.vocab_size => {
                let message = format!("`pad_token_id` is {pad}, but there are {} tokens", self.vocab_size);
                return refuse(message);
            }
            None if self.model_type == "roberta" => {
                return refuse("`pad_token_id` is missing; positions are counted from it".into());
            }
            _ => {}
        }
        for (key, set) in [("is_decoder", self.is_decoder), ("add_cross_attention", self.add_cross_attention)]
        {
            if set {
                return refuse(format!("`{key}` is true, which is not supported; set it to false"));
            }
        }
        match self.other.get("position_embedding_type").and_then(Value::as_str) {
            None | Some("absolute") => Ok(()),
            Some(other) => {
                refuse(format!("`position_embedding_type` is `{other}`; only `absolute` is supported"))
            }
        }
    }
}
