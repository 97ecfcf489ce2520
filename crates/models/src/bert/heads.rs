//! BERT with heads: masked language model, classes of texts, classes of tokens, answers in a text.

use wgrad_nn::{
    Activation, Context, Dropout, Init, Initializer, LayerNorm, Linear, Module, Param,
    functional::{cross_entropy, linear},
};
use wgrad_tensor::Tensor;

use super::{BertConfig, BertModel, first, linear as projection, square, weights, weights_without_pooler};
use crate::{ModelError, folders::folders, pretrained::check_parameters};

/// What a text goes through below a head.
fn body(config: &BertConfig, init: &Init, pooler: bool) -> Result<BertModel, ModelError> {
    if config.model_type != "bert" {
        let message = format!("`model_type` is `{}`, expected `bert`", config.model_type);
        return Err(ModelError::Config { model: "BERT", message });
    }
    BertModel::new(config, init, pooler)
}

/// `BertForMaskedLM`: scores of every token at every position.
#[derive(Clone, Debug, Module)]
pub struct BertForMaskedLM {
    /// Everything below the head.
    pub bert: BertModel,
    /// The head.
    pub cls: BertLMHead,
    #[module(skip)]
    config: BertConfig,
}

/// `BertOnlyMLMHead`.
#[derive(Clone, Debug, Module)]
pub struct BertLMHead {
    /// The head.
    pub predictions: BertPredictions,
}

/// A transformation, the output layer (the transposed token table unless it is untied) and its bias.
#[derive(Clone, Debug, Module)]
pub struct BertPredictions {
    /// Before the output layer.
    pub transform: BertPredictionHeadTransform,
    /// `[v]`.
    pub bias: Param,
    /// `[v, c]`, unless it is tied to the token table.
    pub decoder: Option<Linear>,
}

/// Projection, activation, norm.
#[derive(Clone, Debug, Module)]
pub struct BertPredictionHeadTransform {
    /// `[c, c]`.
    pub dense: Linear,
    /// After the activation.
    #[module(rename = "LayerNorm")]
    pub layer_norm: LayerNorm,
    /// Of the projection.
    #[module(skip)]
    pub activation: Activation,
}

impl BertForMaskedLM {
    /// A new model.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        let bert = body(config, init, false)?;
        let (c, v) = (config.hidden_size, config.vocab_size);
        let weights = Initializer::Normal { std: config.initializer_range };
        let predictions = BertPredictions {
            transform: BertPredictionHeadTransform {
                dense: square(config, init),
                layer_norm: LayerNorm::new(init, c, config.layer_norm_eps),
                activation: config.hidden_act,
            },
            bias: init.param([v], Initializer::Zeros),
            decoder: (!config.tie_word_embeddings).then(|| Linear::with(init, c, v, weights, None)),
        };
        let config = config.of("BertForMaskedLM");
        let model = BertForMaskedLM { bert, cls: BertLMHead { predictions }, config };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Logits `[b, t, v]`; arguments as of [`BertModel::forward`]. Their loss is [`token_loss`](super::token_loss).
    #[track_caller]
    pub fn forward(
        &self,
        ids_bt: &Tensor,
        attention_mask: Option<&Tensor>,
        token_type_ids: Option<&Tensor>,
        ctx: &Context,
    ) -> Tensor {
        self.logits(&self.bert.forward(ids_bt, attention_mask, token_type_ids, ctx))
    }

    /// Logits `[n, v]` at the `n` positions alone that have been masked, from the last hidden states `[b, t, c]`: the output layer is the
    /// largest part of a small model, and a loss reads a sixth of it. `rows [n]` (i32) counts positions through the batch: `t` times the
    /// text's number, plus the position in it.
    #[track_caller]
    pub fn logits_at(&self, x_btc: &Tensor, rows: &Tensor) -> Tensor {
        let [b, t, c] = x_btc.dims::<3>();
        self.logits(&x_btc.reshape([b * t, c]).embedding(rows))
    }

    /// The head: `[.., c]` to `[.., v]`.
    #[track_caller]
    pub fn logits(&self, x: &Tensor) -> Tensor {
        let BertPredictions { transform, bias, decoder } = &self.cls.predictions;
        let y = transform.activation.forward(&transform.dense.forward(x));
        let weight = match decoder {
            Some(decoder) => decoder.weight.tensor(),
            None => self.bert.embeddings.word_embeddings.weight.tensor(),
        };
        linear(&transform.layer_norm.forward(&y), &weight, Some(&bias.tensor()))
    }
}

/// `BertForSequenceClassification`: scores of classes of whole texts, from the pooler.
#[derive(Clone, Debug, Module)]
pub struct BertForSequenceClassification {
    /// Everything below the head.
    pub bert: BertModel,
    /// Before the classifier.
    pub dropout: Dropout,
    /// `[n, c]`.
    pub classifier: Linear,
    #[module(skip)]
    config: BertConfig,
}

impl BertForSequenceClassification {
    /// A new model for the configuration's classes.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        Self::on(body(config, init, true)?, config, init)
    }

    /// A new head on a model that has been trained before; a pooler that it lacks is made. `config` says the classes.
    ///
    /// # Errors
    /// A parameter does not fit on the device.
    pub fn on(mut bert: BertModel, config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        bert.pooler.get_or_insert_with(|| super::BertPooler { dense: square(config, init) });
        let model = BertForSequenceClassification {
            bert,
            dropout: Dropout::new(config.classifier_dropout.unwrap_or(config.hidden_dropout_prob)),
            classifier: projection(config, init, config.hidden_size, config.num_labels()),
            config: config.of("BertForSequenceClassification"),
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Logits `[b, n]`; arguments as of [`BertModel::forward`]. Their loss is [`classification_loss`](super::classification_loss).
    #[track_caller]
    pub fn forward(
        &self,
        ids_bt: &Tensor,
        attention_mask: Option<&Tensor>,
        token_type_ids: Option<&Tensor>,
        ctx: &Context,
    ) -> Tensor {
        self.logits(&self.bert.forward(ids_bt, attention_mask, token_type_ids, ctx), ctx)
    }

    /// The head: last hidden states `[b, t, c]` to `[b, n]`.
    #[track_caller]
    pub fn logits(&self, x_btc: &Tensor, ctx: &Context) -> Tensor {
        let pooled = self.bert.pooler.as_ref().map_or_else(|| first(x_btc), |pooler| pooler.forward(x_btc));
        self.classifier.forward(&self.dropout.forward(&pooled, ctx))
    }
}

/// `BertForTokenClassification`: scores of classes of every position.
#[derive(Clone, Debug, Module)]
pub struct BertForTokenClassification {
    /// Everything below the head.
    pub bert: BertModel,
    /// Before the classifier.
    pub dropout: Dropout,
    /// `[n, c]`.
    pub classifier: Linear,
    #[module(skip)]
    config: BertConfig,
}

impl BertForTokenClassification {
    /// A new model for the configuration's classes.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        Self::on(body(config, init, false)?, config, init)
    }

    /// A new head on a model that has been trained before. `config` says the classes.
    ///
    /// # Errors
    /// A parameter does not fit on the device.
    pub fn on(bert: BertModel, config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        let model = BertForTokenClassification {
            bert: bert.without_pooler(),
            dropout: Dropout::new(config.classifier_dropout.unwrap_or(config.hidden_dropout_prob)),
            classifier: projection(config, init, config.hidden_size, config.num_labels()),
            config: config.of("BertForTokenClassification"),
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Logits `[b, t, n]`; arguments as of [`BertModel::forward`]. Their loss is [`token_loss`](super::token_loss).
    #[track_caller]
    pub fn forward(
        &self,
        ids_bt: &Tensor,
        attention_mask: Option<&Tensor>,
        token_type_ids: Option<&Tensor>,
        ctx: &Context,
    ) -> Tensor {
        let x_btc = self.bert.forward(ids_bt, attention_mask, token_type_ids, ctx);
        self.classifier.forward(&self.dropout.forward(&x_btc, ctx))
    }
}

/// `BertForQuestionAnswering`: scores of every position as the first and as the last of the answer.
#[derive(Clone, Debug, Module)]
pub struct BertForQuestionAnswering {
    /// Everything below the head.
    pub bert: BertModel,
    /// `[2, c]`: first, last.
    pub qa_outputs: Linear,
    #[module(skip)]
    config: BertConfig,
}

impl BertForQuestionAnswering {
    /// A new model.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        Self::on(body(config, init, false)?, config, init)
    }

    /// A new head on a model that has been trained before.
    ///
    /// # Errors
    /// A parameter does not fit on the device.
    pub fn on(bert: BertModel, config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        let model = BertForQuestionAnswering {
            bert: bert.without_pooler(),
            qa_outputs: projection(config, init, config.hidden_size, 2),
            config: BertConfig { id2label: None, label2id: None, ..config.of("BertForQuestionAnswering") },
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Logits `[b, t]` of the first and of the last position; arguments as of [`BertModel::forward`]. Their loss is
    /// [`question_answering_loss`].
    #[track_caller]
    pub fn forward(
        &self,
        ids_bt: &Tensor,
        attention_mask: Option<&Tensor>,
        token_type_ids: Option<&Tensor>,
        ctx: &Context,
    ) -> [Tensor; 2] {
        let x_btc = self.bert.forward(ids_bt, attention_mask, token_type_ids, ctx);
        let both = self.qa_outputs.forward(&x_btc);
        [0, 1].map(|part| both.narrow(-1, part, 1).squeeze(-1))
    }
}

/// The mean of the cross-entropies of first and last positions `[b]` (i32) under logits `[b, t]`. A position beyond the text does not
/// count, as where an answer has been cut off.
#[track_caller]
pub fn question_answering_loss(logits_bt: &[Tensor; 2], positions: [&Tensor; 2]) -> Tensor {
    let [start, end] = [0, 1].map(|part| {
        let [_, t] = logits_bt[part].dims::<2>();
        let beyond = Tensor::constant(t as f64, positions[part].dtype(), positions[part].device());
        cross_entropy(&logits_bt[part], &positions[part].minimum(&beyond), Some(t as i32))
    });
    start.add(&end).mul(Tensor::constant(0.5, start.dtype(), start.device()))
}

folders!(BertConfig, weights; BertForSequenceClassification);
folders!(
    BertConfig, weights_without_pooler;
    BertForMaskedLM, BertForTokenClassification, BertForQuestionAnswering,
);
