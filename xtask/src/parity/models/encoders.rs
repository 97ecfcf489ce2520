//! BERT and RoBERTa with heads.

use std::path::Path;

use wgrad::{
    models::{
        BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification,
        BertModel, RobertaForMaskedLM, RobertaForQuestionAnswering, RobertaForSequenceClassification,
        RobertaForTokenClassification,
        bert::{classification_loss, question_answering_loss, token_loss},
    },
    prelude::*,
};

use super::{Batch, Case, Kind, Outputs, numbered};
use crate::Result;

pub(super) fn open(dir: &Path, device: &DeviceHandle, kind: &Kind) -> Result<Box<dyn Case>> {
    Ok(match kind.architecture() {
        "BertForMaskedLM" => Box::new(BertForMaskedLM::from_pretrained(dir, device)?),
        "BertForSequenceClassification" => {
            Box::new(BertForSequenceClassification::from_pretrained(dir, device)?)
        }
        "BertForTokenClassification" => Box::new(BertForTokenClassification::from_pretrained(dir, device)?),
        "BertForQuestionAnswering" => Box::new(BertForQuestionAnswering::from_pretrained(dir, device)?),
        "RobertaForMaskedLM" => Box::new(RobertaForMaskedLM::from_pretrained(dir, device)?),
        "RobertaForSequenceClassification" => {
            Box::new(RobertaForSequenceClassification::from_pretrained(dir, device)?)
        }
        "RobertaForTokenClassification" => {
            Box::new(RobertaForTokenClassification::from_pretrained(dir, device)?)
        }
        "RobertaForQuestionAnswering" => Box::new(RobertaForQuestionAnswering::from_pretrained(dir, device)?),
        other => return Err(format!("the architecture `{other}` is not known").into()),
    })
}

/// The states of the model below a head.
fn states(model: &BertModel, batch: &Batch, ctx: &Context) -> Result<Vec<Tensor>> {
    let (mask, types) = (batch.find("attention_mask"), batch.find("token_type_ids"));
    Ok(model.hidden_states(batch.get("input_ids")?, mask, types, ctx))
}

/// States, logits and loss by their names.
fn named(states: Vec<Tensor>, logits: Tensor, loss: Tensor) -> Outputs {
    let mut outputs = numbered("hidden_states", states);
    outputs.insert("logits".into(), logits);
    outputs.insert("loss".into(), loss);
    outputs
}

/// A model whose logits are `forward(ids, mask, types)` and have one loss with `labels`.
macro_rules! case {
    ($model:ident, $body:ident, $loss:ident, |$m:ident, $ids:ident, $mask:ident, $types:ident, $ctx:ident| $logits:expr) => {
        impl Case for $model {
            fn module(&self) -> &dyn Module {
                self
            }

            fn forward(&self, batch: &Batch, $ctx: &Context) -> Result<Outputs> {
                let $m = self;
                let ($ids, $mask) = (batch.get("input_ids")?, batch.find("attention_mask"));
                let $types = batch.find("token_type_ids");
                let logits = $logits;
                let loss = $loss(&logits, batch.get("labels")?);
                let _ = $types;
                Ok(named(states(&self.$body, batch, $ctx)?, logits, loss))
            }
        }
    };
}

case!(BertForMaskedLM, bert, token_loss, |m, ids, mask, types, ctx| m.forward(ids, mask, types, ctx));
case!(BertForTokenClassification, bert, token_loss, |m, ids, mask, types, ctx| m
    .forward(ids, mask, types, ctx));
case!(BertForSequenceClassification, bert, classification_loss, |m, ids, mask, types, ctx| m
    .forward(ids, mask, types, ctx));
case!(RobertaForMaskedLM, roberta, token_loss, |m, ids, mask, types, ctx| m.forward(ids, mask, ctx));
case!(RobertaForSequenceClassification, roberta, classification_loss, |m, ids, mask, types, ctx| m
    .forward(ids, mask, ctx));

case!(RobertaForTokenClassification, roberta, token_loss, |m, ids, mask, types, ctx| m
    .forward(ids, mask, ctx));

impl Case for BertForQuestionAnswering {
    fn module(&self) -> &dyn Module {
        self
    }

    fn forward(&self, batch: &Batch, ctx: &Context) -> Result<Outputs> {
        let (ids, mask) = (batch.get("input_ids")?, batch.find("attention_mask"));
        let logits = self.forward(ids, mask, batch.find("token_type_ids"), ctx);
        answers(batch, states(&self.bert, batch, ctx)?, logits)
    }
}

impl Case for RobertaForQuestionAnswering {
    fn module(&self) -> &dyn Module {
        self
    }

    fn forward(&self, batch: &Batch, ctx: &Context) -> Result<Outputs> {
        let logits = self.forward(batch.get("input_ids")?, batch.find("attention_mask"), ctx);
        answers(batch, states(&self.roberta, batch, ctx)?, logits)
    }
}

/// States, both logits and loss of a model that finds answers.
fn answers(batch: &Batch, states: Vec<Tensor>, logits: [Tensor; 2]) -> Result<Outputs> {
    let positions = [batch.get("start_positions")?, batch.get("end_positions")?];
    let loss = question_answering_loss(&logits, positions);
    let mut outputs = numbered("hidden_states", states);
    let names = ["start_logits", "end_logits", "loss"].map(str::to_owned);
    let [start, end] = logits;
    outputs.extend(names.into_iter().zip([start, end, loss]));
    Ok(outputs)
}
