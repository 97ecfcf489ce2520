//! Updates against the textbook formulas in f64, written out here.

use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_nn::{Module, Param};
use wgrad_optim::{
    AdamW, AdamWConfig, OptimError, Optimizer, OptimizerState, ParamGroup, Sgd, SgdConfig, all_parameters,
    decay_matrices_only,
};
use wgrad_tensor::{DType, DeviceHandle, Tensor, TensorError};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

/// Minimises `Σ (w x - 1)² + Σ b²`; `idle` takes no part.
#[derive(Module)]
struct Toy {
    w: Param,
    b: Param,
    idle: Option<Param>,
}

const W: [f64; 4] = [0.5, -1.5, 2.0, 0.25];
const B: [f64; 2] = [3.0, -0.75];

impl Toy {
    fn new(device: &DeviceHandle) -> Self {
        Toy {
            w: Param::new(Tensor::from_vec(W.to_vec(), [2, 2], device)),
            b: Param::new(Tensor::from_vec(B.to_vec(), [2], device)),
            idle: None,
        }
    }

    fn loss(&self, x: f64) -> Tensor {
        let (w, b) = (self.w.tensor(), self.b.tensor());
        w.mul(x).sub(1.0).square().sum_all().add(b.square().sum_all())
    }

    fn values(&self) -> Result<Vec<f64>, TensorError> {
        let mut values = self.w.tensor().to_vec::<f64>()?;
        values.extend(self.b.tensor().to_vec::<f64>()?);
        Ok(values)
    }
}

/// Loss and gradient of [`Toy`], on the host.
fn oracle(p: &[f64], x: f64) -> (f64, Vec<f64>) {
    let loss =
        p[..4].iter().map(|w| (w * x - 1.0).powi(2)).sum::<f64>() + p[4..].iter().map(|b| b * b).sum::<f64>();
    let w = p[..4].iter().map(|w| 2.0 * (w * x - 1.0) * x);
    (loss, w.chain(p[4..].iter().map(|b| 2.0 * b)).collect())
}

fn near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= 1e-12 * e.abs().max(1.0), "{found:?} instead of {expected:?}");
    }
}

fn start() -> Vec<f64> {
    W.into_iter().chain(B).collect()
}

#[test]
fn adamw_follows_the_published_formula() -> Outcome {
    let toy = Toy::new(&device());
    let mut opt = AdamW::new(
        decay_matrices_only(&toy, 0.1),
        AdamWConfig { betas: (0.9, 0.95), ..AdamWConfig::default() },
    );
    let (mut p, mut m, mut v) = (start(), vec![0.0; 6], vec![0.0; 6]);
    for step in 1..=5 {
        let (lr, x) = (0.01 * f64::from(step), 1.0 + 0.1 * f64::from(step));
        opt.set_lr(lr);
        let outcome = opt.step(&toy.loss(x))?;
        let (loss, g) = oracle(&p, x);
        for i in 0..6 {
            let decay = if i < 4 { 0.1 } else { 0.0 };
            p[i] -= lr * decay * p[i];
            m[i] = 0.9 * m[i] + 0.1 * g[i];
            v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
            let (m_hat, v_hat) = (m[i] / (1.0 - 0.9f64.powi(step)), v[i] / (1.0 - 0.95f64.powi(step)));
            p[i] -= lr * m_hat / (v_hat.sqrt() + 1e-8);
        }
        near(&[outcome.loss.item()?], &[loss]);
        near(&[outcome.grad_norm.item()?], &[g.iter().map(|g| g * g).sum::<f64>().sqrt()]);
        near(&toy.values()?, &p);
    }
    Ok(())
}

#[test]
fn sgd_follows_pytorchs_formula_in_all_its_variants() -> Outcome {
    for (momentum, dampening, nesterov, decay) in [
        (0.0, 0.0, false, 0.0),
        (0.0, 0.0, false, 0.2),
        (0.9, 0.0, false, 0.1),
        (0.9, 0.3, false, 0.0),
        (0.8, 0.0, true, 0.1),
    ] {
        let toy = Toy::new(&device());
        let config = SgdConfig { momentum, dampening, nesterov };
        let mut opt = Sgd::new(all_parameters(&toy, decay), config);
        opt.set_lr(0.05);
        let (mut p, mut buffer): (Vec<f64>, Option<Vec<f64>>) = (start(), None);
        for step in 0..4 {
            let x = 1.0 + f64::from(step);
            opt.step(&toy.loss(x))?;
            let g: Vec<f64> = oracle(&p, x).1.iter().zip(&p).map(|(g, p)| g + decay * p).collect();
            let direction: Vec<f64> = if momentum == 0.0 {
                g
            } else {
                let b: Vec<f64> = match &buffer {
                    None => g.clone(),
                    Some(b) => b.iter().zip(&g).map(|(b, g)| momentum * b + (1.0 - dampening) * g).collect(),
                };
                buffer = Some(b.clone());
                if nesterov { b.iter().zip(&g).map(|(b, g)| g + momentum * b).collect() } else { b }
            };
            p.iter_mut().zip(direction).for_each(|(p, d)| *p -= 0.05 * d);
            near(&toy.values()?, &p);
        }
    }
    Ok(())
}

#[test]
fn clipping_scales_all_gradients_to_the_norm_and_reports_the_norm_before() -> Outcome {
    for max_norm in [0.5, 1e6] {
        let toy = Toy::new(&device());
        let mut opt = Sgd::new(all_parameters(&toy, 0.0), SgdConfig::default());
        opt.set_lr(1.0);
        opt.set_clip_grad_norm(Some(max_norm));
        let outcome = opt.step(&toy.loss(2.0))?;
        let p = start();
        let g = oracle(&p, 2.0).1;
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        near(&[outcome.grad_norm.item()?], &[norm]);
        let scale = (max_norm / (norm + 1e-6)).min(1.0);
        near(&toy.values()?, &p.iter().zip(&g).map(|(p, g)| p - scale * g).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn accumulated_micro_batches_equal_one_step_on_their_mean() -> Outcome {
    let (a, b) = (Toy::new(&device()), Toy::new(&device()));
    let make = |toy: &Toy| AdamW::new(all_parameters(toy, 0.1), AdamWConfig::default());
    let (mut whole, mut parts) = (make(&a), make(&b));
    for opt in [&mut whole, &mut parts] {
        opt.set_clip_grad_norm(Some(1.0));
    }
    for _ in 0..3 {
        let mean = a.loss(1.0).add(a.loss(2.0)).add(a.loss(4.0)).div(3.0);
        let one = whole.step(&mean)?;
        let first = parts.accumulate(&b.loss(1.0))?;
        parts.accumulate(&b.loss(2.0))?;
        let three = parts.step(&b.loss(4.0))?;
        near(&[three.loss.item()?, three.grad_norm.item()?], &[one.loss.item()?, one.grad_norm.item()?]);
        assert!(first.item()?.is_finite());
        near(&b.values()?, &a.values()?);
    }
    Ok(())
}

#[test]
fn every_step_of_a_run_is_the_same_program() -> Outcome {
    let device = device();
    let toy = Toy::new(&device);
    let mut opt = AdamW::new(decay_matrices_only(&toy, 0.1), AdamWConfig::default());
    let mut pipelines = Vec::new();
    for step in 0..6 {
        opt.set_lr(0.1 / f64::from(step + 1));
        opt.step(&toy.loss(f64::from(step) + 0.5))?;
        pipelines.push(device.cache().stats().misses);
    }
    // The first step also fills the states with zeros.
    assert!(pipelines.iter().all(|n| *n == pipelines[0]), "{pipelines:?}");
    Ok(())
}

#[test]
fn frozen_and_unused_parameters_are_left_alone_and_the_unused_are_named() -> Outcome {
    let device = device();
    let mut toy = Toy::new(&device);
    toy.idle = Some(Param::new(Tensor::from_vec(vec![7.0f64], [1], &device)));
    toy.b.freeze();
    let mut opt = AdamW::new(all_parameters(&toy, 0.5), AdamWConfig::default());
    opt.set_lr(0.1);
    let outcome = opt.step(&toy.loss(2.0))?;
    assert_eq!(outcome.unused, ["idle"]);
    let values = toy.values()?;
    assert_eq!(values[4..], B);
    assert_ne!(values[..4], W);
    assert_eq!(toy.idle.as_ref().ok_or("there is one")?.tensor().to_vec::<f64>()?, [7.0]);
    // Thawed, it starts with its own first bias correction.
    toy.b.unfreeze();
    opt.step(&toy.loss(2.0))?;
    let moved: Vec<f64> =
        B.iter().map(|b| b * (1.0 - 0.05) - 0.1 * (2.0 * b) / ((2.0 * b).abs() + 1e-8)).collect();
    near(&toy.values()?[4..], &moved);
    Ok(())
}

#[test]
fn a_step_without_trainable_parameters_is_an_error() {
    let device = device();
    let toy = Toy::new(&device);
    let mut opt = Sgd::new(all_parameters(&toy, 0.0), SgdConfig::default());
    let elsewhere = Tensor::from_vec(vec![1.0f64], [1], &device).sum_all();
    assert!(matches!(opt.step(&elsewhere), Err(OptimError::NothingToTrain(_))));
    assert!(opt.step(&toy.w.tensor()).is_err(), "a loss is a scalar");
    toy.freeze("*");
    assert!(matches!(opt.step(&toy.loss(1.0)), Err(OptimError::NothingToTrain(_))));
}

#[test]
fn a_saved_state_goes_on_bit_for_bit() -> Outcome {
    let device = device();
    let make = |toy: &Toy| {
        let mut opt = AdamW::new(decay_matrices_only(toy, 0.1), AdamWConfig::default());
        opt.set_lr(0.03);
        opt
    };
    let a = Toy::new(&device);
    let mut opt = make(&a);
    for _ in 0..3 {
        opt.step(&a.loss(1.5))?;
    }
    let (weights, state) = (a.state_dict(), opt.state_dict());
    let scalars = serde_json::from_str(&state.scalars.to_string())?;
    let names: Vec<&str> = state.tensors.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["w.exp_avg", "w.exp_avg_sq", "b.exp_avg", "b.exp_avg_sq"]);

    let b = Toy::new(&device);
    b.load_state_dict(&weights, true)?;
    let mut resumed = make(&b);
    resumed.load_state_dict(&OptimizerState { tensors: state.tensors.clone(), scalars })?;
    for _ in 0..3 {
        opt.step(&a.loss(1.5))?;
        resumed.step(&b.loss(1.5))?;
        assert_eq!(a.values()?, b.values()?);
    }
    Ok(())
}

#[test]
fn a_state_that_does_not_fit_is_refused_with_all_reasons() -> Outcome {
    let device = device();
    let toy = Toy::new(&device);
    let mut opt = AdamW::new(all_parameters(&toy, 0.0), AdamWConfig::default());
    opt.step(&toy.loss(1.0))?;
    let good = opt.state_dict();
    let mut bad = good.clone();
    bad.scalars["rule"] = "sgd".into();
    bad.tensors[0].1 = Tensor::zeros([3], DType::F64, &device);
    bad.tensors.remove(3);
    bad.tensors.push(("x.exp_avg".into(), Tensor::zeros([1], DType::F64, &device)));
    let Err(OptimError::State { problems }) = opt.load_state_dict(&bad) else {
        return Err("it was accepted".into());
    };
    assert_eq!(problems.len(), 3, "{problems:?}");
    let mut extra = good.clone();
    extra.tensors.push(("x.exp_avg".into(), Tensor::zeros([1], DType::F64, &device)));
    assert!(opt.load_state_dict(&extra).is_err());
    let empty = OptimizerState { tensors: Vec::new(), scalars: serde_json::Value::Null };
    assert!(opt.load_state_dict(&empty).is_err());
    opt.load_state_dict(&good)?;
    Ok(())
}

#[test]
fn groups_scale_the_learning_rate_and_own_a_parameter_once() -> Outcome {
    let toy = Toy::new(&device());
    let groups = vec![
        ParamGroup::of(&toy, 0.0, |name, _| name == "b").with_lr_scale(0.5),
        ParamGroup::of(&toy, 0.0, |_, _| true),
    ];
    let mut opt = Sgd::new(groups, SgdConfig::default());
    opt.set_lr(0.1);
    opt.step(&toy.loss(1.0))?;
    let p = start();
    let g = oracle(&p, 1.0).1;
    let expected: Vec<f64> = (0..6).map(|i| p[i] - if i < 4 { 0.1 } else { 0.05 } * g[i]).collect();
    near(&toy.values()?, &expected);
    Ok(())
}
