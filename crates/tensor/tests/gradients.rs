//! Gradients through the whole pipeline on the CPU runtime in `f64`, against central differences.

mod common;

use common::{assert_close, cpu, leaf, numbers, ops::cases};
use wgrad_tensor::{Tensor, TensorError, grad, grad_allow_unused};

/// `Σ y w` with arbitrary weights, so that each element of `y` has a cotangent of its own.
fn weighted(y: &Tensor) -> Tensor {
    let w = leaf::<f64>(&numbers(y.elements(), (-1.0, 1.0), 7), y.shape(), y.device());
    y.mul(&w).sum_all()
}

/// Compares `grad` with central differences to 1e-6 relative.
fn check(name: &str, shapes: &[Vec<usize>], domain: (f64, f64), build: &dyn Fn(&[Tensor]) -> Tensor) {
    let device = cpu();
    let values: Vec<Vec<f64>> =
        shapes.iter().enumerate().map(|(i, s)| numbers(s.iter().product(), domain, i)).collect();
    let leaves = |values: &[Vec<f64>]| -> Vec<Tensor> {
        values.iter().zip(shapes).map(|(v, s)| leaf::<f64>(v, s, &device)).collect()
    };
    let xs = leaves(&values);
    let loss = weighted(&build(&xs));
    let gradients = grad(&loss, &xs.iter().collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (i, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.shape().dims(), shapes[i], "{name}");
        let analytic = gradient.to_vec::<f64>().unwrap_or_else(|e| panic!("{name}: {e}"));
        let h = 1e-5;
        let numeric: Vec<f64> = (0..analytic.len())
            .map(|element| {
                let at = |shift: f64| {
                    let mut moved = values.clone();
                    moved[i][element] += shift;
                    weighted(&build(&leaves(&moved))).item().unwrap_or_else(|e| panic!("{name}: {e}"))
                };
                (at(h) - at(-h)) / (2.0 * h)
            })
            .collect();
        assert_close(&format!("{name}, gradient {i}"), &analytic, &numeric, 1e-6);
    }
}

#[test]
fn every_operation_matches_finite_differences() {
    for case in cases() {
        check(case.name, &case.shapes, case.domain, &*case.build);
    }
}

#[test]
fn second_derivatives_match_finite_differences() {
    check("gradient of softmax", &[vec![2, 4]], (-1.0, 1.0), &|x| {
        let loss = weighted(&x[0].softmax(-1).square());
        grad(&loss, &[&x[0]]).unwrap().remove(0)
    });
    check("gradient of a perceptron", &[vec![3, 2], vec![2, 2]], (-1.0, 1.0), &|x| {
        let loss = weighted(&x[0].matmul(&x[1]).tanh());
        grad(&loss, &[&x[1]]).unwrap().remove(0)
    });
}

#[test]
fn gradients_pass_through_evaluated_intermediates() {
    let x = Tensor::from_vec(vec![0.5f64, -1.5], [2], &cpu());
    let y = x.exp();
    y.realize().unwrap();
    let z = y.square();
    z.realize().unwrap();
    let loss = z.sum_all();
    assert!(loss.item().is_ok());
    let dx = grad(&loss, &[&x]).unwrap().remove(0).to_vec::<f64>().unwrap();
    assert_close("2 e^(2x)", &dx, &[2.0 * 1f64.exp(), 2.0 * (-3f64).exp()], 1e-12);
}

#[test]
fn gradients_of_intermediates_and_leaves_come_together() {
    let x = Tensor::from_vec(vec![3.0f64], [1], &cpu());
    let y = &x * 2.0;
    let loss = y.square().sum_all();
    let g = grad(&loss, &[&y, &x, &y]).unwrap();
    let values: Vec<f64> = g.iter().map(|t| t.item().unwrap()).collect();
    assert_eq!(values, [12.0, 24.0, 12.0]);
}

#[test]
fn a_leaf_made_of_a_tensor_ends_its_history() {
    let x = Tensor::from_vec(vec![3.0f64], [1], &cpu());
    let y = (&x * 2.0).to_leaf().unwrap();
    let loss = y.square().sum_all();
    assert!(grad_allow_unused(&loss, &[&x]).unwrap()[0].is_none());
    assert_eq!(grad(&loss, &[&y]).unwrap()[0].item().unwrap(), 12.0);
}

#[test]
fn ties_share_the_gradient() {
    let device = cpu();
    let x = Tensor::from_vec(vec![1.0f64, 2.0, 2.0], [3], &device);
    let loss = x.amax(&[0], false);
    assert_eq!(grad(&loss, &[&x]).unwrap()[0].to_vec::<f64>().unwrap(), [0.0, 0.5, 0.5]);
    let y = Tensor::from_vec(vec![1.0f64, 0.0, 5.0], [3], &device);
    let loss = x.maximum(&y).sum_all();
    let g = grad(&loss, &[&x, &y]).unwrap();
    assert_eq!(g[0].to_vec::<f64>().unwrap(), [0.5, 1.0, 0.0]);
    assert_eq!(g[1].to_vec::<f64>().unwrap(), [0.5, 0.0, 1.0]);
    let zero = Tensor::from_vec(vec![0.0f64, -0.5, 1.0], [3], &device);
    let loss = (zero.relu() + zero.abs() + zero.clamp(0.0, 1.0)).sum_all();
    assert_eq!(grad(&loss, &[&zero]).unwrap()[0].to_vec::<f64>().unwrap(), [1.0, -1.0, 3.0]);
}

#[test]
fn gradients_of_powers_are_finite_at_zero() {
    let device = cpu();
    let a = Tensor::from_vec(vec![0.0f64, 0.0, 0.0], [3], &device);
    let b = Tensor::from_vec(vec![0.0f64, 1.0, 2.0], [3], &device);
    let loss = a.pow(&b).sum_all();
    let g = grad(&loss, &[&a, &b]).unwrap();
    assert_eq!(g[0].to_vec::<f64>().unwrap(), [0.0, 1.0, 0.0]);
    assert_eq!(g[1].to_vec::<f64>().unwrap(), [0.0, 0.0, 0.0]);
}

#[test]
fn activations_and_their_gradients_are_finite_far_out() {
    let x = Tensor::from_vec(vec![-500.0f32, -90.0, 0.0, 90.0, 500.0], [5], &cpu());
    for y in [x.sigmoid(), x.gelu(), x.gelu_tanh(), x.tanh()] {
        let g = grad(&y.sum_all(), &[&x]).unwrap().remove(0).to_vec::<f32>().unwrap();
        assert!(g.iter().all(|v| v.is_finite()), "{g:?}");
        assert!(y.to_vec::<f32>().unwrap().iter().all(|v| v.is_finite()));
    }
    assert_eq!(x.sigmoid().to_vec::<f32>().unwrap()[2], 0.5);
    let g = grad(&x.sigmoid().sum_all(), &[&x]).unwrap().remove(0).to_vec::<f32>().unwrap();
    assert_eq!(g[2], 0.25);
}

#[test]
fn a_loss_that_does_not_depend_on_a_tensor_is_an_error_that_names_it() {
    let device = cpu();
    let x = Tensor::from_vec(vec![1.0f32, 2.0], [2], &device).named("wte");
    let y = Tensor::from_vec(vec![1.0f32], [1], &device);
    let error = grad(&y.sum_all(), &[&y, &x]).unwrap_err();
    assert!(matches!(error, TensorError::Unreachable { position: 1, .. }));
    let text = error.to_string();
    assert!(text.contains("`wte` f32[2]") && text.contains("gradients.rs"), "{text}");
    let through_integers = x.cast(wgrad_tensor::DType::I32).cast(wgrad_tensor::DType::F32).sum_all();
    assert!(grad(&through_integers, &[&x]).is_err());
    assert!(matches!(grad(&x, &[&x]), Err(TensorError::Gradient(_))));
}
