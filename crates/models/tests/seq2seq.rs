//! T5, BART and Marian: files, what each side sees, generation.

use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_models::{
    BartConfig, BartForConditionalGeneration, EncoderDecoder, MarianMTModel, T5Config,
    T5ForConditionalGeneration,
    seq2seq::{BeamSearch, Source, beam_search, greedy, seq2seq_loss},
};
use wgrad_nn::{Context, Init, Module};
use wgrad_tensor::{DeviceHandle, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

fn t5(gated: bool) -> T5Config {
    T5Config {
        vocab_size: 13,
        d_model: 8,
        d_kv: 3,
        d_ff: 10,
        num_layers: 2,
        num_heads: 2,
        feed_forward_proj: if gated { "gated-gelu" } else { "relu" }.to_owned(),
        tie_word_embeddings: !gated,
        ..T5Config::default()
    }
}

fn bart(marian: bool) -> BartConfig {
    let mut config = BartConfig {
        vocab_size: 13,
        d_model: 8,
        encoder_layers: 1,
        encoder_attention_heads: 2,
        encoder_ffn_dim: 10,
        decoder_layers: 2,
        decoder_attention_heads: 2,
        decoder_ffn_dim: 10,
        max_position_embeddings: 9,
        pad_token_id: 1,
        decoder_start_token_id: 2,
        ..if marian { BartConfig::marian() } else { BartConfig::default() }
    };
    config.other.insert("forced_eos_token_id".into(), serde_json::Value::Null);
    config
}

fn ids(rows: &[&[i32]], device: &DeviceHandle) -> Tensor {
    let flat: Vec<i32> = rows.iter().flat_map(|row| row.iter().copied()).collect();
    Tensor::from_vec(flat, [rows.len(), rows[0].len()], device)
}

/// Each kind of model, with the way back from a folder.
fn each(check: impl Fn(&str, &dyn EncoderDecoder, &dyn Module) -> Outcome) -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let init = Init::new(&device, 7);
    for gated in [false, true] {
        T5ForConditionalGeneration::new(&t5(gated), &init)?.save_pretrained(dir.path())?;
        let model = T5ForConditionalGeneration::from_pretrained(dir.path(), &device)?;
        assert_eq!(model.lm_head.is_some(), gated);
        check("T5", &model, &model)?;
    }
    let model = BartForConditionalGeneration::new(&bart(false), &init)?;
    model.save_pretrained(dir.path())?;
    let model = BartForConditionalGeneration::from_pretrained(dir.path(), &device)?;
    check("BART", &model, &model)?;
    let model = MarianMTModel::new(&bart(true), &init)?;
    model.save_pretrained(dir.path())?;
    let model = MarianMTModel::from_pretrained(dir.path(), &device)?;
    check("Marian", &model, &model)
}

#[test]
fn a_target_position_sees_the_source_and_what_came_before_it() -> Outcome {
    each(|name, model, _| {
        let (device, ctx) = (model.device(), Context::eval());
        let source = ids(&[&[5, 6, 7]], &device);
        let logits = |source: &Tensor, labels: &[i32]| {
            model.forward(source, None, &ids(&[labels], &device), None, &ctx).to_vec::<f32>()
        };
        let (a, b) = (logits(&source, &[3, 4, 5, 6])?, logits(&source, &[3, 4, 9, 6])?);
        // The third label is read by the fourth position.
        assert_eq!(a[..3 * 13], b[..3 * 13], "{name} sees the future");
        assert_ne!(a[3 * 13..], b[3 * 13..], "{name} does not see the past");
        let other = logits(&ids(&[&[5, 6, 8]], &device), &[3, 4, 5, 6])?;
        assert_ne!(a, other, "{name} does not see the source");
        Ok(())
    })
}

#[test]
fn padding_of_the_source_changes_nothing() -> Outcome {
    each(|name, model, _| {
        let (device, ctx) = (model.device(), Context::eval());
        let labels = ids(&[&[3, 4, 5]], &device);
        let plain = model.forward(&ids(&[&[5, 6, 7]], &device), None, &labels, None, &ctx).to_vec::<f32>()?;
        let (padded, mask) = (ids(&[&[5, 6, 7, 1, 1]], &device), ids(&[&[1, 1, 1, 0, 0]], &device));
        let masked = model.forward(&padded, Some(&mask), &labels, None, &ctx).to_vec::<f32>()?;
        for (a, b) in plain.iter().zip(masked) {
            assert!((a - b).abs() < 1e-5, "{name}: {a} instead of {b}");
        }
        Ok(())
    })
}

#[test]
fn greedy_text_is_the_argmax_of_what_training_computes() -> Outcome {
    each(|name, model, _| {
        let device = model.device();
        let (source, mask) =
            (ids(&[&[5, 6, 7], &[7, 8, 1]], &device), ids(&[&[1, 1, 1], &[1, 1, 0]], &device));
        let texts = greedy(model, &source, Some(&mask), 5, false)?;
        for (row, text) in texts.iter().enumerate() {
            assert_eq!((text.len(), text[0]), (6, model.decoder_start_token_id()), "{name}");
            let (one, one_mask) = (source.narrow(0, row, 1), mask.narrow(0, row, 1));
            let logits =
                model.forward(&one, Some(&one_mask), &ids(&[&text[1..]], &device), None, &Context::eval());
            assert_eq!(logits.argmax(-1, false).to_vec::<i32>()?, text[1..], "{name}");
        }
        Ok(())
    })
}

#[test]
fn a_single_beam_is_greedy_and_as_many_as_tokens_miss_nothing() -> Outcome {
    each(|name, model, _| {
        let (device, v) = (model.device(), model.vocab_size());
        let (source, mask) =
            (ids(&[&[5, 6, 7], &[7, 8, 1]], &device), ids(&[&[1, 1, 1], &[1, 1, 0]], &device));
        let search = |num_beams, max_new_tokens| {
            let options = BeamSearch { num_beams, max_new_tokens, ..BeamSearch::default() };
            beam_search(model, &source, Some(&mask), &options)
        };
        assert_eq!(search(1, 4)?, greedy(model, &source, Some(&mask), 4, true)?, "{name}");

        // Every text of two tokens, and that which ends after one.
        let end = model.eos_token_id().ok_or("no end")?;
        for (row, found) in search(v, 2)?.into_iter().enumerate() {
            let (one, one_mask) = (source.narrow(0, row, 1), mask.narrow(0, row, 1));
            let mut best = (f32::MIN, Vec::new());
            for first in 0..v as i32 {
                let labels = ids(&[&[first, 0]], &device);
                let logits = model.forward(&one, Some(&one_mask), &labels, None, &Context::eval());
                let logs = logits.log_softmax(-1).to_vec::<f32>()?;
                let start = model.decoder_start_token_id();
                if first == end {
                    let score = logs[first as usize];
                    best = if score > best.0 { (score, vec![start, first]) } else { best };
                    continue;
                }
                for second in 0..v {
                    let score = (logs[first as usize] + logs[v + second]) / 2.0;
                    best = if score > best.0 { (score, vec![start, first, second as i32]) } else { best };
                }
            }
            assert_eq!(found, best.1, "{name}");
        }
        let none = BeamSearch { num_beams: 0, ..BeamSearch::default() };
        assert!(beam_search(model, &source, None, &none).is_err());
        Ok(())
    })
}

#[test]
fn a_configuration_can_keep_tokens_out_and_say_how_a_cut_text_ends() -> Outcome {
    let device = device();
    let mut config = bart(true);
    let source = ids(&[&[5, 6, 7]], &device);
    let init = || Init::new(&device, 7);
    let free = greedy(&MarianMTModel::new(&config, &init())?, &source, None, 4, true)?;
    let first = free[0][1];
    let last = if first == 12 { 11 } else { 12 };
    config.other.insert("bad_words_ids".into(), serde_json::json!([[first], [1, 2]]));
    config.other.insert("forced_eos_token_id".into(), last.into());
    let model = MarianMTModel::new(&config, &init())?;
    let options = BeamSearch { num_beams: 1, max_new_tokens: 4, ..BeamSearch::default() };
    for text in [greedy(&model, &source, None, 4, true)?, beam_search(&model, &source, None, &options)?] {
        assert!(!text[0][1..].contains(&first), "{text:?} has {first}");
        assert!(text[0].len() < 5 || text[0][4] == last, "{text:?} is cut");
    }
    Ok(())
}

#[test]
fn labels_that_do_not_count_are_read_as_padding() -> Outcome {
    each(|name, model, _| {
        let device = model.device();
        let shifted = model.shift_right(&ids(&[&[5, 6, -100, -100]], &device));
        let (start, pad) = (model.decoder_start_token_id(), model.pad_token_id());
        assert_eq!(shifted.to_vec::<i32>()?, [start, 5, 6, pad], "{name}");
        Ok(())
    })
}

#[test]
fn every_parameter_has_a_gradient() -> Outcome {
    each(|name, model, module| {
        let device = model.device();
        let (source, labels) = (ids(&[&[5, 6, 7]], &device), ids(&[&[3, 4, -100]], &device));
        let ctx = Context::eval();
        let memory = model.encode(&source, None, &ctx).pop().ok_or("no states")?;
        let target = model.shift_right(&labels);
        let states = model.decode(&target, None, &Source { memory: &memory, mask: None }, &ctx);
        let loss = seq2seq_loss(&model.logits(states.last().ok_or("no states")?), &labels, 0.1);
        let parameters: Vec<Tensor> = module.named_parameters().iter().map(|(_, p)| p.tensor()).collect();
        let gradients = wgrad_tensor::grad(&loss, &parameters.iter().collect::<Vec<_>>())?;
        assert_eq!(gradients.len(), parameters.len(), "{name}");
        Ok(())
    })
}

#[test]
fn what_cannot_be_is_refused_by_name() -> Outcome {
    let init = Init::new(&device(), 0);
    let text = |error: Option<wgrad_models::ModelError>| error.map(|e| e.to_string()).unwrap_or_default();
    let t5 = |config: T5Config| text(T5ForConditionalGeneration::new(&config, &init).err());
    assert!(
        t5(T5Config { feed_forward_proj: "gated-swoosh".into(), ..t5_default() }).contains("gated-swoosh")
    );
    assert!(t5(T5Config { eos_token_id: Some(99), ..t5_default() }).contains("eos_token_id"));
    let mut apart = bart(true);
    apart.other.insert("share_encoder_decoder_embeddings".into(), false.into());
    assert!(text(MarianMTModel::new(&apart, &init).err()).contains("vocabularies of their own"));
    assert!(text(BartForConditionalGeneration::new(&bart(true), &init).err()).contains("expected `bart`"));
    let model = BartForConditionalGeneration::new(&bart(false), &init)?;
    let long = Tensor::from_vec(vec![3i32; 10], [1, 10], &model.device());
    let message = model.encode(&long, None, &Context::eval())[0].error().map(ToString::to_string);
    assert!(message.is_some_and(|m| m.contains("longest text of 9")));
    Ok(())
}

fn t5_default() -> T5Config {
    t5(false)
}
