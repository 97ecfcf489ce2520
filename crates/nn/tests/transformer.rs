//! Transformer layers: names, visibility, and what attention to another sequence means.

use wgrad_cpu::CpuDevice;
use wgrad_nn::{
    Activation, Context, Init, Module, MultiheadAttention, TransformerConfig, TransformerDecoder,
    TransformerEncoder,
    functional::{Attention, sinusoidal_positions},
};
use wgrad_tensor::{DType, DeviceHandle, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    std::sync::Arc::new(CpuDevice::new())
}

fn numbers(shape: &[usize], seed: u64, device: &DeviceHandle) -> Tensor {
    Tensor::from_vec(wgrad_nn::Initializer::Normal { std: 1.0 }.draw(shape, seed, 0), shape, device)
}

fn config() -> TransformerConfig {
    TransformerConfig { dim_feedforward: 12, activation: Activation::Gelu, ..TransformerConfig::new(8, 2) }
}

#[test]
fn parameters_have_pytorchs_names() {
    let device = device();
    let encoder = TransformerEncoder::new(&Init::new(&device, 0), &config(), 1, true);
    let names: Vec<String> = encoder.named_parameters().into_iter().map(|(name, _)| name).collect();
    let expected = [
        "layers.0.self_attn.in_proj_weight",
        "layers.0.self_attn.in_proj_bias",
        "layers.0.self_attn.out_proj.weight",
        "layers.0.self_attn.out_proj.bias",
        "layers.0.linear1.weight",
        "layers.0.linear1.bias",
        "layers.0.linear2.weight",
        "layers.0.linear2.bias",
        "layers.0.norm1.weight",
        "layers.0.norm1.bias",
        "layers.0.norm2.weight",
        "layers.0.norm2.bias",
        "norm.weight",
        "norm.bias",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_causal_decoder_ignores_the_future_and_padding_of_the_source() -> Outcome {
    let device = device();
    let init = Init::new(&device, 1).with_dtype(DType::F64);
    for norm_first in [false, true] {
        let config = TransformerConfig { norm_first, ..config() };
        let decoder = TransformerDecoder::new(&init, &config, 2, norm_first);
        let there = Tensor::from_vec(vec![true, true, false], [1, 3], &device);
        let (see, see_memory) = (
            Attention { causal: true, ..Attention::default() },
            Attention { key_mask: Some(&there), ..Attention::default() },
        );
        let run = |x: &Tensor, memory: &Tensor| {
            decoder.forward(x, memory, &see, &see_memory, &Context::eval()).to_vec::<f64>()
        };
        let (x, memory) = (numbers(&[1, 4, 8], 2, &device), numbers(&[1, 3, 8], 3, &device));
        let first = run(&x, &memory)?;
        let other_end = Tensor::cat(&[&x.narrow(1, 0, 3), &numbers(&[1, 1, 8], 4, &device)], 1);
        let other_padding = Tensor::cat(&[&memory.narrow(1, 0, 2), &numbers(&[1, 1, 8], 5, &device)], 1);
        let second = run(&other_end, &other_padding)?;
        for (i, (a, b)) in first.iter().zip(&second).enumerate().take(24) {
            assert!((a - b).abs() < 1e-12, "element {i} of the first three positions moved");
        }
        assert!(first[24..].iter().zip(&second[24..]).any(|(a, b)| (a - b).abs() > 1e-3));
    }
    Ok(())
}

#[test]
fn one_product_for_one_sequence_equals_three() -> Outcome {
    let device = device();
    let init = Init::new(&device, 1).with_dtype(DType::F64);
    let layer = MultiheadAttention::new(&init, 8, 2, 0.0);
    let x = numbers(&[2, 3, 8], 2, &device);
    let copies = [x.mul(1.0), x.mul(1.0)];
    let see = Attention::default();
    let one = layer.forward(&x, &x, &x, &see, &Context::eval()).to_vec::<f64>()?;
    let three = layer.forward(&x, &copies[0], &copies[1], &see, &Context::eval()).to_vec::<f64>()?;
    let (with_weights, weights) = layer.forward_with_weights(&x, &copies[0], &copies[1], &see);
    for ((a, b), c) in one.iter().zip(&three).zip(with_weights.to_vec::<f64>()?) {
        assert!((a - b).abs() < 1e-12 && (a - c).abs() < 1e-12);
    }
    let sums = weights.sum(&[-1], false).to_vec::<f64>()?;
    assert!(sums.iter().all(|s| (s - 1.0).abs() < 1e-12));
    let odd = MultiheadAttention::new(&init, 8, 3, 0.0);
    assert!(odd.forward(&x, &x, &x, &see, &Context::eval()).error().is_some());
    Ok(())
}

#[test]
fn sinusoidal_positions_turn_at_falling_rates() {
    let rows = sinusoidal_positions(3, 4, 10_000.0);
    assert_eq!(&rows[..4], [0.0, 1.0, 0.0, 1.0]);
    let expected = [2f64.sin(), 2f64.cos(), 0.02f64.sin(), 0.02f64.cos()];
    for (found, expected) in rows[8..].iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-6);
    }
}
