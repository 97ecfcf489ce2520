//! Every rule: what PyTorch has no reference for against its formula in f64, and what all have in common.

use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_nn::Param;
use wgrad_optim::{
    Adam, AdamConfig, AdamW, AdamWConfig, Clipping, Lamb, LambConfig, Muon, MuonConfig, OptimError,
    Optimizer, OptimizerSpec, OptimizerState, ParamGroup, Rest, Sgd, SgdConfig,
};
use wgrad_tensor::{DeviceHandle, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

/// A matrix, a vector, a scalar and a table of three dimensions, one of whose elements never gets a gradient.
fn params(device: &DeviceHandle) -> Vec<(String, Param)> {
    let shapes: [&[usize]; 4] = [&[3, 4], &[5], &[], &[2, 3, 2]];
    let make = |(i, dims): (usize, &&[usize])| {
        let count: usize = dims.iter().product();
        let values = (0..count).map(|k| 0.3 * (i as f64 + 1.0) - 0.11 * ((k * 5 % 7) as f64)).collect();
        (format!("p{i}"), Param::new(Tensor::from_vec::<f64>(values, *dims, device)))
    };
    shapes.iter().enumerate().map(make).collect()
}

/// `Σ (x p - 0.5)² m`, where the mask `m` hides the first element of the vector.
fn loss(params: &[(String, Param)], x: f64, device: &DeviceHandle) -> Tensor {
    let term = |(i, (_, param)): (usize, &(String, Param))| {
        let squares = param.tensor().mul(x).sub(0.5).square();
        if i == 1 {
            squares.mul(Tensor::from_vec::<f64>(vec![0.0, 1.0, 1.0, 1.0, 1.0], [5], device)).sum_all()
        } else {
            squares.sum_all()
        }
    };
    params.iter().enumerate().map(term).reduce(|a, b| a.add(b)).expect("four terms")
}

fn values(params: &[(String, Param)]) -> Result<Vec<Vec<f64>>, wgrad_tensor::TensorError> {
    params.iter().map(|(_, param)| param.tensor().to_vec::<f64>()).collect()
}

/// `∂/∂p` of [`loss`].
fn gradient(p: &[Vec<f64>], x: f64) -> Vec<Vec<f64>> {
    let mut g: Vec<Vec<f64>> =
        p.iter().map(|p| p.iter().map(|p| 2.0 * x * (x * p - 0.5)).collect()).collect();
    g[1][0] = 0.0;
    g
}

fn near(found: &[Vec<f64>], expected: &[Vec<f64>]) {
    for (f, e) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert!((f - e).abs() <= 1e-11 * e.abs().max(1.0), "{found:?} instead of {expected:?}");
    }
}

/// Every optimizer that has a name, with settings that use all of its states.
fn all() -> Vec<OptimizerSpec> {
    let texts = [
        r#"{"name": "sgd"}"#,
        r#"{"name": "sgd", "momentum": 0.9, "dampening": 0.1}"#,
        r#"{"name": "adam", "amsgrad": true}"#,
        r#"{"name": "adamw"}"#,
        r#"{"name": "adamax"}"#,
        r#"{"name": "nadam", "decoupled_weight_decay": true}"#,
        r#"{"name": "radam", "betas": [0.9, 0.99]}"#,
        r#"{"name": "adagrad", "initial_accumulator_value": 0.1, "lr_decay": 0.1}"#,
        r#"{"name": "adadelta"}"#,
        r#"{"name": "rmsprop", "centered": true, "momentum": 0.5}"#,
        r#"{"name": "asgd", "t0": 2}"#,
        r#"{"name": "rprop"}"#,
        r#"{"name": "lion"}"#,
        r#"{"name": "lamb"}"#,
        r#"{"name": "adafactor"}"#,
        r#"{"name": "adafactor_hf", "beta1": 0.9}"#,
        r#"{"name": "muon"}"#,
        r#"{"name": "lbfgs", "max_iter": 3, "history_size": 2}"#,
        r#"{"name": "lbfgs", "max_iter": 3, "line_search_fn": "strong_wolfe"}"#,
    ];
    texts.iter().map(|text| serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))).collect()
}

fn build(spec: &OptimizerSpec, params: &[(String, Param)]) -> Result<Box<dyn Optimizer>, OptimError> {
    let decay = if matches!(spec, OptimizerSpec::Lbfgs(_)) { 0.0 } else { 0.02 };
    let groups = vec![ParamGroup::new(params.to_vec(), decay)];
    match spec {
        OptimizerSpec::Muon(_) => {
            let rest = Rest { spec: OptimizerSpec::AdamW(AdamWConfig::default()), lr_scale: 0.5 };
            spec.build_beside(groups, &rest, |_, _| false)
        }
        _ => spec.build(groups),
    }
}

#[test]
fn every_optimizer_descends_and_goes_on_bit_for_bit_after_a_checkpoint() -> Outcome {
    let device = device();
    for spec in all() {
        let one = params(&device);
        let mut opt = build(&spec, &one)?;
        opt.set_lr(0.02);
        let before = loss(&one, 1.3, &device).item()?;
        for _ in 0..4 {
            opt.step_closure(&mut || loss(&one, 1.3, &device))?;
        }
        assert!(loss(&one, 1.3, &device).item()? < before, "{spec:?}");
        assert_eq!(one[1].1.tensor().to_vec::<f64>()?.len(), 5);

        let state = opt.state_dict();
        let scalars = serde_json::from_str(&state.scalars.to_string())?;
        let two = params(&device);
        for ((_, to), from) in two.iter().zip(values(&one)?) {
            to.set(Tensor::from_vec(from, to.tensor().shape(), &device));
        }
        let mut resumed = build(&spec, &two)?;
        resumed.set_lr(0.02);
        resumed.load_state_dict(&OptimizerState { tensors: state.tensors, scalars })?;
        for x in [1.1, 0.9, 1.2] {
            opt.step_closure(&mut || loss(&one, x, &device))?;
            resumed.step_closure(&mut || loss(&two, x, &device))?;
            assert_eq!(values(&one)?, values(&two)?, "{spec:?}");
        }
        let wrong =
            OptimizerState { tensors: Vec::new(), scalars: serde_json::json!({ "rule": "?", "steps": {} }) };
        assert!(resumed.load_state_dict(&wrong).is_err(), "{spec:?}");
    }
    Ok(())
}

#[test]
fn states_are_as_large_as_is_said() -> Outcome {
    let device = device();
    for spec in all().into_iter().filter(|spec| spec.rule().is_some()) {
        let params = params(&device);
        let mut opt = build(&spec, &params)?;
        opt.step(&loss(&params, 1.0, &device))?;
        let kept: usize = opt.state_dict().tensors.iter().map(|(_, t)| t.elements()).sum();
        let rest = OptimizerSpec::AdamW(AdamWConfig::default());
        let said = |(_, param): &(String, Param)| {
            let (value, rule) = (param.tensor(), spec.rule().expect("one"));
            let own = rule.refuses(value.shape()).is_none();
            if own { &spec } else { &rest }.state_elements(value.shape())
        };
        assert_eq!(kept, params.iter().map(said).sum::<usize>(), "{spec:?}");
    }
    Ok(())
}

#[test]
fn every_step_of_every_rule_is_the_same_program() -> Outcome {
    for spec in all().into_iter().filter(|spec| spec.rule().is_some()) {
        let device = device();
        let params = params(&device);
        let mut opt = build(&spec, &params)?;
        let mut misses = Vec::new();
        for step in 0..4 {
            opt.set_lr(0.01 / f64::from(step + 1));
            opt.step(&loss(&params, 1.0 + 0.1 * f64::from(step), &device))?;
            misses.push(device.cache().stats().misses);
        }
        assert!(misses[1..].iter().all(|m| *m == misses[0]), "{spec:?}: {misses:?}");
    }
    Ok(())
}

#[test]
fn elements_without_a_gradient_stay_where_there_is_no_decay() -> Outcome {
    let device = device();
    for spec in all() {
        // Newton's direction moves all, and Muon's mixes rows.
        let params = params(&device);
        let mut opt = match spec {
            OptimizerSpec::Muon(_) => continue,
            _ => spec.build(vec![ParamGroup::new(params.clone(), 0.0)])?,
        };
        opt.set_lr(0.01);
        let before = values(&params)?[1][0];
        for _ in 0..3 {
            opt.step_closure(&mut || loss(&params, 1.3, &device))?;
        }
        let after = values(&params)?[1][0];
        let shrunk = matches!(spec, OptimizerSpec::Asgd(_));
        assert!(
            if shrunk { (after / before - 1.0).abs() < 1e-4 } else { after == before },
            "{spec:?}: {after}"
        );
    }
    Ok(())
}

#[test]
fn epsilon_hat_and_missing_corrections_follow_their_formulas() -> Outcome {
    for (bias_correction, epsilon_hat) in [(true, true), (false, false), (false, true)] {
        let device = device();
        let params = params(&device);
        let config = AdamConfig {
            betas: (0.8, 0.95),
            eps: 0.05,
            bias_correction,
            epsilon_hat,
            ..AdamConfig::default()
        };
        let mut opt = Adam::new(vec![ParamGroup::new(params.clone(), 0.0)], config);
        opt.set_lr(0.03);
        let mut p = values(&params)?;
        let (mut m, mut v): (Vec<Vec<f64>>, Vec<Vec<f64>>) =
            p.iter().map(|p| (vec![0.0; p.len()], vec![0.0; p.len()])).unzip();
        for step in 1..=4 {
            let x = 1.0 + 0.1 * f64::from(step);
            opt.step(&loss(&params, x, &device))?;
            let g = gradient(&p, x);
            let correct = |beta: f64| if bias_correction { 1.0 - beta.powi(step) } else { 1.0 };
            for i in 0..p.len() {
                for j in 0..p[i].len() {
                    m[i][j] = 0.8 * m[i][j] + 0.2 * g[i][j];
                    v[i][j] = 0.95 * v[i][j] + 0.05 * g[i][j].powi(2);
                    p[i][j] -= if epsilon_hat {
                        // As Keras writes it.
                        let alpha = 0.03 * correct(0.95).sqrt() / correct(0.8);
                        alpha * m[i][j] / (v[i][j].sqrt() + 0.05)
                    } else {
                        0.03 * (m[i][j] / correct(0.8)) / ((v[i][j] / correct(0.95)).sqrt() + 0.05)
                    };
                }
            }
            near(&values(&params)?, &p);
        }
    }
    Ok(())
}

#[test]
fn lamb_follows_the_published_algorithm() -> Outcome {
    let device = device();
    let params = params(&device);
    let mut opt = Lamb::new(vec![ParamGroup::new(params.clone(), 0.1)], LambConfig::default());
    opt.set_lr(0.02);
    let mut p = values(&params)?;
    let (mut m, mut v): (Vec<Vec<f64>>, Vec<Vec<f64>>) =
        p.iter().map(|p| (vec![0.0; p.len()], vec![0.0; p.len()])).unzip();
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    for step in 1..=4 {
        opt.step(&loss(&params, 1.4, &device))?;
        let g = gradient(&p, 1.4);
        for i in 0..p.len() {
            let mut r = Vec::new();
            for j in 0..p[i].len() {
                m[i][j] = 0.9 * m[i][j] + 0.1 * g[i][j];
                v[i][j] = 0.999 * v[i][j] + 0.001 * g[i][j].powi(2);
                let (mh, vh) = (m[i][j] / (1.0 - 0.9f64.powi(step)), v[i][j] / (1.0 - 0.999f64.powi(step)));
                r.push(mh / (vh.sqrt() + 1e-6) + 0.1 * p[i][j]);
            }
            let (of_param, of_step) = (norm(&p[i]), norm(&r));
            let trust = if of_param > 0.0 && of_step > 0.0 { of_param / of_step } else { 1.0 };
            p[i].iter_mut().zip(r).for_each(|(p, r)| *p -= 0.02 * trust * r);
        }
        near(&values(&params)?, &p);
    }
    Ok(())
}

#[test]
fn muon_steps_have_singular_values_about_one_and_refuse_what_is_no_matrix() -> Outcome {
    let device = device();
    let params = params(&device);
    let group = |range: std::ops::Range<usize>| vec![ParamGroup::new(params[range].to_vec(), 0.0)];
    let mut opt = Muon::new(group(0..1), MuonConfig::default());
    opt.set_lr(1.0);
    let before = values(&params[..1])?.remove(0);
    opt.step(&loss(&params, 1.0, &device))?;
    let change: Vec<f64> = values(&params[..1])?[0].iter().zip(&before).map(|(a, b)| a - b).collect();
    // The gradient's rows are three equal ones and multiples; whatever its rank, no singular value is above 1.3.
    let frobenius = change.iter().map(|c| c * c).sum::<f64>().sqrt();
    assert!((0.6..=1.3 * 3f64.sqrt()).contains(&frobenius), "{frobenius}");
    let mut opt = Muon::new(group(0..4), MuonConfig::default());
    let error = opt.step(&loss(&params, 1.0, &device)).expect_err("a vector").to_string();
    assert!(
        error.contains("muon cannot update `p1` of shape [5]") && error.contains("another rule"),
        "{error}"
    );
    Ok(())
}

#[test]
fn groups_that_climb_mirror_those_that_descend() -> Outcome {
    let device = device();
    let (up, down) = (params(&device), params(&device));
    let config = SgdConfig { momentum: 0.9, nesterov: true, ..SgdConfig::default() };
    let mut climb = Sgd::new(vec![ParamGroup::new(up.clone(), 0.0).maximizing()], config);
    let mut descend = Sgd::new(vec![ParamGroup::new(down.clone(), 0.0)], config);
    for _ in 0..3 {
        climb.step(&loss(&up, 1.0, &device).neg())?;
        descend.step(&loss(&down, 1.0, &device))?;
        assert_eq!(values(&up)?, values(&down)?);
    }
    Ok(())
}

#[test]
fn groups_may_have_rules_of_their_own() -> Outcome {
    let device = device();
    let (both, alone) = (params(&device), params(&device));
    let slow = AdamWConfig { betas: (0.5, 0.9), ..AdamWConfig::default() };
    let groups = |p: &[(String, Param)]| {
        (ParamGroup::new(p[..2].to_vec(), 0.1), ParamGroup::new(p[2..].to_vec(), 0.0))
    };
    let (first, second) = groups(&both);
    let mut one = AdamW::with_rules(vec![(first, AdamWConfig::default()), (second, slow)]);
    let (first, second) = groups(&alone);
    let (mut two, mut three) =
        (AdamW::new(vec![first], AdamWConfig::default()), AdamW::new(vec![second], slow));
    for _ in 0..3 {
        one.step(&loss(&both, 1.0, &device))?;
        let loss = loss(&alone, 1.0, &device);
        let held = alone.iter().map(|(_, p)| p.tensor()).collect::<Vec<_>>();
        two.step(&loss)?;
        for ((_, p), t) in alone[2..].iter().zip(&held[2..]) {
            p.set(t.clone());
        }
        three.step(&loss)?;
        near(&values(&both)?, &values(&alone)?);
    }
    Ok(())
}

#[test]
fn values_and_units_are_clipped_each_by_its_own_rule() -> Outcome {
    let device = device();
    let start = values(&params(&device))?;
    let g = gradient(&start, 3.0);
    let step = |clipping: Clipping| -> Result<Vec<Vec<f64>>, Box<dyn std::error::Error>> {
        let params = params(&device);
        let mut opt = Sgd::new(vec![ParamGroup::new(params.clone(), 0.0)], SgdConfig::default());
        opt.set_lr(1.0);
        opt.set_clipping(Some(clipping));
        opt.step(&loss(&params, 3.0, &device))?;
        Ok(values(&params)?)
    };
    let apply = |clipped: &[Vec<f64>]| -> Vec<Vec<f64>> {
        start.iter().zip(clipped).map(|(p, g)| p.iter().zip(g).map(|(p, g)| p - g).collect()).collect()
    };
    let by_value: Vec<Vec<f64>> = g.iter().map(|g| g.iter().map(|g| g.clamp(-1.5, 1.5)).collect()).collect();
    near(&step(Clipping::Value(1.5))?, &apply(&by_value));
    // Units are rows of the matrix, slices of the table, and the whole vector or scalar.
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let unit = [4, 5, 1, 6];
    let adaptive = |clip_factor: f64| -> Vec<Vec<f64>> {
        let one = |i: usize| {
            let units = start[i].chunks(unit[i]).zip(g[i].chunks(unit[i]));
            let clip = |(p, g): (&[f64], &[f64])| {
                let (most, is) = (clip_factor * norm(p).max(1e-3), norm(g));
                let scale = if is < most { 1.0 } else { most / is };
                g.iter().map(|g| g * scale).collect::<Vec<f64>>()
            };
            units.flat_map(clip).collect()
        };
        (0..4).map(one).collect()
    };
    for clip_factor in [0.01, 20.0, 1e9] {
        near(&step(Clipping::Adaptive { clip_factor, eps: 1e-3 })?, &apply(&adaptive(clip_factor)));
    }
    Ok(())
}

#[test]
fn unknown_names_and_constants_are_refused_with_the_known_ones() {
    let error = |text: &str| serde_json::from_str::<OptimizerSpec>(text).expect_err(text).to_string();
    assert!(error(r#"{"name": "adamm"}"#).contains("`adamw`"));
    assert!(
        error(r#"{"name": "adamw", "momentum": 0.9}"#)
            .contains("unknown field `momentum`, expected one of `betas`")
    );
}

#[test]
fn lbfgs_minimises_rosenbrocks_function_and_says_what_it_cannot_do() -> Outcome {
    let device = device();
    for line_search in ["null", "\"strong_wolfe\""] {
        let p = Param::new(Tensor::from_vec::<f64>(vec![-1.2, 1.0], [2], &device));
        let text = format!(
            r#"{{"name": "lbfgs", "max_iter": 100, "max_eval": 500, "line_search_fn": {line_search}}}"#
        );
        let spec: OptimizerSpec = serde_json::from_str(&text)?;
        let mut opt = spec.build(vec![ParamGroup::new(vec![("p".into(), p.clone())], 0.0)])?;
        opt.set_lr(if line_search == "null" { 0.2 } else { 1.0 });
        let rosenbrock = || {
            let (x, y) = (p.tensor().narrow(0, 0, 1), p.tensor().narrow(0, 1, 1));
            y.sub(x.square()).square().mul(100.0).add(x.sub(1.0).square()).sum_all()
        };
        for _ in 0..if line_search == "null" { 20 } else { 4 } {
            opt.step_closure(&mut || rosenbrock())?;
        }
        let found = p.tensor().to_vec::<f64>()?;
        assert!((found[0] - 1.0).abs() < 1e-4 && (found[1] - 1.0).abs() < 1e-4, "{line_search}: {found:?}");
        let before = found;
        assert!(opt.step(&rosenbrock()).expect_err("no closure").to_string().contains("step_closure"));
        assert!(opt.accumulate(&rosenbrock()).is_err());
        opt.set_clip_grad_norm(Some(1.0));
        assert!(opt.step_closure(&mut || rosenbrock()).is_err());
        opt.set_clip_grad_norm(None);
        // A loss that fails in the middle of a search leaves the parameters where they were.
        let mut calls = 0;
        p.set(Tensor::from_vec::<f64>(vec![-1.2, 1.0], [2], &device));
        let failed = opt.step_closure(&mut || {
            calls += 1;
            if calls > 2 { rosenbrock().matmul(&rosenbrock()) } else { rosenbrock() }
        });
        assert!(failed.is_err());
        assert_eq!(p.tensor().to_vec::<f64>()?, [-1.2, 1.0]);
        assert_ne!(before, [-1.2, 1.0]);
    }
    let p = Param::new(Tensor::from_vec::<f64>(vec![1.0], [1], &device));
    let spec: OptimizerSpec = serde_json::from_str(r#"{"name": "lbfgs"}"#)?;
    assert!(spec.build(vec![ParamGroup::new(vec![("p".into(), p)], 0.1)]).is_err());
    Ok(())
}
