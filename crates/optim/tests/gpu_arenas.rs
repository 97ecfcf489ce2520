//! Steps on the GPU runtime against the CPU runtime: arenas are bound in parts and updated in place.
//!
//! Needs an adapter (a software one will do) and fails without; the environment variable `WGRAD_TEST_DEVICES=cpu` leaves these tests out.

use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_nn::Param;
use wgrad_optim::{AdamW, AdamWConfig, Optimizer, ParamGroup};
use wgrad_runtime::Registry;
use wgrad_tensor::{DeviceHandle, Tensor};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn gpu() -> Option<DeviceHandle> {
    if std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|d| d == "cpu") {
        eprintln!("left out: WGRAD_TEST_DEVICES=cpu");
        return None;
    }
    let registry = Registry::new(vec![Box::new(wgrad_gpu::GpuBackend::new())]);
    let opened = registry.open("gpu");
    Some(opened.unwrap_or_else(|e| panic!("{e}; WGRAD_TEST_DEVICES=cpu leaves GPU tests out")).device)
}

/// Values, states and the last gradient norm after some steps of a perceptron with odd widths.
fn train(device: &DeviceHandle) -> Outcome<Vec<Vec<f32>>> {
    let make = |name: &str, dims: &[usize]| {
        let count: usize = dims.iter().product();
        let values = (0..count).map(|k| ((k * 7 % 13) as f32 - 6.0) * 0.05).collect();
        (name.to_owned(), Param::new(Tensor::from_vec::<f32>(values, dims, device)))
    };
    let params =
        [make("w1", &[24, 33]), make("w2", &[33, 5]), make("b1", &[33]), make("b2", &[5]), make("gain", &[])];
    let group =
        |range: std::ops::Range<usize>, weight_decay| ParamGroup::new(params[range].to_vec(), weight_decay);
    let mut opt = AdamW::new(vec![group(0..2, 0.1), group(2..5, 0.0)], AdamWConfig::default());
    opt.set_lr(0.01);
    opt.set_clip_grad_norm(Some(0.5));
    let loss = || {
        let t = |i: usize| params[i].1.tensor();
        let x = Tensor::from_vec((0..8 * 24).map(|k| (k % 11) as f32 * 0.1 - 0.4).collect(), [8, 24], device);
        let hidden = x.matmul(&t(0)).add(t(2)).tanh();
        hidden.matmul(&t(1)).add(t(3)).sub(0.5).square().mean_all().mul(t(4).add(1.5))
    };
    let mut norm = 0.0;
    for step in 0..5 {
        match step {
            2 => drop(opt.accumulate(&loss())?),
            3 => params[3].1.freeze(),
            4 => params[0].1.set(params[0].1.tensor().mul(0.5).detach_realized()),
            _ => {}
        }
        norm = opt.step(&loss())?.grad_norm.item()? as f32;
    }
    let mut values = vec![vec![norm]];
    for tensor in
        params.iter().map(|(_, p)| p.tensor()).chain(opt.state_dict().tensors.into_iter().map(|t| t.1))
    {
        values.push(tensor.to_vec()?);
    }
    Ok(values)
}

#[test]
fn gpu_steps_move_parameters_as_cpu_steps_do() -> Outcome<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let cpu: DeviceHandle = Arc::new(CpuDevice::new());
    let (found, expected) = (train(&gpu)?, train(&cpu)?);
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().flatten().zip(expected.iter().flatten()) {
        // Adam divides by the root of small squares, so that rounding shows.
        assert!((f - e).abs() <= 2e-4 * e.abs().max(0.1), "{f} instead of {e}");
    }
    Ok(())
}
