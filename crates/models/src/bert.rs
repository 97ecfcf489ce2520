//! BERT (Devlin et al., *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding*, 2018), as Hugging
//! Face's `BertModel` and the models with heads on it compute it: a post-norm transformer encoder with learned positions.
//!
//! Legend of shapes: b batch, t time, c width (`hidden_size`), f inner width, v vocabulary, n classes.

use std::path::Path;

use wgrad_nn::{
    Activation, Context, Dropout, Embedding, Init, Initializer, LayerNorm, Linear, Module,
    functional::{Attention, Reduction, binary_cross_entropy_with_logits, cross_entropy, mse_loss},
};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::{DType, Tensor};

use crate::{
    IGNORED_LABEL, ModelError,
    heads::{as_bool, attend, time_of},
    pretrained::{self, Weights, check_parameters, check_room},
};

mod config;
mod heads;

pub use config::BertConfig;
pub use heads::{
    BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification,
    BertLMHead, BertPredictionHeadTransform, BertPredictions, question_answering_loss,
};

/// `BertModel`: embeddings, blocks, and a summary of the first token.
#[derive(Clone, Debug, Module)]
pub struct BertModel {
    /// Tokens, positions and segments.
    pub embeddings: BertEmbeddings,
    /// The blocks.
    pub encoder: BertEncoder,
    /// Summary of the first token, where the model has one.
    pub pooler: Option<BertPooler>,
    #[module(skip)]
    config: BertConfig,
}

impl BertModel {
    /// A new model, with or without the pooler. Weights are normal with standard deviation `initializer_range`, biases 0.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &BertConfig, init: &Init, pooler: bool) -> Result<Self, ModelError> {
        config.validate()?;
        let name = if config.model_type == "roberta" { "RoBERTa" } else { "BERT" };
        check_room(name, config.parameters(), init)?;
        let architecture = if config.model_type == "roberta" { "RobertaModel" } else { "BertModel" };
        let model = BertModel {
            embeddings: BertEmbeddings::new(config, init),
            encoder: BertEncoder {
                layer: (0..config.num_hidden_layers).map(|_| BertLayer::new(config, init)).collect(),
            },
            pooler: pooler.then(|| BertPooler { dense: square(config, init) }),
            config: config.of(architecture),
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The same without [`BertModel::pooler`], for heads that do not read it.
    #[must_use]
    pub fn without_pooler(self) -> Self {
        BertModel { pooler: None, ..self }
    }

    /// Ids `[b, t]` (i32) to the last hidden states `[b, t, c]`. `attention_mask [b, t]` (bool, or numbers of which 0 means the same as
    /// false) hides padding from the other positions; `token_type_ids [b, t]` are segments, all 0 if not given.
    ///
    /// Ids of another rank, longer than the position table, or (where the host knows them) not in the vocabulary are an error that
    /// the result carries.
    #[track_caller]
    pub fn forward(
        &self,
        ids_bt: &Tensor,
        attention_mask: Option<&Tensor>,
        token_type_ids: Option<&Tensor>,
        ctx: &Context,
    ) -> Tensor {
        let states = self.hidden_states(ids_bt, attention_mask, token_type_ids, ctx);
        states.last().cloned().unwrap_or_else(|| ids_bt.clone())
    }

    /// As [`BertModel::forward`], with all states: of the embeddings, then after each block.
    #[track_caller]
    pub fn hidden_states(
        &self,
        ids_bt: &Tensor,
        attention_mask: Option<&Tensor>,
        token_type_ids: Option<&Tensor>,
        ctx: &Context,
    ) -> Vec<Tensor> {
        let key_mask = attention_mask.map(as_bool);
        let mut states = vec![self.embeddings.forward(ids_bt, token_type_ids, ctx)];
        for layer in &self.encoder.layer {
            states.extend(states.last().map(|x_btc| layer.forward(x_btc, key_mask.as_ref(), ctx)));
        }
        states
    }

    /// Embeddings of texts, `[b, c]`: the mean of the last hidden states over the positions that `attention_mask` keeps, divided by
    /// its norm (Reimers and Gurevych, *Sentence-BERT*, 2019). The scalar product of two of them is the similarity of the texts.
    #[track_caller]
    pub fn sentence_embeddings(&self, ids_bt: &Tensor, attention_mask: &Tensor, ctx: &Context) -> Tensor {
        let x_btc = self.forward(ids_bt, Some(attention_mask), None, ctx);
        mean_pooling(&x_btc, attention_mask).normalize(2.0, -1, 1e-12)
    }

    /// Reads a folder of `config.json` and `model.safetensors` as Hugging Face writes them for this model or for one with any head; of
    /// the latter only the part below the head is taken.
    ///
    /// # Errors
    /// A file is missing or damaged, or the two do not fit together.
    pub fn from_pretrained(dir: &Path, device: &DeviceHandle) -> Result<Self, ModelError> {
        let config: BertConfig = pretrained::read_config(dir)?;
        config.validate()?;
        let mut weights = weights(dir, device)?;
        weights.below(&format!("{}.", config.model_type));
        let model = BertModel::new(&config, &Init::new(device, 0), weights.contains("pooler.*"))?;
        weights.load_into(&model)?;
        Ok(model)
    }

    /// Writes `config.json` and `model.safetensors` into a folder, as Hugging Face's `from_pretrained` reads them.
    ///
    /// # Errors
    /// The parameters cannot be read back, or the files cannot be written.
    pub fn save_pretrained(&self, dir: &Path) -> Result<(), ModelError> {
        pretrained::save(dir, &self.config, self)
    }
}

/// The mean of `x_btc` over the positions that `mask [b, t]` keeps, `[b, c]`; 0 where it keeps none.
#[track_caller]
pub fn mean_pooling(x_btc: &Tensor, mask: &Tensor) -> Tensor {
    let keep = as_bool(mask).cast(x_btc.dtype()).unsqueeze(-1);
    let count = keep.sum(&[1], false).maximum(Tensor::constant(1e-9, x_btc.dtype(), x_btc.device()));
    x_btc.mul(&keep).sum(&[1], false).div(&count)
}

/// The tensors of a folder, without constants and copies of tied tensors, under today's names.
pub(crate) fn weights(dir: &Path, device: &DeviceHandle) -> Result<Weights, ModelError> {
    let mut weights = Weights::read(dir, device)?;
    weights.drop_matching(&["*embeddings.position_ids", "*embeddings.token_type_ids"]);
    weights.drop_matching(&["*.decoder.bias", "cls.seq_relationship.*"]);
    if pretrained::read_config::<BertConfig>(dir)?.tie_word_embeddings {
        weights.drop_matching(&["*.decoder.weight"]);
    }
    weights.rename(|name| {
        let name = name.replace("LayerNorm.gamma", "LayerNorm.weight");
        name.replace("LayerNorm.beta", "LayerNorm.bias")
    });
    Ok(weights)
}

/// As [`weights`], for heads that do not read the pooler.
pub(crate) fn weights_without_pooler(dir: &Path, device: &DeviceHandle) -> Result<Weights, ModelError> {
    let mut weights = weights(dir, device)?;
    weights.drop_matching(&["*.pooler.*"]);
    Ok(weights)
}

/// A projection of the width onto itself.
pub(crate) fn square(config: &BertConfig, init: &Init) -> Linear {
    linear(config, init, config.hidden_size, config.hidden_size)
}

/// A projection with BERT's initial values.
pub(crate) fn linear(config: &BertConfig, init: &Init, inputs: usize, outputs: usize) -> Linear {
    let weights = Initializer::Normal { std: config.initializer_range };
    Linear::with(init, inputs, outputs, weights, Some(Initializer::Zeros))
}

fn norm(config: &BertConfig, init: &Init) -> LayerNorm {
    LayerNorm::new(init, config.hidden_size, config.layer_norm_eps)
}

/// The sum of token, position and segment embeddings, normed.
#[derive(Clone, Debug, Module)]
pub struct BertEmbeddings {
    /// `[v, c]`.
    pub word_embeddings: Embedding,
    /// `[max_position_embeddings, c]`.
    pub position_embeddings: Embedding,
    /// `[type_vocab_size, c]`.
    pub token_type_embeddings: Embedding,
    /// Of the sum.
    #[module(rename = "LayerNorm")]
    pub layer_norm: LayerNorm,
    /// After the norm.
    pub dropout: Dropout,
    /// RoBERTa: the first position comes after this one, and padding, the token of this id, stays at it.
    #[module(skip)]
    pub positions_after: Option<usize>,
}

impl BertEmbeddings {
    fn new(config: &BertConfig, init: &Init) -> Self {
        let weights = Initializer::Normal { std: config.initializer_range };
        let table = |rows| Embedding::with(init, rows, config.hidden_size, weights);
        let positions_after = config.pad_token_id.filter(|_| config.model_type == "roberta");
        BertEmbeddings {
            word_embeddings: table(config.vocab_size).padded(config.pad_token_id),
            position_embeddings: table(config.max_position_embeddings).padded(positions_after),
            token_type_embeddings: table(config.type_vocab_size),
            layer_norm: norm(config, init),
            dropout: Dropout::new(config.hidden_dropout_prob),
            positions_after,
        }
    }

    #[track_caller]
    fn forward(&self, ids_bt: &Tensor, token_type_ids: Option<&Tensor>, ctx: &Context) -> Tensor {
        let [rows, _] = self.position_embeddings.weight.tensor().dims::<2>();
        let longest = rows.saturating_sub(self.positions_after.map_or(0, |padding| padding + 1));
        let t = match time_of("bert", ids_bt, longest, "max_position_embeddings") {
            Ok(t) => t,
            Err(faulty) => return *faulty,
        };
        let positions = match self.positions_after {
            None => self.position_embeddings.weight.tensor().narrow(0, 0, t),
            Some(padding) => self.position_embeddings.forward(&positions_after(ids_bt, padding)),
        };
        let types = match token_type_ids {
            Some(ids) => self.token_type_embeddings.forward(ids),
            None => self.token_type_embeddings.weight.tensor().narrow(0, 0, 1),
        };
        let sum = self.word_embeddings.forward(ids_bt).add(types).add(positions);
        self.dropout.forward(&self.layer_norm.forward(&sum), ctx)
    }
}

/// `p + 1, p + 2, ..` at the tokens of each text, and `p` at its padding, of which `p` is the id.
fn positions_after(ids_bt: &Tensor, padding: usize) -> Tensor {
    let padding = Tensor::constant(padding as f64, DType::I32, ids_bt.device());
    let real = ids_bt.cast(DType::I32).ne(&padding).cast(DType::I32);
    real.cumsum(1).mul(&real).add(&padding)
}

/// The blocks.
#[derive(Clone, Debug, Module)]
pub struct BertEncoder {
    /// From input to output.
    pub layer: Vec<BertLayer>,
}

/// `BertLayer`: attention, then feed-forward; the sum of input and output of each is normed.
#[derive(Clone, Debug, Module)]
pub struct BertLayer {
    /// Attention.
    pub attention: BertAttention,
    /// `[f, c]`.
    pub intermediate: Dense,
    /// `[c, f]`, and the norm.
    pub output: BertOutput,
    /// After the first of the two.
    #[module(skip)]
    pub activation: Activation,
}

/// A projection called `dense`.
#[derive(Clone, Debug, Module)]
pub struct Dense {
    /// The projection.
    pub dense: Linear,
}

/// Back to the width, and onto the residual stream.
#[derive(Clone, Debug, Module)]
pub struct BertOutput {
    /// `[c, ..]`.
    pub dense: Linear,
    /// Of the sum with the residual stream.
    #[module(rename = "LayerNorm")]
    pub layer_norm: LayerNorm,
    /// After the projection.
    pub dropout: Dropout,
}

impl BertOutput {
    fn new(config: &BertConfig, init: &Init, inputs: usize) -> Self {
        BertOutput {
            dense: linear(config, init, inputs, config.hidden_size),
            layer_norm: norm(config, init),
            dropout: Dropout::new(config.hidden_dropout_prob),
        }
    }

    #[track_caller]
    fn forward(&self, inner: &Tensor, residual_btc: &Tensor, ctx: &Context) -> Tensor {
        let y_btc = self.dropout.forward(&self.dense.forward(inner), ctx);
        self.layer_norm.forward(&y_btc.add(residual_btc))
    }
}

impl BertLayer {
    fn new(config: &BertConfig, init: &Init) -> Self {
        let (c, f) = (config.hidden_size, config.intermediate_size);
        BertLayer {
            attention: BertAttention::new(config, init),
            intermediate: Dense { dense: linear(config, init, c, f) },
            output: BertOutput::new(config, init, f),
            activation: config.hidden_act,
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, key_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        let x_btc = self.attention.forward(x_btc, key_mask, ctx);
        let inner_btf = self.activation.forward(&self.intermediate.dense.forward(&x_btc));
        self.output.forward(&inner_btf, &x_btc, ctx)
    }
}

/// Multi-head self-attention and its norm.
#[derive(Clone, Debug, Module)]
pub struct BertAttention {
    /// Queries, keys and values.
    #[module(rename = "self")]
    pub projections: BertSelfAttention,
    /// Onto the residual stream.
    pub output: BertOutput,
}

/// Queries, keys and values, `[c, c]` each.
#[derive(Clone, Debug, Module)]
pub struct BertSelfAttention {
    /// Of queries.
    pub query: Linear,
    /// Of keys.
    pub key: Linear,
    /// Of values.
    pub value: Linear,
    /// Number of heads.
    pub num_attention_heads: usize,
    /// Dropout of attention weights.
    pub dropout: f64,
}

impl BertAttention {
    fn new(config: &BertConfig, init: &Init) -> Self {
        BertAttention {
            projections: BertSelfAttention {
                query: square(config, init),
                key: square(config, init),
                value: square(config, init),
                num_attention_heads: config.num_attention_heads,
                dropout: config.attention_probs_dropout_prob,
            },
            output: BertOutput::new(config, init, config.hidden_size),
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, key_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        let BertSelfAttention { query, key, value, num_attention_heads, dropout } = &self.projections;
        let [q, k, v] = [query, key, value].map(|projection| projection.forward(x_btc));
        let options = Attention { key_mask, dropout: *dropout, ..Attention::default() };
        let y_btc = attend([&q, &k, &v], *num_attention_heads, &options, ctx);
        self.output.forward(&y_btc, x_btc, ctx)
    }
}

/// `tanh(W x₀ + b)` of the first position.
#[derive(Clone, Debug, Module)]
pub struct BertPooler {
    /// `[c, c]`.
    pub dense: Linear,
}

impl BertPooler {
    /// `[b, t, c]` to `[b, c]`.
    #[track_caller]
    pub fn forward(&self, x_btc: &Tensor) -> Tensor {
        self.dense.forward(&first(x_btc)).tanh()
    }
}

/// The first position of each text: `[b, t, c]` to `[b, c]`.
#[track_caller]
pub(crate) fn first(x_btc: &Tensor) -> Tensor {
    x_btc.narrow(1, 0, 1).squeeze(1)
}

/// The mean cross-entropy over the labels `[..]` that are not [`IGNORED_LABEL`], for logits `[.., n]`; nothing is shifted.
#[track_caller]
pub fn token_loss(logits: &Tensor, labels: &Tensor) -> Tensor {
    cross_entropy(logits, labels, Some(IGNORED_LABEL))
}

/// The loss of a classifier of texts as Hugging Face chooses it: for logits `[b, 1]` the mean squared difference from float labels `[b]`;
/// for class numbers `[b]` (integers) the mean cross-entropy; for float labels `[b, n]`, any number of which hold at once, the mean
/// binary cross-entropy.
#[track_caller]
pub fn classification_loss(logits_bn: &Tensor, labels: &Tensor) -> Tensor {
    let [_, n] = logits_bn.dims::<2>();
    match (n, labels.dtype().is_float()) {
        (1, _) => {
            mse_loss(&logits_bn.squeeze(-1), &labels.cast(logits_bn.dtype()).flatten(0, -1), Reduction::Mean)
        }
        (_, false) => cross_entropy(logits_bn, labels, Some(IGNORED_LABEL)),
        (_, true) => binary_cross_entropy_with_logits(logits_bn, labels, None, None, Reduction::Mean),
    }
}
