//! Averages of weights, the range test and the audit of gradients.

use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_nn::Param;
use wgrad_optim::{
    AveragedModel, Averaging, GradientAudit, GradientFlow, Lookahead, LrRangeTest, Optimizer, OptimizerState,
    ParamGroup, Sgd, SgdConfig,
};
use wgrad_tensor::{DeviceHandle, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

fn params(device: &DeviceHandle) -> Vec<(String, Param)> {
    let make = |name: &str, values: Vec<f64>| {
        let len = values.len();
        (name.to_owned(), Param::new(Tensor::from_vec(values, [len], device)))
    };
    vec![make("a", vec![1.0, -2.0, 0.5]), make("b", vec![0.25])]
}

fn values(params: &[(String, Param)]) -> Result<Vec<f64>, wgrad_tensor::TensorError> {
    let mut all = Vec::new();
    for (_, param) in params {
        all.extend(param.tensor().to_vec::<f64>()?);
    }
    Ok(all)
}

fn loss(params: &[(String, Param)]) -> Tensor {
    params
        .iter()
        .map(|(_, p)| p.tensor().sub(0.75).square().sum_all())
        .reduce(|a, b| a.add(b))
        .expect("terms")
}

fn sgd(params: &[(String, Param)]) -> Sgd {
    let mut opt = Sgd::new(
        vec![ParamGroup::new(params.to_vec(), 0.0)],
        SgdConfig { momentum: 0.5, ..SgdConfig::default() },
    );
    opt.set_lr(0.1);
    opt
}

fn near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    assert!(
        found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12),
        "{found:?} instead of {expected:?}"
    );
}

#[test]
fn averages_copy_first_and_then_follow_their_formulas() -> Outcome {
    for averaging in [Averaging::Ema { decay: 0.9 }, Averaging::Swa] {
        let device = device();
        let params = params(&device);
        let mut opt = sgd(&params);
        let mut average = AveragedModel::new(params.clone(), averaging);
        let mut expected: Vec<f64> = Vec::new();
        for n in 0..5 {
            opt.step(&loss(&params))?;
            average.update_parameters()?;
            let now = values(&params)?;
            let alpha = match averaging {
                _ if n == 0 => 1.0,
                Averaging::Ema { decay } => 1.0 - decay,
                Averaging::Swa => 1.0 / f64::from(n + 1),
            };
            expected.resize(now.len(), 0.0);
            expected.iter_mut().zip(&now).for_each(|(e, p)| *e += alpha * (p - *e));
            let found: Vec<f64> = average
                .averages()
                .iter()
                .map(|(_, t)| t.to_vec::<f64>())
                .collect::<Result<Vec<_>, _>>()?
                .concat();
            near(&found, &expected);
        }
        // In the model for an evaluation, and back.
        let now = values(&params)?;
        average.swap();
        near(&values(&params)?, &expected);
        assert!(average.update_parameters().is_err());
        average.swap();
        assert_eq!(values(&params)?, now);
        // A step after that is what it would have been.
        let state = average.state_dict();
        let scalars = serde_json::from_str(&state.scalars.to_string())?;
        let mut again = AveragedModel::new(params.clone(), averaging);
        again.load_state_dict(&OptimizerState { tensors: state.tensors, scalars })?;
        opt.step(&loss(&params))?;
        average.update_parameters()?;
        again.update_parameters()?;
        for ((name, one), (_, two)) in average.averages().iter().zip(again.averages()) {
            assert_eq!(one.to_vec::<f64>()?, two.to_vec::<f64>()?, "{name}");
        }
        assert!(
            again
                .load_state_dict(&OptimizerState { tensors: Vec::new(), scalars: serde_json::Value::Null })
                .is_err()
        );
    }
    Ok(())
}

#[test]
fn averages_do_not_keep_updates_from_being_in_place() -> Outcome {
    let device = device();
    let params = params(&device);
    let mut opt = sgd(&params);
    let mut average = AveragedModel::new(params.clone(), Averaging::Ema { decay: 0.9 });
    for _ in 0..3 {
        opt.step(&loss(&params))?;
        average.update_parameters()?;
    }
    let copied = device.stats().copied_inputs;
    opt.step(&loss(&params))?;
    average.update_parameters()?;
    assert_eq!(device.stats().copied_inputs, copied);
    Ok(())
}

#[test]
fn lookahead_pulls_fast_weights_back_every_k_steps() -> Outcome {
    let device = device();
    let (ahead, plain) = (params(&device), params(&device));
    let mut opt = Lookahead::new(sgd(&ahead), ahead.clone(), 3, 0.5)?;
    let mut reference = sgd(&plain);
    let mut slow = values(&plain)?;
    for step in 1..=9 {
        opt.step(&loss(&ahead))?;
        reference.step(&loss(&plain))?;
        if step % 3 == 0 {
            let fast = values(&plain)?;
            slow.iter_mut().zip(fast).for_each(|(s, f)| *s += 0.5 * (f - *s));
            let mut rest = slow.as_slice();
            for (_, param) in &plain {
                let (now, later) = rest.split_at(param.tensor().elements());
                param.set(Tensor::from_vec(now.to_vec(), [now.len()], &device));
                rest = later;
            }
        }
        near(&values(&ahead)?, &values(&plain)?);
    }
    // A checkpoint in the middle of a round.
    opt.step(&loss(&ahead))?;
    let state = opt.state_dict();
    let scalars = serde_json::from_str(&state.scalars.to_string())?;
    let copy = params(&device);
    for ((_, to), (_, from)) in copy.iter().zip(&ahead) {
        to.set(Tensor::from_vec(from.tensor().to_vec::<f64>()?, from.tensor().shape(), &device));
    }
    let mut resumed = Lookahead::new(sgd(&copy), copy.clone(), 3, 0.5)?;
    resumed.load_state_dict(&OptimizerState { tensors: state.tensors, scalars })?;
    for _ in 0..4 {
        opt.step(&loss(&ahead))?;
        resumed.step(&loss(&copy))?;
        assert_eq!(values(&ahead)?, values(&copy)?);
    }
    assert!(Lookahead::new(sgd(&copy), copy.clone(), 0, 0.5).is_err());
    assert!(Lookahead::new(sgd(&copy), copy, 1, 1.5).is_err());
    Ok(())
}

#[test]
fn a_range_test_finds_a_rate_that_trains_and_ends_where_it_diverges() -> Outcome {
    let device = device();
    let params = params(&device);
    let mut opt = Sgd::new(vec![ParamGroup::new(params.clone(), 0.0)], SgdConfig::default());
    let test = LrRangeTest { start_lr: 1e-4, end_lr: 100.0, steps: 120, ..LrRangeTest::default() };
    let curve = test.run(&mut opt, |_| loss(&params).add(0.1))?;
    assert!(curve.diverged && curve.lr.len() < 120, "{}", curve.lr.len());
    // Gradient descent on a square diverges from a rate of 1 on.
    assert!(curve.lr.last().is_some_and(|lr| *lr > 1.0));
    let suggestion = curve.suggestion().ok_or("the loss falls")?;
    assert!((1e-3..1.0).contains(&suggestion), "{suggestion}");
    for bad in [
        LrRangeTest { start_lr: 0.0, ..test },
        LrRangeTest { end_lr: 1e-9, ..test },
        LrRangeTest { steps: 2, ..test },
    ] {
        assert!(bad.run(&mut opt, |_| loss(&params)).is_err());
    }
    Ok(())
}

#[test]
fn an_audit_names_every_parameter_that_does_not_learn_and_why() -> Outcome {
    let device = device();
    let make =
        |name: &str| (name.to_owned(), Param::new(Tensor::from_vec::<f64>(vec![0.5, -1.0], [2], &device)));
    let params =
        vec![make("learns"), make("frozen"), make("unused"), make("detached"), make("dead"), make("broken")];
    params[1].1.freeze();
    let loss = || {
        let t = |i: usize| params[i].1.tensor();
        let dead = t(4).square().neg().relu();
        let broken = t(5).add(1.0).log();
        [t(0).square(), t(1).square(), t(3).detach().square(), dead, broken]
            .into_iter()
            .map(|x| x.sum_all())
            .reduce(|a, b| a.add(b))
    };
    let expect = |audit: &GradientAudit| {
        let kinds: Vec<GradientFlow> = audit.params.iter().map(|(_, flow)| *flow).collect();
        assert!(
            matches!(kinds[0], GradientFlow::Flows(norm) if (norm - 5f64.sqrt()).abs() < 1e-12),
            "{kinds:?}"
        );
        assert_eq!(
            kinds[1..5],
            [GradientFlow::Frozen, GradientFlow::Unused, GradientFlow::Detached, GradientFlow::Dead]
        );
        assert_eq!(kinds[5], GradientFlow::NotFinite);
        let text = audit.to_string();
        assert!(
            text.starts_with("1 of 6 parameters get a gradient, 1 are frozen\n  `unused`: no gradient"),
            "{text}"
        );
        assert_eq!(audit.problems().count(), 4);
    };
    expect(&GradientAudit::of(&loss().ok_or("terms")?, &params)?);
    // The same for parameters that are slices of an arena.
    let _opt = Sgd::new(vec![ParamGroup::new(params.clone(), 0.0)], SgdConfig::default());
    expect(&GradientAudit::of(&loss().ok_or("terms")?, &params)?);
    Ok(())
}
