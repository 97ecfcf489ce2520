//! GPT-2: names, files, context, learning, and text.

use std::{fs, ops::ControlFlow, sync::Arc};

use wgrad_cpu::CpuDevice;
use wgrad_models::{GenerateOptions, Gpt2Config, Gpt2Init, Gpt2LMHead, ModelError, generate};
use wgrad_nn::{Activation, Context, Init, Module};
use wgrad_optim::{AdamW, AdamWConfig, Optimizer, decay_matrices_only};
use wgrad_tensor::{DeviceHandle, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

fn config() -> Gpt2Config {
    Gpt2Config {
        vocab_size: 11,
        n_positions: 8,
        n_embd: 16,
        n_layer: 2,
        n_head: 4,
        embd_pdrop: 0.0,
        attn_pdrop: 0.0,
        resid_pdrop: 0.0,
        ..Gpt2Config::default()
    }
}

fn model(config: &Gpt2Config, device: &DeviceHandle, seed: u64) -> Result<Gpt2LMHead, ModelError> {
    Gpt2LMHead::new(config, &Init::new(device, seed), Gpt2Init::default())
}

fn ids(values: &[i32], device: &DeviceHandle) -> Tensor {
    Tensor::from_vec(values.to_vec(), [1, values.len()], device)
}

#[test]
fn parameters_are_named_as_hugging_face_names_them() -> Outcome {
    let device = device();
    let tied = model(&Gpt2Config { n_layer: 1, ..config() }, &device, 0)?;
    let names: Vec<String> = tied.named_parameters().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "transformer.wte.weight",
            "transformer.wpe.weight",
            "transformer.h.0.ln_1.weight",
            "transformer.h.0.ln_1.bias",
            "transformer.h.0.attn.c_attn.weight",
            "transformer.h.0.attn.c_attn.bias",
            "transformer.h.0.attn.c_proj.weight",
            "transformer.h.0.attn.c_proj.bias",
            "transformer.h.0.ln_2.weight",
            "transformer.h.0.ln_2.bias",
            "transformer.h.0.mlp.c_fc.weight",
            "transformer.h.0.mlp.c_fc.bias",
            "transformer.h.0.mlp.c_proj.weight",
            "transformer.h.0.mlp.c_proj.bias",
            "transformer.ln_f.weight",
            "transformer.ln_f.bias",
        ]
    );
    let untied = model(&Gpt2Config { tie_word_embeddings: false, ..config() }, &device, 0)?;
    assert!(
        untied.state_dict().iter().any(|(name, t)| name == "lm_head.weight" && t.shape().dims() == [11, 16])
    );
    Ok(())
}

#[test]
fn the_reference_recipe_has_875_264_parameters() -> Outcome {
    let nano = Gpt2Config {
        vocab_size: 256,
        n_positions: 128,
        n_embd: 128,
        n_layer: 4,
        n_head: 4,
        activation_function: Activation::Gelu,
        tie_word_embeddings: false,
        ..config()
    };
    assert_eq!(model(&nano, &device(), 0)?.num_parameters(), 875_264);
    assert_eq!(nano.parameters(), 875_264);
    Ok(())
}

#[test]
fn a_folder_goes_out_and_in_unchanged() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    for tied in [true, false] {
        let mut config = Gpt2Config { tie_word_embeddings: tied, n_inner: Some(24), ..config() };
        config.other.insert("bos_token_id".into(), 1.into());
        let saved = model(&config, &device, 3)?;
        saved.save_pretrained(dir.path())?;
        let loaded = Gpt2LMHead::from_pretrained(dir.path(), &device)?;
        assert_eq!(loaded.config(), &config);
        let x = ids(&[1, 2, 3], &device);
        let logits = |m: &Gpt2LMHead| m.forward(&x, None, &Context::eval()).to_vec::<f32>();
        assert_eq!(logits(&saved)?, logits(&loaded)?);
    }
    Ok(())
}

#[test]
fn files_without_the_prefix_and_with_old_masks_load_too() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let saved = model(&config(), &device, 3)?;
    saved.save_pretrained(dir.path())?;
    let mut tensors: Vec<(String, Tensor)> = saved
        .state_dict()
        .into_iter()
        .map(|(name, tensor)| (name.trim_start_matches("transformer.").to_owned(), tensor))
        .collect();
    let mask = Tensor::ones([1, 1, 8, 8], wgrad_tensor::DType::F32, &device);
    tensors.push(("h.0.attn.bias".into(), mask.clone()));
    tensors.push(("lm_head.weight".into(), saved.transformer.wte.weight.tensor()));
    wgrad_nn::safetensors::save(&dir.path().join("model.safetensors"), &tensors, &[])?;
    let loaded = Gpt2LMHead::from_pretrained(dir.path(), &device)?;
    for ((name, a), (_, b)) in saved.state_dict().iter().zip(loaded.state_dict()) {
        assert_eq!(a.to_vec::<f32>()?, b.to_vec::<f32>()?, "{name}");
    }
    Ok(())
}

#[test]
fn impossible_configurations_and_missing_files_are_refused() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    for (bad, part) in [
        (Gpt2Config { n_head: 3, ..config() }, "`n_head` (3) does not divide `n_embd` (16)"),
        (Gpt2Config { vocab_size: 0, ..config() }, "`vocab_size` is 0"),
        (Gpt2Config { attn_pdrop: 1.5, ..config() }, "`attn_pdrop` is 1.5"),
        (Gpt2Config { add_cross_attention: true, ..config() }, "`add_cross_attention`"),
        (Gpt2Config { model_type: "bert".into(), ..config() }, "`bert`"),
        (Gpt2Config { layer_norm_epsilon: f64::NAN, ..config() }, "`layer_norm_epsilon`"),
    ] {
        let message = model(&bad, &device, 0).expect_err("it is impossible").to_string();
        assert!(message.contains(part), "{message}");
    }
    let load = || Gpt2LMHead::from_pretrained(dir.path(), &device).expect_err("it is no model").to_string();
    assert!(load().contains("config.json"));
    fs::write(dir.path().join("config.json"), r#"{"activation_function": "geluu"}"#)?;
    let message = load();
    assert!(message.contains("geluu") && message.contains("gelu_new"), "{message}");
    fs::write(dir.path().join("config.json"), serde_json::to_string(&config())?)?;
    assert!(load().contains("model.safetensors"));
    Ok(())
}

#[test]
fn a_model_beyond_memory_is_refused_before_it_is_made() {
    let wide = Gpt2Config { n_embd: 1 << 26, n_head: 1, ..config() };
    let deep = Gpt2Config { n_layer: 2_000_000_000, ..config() };
    for config in [wide, deep] {
        let error = model(&config, &device(), 0).unwrap_err().to_string();
        assert!(error.contains("parameters") && error.contains("available"), "{error}");
    }
}

#[test]
fn ids_that_do_not_fit_are_errors_that_say_why() -> Outcome {
    let device = device();
    let model = model(&config(), &device, 0)?;
    let run = |ids: Tensor| {
        let error = model.forward(&ids, None, &Context::eval()).realize().expect_err("it does not fit");
        error.to_string()
    };
    let long = run(ids(&[0; 9], &device));
    assert!(long.contains("9 positions exceed the context of 8") && long.contains("gpt2.rs"), "{long}");
    assert!(run(ids(&[3, 11], &device)).contains("11"));
    assert!(run(ids(&[3, -1], &device)).contains("-1"));
    assert!(run(Tensor::from_vec(vec![1i32], [1], &device)).contains("[1]"));
    Ok(())
}

#[test]
fn hidden_states_go_from_the_embeddings_to_the_final_norm() -> Outcome {
    let device = device();
    let model = model(&config(), &device, 1)?;
    let x = ids(&[4, 5, 6], &device);
    let states = model.hidden_states(&x, None, &Context::eval());
    assert_eq!(states.len(), 3);
    let from_states = model.logits(&states[2]).to_vec::<f32>()?;
    assert_eq!(from_states, model.forward(&x, None, &Context::eval()).to_vec::<f32>()?);
    Ok(())
}

#[test]
fn padding_does_not_change_the_tokens_before_it() -> Outcome {
    let device = device();
    let model = model(&config(), &device, 1)?;
    let short = model.forward(&ids(&[4, 5, 6], &device), None, &Context::eval()).to_vec::<f32>()?;
    let mask = Tensor::from_vec(vec![1i32, 1, 1, 0, 0], [1, 5], &device);
    let long =
        model.forward(&ids(&[4, 5, 6, 0, 9], &device), Some(&mask), &Context::eval()).to_vec::<f32>()?;
    for (a, b) in short.iter().zip(&long) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
    Ok(())
}

#[test]
fn the_shifted_loss_equals_the_plain_loss_of_shifted_targets() -> Outcome {
    let device = device();
    let model = model(&config(), &device, 1)?;
    let x = ids(&[4, 5, 6, 7], &device);
    let logits = model.forward(&x, None, &Context::eval());
    let shifted = Gpt2LMHead::loss(&logits, &x).item()?;
    let plain = Gpt2LMHead::next_token_loss(&logits.narrow(1, 0, 3), &x.narrow(1, 1, 3)).item()?;
    assert!((shifted - plain).abs() < 1e-6);
    assert!(Gpt2LMHead::loss(&logits.narrow(1, 0, 1), &x.narrow(1, 0, 1)).error().is_some());
    Ok(())
}

#[test]
fn a_tiny_model_learns_a_batch_by_heart_and_writes_it() -> Outcome {
    let device = device();
    let config = Gpt2Config { resid_pdrop: 0.05, attn_pdrop: 0.05, embd_pdrop: 0.05, ..config() };
    let model = model(&config, &device, 7)?;
    let text = [1, 4, 1, 5, 9, 2, 6, 10];
    let x = ids(&text[..7], &device);
    let y = ids(&text[1..], &device);
    let mut opt = AdamW::new(decay_matrices_only(&model, 0.01), AdamWConfig::default());
    opt.set_clip_grad_norm(Some(1.0));
    opt.set_lr(1e-2);
    let (mut first, mut last) = (None, f64::NAN);
    for step in 0..150 {
        let loss = Gpt2LMHead::next_token_loss(&model.forward(&x, None, &Context::train(1, step)), &y);
        last = opt.step(&loss)?.loss.item()?;
        first.get_or_insert(last);
    }
    let first = first.ok_or("there was a step")?;
    // Untrained, all tokens are about equally likely.
    assert!((first - 11f64.ln()).abs() < 0.2, "{first}");
    assert!(last < 0.1, "{last}");

    let options = GenerateOptions { max_new_tokens: 7, temperature: 0.0, ..Default::default() };
    let mut seen = Vec::new();
    let written = generate(&model, &[1], &options, |token| {
        seen.push(token);
        ControlFlow::Continue(())
    })?;
    assert_eq!(written, [4, 1, 5, 9, 2, 6, 10]);
    assert_eq!(seen, written);
    let stopped =
        generate(&model, &[1], &GenerateOptions { stop_tokens: vec![9], ..options.clone() }, |_| {
            ControlFlow::Continue(())
        })?;
    assert_eq!(stopped, [4, 1, 5]);
    let broken_off = generate(&model, &[1], &options, |_| ControlFlow::Break(()))?;
    assert_eq!(broken_off, [4]);
    Ok(())
}

#[test]
fn text_longer_than_the_context_goes_on_and_repeats_with_its_seed() -> Outcome {
    let device = device();
    let model = model(&config(), &device, 7)?;
    let write = |seed| {
        let options = GenerateOptions { max_new_tokens: 20, top_k: Some(5), seed, ..Default::default() };
        generate(&model, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &options, |_| ControlFlow::Continue(()))
    };
    let text = write(1)?;
    assert_eq!(text.len(), 20);
    assert_eq!(text, write(1)?);
    assert_ne!(text, write(2)?);
    for (prompt, options) in [
        (&[][..], GenerateOptions::default()),
        (&[11], GenerateOptions::default()),
        (&[1], GenerateOptions { temperature: -1.0, ..Default::default() }),
        (&[1], GenerateOptions { temperature: f64::NAN, ..Default::default() }),
        (&[1], GenerateOptions { top_k: Some(0), ..Default::default() }),
    ] {
        assert!(generate(&model, prompt, &options, |_| ControlFlow::Continue(())).is_err());
    }
    Ok(())
}
