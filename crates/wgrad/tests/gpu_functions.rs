//! Functions on the GPU: attention, GPT-2, checkpoints and updates in place give what they give on the CPU.

use wgrad::{
    models::{Gpt2Config, Gpt2Init, Gpt2LMHead},
    nn::{
        Init, Module,
        functional::{Attention, linear_cross_entropy, scaled_dot_product_attention},
    },
    optim::{AdamWConfig, decay_matrices_only},
    prelude::*,
};
use wgrad_tensor::{eval, grad};

fn devices() -> [DeviceHandle; 2] {
    ["cpu", "gpu"].map(|name| wgrad::devices().open(name).unwrap().device)
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let draw = wgrad::nn::Initializer::Normal { std: 1.0 }.draw(&[n], seed, 0);
    draw.into_iter().map(|x| x as f32).collect()
}

#[track_caller]
fn near(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().map(|e| e.abs()).fold(1e-3, f32::max);
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * scale, "{what}: element {i}: {f} instead of {e}");
    }
}

/// Evaluates all at once, and reads.
fn read(tensors: &[Tensor]) -> Vec<Vec<f32>> {
    eval(&tensors.iter().collect::<Vec<_>>()).unwrap();
    tensors.iter().map(|t| t.to_vec::<f32>().unwrap()).collect()
}

#[test]
fn gpu_attention_and_its_gradient_are_the_cpu_s() {
    let (b, h, i, j, d) = (2, 4, 9, 9, 16);
    for (kv_heads, causal, window, masked) in
        [(4, true, None, false), (2, true, Some(4), false), (1, false, None, true), (4, false, Some(3), true)]
    {
        let [cpu, gpu] = devices().map(|device| {
            let tensor = |shape: [usize; 4], seed| {
                Tensor::from_vec(numbers(shape.iter().product(), seed), shape, &device)
            };
            let (q, w) = (tensor([b, h, i, d], 1), tensor([b, h, i, d], 4));
            let (k, v) = (tensor([b, kv_heads, j, d], 2), tensor([b, kv_heads, j, d], 3));
            let mask = Tensor::from_vec((0..b * j).map(|n| n % 3 != 0).collect::<Vec<_>>(), [b, j], &device);
            let key_mask = masked.then_some(&mask);
            let options = Attention { causal, window, key_mask, ..Attention::default() };
            let y = scaled_dot_product_attention(&q, &k, &v, &options, &Context::eval());
            let mut all = grad(&y.mul(&w).sum_all(), &[&q, &k, &v]).unwrap();
            all.push(y);
            read(&all)
        });
        for (n, (c, g)) in cpu.iter().zip(&gpu).enumerate() {
            near(&format!("{kv_heads} {causal} {window:?} {masked}: {n}"), g, c, 1e-5);
        }
    }
}

fn config() -> Gpt2Config {
    Gpt2Config { vocab_size: 31, n_positions: 16, n_embd: 32, n_layer: 2, n_head: 2, ..Gpt2Config::default() }
}

/// Ids `[2, 16]`.
fn ids(salt: i32, device: &DeviceHandle) -> Tensor {
    let values: Vec<i32> = (0..32).map(|i| (i * i + salt) % 31).collect();
    Tensor::from_vec(values, [2, 16], device)
}

fn loss(model: &Gpt2LMHead, step: i32, device: &DeviceHandle) -> Tensor {
    let logits = model.forward(&ids(step, device), None, &Context::train(1, step as u32));
    Gpt2LMHead::next_token_loss(&logits, &ids(step + 3, device))
}

#[test]
fn gpu_gradients_of_gpt2_are_the_cpu_s_with_checkpointing_and_dropout_or_without() {
    for (dropout, checkpointing) in [(0.0, false), (0.0, true), (0.1, true)] {
        let [cpu, gpu] = devices().map(|device| {
            let config =
                Gpt2Config { embd_pdrop: dropout, resid_pdrop: dropout, attn_pdrop: dropout, ..config() };
            let mut model = Gpt2LMHead::new(&config, &Init::new(&device, 3), Gpt2Init::Plain).unwrap();
            model.set_gradient_checkpointing(checkpointing);
            let params: Vec<Tensor> = model.state_dict().into_iter().map(|(_, tensor)| tensor).collect();
            let mut all = grad(&loss(&model, 0, &device), &params.iter().collect::<Vec<_>>()).unwrap();
            all.push(loss(&model, 0, &device));
            read(&all)
        });
        for (n, (c, g)) in cpu.iter().zip(&gpu).enumerate() {
            near(&format!("dropout {dropout}, checkpointing {checkpointing}: {n}"), g, c, 1e-4);
        }
    }
}

#[test]
fn gpu_steps_in_place_go_where_the_cpu_s_go() {
    let config = Gpt2Config { embd_pdrop: 0.0, resid_pdrop: 0.0, attn_pdrop: 0.0, ..config() };
    let [cpu, gpu] = devices().map(|device| {
        let model = Gpt2LMHead::new(&config, &Init::new(&device, 3), Gpt2Init::Plain).unwrap();
        let mut opt = AdamW::new(decay_matrices_only(&model, 0.1), AdamWConfig::default());
        opt.set_clip_grad_norm(Some(1.0));
        let losses: Vec<f32> = (0..5)
            .map(|step| opt.step(&loss(&model, step, &device)).unwrap().loss.item().unwrap() as f32)
            .collect();
        assert_eq!(device.stats().copied_inputs, 0);
        let updates: usize = device.cache().executables().iter().map(|p| p.program().updates.len()).sum();
        assert!(updates >= 3, "the matrices and their two states");
        let mut all = read(&model.state_dict().into_iter().map(|(_, t)| t).collect::<Vec<_>>());
        all.push(losses);
        all
    });
    for (n, (c, g)) in cpu.iter().zip(&gpu).enumerate() {
        near(&n.to_string(), g, c, 2e-3);
    }
}

#[test]
fn gpu_chunks_of_output_layer_and_loss_are_the_cpu_s() {
    let [cpu, gpu] = devices().map(|device| {
        let hidden = Tensor::from_vec(numbers(20 * 16, 1), [20, 16], &device);
        let weight = Tensor::from_vec(numbers(50 * 16, 2), [50, 16], &device);
        let targets = (0..20).map(|i| if i % 5 == 0 { -100 } else { i * 2 }).collect::<Vec<i32>>();
        let targets = Tensor::from_vec(targets, [20], &device);
        let loss = linear_cross_entropy(&hidden, &weight, &targets, Some(-100), 8);
        let mut all = grad(&loss, &[&hidden, &weight]).unwrap();
        all.push(loss);
        read(&all)
    });
    for (n, (c, g)) in cpu.iter().zip(&gpu).enumerate() {
        near(&n.to_string(), g, c, 1e-5);
    }
}
