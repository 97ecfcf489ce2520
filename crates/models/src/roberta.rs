//! RoBERTa (Liu et al., *RoBERTa: A Robustly Optimized BERT Pretraining Approach*, 2019), as Hugging Face computes it: BERT's blocks
//! with positions that are counted from the id of padding, and other heads.
//!
//! Legend of shapes: b batch, t time, c width (`hidden_size`), v vocabulary, n classes.

use wgrad_nn::{
    Context, Dropout, Init, Initializer, LayerNorm, Linear, Module, Param, functional::linear as affine,
};
use wgrad_tensor::Tensor;

use crate::{
    ModelError,
    bert::{BertConfig, BertModel, first, linear, square, weights_without_pooler},
    folders::folders,
    pretrained::check_parameters,
};

fn body(config: &BertConfig, init: &Init) -> Result<BertModel, ModelError> {
    if config.model_type != "roberta" {
        let message = format!("`model_type` is `{}`, expected `roberta`", config.model_type);
        return Err(ModelError::Config { model: "RoBERTa", message });
    }
    BertModel::new(config, init, false)
}

/// `RobertaForMaskedLM`: scores of every token at every position.
#[derive(Clone, Debug, Module)]
pub struct RobertaForMaskedLM {
    /// Everything below the head.
    pub roberta: BertModel,
    /// The head.
    pub lm_head: RobertaLMHead,
    #[module(skip)]
    config: BertConfig,
}

/// Projection, GELU, norm, and the output layer with its bias.
#[derive(Clone, Debug, Module)]
pub struct RobertaLMHead {
    /// `[c, c]`.
    pub dense: Linear,
    /// After the activation.
    pub layer_norm: LayerNorm,
    /// `[v]`.
    pub bias: Param,
    /// `[v, c]`, unless it is tied to the token table.
    pub decoder: Option<Linear>,
}

impl RobertaForMaskedLM {
    /// A new model.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        let roberta = body(config, init)?;
        let (c, v) = (config.hidden_size, config.vocab_size);
        let weights = Initializer::Normal { std: config.initializer_range };
        let lm_head = RobertaLMHead {
            dense: square(config, init),
            layer_norm: LayerNorm::new(init, c, config.layer_norm_eps),
            bias: init.param([v], Initializer::Zeros),
            decoder: (!config.tie_word_embeddings).then(|| Linear::with(init, c, v, weights, None)),
        };
        let model = RobertaForMaskedLM { roberta, lm_head, config: config.of("RobertaForMaskedLM") };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Logits `[b, t, v]`; `attention_mask [b, t]` hides padding. Their loss is [`token_loss`](crate::bert::token_loss).
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        let RobertaLMHead { dense, layer_norm, bias, decoder } = &self.lm_head;
        let x_btc = self.roberta.forward(ids_bt, attention_mask, None, ctx);
        let y_btc = layer_norm.forward(&dense.forward(&x_btc).gelu());
        let weight = match decoder {
            Some(decoder) => decoder.weight.tensor(),
            None => self.roberta.embeddings.word_embeddings.weight.tensor(),
        };
        affine(&y_btc, &weight, Some(&bias.tensor()))
    }
}

/// `RobertaForSequenceClassification`: scores of classes of whole texts, from the first token.
#[derive(Clone, Debug, Module)]
pub struct RobertaForSequenceClassification {
    /// Everything below the head.
    pub roberta: BertModel,
    /// The head.
    pub classifier: RobertaClassificationHead,
    #[module(skip)]
    config: BertConfig,
}

/// `W₂ tanh(W₁ x₀ + b₁) + b₂`, with dropout before both.
#[derive(Clone, Debug, Module)]
pub struct RobertaClassificationHead {
    /// `[c, c]`.
    pub dense: Linear,
    /// Before each projection.
    pub dropout: Dropout,
    /// `[n, c]`.
    pub out_proj: Linear,
}

impl RobertaForSequenceClassification {
    /// A new model for the configuration's classes.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        Self::on(body(config, init)?, config, init)
    }

    /// A new head on a model that has been trained before. `config` says the classes.
    ///
    /// # Errors
    /// A parameter does not fit on the device.
    pub fn on(roberta: BertModel, config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        let model = RobertaForSequenceClassification {
            roberta: roberta.without_pooler(),
            classifier: RobertaClassificationHead {
                dense: square(config, init),
                dropout: Dropout::new(config.classifier_dropout.unwrap_or(config.hidden_dropout_prob)),
                out_proj: linear(config, init, config.hidden_size, config.num_labels()),
            },
            config: config.of("RobertaForSequenceClassification"),
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Logits `[b, n]`; `attention_mask [b, t]` hides padding. Their loss is [`classification_loss`](crate::bert::classification_loss).
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.logits(&self.roberta.forward(ids_bt, attention_mask, None, ctx), ctx)
    }

    /// The head: last hidden states `[b, t, c]` to `[b, n]`.
    #[track_caller]
    pub fn logits(&self, x_btc: &Tensor, ctx: &Context) -> Tensor {
        let RobertaClassificationHead { dense, dropout, out_proj } = &self.classifier;
        let hidden = dense.forward(&dropout.forward(&first(x_btc), ctx)).tanh();
        out_proj.forward(&dropout.forward(&hidden, ctx))
    }
}

/// `RobertaForTokenClassification`: scores of classes of every position.
#[derive(Clone, Debug, Module)]
pub struct RobertaForTokenClassification {
    /// Everything below the head.
    pub roberta: BertModel,
    /// Before the classifier.
    pub dropout: Dropout,
    /// `[n, c]`.
    pub classifier: Linear,
    #[module(skip)]
    config: BertConfig,
}

impl RobertaForTokenClassification {
    /// A new model for the configuration's classes.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        Self::on(body(config, init)?, config, init)
    }

    /// A new head on a model that has been trained before. `config` says the classes.
    ///
    /// # Errors
    /// A parameter does not fit on the device.
    pub fn on(roberta: BertModel, config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        let model = RobertaForTokenClassification {
            roberta: roberta.without_pooler(),
            dropout: Dropout::new(config.classifier_dropout.unwrap_or(config.hidden_dropout_prob)),
            classifier: linear(config, init, config.hidden_size, config.num_labels()),
            config: config.of("RobertaForTokenClassification"),
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Logits `[b, t, n]`; `attention_mask [b, t]` hides padding. Their loss is [`token_loss`](crate::bert::token_loss).
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        let x_btc = self.roberta.forward(ids_bt, attention_mask, None, ctx);
        self.classifier.forward(&self.dropout.forward(&x_btc, ctx))
    }
}

/// `RobertaForQuestionAnswering`: scores of every position as the first and as the last of the answer.
#[derive(Clone, Debug, Module)]
pub struct RobertaForQuestionAnswering {
    /// Everything below the head.
    pub roberta: BertModel,
    /// `[2, c]`: first, last.
    pub qa_outputs: Linear,
    #[module(skip)]
    config: BertConfig,
}

impl RobertaForQuestionAnswering {
    /// A new model.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        Self::on(body(config, init)?, config, init)
    }

    /// A new head on a model that has been trained before.
    ///
    /// # Errors
    /// A parameter does not fit on the device.
    pub fn on(roberta: BertModel, config: &BertConfig, init: &Init) -> Result<Self, ModelError> {
        let model = RobertaForQuestionAnswering {
            roberta: roberta.without_pooler(),
            qa_outputs: linear(config, init, config.hidden_size, 2),
            config: BertConfig { id2label: None, label2id: None, ..config.of("RobertaForQuestionAnswering") },
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Logits `[b, t]` of the first and of the last position; `attention_mask [b, t]` hides padding. Their loss is
    /// [`question_answering_loss`](crate::bert::question_answering_loss).
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> [Tensor; 2] {
        let both = self.qa_outputs.forward(&self.roberta.forward(ids_bt, attention_mask, None, ctx));
        [0, 1].map(|part| both.narrow(-1, part, 1).squeeze(-1))
    }
}

folders!(
    BertConfig, weights_without_pooler;
    RobertaForMaskedLM, RobertaForSequenceClassification, RobertaForTokenClassification,
    RobertaForQuestionAnswering,
);
