//! A small model of each family, saved with what it computes.

use std::path::Path;

use wgrad::{
    models::{
        BartConfig, BartForConditionalGeneration, BertConfig, BertForMaskedLM, BertForQuestionAnswering,
        BertForSequenceClassification, BertForTokenClassification, EncoderDecoder, Gpt2Config, Gpt2Init,
        Gpt2LMHead, MarianMTModel, RobertaForMaskedLM, RobertaForQuestionAnswering,
        RobertaForSequenceClassification, RobertaForTokenClassification, T5Config,
        T5ForConditionalGeneration,
        seq2seq::{BeamSearch, beam_search},
    },
    prelude::*,
};

use super::Saved;
use crate::Result;

type Save = fn(&Path, &DeviceHandle) -> Result<Saved>;

/// Every family and head.
pub(crate) const FAMILIES: &[(&str, Save)] = &[
    ("gpt2", gpt2),
    ("bert-mlm", bert_mlm),
    ("bert-sequence", bert_sequence),
    ("bert-token", bert_token),
    ("bert-qa", bert_qa),
    ("roberta-mlm", roberta_mlm),
    ("roberta-sequence", roberta_sequence),
    ("roberta-token", roberta_token),
    ("roberta-qa", roberta_qa),
    ("t5", |dir, device| t5(dir, device, false)),
    ("t5-gated", |dir, device| t5(dir, device, true)),
    ("bart", bart),
    ("marian", marian),
];

const VOCABULARY: usize = 37;

/// Two texts of ids above those with a meaning, the second one padded, and their mask.
fn texts(device: &DeviceHandle, padding: i32) -> (Tensor, Tensor) {
    const TIME: i32 = 9;
    let ids = (0..2 * TIME).map(|i| if i >= 2 * TIME - 3 { padding } else { 5 + (i * 7) % 30 });
    let mask = (0..2 * TIME).map(|i| i32::from(i < 2 * TIME - 3));
    let tensor = |values: Vec<i32>| Tensor::from_vec(values, [2, TIME as usize], device);
    (tensor(ids.collect()), tensor(mask.collect()))
}

fn both(ids: &Tensor, mask: &Tensor) -> Vec<(&'static str, Tensor)> {
    vec![("input_ids", ids.clone()), ("attention_mask", mask.clone())]
}

fn gpt2(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let config = Gpt2Config {
        vocab_size: VOCABULARY,
        n_positions: 16,
        n_embd: 24,
        n_layer: 2,
        n_head: 3,
        initializer_range: 0.3,
        ..Gpt2Config::default()
    };
    let model = Gpt2LMHead::new(&config, &Init::new(device, 1), Gpt2Init::Plain)?;
    model.save_pretrained(dir)?;
    let (ids, mask) = texts(device, 0);
    let logits = model.forward(&ids, Some(&mask), &Context::eval());
    Ok(Saved { inputs: both(&ids, &mask), outputs: vec![("logits", logits)], beams: None })
}

fn bert_config() -> BertConfig {
    let config = BertConfig {
        vocab_size: VOCABULARY,
        hidden_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        intermediate_size: 40,
        max_position_embeddings: 16,
        initializer_range: 0.3,
        ..BertConfig::default()
    };
    config.with_labels(&["one", "two", "three"])
}

fn bert_mlm(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let model = BertForMaskedLM::new(&bert_config(), &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    let (ids, mask) = texts(device, 0);
    let logits = model.forward(&ids, Some(&mask), None, &Context::eval());
    Ok(Saved { inputs: both(&ids, &mask), outputs: vec![("logits", logits)], beams: None })
}

fn bert_sequence(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let model = BertForSequenceClassification::new(&bert_config(), &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    let (ids, mask) = texts(device, 0);
    // Segments too: the same numbers as the mask.
    let logits = model.forward(&ids, Some(&mask), Some(&mask), &Context::eval());
    let mut inputs = both(&ids, &mask);
    inputs.push(("token_type_ids", mask));
    Ok(Saved { inputs, outputs: vec![("logits", logits)], beams: None })
}

fn bert_token(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let model = BertForTokenClassification::new(&bert_config(), &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    let (ids, mask) = texts(device, 0);
    let logits = model.forward(&ids, Some(&mask), None, &Context::eval());
    Ok(Saved { inputs: both(&ids, &mask), outputs: vec![("logits", logits)], beams: None })
}

fn bert_qa(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let model = BertForQuestionAnswering::new(&bert_config(), &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    let (ids, mask) = texts(device, 0);
    let [start, end] = model.forward(&ids, Some(&mask), None, &Context::eval());
    Ok(Saved {
        inputs: both(&ids, &mask),
        outputs: vec![("start_logits", start), ("end_logits", end)],
        beams: None,
    })
}

fn roberta_config() -> BertConfig {
    BertConfig {
        model_type: "roberta".into(),
        pad_token_id: Some(1),
        type_vocab_size: 1,
        layer_norm_eps: 1e-5,
        ..bert_config()
    }
}

fn roberta_mlm(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let model = RobertaForMaskedLM::new(&roberta_config(), &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    let (ids, mask) = texts(device, 1);
    let logits = model.forward(&ids, Some(&mask), &Context::eval());
    Ok(Saved { inputs: both(&ids, &mask), outputs: vec![("logits", logits)], beams: None })
}

fn roberta_sequence(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let model = RobertaForSequenceClassification::new(&roberta_config(), &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    let (ids, mask) = texts(device, 1);
    let logits = model.forward(&ids, Some(&mask), &Context::eval());
    Ok(Saved { inputs: both(&ids, &mask), outputs: vec![("logits", logits)], beams: None })
}

fn roberta_token(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let model = RobertaForTokenClassification::new(&roberta_config(), &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    let (ids, mask) = texts(device, 1);
    let logits = model.forward(&ids, Some(&mask), &Context::eval());
    Ok(Saved { inputs: both(&ids, &mask), outputs: vec![("logits", logits)], beams: None })
}

fn roberta_qa(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let model = RobertaForQuestionAnswering::new(&roberta_config(), &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    let (ids, mask) = texts(device, 1);
    let [start, end] = model.forward(&ids, Some(&mask), &Context::eval());
    let outputs = vec![("start_logits", start), ("end_logits", end)];
    Ok(Saved { inputs: both(&ids, &mask), outputs, beams: None })
}

/// What a model with an encoder and a decoder computes for texts that are their own target.
fn seq2seq(model: &impl EncoderDecoder, device: &DeviceHandle) -> Result<Saved> {
    let (ids, mask) = texts(device, model.pad_token_id());
    let logits = model.forward(&ids, Some(&mask), &ids, None, &Context::eval());
    let mut inputs = both(&ids, &mask);
    inputs.push(("decoder_input_ids", model.shift_right(&ids)));
    let options = BeamSearch { num_beams: 4, max_new_tokens: 6, ..BeamSearch::default() };
    let mut texts = beam_search(model, &ids, Some(&mask), &options)?;
    let width = texts.iter().map(Vec::len).max().unwrap_or(0);
    texts.iter_mut().for_each(|text| text.resize(width, model.pad_token_id()));
    let beams = Tensor::from_vec(texts.concat(), [texts.len(), width], device);
    Ok(Saved { inputs, outputs: vec![("logits", logits)], beams: Some(beams) })
}

fn t5(dir: &Path, device: &DeviceHandle, gated: bool) -> Result<Saved> {
    let config = T5Config {
        vocab_size: VOCABULARY,
        d_model: 24,
        d_kv: 10,
        d_ff: 40,
        num_layers: 2,
        num_heads: 3,
        relative_attention_num_buckets: 8,
        relative_attention_max_distance: 12,
        feed_forward_proj: if gated { "gated-gelu" } else { "relu" }.to_owned(),
        scale_decoder_outputs: Some(!gated),
        ..T5Config::default()
    };
    let model = T5ForConditionalGeneration::new(&config, &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    seq2seq(&model, device)
}

fn bart_config(family: BartConfig) -> BartConfig {
    let mut config = BartConfig {
        vocab_size: VOCABULARY,
        d_model: 24,
        encoder_layers: 2,
        encoder_attention_heads: 3,
        encoder_ffn_dim: 40,
        decoder_layers: 2,
        decoder_attention_heads: 3,
        decoder_ffn_dim: 40,
        max_position_embeddings: 16,
        init_std: 0.3,
        pad_token_id: 1,
        eos_token_id: Some(2),
        decoder_start_token_id: 3,
        ..family
    };
    // Texts that are cut end with this one.
    config.other.insert("forced_eos_token_id".into(), 2.into());
    config
}

fn bart(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let config = bart_config(BartConfig::default());
    let model = BartForConditionalGeneration::new(&config, &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    seq2seq(&model, device)
}

fn marian(dir: &Path, device: &DeviceHandle) -> Result<Saved> {
    let model = MarianMTModel::new(&bart_config(BartConfig::marian()), &Init::new(device, 1))?;
    model.save_pretrained(dir)?;
    seq2seq(&model, device)
}
