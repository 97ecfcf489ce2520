//! Generation: the cache tells what whole texts tell, by one program; batches, and beam search against all texts there are.

use std::{ops::ControlFlow, sync::Arc};

use wgrad_cpu::CpuDevice;
use wgrad_models::{
    CausalLanguageModel, GenerateOptions, Gpt2Config, Gpt2LMHead, GptNeoXConfig, GptNeoXForCausalLM,
    InitScheme, LlamaConfig, LlamaForCausalLM, generate,
    generate::{BeamOptions, Reader, beam_search, generate_batch},
};
use wgrad_nn::{Context, Init};
use wgrad_tensor::{DeviceHandle, Tensor};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const VOCAB: usize = 7;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

/// One of each family; weights are large, so that mistakes show.
fn models(context: usize, device: &DeviceHandle) -> Outcome<Vec<Box<dyn CausalLanguageModel>>> {
    let init = || Init::new(device, 3);
    let llama = |name: &str| LlamaConfig {
        vocab_size: VOCAB,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        head_dim: Some(6),
        max_position_embeddings: context,
        initializer_range: 0.4,
        ..LlamaConfig::of_type(name)
    };
    let mistral = LlamaConfig { sliding_window: Some(3), ..llama("mistral") };
    let gpt2 = Gpt2Config {
        vocab_size: VOCAB,
        n_positions: context,
        n_embd: 16,
        n_layer: 2,
        n_head: 4,
        initializer_range: 0.4,
        ..Gpt2Config::default()
    };
    let neox = GptNeoXConfig {
        vocab_size: VOCAB,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 24,
        max_position_embeddings: context,
        initializer_range: 0.3,
        ..GptNeoXConfig::default()
    };
    Ok(vec![
        Box::new(Gpt2LMHead::new(&gpt2, &init(), InitScheme::Plain)?),
        Box::new(LlamaForCausalLM::new(&llama("qwen3"), &init(), InitScheme::Plain)?),
        Box::new(LlamaForCausalLM::new(&mistral, &init(), InitScheme::Plain)?),
        Box::new(GptNeoXForCausalLM::new(&neox, &init(), InitScheme::Plain)?),
    ])
}

/// Logits after the last token of a text, from the whole of it.
fn whole(model: &dyn CausalLanguageModel, text: &[u32]) -> Outcome<Vec<f32>> {
    let ids: Vec<i32> = text.iter().map(|&id| id as i32).collect();
    let ids = Tensor::from_vec(ids, [1, text.len()], &model.device());
    let logits = model.forward(&ids, None, &Context::eval());
    Ok(logits.narrow(1, text.len() - 1, 1).to_vec()?)
}

fn near(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 2e-5 * (1.0 + a.abs()), "{what}: {a} and {b}");
    }
}

/// A text of so many tokens.
fn text(length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (i * i + 3 * i + 1) % VOCAB as u32).collect()
}

#[test]
fn the_cache_tells_what_the_whole_text_tells_whatever_was_read_at_once() -> Outcome {
    let device = device();
    for (number, model) in models(512, &device)?.iter().enumerate() {
        // Prompts of one token, of padded pieces, and of several pieces.
        for prompt in [1, 5, 8, 130, 300] {
            let text = text(prompt + 3);
            let mut reader = Reader::new(&**model, 400);
            let mut logits = reader.start(&[&text[..prompt]])?;
            for next in prompt..text.len() {
                near(&logits, &whole(&**model, &text[..next])?, &format!("model {number}, {next} tokens"));
                logits = reader.read(&[text[next]])?;
            }
        }
    }
    Ok(())
}

#[test]
fn texts_of_different_lengths_do_not_see_each_other_or_their_padding() -> Outcome {
    let device = device();
    for (number, model) in models(64, &device)?.iter().enumerate() {
        let texts = [text(12), text(9)[2..].to_vec(), vec![4], text(30)[18..].to_vec()];
        let mut reader = Reader::new(&**model, 16);
        let prompts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let mut logits = reader.start(&prompts)?;
        let mut texts = texts.to_vec();
        for step in 0..3 {
            for (row, text) in texts.iter().enumerate() {
                let part = &logits[row * VOCAB..(row + 1) * VOCAB];
                near(part, &whole(&**model, text)?, &format!("model {number}, text {row}, step {step}"));
            }
            let next: Vec<u32> = (0..4).map(|row| (row + step) % VOCAB as u32).collect();
            for (text, &token) in texts.iter_mut().zip(&next) {
                text.push(token);
            }
            logits = reader.read(&next)?;
        }
    }
    Ok(())
}

#[test]
fn a_batch_writes_what_each_prompt_would_have_written_alone() -> Outcome {
    let device = device();
    let options = GenerateOptions { max_new_tokens: 9, temperature: 0.0, ..Default::default() };
    for model in models(64, &device)? {
        let prompts = [text(5), text(11)[4..].to_vec(), vec![2]];
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let mut shown = vec![Vec::new(); 3];
        let together = generate_batch(&*model, &prompts, &options, |row, token| {
            shown[row].push(token);
            ControlFlow::Continue(())
        })?;
        assert_eq!(shown, together);
        for (prompt, text) in prompts.iter().zip(&together) {
            assert_eq!(&generate(&*model, prompt, &options, |_| ControlFlow::Continue(()))?, text);
            assert_eq!(text.len(), 9);
        }
    }
    Ok(())
}

#[test]
fn a_text_that_stops_leaves_the_others_going() -> Outcome {
    let device = device();
    let model = &models(64, &device)?[1];
    let prompts: [&[u32]; 2] = [&[1, 2], &[3]];
    let options = GenerateOptions { max_new_tokens: 12, temperature: 0.0, ..Default::default() };
    let free = generate_batch(&**model, &prompts, &options, |_, _| ControlFlow::Continue(()))?;
    let stop = free[0][3];
    let options = GenerateOptions { stop_tokens: vec![stop], ..options };
    let stopped = generate_batch(&**model, &prompts, &options, |_, _| ControlFlow::Continue(()))?;
    for (free, stopped) in free.iter().zip(&stopped) {
        let end = free.iter().position(|&token| token == stop).unwrap_or(free.len());
        assert_eq!(stopped, &free[..end]);
    }
    Ok(())
}

#[test]
fn a_token_compiles_nothing_new() -> Outcome {
    for number in 0..4 {
        let device = device();
        let model = &models(64, &device)?[number];
        let mut reader = Reader::new(&**model, 64);
        reader.start(&[&text(20)])?;
        reader.read(&[1])?;
        let programs = device.cache().executables().len();
        for token in 0..30 {
            reader.read(&[token % VOCAB as u32])?;
        }
        assert_eq!(device.cache().executables().len(), programs);
        // The cache is updated where it lies.
        let updates = device.cache().executables().iter().map(|e| e.program().updates.len()).max();
        assert_eq!(updates, Some(4), "two blocks' keys and values");
        assert_eq!(device.stats().copied_inputs, 0);
    }
    Ok(())
}

#[test]
fn options_that_cannot_be_are_refused_by_name() -> Outcome {
    let device = device();
    let model = &models(16, &device)?[0];
    for (options, part) in [
        (GenerateOptions { top_p: Some(0.0), ..Default::default() }, "top-p is 0"),
        (GenerateOptions { top_p: Some(1.5), ..Default::default() }, "top-p is 1.5"),
        (GenerateOptions { min_p: Some(-0.1), ..Default::default() }, "min-p is -0.1"),
        (GenerateOptions { repetition_penalty: 0.0, ..Default::default() }, "repetition penalty is 0"),
    ] {
        let error =
            generate(&**model, &[1], &options, |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    for (prompt, options) in [
        (vec![], BeamOptions::default()),
        (vec![1], BeamOptions { num_beams: 0, ..Default::default() }),
        (vec![1], BeamOptions { max_new_tokens: 16, ..Default::default() }),
    ] {
        assert!(beam_search(&**model, &prompt, &options).is_err());
    }
    Ok(())
}

/// Every text of up to `length` tokens that ends with `stop` or has all of them, with its score.
fn all_texts(
    model: &dyn CausalLanguageModel,
    prompt: &[u32],
    length: usize,
    stop: u32,
) -> Outcome<Vec<(Vec<u32>, f64)>> {
    let (mut found, mut open) = (Vec::new(), vec![(Vec::new(), 0.0f64)]);
    for step in 1..=length {
        let mut next = Vec::new();
        for (tokens, sum) in open {
            let text: Vec<u32> = prompt.iter().chain(&tokens).copied().collect();
            let logits = whole(model, &text)?;
            let total = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
            for (token, &logit) in logits.iter().enumerate() {
                let sum = sum + f64::from(logit) - total;
                let mut longer: Vec<u32> = tokens.clone();
                if token as u32 == stop {
                    found.push((longer, sum / step as f64));
                } else {
                    longer.push(token as u32);
                    next.push((longer, sum));
                }
            }
        }
        open = next;
    }
    found.extend(open.into_iter().map(|(tokens, sum)| (tokens, sum / length as f64)));
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(found)
}

#[test]
fn beams_as_many_as_there_are_texts_find_the_best_of_all() -> Outcome {
    let device = device();
    for model in models(16, &device)? {
        for stop in [0, 5] {
            let all = all_texts(&*model, &[1, 3], 3, stop)?;
            let options = BeamOptions {
                num_beams: VOCAB * VOCAB * VOCAB,
                max_new_tokens: 3,
                stop_tokens: vec![stop],
                ..Default::default()
            };
            let found = beam_search(&*model, &[1, 3], &options)?;
            assert_eq!(found.len(), all.len());
            for (found, (tokens, score)) in found.iter().zip(&all).take(12) {
                assert!((found.score - score).abs() < 1e-5, "{found:?}, {tokens:?} {score}");
                assert_eq!(&found.tokens, tokens);
            }
        }
    }
    Ok(())
}

#[test]
fn one_beam_is_greedy_and_more_beams_are_no_worse() -> Outcome {
    let device = device();
    for model in models(32, &device)? {
        let options = GenerateOptions { max_new_tokens: 6, temperature: 0.0, ..Default::default() };
        let greedy = generate(&*model, &[1, 3], &options, |_| ControlFlow::Continue(()))?;
        let search = |num_beams| {
            beam_search(&*model, &[1, 3], &BeamOptions { num_beams, max_new_tokens: 6, ..Default::default() })
        };
        let one = search(1)?;
        assert_eq!(one[0].tokens, greedy);
        assert!(search(5)?[0].score >= one[0].score - 1e-9);
    }
    Ok(())
}
