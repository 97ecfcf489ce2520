//! Models that predict the next token.

use std::{ops::ControlFlow, path::Path};

use wgrad::{
    models::{AutoModelForCausalLM, CausalLanguageModel, GenerateOptions, causal_loss, generate},
    prelude::*,
};

use super::{Batch, Case, Kind, Outputs, Wanted, best_two, numbered};
use crate::Result;

struct Causal(Box<dyn CausalLanguageModel>);

pub(super) fn open(dir: &Path, device: &DeviceHandle, _: &Kind) -> Result<Box<dyn Case>> {
    Ok(Box::new(Causal(AutoModelForCausalLM::from_pretrained(dir, device)?)))
}

impl Case for Causal {
    fn module(&self) -> &dyn Module {
        &self.0
    }

    fn forward(&self, batch: &Batch, ctx: &Context) -> Result<Outputs> {
        let (ids, mask) = (batch.get("input_ids")?, batch.find("attention_mask"));
        let logits = self.0.forward(ids, mask, ctx);
        let mut outputs = numbered("hidden_states", self.0.hidden_states(ids, mask, ctx));
        outputs.insert("loss".into(), causal_loss(&logits, batch.get("labels")?));
        outputs.insert("logits".into(), logits);
        Ok(outputs)
    }

    /// The first tokens of row 0 and their greedy continuation.
    fn further(&self, batch: &Batch, wanted: Wanted<'_>) -> Result<Outputs> {
        let Some(want) = wanted("greedy_ids") else { return Ok(Outputs::new()) };
        let steps = wanted("greedy_top2").and_then(|top2| top2.shape.first().copied()).unwrap_or(8);
        let ids = batch.get("input_ids")?;
        let prompt = want.values.len().saturating_sub(steps);
        let first: Vec<i32> = ids.narrow(0, 0, 1).narrow(1, 0, prompt).to_vec()?;
        let first: Vec<u32> = first.into_iter().map(|id| id as u32).collect();
        let options =
            GenerateOptions { max_new_tokens: steps, temperature: 0.0, ..GenerateOptions::default() };
        let new = generate(&*self.0, &first, &options, |_| ControlFlow::Continue(()))?;
        let all: Vec<i32> = first.into_iter().chain(new).map(|id| id as i32).collect();
        let length = all.len();
        let text = Tensor::from_vec(all, [1, length], ids.device());
        let logits = self.0.forward(&text, None, &Context::eval());
        Ok(best_two(&text, &logits.narrow(1, prompt.max(1) - 1, steps)))
    }
}
