//! Losses of several tasks, against closed forms.

use wgrad_cpu::CpuDevice;
use wgrad_nn::{
    Init, Module,
    multi_task::{GradNorm, UncertaintyWeights, weighted_sum},
};
use wgrad_tensor::{DType, DeviceHandle, Tensor, grad};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    std::sync::Arc::new(CpuDevice::new())
}

fn number(value: f64, device: &DeviceHandle) -> Tensor {
    Tensor::from_vec(vec![value], [], device)
}

#[test]
fn a_weighted_sum_is_what_it_says_and_refuses_a_missing_weight() -> Outcome {
    let device = device();
    let losses = [number(2.0, &device), number(3.0, &device)];
    let losses = [&losses[0], &losses[1]];
    assert_eq!(weighted_sum(&losses, &[0.5, 2.0]).item()?, 7.0);
    assert!(weighted_sum(&losses, &[0.5]).error().is_some());
    assert!(weighted_sum(&[], &[]).error().is_some());
    Ok(())
}

#[test]
fn uncertainty_weights_follow_kendalls_formula_and_settle_at_the_loss() -> Outcome {
    let device = device();
    let weights = UncertaintyWeights::new(&Init::new(&device, 0).with_dtype(DType::F64), vec![true, false]);
    let s = Tensor::from_vec(vec![0.4f64, -0.2], [2], &device);
    weights.log_variance.set(s.clone());
    let losses = [number(1.7, &device), number(0.6, &device)];
    let total = weights.forward(&[&losses[0], &losses[1]]);
    let expected = (-0.4f64).exp() * 1.7 / 2.0 + 0.2 + 0.2f64.exp() * 0.6 - 0.1;
    assert!((total.item()? - expected).abs() < 1e-12);
    // ∂/∂s: -e^(-s) L / c + 1/2
    let slope = grad(&total, &[&s])?[0].to_vec::<f64>()?;
    let slopes = [-(-0.4f64).exp() * 1.7 / 2.0 + 0.5, -0.2f64.exp() * 0.6 + 0.5];
    slope.iter().zip(slopes).for_each(|(found, expected)| assert!((found - expected).abs() < 1e-12));
    assert!(weights.forward(&[&losses[0]]).error().is_some());
    assert_eq!(weights.named_parameters()[0].0, "log_variance");
    Ok(())
}

#[test]
fn grad_norm_gives_more_to_the_task_with_the_smaller_gradient() -> Outcome {
    let device = device();
    let w = Tensor::from_vec(vec![1.0f64, -2.0], [2], &device);
    // Gradients 2w and 20w: norms 2√5 and 20√5.
    let losses = [w.square().sum_all(), w.square().sum_all().mul(10.0)];
    let losses = [&losses[0], &losses[1]];
    let mut balance = GradNorm::new(2, 1.0, 0.01);
    assert!(balance.update(&losses[..1], &[&w]).is_err());
    assert_eq!(balance.weights, [1.0, 1.0]);
    balance.update(&losses, &[&w])?;
    // Both losses are at their first values, so that each norm is drawn to the mean, 11√5: slopes -2√5 and 20√5.
    let raw = [1.0 + 0.01 * 2.0 * 5f64.sqrt(), 1.0 - 0.01 * 20.0 * 5f64.sqrt()];
    let scale = 2.0 / (raw[0] + raw[1]);
    for (found, raw) in balance.weights.iter().zip(raw) {
        assert!((found - raw * scale).abs() < 1e-9, "{found} instead of {}", raw * scale);
    }
    assert_eq!(balance.initial_losses(), Some([5.0, 50.0].as_slice()));
    Ok(())
}

#[test]
fn grad_norm_refuses_losses_that_are_not_finite_and_keeps_its_weights() -> Outcome {
    let device = device();
    let w = Tensor::from_vec(vec![1.0f64], [1], &device);
    let bad = w.mul(f64::NAN).sum_all();
    let good = w.square().sum_all();
    let mut balance = GradNorm::new(2, 1.0, 0.01);
    let error = balance.update(&[&good, &bad], &[&w]).err().ok_or("must fail")?.to_string();
    assert!(error.contains("loss of task 1"), "{error}");
    assert_eq!(balance.weights, [1.0, 1.0]);
    Ok(())
}
