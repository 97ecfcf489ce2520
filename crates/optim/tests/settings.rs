//! Settings that make no sense are errors that say what is allowed, and leave everything as it was.

use std::sync::Arc;

use wgrad_nn::{Init, Linear, Module};
use wgrad_optim::{
    AdadeltaConfig, AdafactorConfig, AdafactorHfConfig, AdagradConfig, AdamConfig, AdamW, AdamWConfig,
    AdamaxConfig, AsgdConfig, AveragedModel, Averaging, Clipping, GradScaler, LambConfig, Lbfgs, LbfgsConfig,
    LionConfig, MuonConfig, NAdamConfig, OptimError, Optimizer, OptimizerSpec, RAdamConfig, RmsPropConfig,
    RpropConfig, Sgd, SgdConfig, all_parameters,
};
use wgrad_tensor::{DeviceHandle, Tensor};

fn cpu() -> DeviceHandle {
    Arc::new(wgrad_cpu::CpuDevice::new())
}

fn model(device: &DeviceHandle) -> Linear {
    Linear::new(&Init::new(device, 1), 3, 3, false)
}

fn loss(model: &Linear, device: &DeviceHandle) -> Tensor {
    model.forward(&Tensor::from_vec(vec![1.0f32, -2.0, 0.5], [1, 3], device)).square().sum_all()
}

/// The step is refused with a message that begins so, and the weights stay.
#[track_caller]
fn refused(optimizer: &mut dyn Optimizer, model: &Linear, expected: &str) {
    let loss = loss(model, &cpu_of(model));
    let before = model.weight.tensor().to_vec::<f32>().unwrap();
    let found = optimizer.step_closure(&mut || loss.clone()).expect_err(expected);
    assert!(matches!(found, OptimError::Value { .. }), "{found}");
    assert!(found.to_string().starts_with(expected), "{found} instead of {expected}");
    assert_eq!(model.weight.tensor().to_vec::<f32>().unwrap(), before);
}

fn cpu_of(model: &Linear) -> DeviceHandle {
    model.weight.tensor().device().clone()
}

#[test]
fn learning_rates_limits_and_scales_are_checked_at_the_step() {
    let device = cpu();
    let model = model(&device);
    let mut optimizer = AdamW::new(all_parameters(&model, 0.0), AdamWConfig::default());
    for lr in [f64::NAN, -1e-3, f64::INFINITY] {
        optimizer.set_lr(lr);
        refused(&mut optimizer, &model, "`lr` must be finite and 0 or more, found");
        assert!(optimizer.accumulate(&loss(&model, &device)).is_err());
    }
    optimizer.set_lr(1e-3);
    for (clipping, expected) in [
        (Clipping::Value(f64::NAN), "`clip_value` must be 0 or more, found NaN"),
        (Clipping::Norm(-1.0), "`max_norm` must be 0 or more, found -1"),
        (Clipping::Adaptive { clip_factor: -0.1, eps: 1e-3 }, "`clip_factor` must be 0 or more"),
    ] {
        optimizer.set_clipping(Some(clipping));
        refused(&mut optimizer, &model, expected);
    }
    optimizer.set_clipping(Some(Clipping::Norm(f64::INFINITY)));
    assert!(optimizer.step(&loss(&model, &device)).is_ok());
    for scale in [f64::NAN, 0.0] {
        optimizer.set_grad_scaler(Some(GradScaler::with_scale(scale, &device)));
        refused(&mut optimizer, &model, "`scale` must be above 0 and finite");
    }
    let mut decaying = Sgd::new(all_parameters(&model, -0.1), SgdConfig::default());
    refused(&mut decaying, &model, "`weight_decay` must be finite and 0 or more, found -0.1");
    let mut lbfgs = Lbfgs::new(all_parameters(&model, 0.0), LbfgsConfig::default()).unwrap();
    lbfgs.set_lr(f64::NAN);
    refused(&mut lbfgs, &model, "`lr` must be finite and 0 or more, found NaN");
    assert!(
        Lbfgs::new(all_parameters(&model, 0.0), LbfgsConfig { history_size: 0, ..LbfgsConfig::default() })
            .is_err()
    );
}

#[test]
fn the_constants_of_every_rule_have_pytorchs_limits() {
    let device = cpu();
    let model = model(&device);
    let nan = f64::NAN;
    let wrong: Vec<(OptimizerSpec, &str)> = vec![
        (OptimizerSpec::Sgd(SgdConfig { momentum: -0.1, ..Default::default() }), "`momentum`"),
        (OptimizerSpec::Sgd(SgdConfig { nesterov: true, ..Default::default() }), "`nesterov`"),
        (OptimizerSpec::Adam(AdamConfig { betas: (0.9, 1.0), ..Default::default() }), "`betas`"),
        (OptimizerSpec::AdamW(AdamWConfig { betas: (1.5, -1.0), ..Default::default() }), "`betas`"),
        (OptimizerSpec::AdamW(AdamWConfig { eps: -1e-8, ..Default::default() }), "`eps`"),
        (OptimizerSpec::Adamax(AdamaxConfig { eps: nan, ..Default::default() }), "`eps`"),
        (
            OptimizerSpec::NAdam(NAdamConfig { momentum_decay: -1.0, ..Default::default() }),
            "`momentum_decay`",
        ),
        (OptimizerSpec::RAdam(RAdamConfig { betas: (nan, 0.9), ..Default::default() }), "`betas`"),
        (OptimizerSpec::Adagrad(AdagradConfig { lr_decay: -1.0, ..Default::default() }), "`lr_decay`"),
        (OptimizerSpec::Adadelta(AdadeltaConfig { rho: 1.1, ..Default::default() }), "`rho`"),
        (OptimizerSpec::RmsProp(RmsPropConfig { alpha: -0.1, ..Default::default() }), "`alpha`"),
        (OptimizerSpec::Asgd(AsgdConfig { lambd: -1.0, ..Default::default() }), "`lambd`"),
        (OptimizerSpec::Rprop(RpropConfig { etas: (1.2, 0.5), ..Default::default() }), "`etas`"),
        (OptimizerSpec::Lion(LionConfig { betas: (0.9, 1.0) }), "`betas`"),
        (OptimizerSpec::Lamb(LambConfig { eps: -1.0, ..Default::default() }), "`eps`"),
        (
            OptimizerSpec::Adafactor(AdafactorConfig { beta2_decay: 0.8, ..Default::default() }),
            "`beta2_decay`",
        ),
        (OptimizerSpec::Adafactor(AdafactorConfig { d: 0.5, ..Default::default() }), "`d`"),
        (OptimizerSpec::AdafactorHf(AdafactorHfConfig { beta1: Some(1.0), ..Default::default() }), "`beta1`"),
        (OptimizerSpec::Muon(MuonConfig { momentum: -0.5, ..Default::default() }), "`momentum`"),
        (OptimizerSpec::Muon(MuonConfig { ns_steps: 100, ..Default::default() }), "`ns_steps`"),
    ];
    for (spec, name) in wrong {
        assert!(spec.check().is_err(), "{spec:?}");
        let mut optimizer = spec.build(all_parameters(&model, 0.0)).unwrap();
        refused(&mut optimizer, &model, &format!("{name} must be "));
    }
    // At its limits PyTorch takes these.
    for spec in [
        OptimizerSpec::Sgd(SgdConfig { momentum: 1.0, ..Default::default() }),
        OptimizerSpec::Adadelta(AdadeltaConfig { rho: 1.0, ..Default::default() }),
        OptimizerSpec::AdamW(AdamWConfig { betas: (0.0, 0.0), ..Default::default() }),
    ] {
        spec.check().unwrap();
    }
    let mut optimizer = AdamW::new(all_parameters(&model, 0.0), AdamWConfig::default());
    assert!(optimizer.set_momentum(1.5));
    refused(&mut optimizer, &model, "`betas` must be two numbers in 0..1, found (1.5, 0.999)");
}

#[test]
fn an_average_decays_by_a_share() {
    let device = cpu();
    let model = model(&device);
    for (decay, good) in [(2.0, false), (-0.1, false), (f64::NAN, false), (1.0, true)] {
        let mut average = AveragedModel::new(model.named_parameters(), Averaging::Ema { decay });
        let updated = average.update_parameters().map_err(|e| e.to_string());
        assert_eq!(updated.is_ok(), good, "{updated:?}");
    }
}

#[test]
fn a_loss_that_is_older_than_the_optimizer_is_told_from_a_detached_one() {
    let device = cpu();
    let model = model(&device);
    let early = loss(&model, &device);
    let mut optimizer = Sgd::new(all_parameters(&model, 0.0), SgdConfig::default());
    let found = optimizer.step(&early).unwrap_err().to_string();
    assert!(found.contains("making the optimizer and every step give parameters new tensors"), "{found}");
    assert!(optimizer.step(&loss(&model, &device)).is_ok());
}
