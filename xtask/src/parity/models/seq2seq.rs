//! Models with an encoder and a decoder: T5, BART, Marian, and PyTorch's own Transformer.

use std::path::Path;

use wgrad::{
    models::{
        BartForConditionalGeneration, EncoderDecoder, MarianMTModel, T5ForConditionalGeneration,
        TransformerSeq2Seq,
        seq2seq::{Source, greedy, seq2seq_loss},
    },
    prelude::*,
};

use super::{Batch, Case, Kind, Outputs, Wanted, best_two, numbered};
use crate::Result;

struct Seq2Seq<M>(M);

pub(super) fn t5(dir: &Path, device: &DeviceHandle, _: &Kind) -> Result<Box<dyn Case>> {
    Ok(Box::new(Seq2Seq(T5ForConditionalGeneration::from_pretrained(dir, device)?)))
}

pub(super) fn bart(dir: &Path, device: &DeviceHandle, _: &Kind) -> Result<Box<dyn Case>> {
    Ok(Box::new(Seq2Seq(BartForConditionalGeneration::from_pretrained(dir, device)?)))
}

pub(super) fn marian(dir: &Path, device: &DeviceHandle, _: &Kind) -> Result<Box<dyn Case>> {
    Ok(Box::new(Seq2Seq(MarianMTModel::from_pretrained(dir, device)?)))
}

pub(super) fn transformer(dir: &Path, device: &DeviceHandle, _: &Kind) -> Result<Box<dyn Case>> {
    Ok(Box::new(TransformerSeq2Seq::from_pretrained(dir, device)?))
}

impl<M: EncoderDecoder + Module> Case for Seq2Seq<M> {
    fn module(&self) -> &dyn Module {
        &self.0
    }

    fn forward(&self, batch: &Batch, ctx: &Context) -> Result<Outputs> {
        let (ids, mask, labels) =
            (batch.get("input_ids")?, batch.find("attention_mask"), batch.get("labels")?);
        let encoder = self.0.encode(ids, mask, ctx);
        let memory = encoder.last().ok_or("the encoder has no states")?.clone();
        let source = Source { memory: &memory, mask };
        let target = self.0.shift_right(labels);
        let decoder = self.0.decode(&target, batch.find("decoder_attention_mask"), &source, ctx);
        let logits = self.0.logits(decoder.last().ok_or("the decoder has no states")?);
        let mut outputs = numbered("encoder_hidden_states", encoder);
        outputs.extend(numbered("decoder_hidden_states", decoder));
        outputs.insert("encoder_last_hidden_state".into(), memory);
        outputs.insert("loss".into(), seq2seq_loss(&logits, labels, 0.0));
        outputs.insert("logits".into(), logits);
        Ok(outputs)
    }

    fn further(&self, batch: &Batch, wanted: Wanted<'_>) -> Result<Outputs> {
        let Some(want) = wanted("greedy_ids") else { return Ok(Outputs::new()) };
        let steps = want.values.len().saturating_sub(1);
        let ids = batch.get("input_ids")?.narrow(0, 0, 1);
        let mask = batch.find("attention_mask").map(|mask| mask.narrow(0, 0, 1));
        let text = greedy(&self.0, &ids, mask.as_ref(), steps, false)?.swap_remove(0);
        let length = text.len();
        let text = Tensor::from_vec(text, [1, length], ids.device());
        let memory = self.0.encode(&ids, mask.as_ref(), &Context::eval()).pop().ok_or("no states")?;
        let source = Source { memory: &memory, mask: mask.as_ref() };
        let read = text.narrow(1, 0, length.saturating_sub(1));
        let states = self.0.decode(&read, None, &source, &Context::eval());
        Ok(best_two(&text, &self.0.logits(states.last().ok_or("no states")?)))
    }
}

impl Case for TransformerSeq2Seq {
    fn module(&self) -> &dyn Module {
        self
    }

    fn forward(&self, batch: &Batch, ctx: &Context) -> Result<Outputs> {
        let (source, target) = (batch.get("src")?, batch.get("tgt_in")?);
        let logits = self.forward(source, target, batch.find("src_pad"), batch.find("tgt_pad"), ctx);
        let loss = seq2seq_loss(&logits, batch.get("labels")?, 0.1);
        Ok([("logits".to_owned(), logits), ("loss".to_owned(), loss)].into())
    }
}
