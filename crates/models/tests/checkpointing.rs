//! Gradient checkpointing of GPT-2: the same gradients from less memory. Updates in place, with and without handles in the way.

use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_models::{Gpt2Config, Gpt2Init, Gpt2LMHead};
use wgrad_nn::{Context, Init, Module};
use wgrad_optim::{AdamW, AdamWConfig, Optimizer, decay_matrices_only};
use wgrad_tensor::{DeviceHandle, Tensor, eval, grad};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const BATCH: usize = 2;
const CONTEXT: usize = 32;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

fn model(layers: usize, dropout: f64, device: &DeviceHandle) -> Result<Gpt2LMHead, wgrad_models::ModelError> {
    let config = Gpt2Config {
        vocab_size: 17,
        n_positions: CONTEXT,
        n_embd: 32,
        n_layer: layers,
        n_head: 4,
        embd_pdrop: dropout,
        resid_pdrop: dropout,
        attn_pdrop: dropout,
        ..Gpt2Config::default()
    };
    Gpt2LMHead::new(&config, &Init::new(device, 5), Gpt2Init::default())
}

fn ids(salt: i32, device: &DeviceHandle) -> Tensor {
    let values = (0..(BATCH * CONTEXT) as i32).map(|i| (i * i + salt) % 17).collect();
    Tensor::from_vec::<i32>(values, [BATCH, CONTEXT], device)
}

fn loss(model: &Gpt2LMHead, device: &DeviceHandle) -> Tensor {
    let logits = model.forward(&ids(0, device), None, &Context::train(1, 2));
    Gpt2LMHead::next_token_loss(&logits, &ids(3, device))
}

#[test]
fn gradients_are_the_same_to_rounding_with_dropout_and_without() -> Outcome {
    let device = device();
    for dropout in [0.0, 0.1] {
        let mut model = model(3, dropout, &device)?;
        let gradients = |model: &Gpt2LMHead| -> Result<Vec<Vec<f32>>, Box<dyn std::error::Error>> {
            let params: Vec<Tensor> = model.state_dict().into_iter().map(|(_, tensor)| tensor).collect();
            let found = grad(&loss(model, &device), &params.iter().collect::<Vec<_>>())?;
            eval(&found.iter().collect::<Vec<_>>())?;
            Ok(found.iter().map(|g| g.to_vec::<f32>()).collect::<Result<_, _>>()?)
        };
        let plain = gradients(&model)?;
        model.set_gradient_checkpointing(true);
        let again = gradients(&model)?;
        assert!(plain.iter().flatten().any(|g| g.abs() > 1e-3));
        for ((name, _), (plain, again)) in model.state_dict().iter().zip(plain.iter().zip(&again)) {
            let largest = plain.iter().map(|g| g.abs()).fold(0.0, f32::max);
            for (a, b) in plain.iter().zip(again) {
                // Sums of cotangents are taken in another order.
                assert!((a - b).abs() <= 2e-6 * largest.max(1e-3), "{name}, dropout {dropout}: {a} and {b}");
            }
        }
    }
    Ok(())
}

#[test]
fn memory_for_activations_does_not_grow_with_depth_as_it_does_without() -> Outcome {
    let device = device();
    let bytes = |layers: usize, on: bool| -> Result<u64, Box<dyn std::error::Error>> {
        let mut model = model(layers, 0.0, &device)?;
        model.set_gradient_checkpointing(on);
        let mut opt = AdamW::new(decay_matrices_only(&model, 0.1), AdamWConfig::default());
        device.cache().clear();
        opt.step(&loss(&model, &device))?;
        let programs = device.cache().executables();
        Ok(programs.iter().map(|p| p.program().temps.iter().sum::<u64>()).max().unwrap_or(0))
    };
    // What one more block takes, gradients of its parameters included.
    let grows = |on| Ok::<_, Box<dyn std::error::Error>>((bytes(8, on)? - bytes(4, on)?) / 4);
    let (plain, kept) = (grows(false)?, grows(true)?);
    let gradients = (12 * 32 * 32 * 4) as u64;
    let activations = (BATCH * CONTEXT * 32 * 4) as u64;
    assert!(kept < gradients + 3 * activations, "{kept} bytes per block");
    assert!(plain > kept + 5 * activations, "{plain} bytes per block without, {kept} with");
    Ok(())
}

#[test]
fn memory_for_the_loss_in_chunks_is_that_of_one_chunk_whatever_their_number() -> Outcome {
    let device = device();
    let (v, c, positions) = (4096, 4, BATCH * CONTEXT);
    let config = Gpt2Config {
        vocab_size: v,
        n_positions: CONTEXT,
        n_embd: c,
        n_layer: 1,
        n_head: 1,
        ..Gpt2Config::default()
    };
    let bytes = |chunk: usize| -> Result<u64, Box<dyn std::error::Error>> {
        let model = Gpt2LMHead::new(&config, &Init::new(&device, 5), Gpt2Init::default())?;
        let mut opt = AdamW::new(decay_matrices_only(&model, 0.1), AdamWConfig::default());
        device.cache().clear();
        let x = model.transformer.forward(&ids(0, &device), None, &Context::train(1, 2));
        opt.step(&model.next_token_loss_in_chunks(&x, &ids(3, &device), chunk))?;
        let programs = device.cache().executables();
        Ok(programs.iter().map(|p| p.program().temps.iter().sum::<u64>()).max().unwrap_or(0))
    };
    let logits = |positions: usize| (4 * positions * v) as u64;
    let table = (4 * v * c) as u64;
    // Of 16 chunks there is one at a time, its logits and their gradient; and some sums of the table's gradient.
    let (whole, few, many) = (bytes(positions)?, bytes(positions / 4)?, bytes(positions / 16)?);
    for (chunks, bytes) in [(4, few), (16, many)] {
        let saved = 2 * logits(positions) - 3 * logits(positions / chunks);
        assert!(bytes + saved <= whole + 4 * table, "{bytes} bytes in {chunks} chunks, {whole} at once");
    }
    assert!(many < few);
    Ok(())
}

#[test]
fn a_step_updates_in_place_unless_somebody_holds_the_logits_and_learns_the_same() -> Outcome {
    let (mut weights, mut updated) = (Vec::new(), Vec::new());
    for hold in [false, true] {
        let device = device();
        let model = model(2, 0.0, &device)?;
        let mut opt = AdamW::new(decay_matrices_only(&model, 0.1), AdamWConfig::default());
        opt.set_clip_grad_norm(Some(1.0));
        for step in 0..4 {
            let logits = model.forward(&ids(step, &device), None, &Context::train(1, step as u32));
            let loss = Gpt2LMHead::next_token_loss(&logits, &ids(step + 3, &device));
            let held = hold.then(|| logits.clone());
            drop(logits);
            opt.step(&loss)?;
            if let Some(logits) = held {
                // They are those of the weights before the step.
                let expected = loss.item()?;
                let again = Gpt2LMHead::next_token_loss(&logits, &ids(step + 3, &device)).item()?;
                assert!((again - expected).abs() < 1e-6, "{again}, {expected}");
            }
        }
        let steps: Vec<_> = device.cache().executables();
        let updates: usize = steps.iter().map(|p| p.program().updates.len()).sum();
        updated.push(updates);
        assert_eq!(device.stats().copied_inputs, 0);
        let values =
            model.state_dict().iter().map(|(_, t)| t.to_vec::<f32>()).collect::<Result<Vec<_>, _>>()?;
        weights.push(values);
    }
    assert_eq!(weights[0], weights[1]);
    // At least the matrices with their two states; very small arenas may be updated by the kernel that takes the norm. Logits are
    // computed from the parameters, which then stay, and not from the states.
    assert!(updated[0] >= 3 && updated[1] >= 2 && updated[1] < updated[0], "{updated:?}");
    Ok(())
}

#[test]
fn an_old_handle_to_a_parameter_says_that_it_was_updated() -> Outcome {
    let device = device();
    let model = model(1, 0.0, &device)?;
    let mut opt = AdamW::new(decay_matrices_only(&model, 0.1), AdamWConfig::default());
    let first = loss(&model, &device);
    opt.step(&first)?;
    // The loss has its own elements; what led to it is gone.
    assert!(first.item()?.is_finite());
    let param = model.transformer.wte.weight.tensor();
    let error = grad(&first, &[&param]).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("does not depend"), "{error}");
    // A handle that is held over a step keeps its elements.
    let before = param.to_vec::<f32>()?;
    opt.step(&loss(&model, &device))?;
    assert_eq!(param.to_vec::<f32>()?, before);
    assert_ne!(model.transformer.wte.weight.tensor().to_vec::<f32>()?, before);
    Ok(())
}
