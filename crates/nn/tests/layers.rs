//! What layers and losses compute, against naive formulas in f64.

use wgrad_cpu::CpuDevice;
use wgrad_nn::{
    Activation, CausalSelfAttention, Context, Embedding, Init, LayerNorm, Linear,
    functional::{
        Attention, Reduction, alibi, alpha_dropout, cross_entropy, dropout, feature_dropout, mse_loss,
        scaled_dot_product_attention,
    },
};
use wgrad_tensor::{DType, DeviceHandle, Tensor, grad};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    std::sync::Arc::new(CpuDevice::new())
}

/// Numbers without a pattern, the same in every run.
fn numbers(n: usize, seed: u64) -> Vec<f64> {
    wgrad_nn::Initializer::Normal { std: 1.0 }.draw(&[n], seed, 0)
}

fn near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance, "element {i}: {f} instead of {e}");
    }
}

#[test]
fn linear_is_x_times_the_transposed_weight_plus_bias() -> Outcome {
    let device = device();
    let layer = Linear::new(&Init::new(&device, 3).with_dtype(DType::F64), 3, 2, true);
    let x = numbers(6, 1);
    let y = layer.forward(&Tensor::from_vec(x.clone(), [2, 3], &device)).to_vec::<f64>()?;
    let w = layer.weight.tensor().to_vec::<f64>()?;
    let b = layer.bias.as_ref().ok_or("there is a bias")?.tensor().to_vec::<f64>()?;
    let expected: Vec<f64> = (0..2)
        .flat_map(|r| (0..2).map(move |o| (r, o)))
        .map(|(r, o)| b[o] + (0..3).map(|i| x[r * 3 + i] * w[o * 3 + i]).sum::<f64>())
        .collect();
    near(&y, &expected, 1e-12);
    let bound = 1.0 / 3f64.sqrt();
    assert!(w.iter().chain(&b).all(|v| v.abs() <= bound));
    Ok(())
}

#[test]
fn layer_norm_gives_rows_of_mean_zero_and_variance_one() -> Outcome {
    let device = device();
    let norm = LayerNorm::new(&Init::new(&device, 0).with_dtype(DType::F64), 5, 1e-5);
    let x = numbers(15, 2);
    let y = norm.forward(&Tensor::from_vec(x.clone(), [3, 5], &device)).to_vec::<f64>()?;
    let expected: Vec<f64> = x
        .chunks(5)
        .flat_map(|row| {
            let mean = row.iter().sum::<f64>() / 5.0;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 5.0;
            row.iter().map(move |v| (v - mean) / (variance + 1e-5).sqrt()).collect::<Vec<_>>()
        })
        .collect();
    near(&y, &expected, 1e-12);
    Ok(())
}

/// `-log softmax` at the target, written out.
fn naive_loss(logits: &[f64], classes: usize, targets: &[i32], ignored: Option<i32>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for (row, &target) in logits.chunks(classes).zip(targets) {
        if Some(target) == ignored {
            continue;
        }
        let total: f64 = row.iter().map(|l| l.exp()).sum();
        sum -= row[target as usize] - total.ln();
        count += 1.0;
    }
    sum / count
}

#[test]
fn cross_entropy_is_the_naive_formula_and_its_gradient_softmax_minus_target() -> Outcome {
    let device = device();
    let (logits, targets) = (numbers(12, 4), [2, -100, 0, 1]);
    let x = Tensor::from_vec(logits.clone(), [2, 2, 3], &device);
    let t = Tensor::from_vec(targets.to_vec(), [2, 2], &device);
    let loss = cross_entropy(&x, &t, Some(-100));
    assert!((loss.item()? - naive_loss(&logits, 3, &targets, Some(-100))).abs() < 1e-12);
    let gradient = grad(&loss, &[&x])?[0].to_vec::<f64>()?;
    let expected: Vec<f64> = logits
        .chunks(3)
        .zip(targets)
        .flat_map(|(row, target)| {
            let total: f64 = row.iter().map(|l| l.exp()).sum();
            (0..3)
                .map(|c| {
                    if target < 0 {
                        0.0
                    } else {
                        (row[c].exp() / total - f64::from(u8::from(c as i32 == target))) / 3.0
                    }
                })
                .collect::<Vec<_>>()
        })
        .collect();
    near(&gradient, &expected, 1e-12);
    // A class may be the ignored one, too; and without one all count.
    let targets = [2, 1, 0, 1];
    let t = Tensor::from_vec(targets.to_vec(), [2, 2], &device);
    for ignored in [Some(1), None] {
        let found = cross_entropy(&x, &t, ignored).item()?;
        assert!((found - naive_loss(&logits, 3, &targets, ignored)).abs() < 1e-12, "{ignored:?}");
    }
    Ok(())
}

#[test]
fn cross_entropy_of_huge_logits_is_finite() -> Outcome {
    let device = device();
    let x = Tensor::from_vec(vec![3e4f32, -3e4, 0.0], [1, 3], &device);
    let t = Tensor::from_vec(vec![2i32], [1], &device);
    assert_eq!(cross_entropy(&x, &t, None).item()?, 3e4);
    Ok(())
}

#[test]
fn losses_refuse_what_does_not_fit() {
    let device = device();
    let x = Tensor::zeros([4, 3], DType::F32, &device);
    for (targets, part) in
        [(vec![0, 1, 2, 3], "0..=3"), (vec![0, -1, 0, 0], "-1..=0"), (vec![0, 1], "[4, 3] and [2]")]
    {
        let n = targets.len();
        let loss = cross_entropy(&x, &Tensor::from_vec(targets, [n], &device), Some(-100));
        let message = loss.item().expect_err("the targets do not fit").to_string();
        assert!(message.contains(part) && message.contains("layers.rs"), "{message}");
    }
    assert!(mse_loss(&x, &x.narrow(0, 0, 1), Reduction::Mean).error().is_some());
    assert!(dropout(&x, 1.5, &Context::eval()).error().is_some());
    assert!(dropout(&x, f64::NAN, &Context::eval()).error().is_some());
}

#[test]
fn dropout_zeroes_a_share_of_p_and_keeps_the_mean() -> Outcome {
    let device = device();
    let (n, p) = (100_000, 0.3);
    let x = Tensor::ones([n], DType::F32, &device);
    let ctx = Context::train(5, 17);
    let (a, b) = (dropout(&x, p, &ctx), dropout(&x, p, &ctx));
    let (a, b) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    let zeros = |v: &[f32]| v.iter().filter(|v| **v == 0.0).count() as f64;
    assert!((zeros(&a) / n as f64 - p).abs() < 0.005, "{}", zeros(&a));
    assert!(a.iter().all(|v| *v == 0.0 || (*v - 1.0 / 0.7).abs() < 1e-6));
    // Two dropouts of one pass drop independently.
    let both = a.iter().zip(&b).filter(|(a, b)| **a == 0.0 && **b == 0.0).count() as f64;
    assert!((both / n as f64 - p * p).abs() < 0.005, "{both}");
    // Another step drops others; the same step the same.
    let again = dropout(&x, p, &Context::train(5, 17)).to_vec::<f32>()?;
    assert_eq!(a, again);
    assert_ne!(a, dropout(&x, p, &Context::train(5, 18)).to_vec::<f32>()?);
    assert_ne!(a, dropout(&x, p, &Context::train(6, 17)).to_vec::<f32>()?);
    Ok(())
}

#[test]
fn dropout_is_the_identity_in_evaluation_and_all_zero_at_p_one() -> Outcome {
    let device = device();
    let x = Tensor::from_vec(vec![1.0f32, -2.0], [2], &device);
    assert_eq!(dropout(&x, 0.9, &Context::eval()).to_vec::<f32>()?, [1.0, -2.0]);
    let gone = dropout(&x, 1.0, &Context::train(0, 0));
    assert_eq!(gone.to_vec::<f32>()?, [0.0, 0.0]);
    assert_eq!(grad(&gone.sum_all(), &[&x])?[0].to_vec::<f32>()?, [0.0, 0.0]);
    Ok(())
}

#[test]
fn causal_attention_ignores_the_future() -> Outcome {
    let device = device();
    let attention = CausalSelfAttention::new(&Init::new(&device, 9).with_dtype(DType::F64), 8, 2, 0.0);
    let (t, c) = (6, 8);
    let x = numbers(t * c, 1);
    let run = |x: &[f64]| {
        attention
            .forward(&Tensor::from_vec(x.to_vec(), [1, t, c], &device), None, &Context::eval())
            .to_vec::<f64>()
    };
    let before = run(&x)?;
    for changed in 0..t {
        let mut y = x.clone();
        y[changed * c..(changed + 1) * c].iter_mut().for_each(|v| *v += 1.0);
        let after = run(&y)?;
        assert_eq!(before[..changed * c], after[..changed * c], "positions before {changed}");
        assert_ne!(before[changed * c..(changed + 1) * c], after[changed * c..(changed + 1) * c]);
    }
    Ok(())
}

#[test]
fn attention_is_the_naive_formula_with_padding_and_gives_zero_where_nothing_is_seen() -> Outcome {
    let device = device();
    let (t, d) = (4, 3);
    let [q, k, v] = [1, 2, 3].map(|seed| numbers(t * d, seed));
    let present = [false, true, true, false];
    let tensor = |x: &[f64]| Tensor::from_vec(x.to_vec(), [1, 1, t, d], &device);
    let mask = Tensor::from_vec(present.to_vec(), [1, t], &device);
    let options = Attention { causal: true, key_mask: Some(&mask), ..Default::default() };
    let found =
        scaled_dot_product_attention(&tensor(&q), &tensor(&k), &tensor(&v), &options, &Context::eval());
    let mut expected = Vec::new();
    for i in 0..t {
        let weights: Vec<f64> = (0..t)
            .map(|j| {
                let score: f64 = (0..d).map(|e| q[i * d + e] * k[j * d + e]).sum::<f64>() / (d as f64).sqrt();
                if j <= i && present[j] { score.exp() } else { 0.0 }
            })
            .collect();
        let total: f64 = weights.iter().sum();
        for e in 0..d {
            let sum: f64 = (0..t).map(|j| weights[j] * v[j * d + e]).sum();
            expected.push(if total == 0.0 { 0.0 } else { sum / total });
        }
    }
    near(&found.to_vec::<f64>()?, &expected, 1e-12);
    Ok(())
}

#[test]
fn activations_go_by_their_hugging_face_names() {
    for (name, activation) in [
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("relu", Activation::Relu),
        ("swish", Activation::Silu),
    ] {
        assert_eq!(name.parse::<Activation>().ok(), Some(activation));
    }
    let message = "geluu".parse::<Activation>().expect_err("no such name").to_string();
    assert!(message.contains("`geluu`") && message.contains("gelu_new"), "{message}");
}

#[test]
fn the_row_of_padding_gets_no_gradient_from_look_ups() -> Outcome {
    let device = device();
    let table = Embedding::new(&Init::new(&device, 1), 3, 2).padded(Some(1));
    let ids = Tensor::from_vec(vec![0i32, 1, 2, 1, 2], [5], &device);
    let rows = table.forward(&ids);
    let plain = Embedding { padding_idx: None, ..table.clone() }.forward(&ids);
    assert_eq!(rows.to_vec::<f32>()?, plain.to_vec::<f32>()?);
    let gradient = wgrad_tensor::grad(&rows.sum_all(), &[&table.weight.tensor()])?;
    assert_eq!(gradient[0].to_vec::<f32>()?, [1.0, 1.0, 0.0, 0.0, 2.0, 2.0]);
    Ok(())
}

#[test]
fn feature_dropout_drops_whole_channels() -> Outcome {
    let device = device();
    let ctx = Context::train(5, 1);
    let x = Tensor::ones([40, 25, 2, 3], DType::F32, &device);
    let y = feature_dropout(&x, 0.25, 2, &ctx).to_vec::<f32>()?;
    let dropped = y.chunks(6).filter(|channel| channel.iter().all(|&v| v == 0.0)).count();
    let kept = y.chunks(6).filter(|channel| channel.iter().all(|&v| (v - 4.0 / 3.0).abs() < 1e-6)).count();
    assert_eq!(dropped + kept, 1000);
    assert!((200..300).contains(&dropped), "{dropped}");
    let one = feature_dropout(&x.narrow(0, 0, 1).squeeze(0), 0.5, 2, &ctx);
    assert_eq!(one.shape().dims(), [25, 2, 3]);
    assert!(feature_dropout(&x, 0.5, 1, &ctx).error().is_some());
    assert!(feature_dropout(&x, 0.5, 2, &Context::eval()).is_same(&x));
    Ok(())
}

#[test]
fn alpha_dropout_keeps_mean_and_variance() -> Outcome {
    let device = device();
    let x = Tensor::from_vec(numbers(40_000, 3), [40_000], &device).cast(DType::F32);
    let y = alpha_dropout(&x, 0.2, &Context::train(1, 1)).to_f64_vec()?;
    let mean = y.iter().sum::<f64>() / y.len() as f64;
    let var = y.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / y.len() as f64;
    assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.03, "{mean} {var}");
    assert_eq!(alpha_dropout(&x, 1.0, &Context::train(1, 1)).sum_all().item()?, 0.0);
    assert!(alpha_dropout(&x, -0.1, &Context::eval()).error().is_some());
    Ok(())
}

#[test]
fn alibi_falls_with_distance_from_the_last_key() -> Outcome {
    let mask = alibi(2, 2, 3, DType::F32, &device());
    assert_eq!(mask.shape().dims(), [1, 2, 2, 3]);
    let (steep, flat) = (0.0625, 0.00390625);
    near(
        &mask.to_f64_vec()?,
        &[-steep, 0.0, -steep, -2.0 * steep, -steep, 0.0, -flat, 0.0, -flat, -2.0 * flat, -flat, 0.0],
        1e-9,
    );
    Ok(())
}
