//! Parameters in flat arenas: whatever happens to them, they move as if each were alone; and a step is few kernels.

use std::sync::{Arc, atomic::Ordering};

use wgrad_cpu::CpuDevice;
use wgrad_ir::{BufferRef, Kernel, OutputSource, Program, Step};
use wgrad_nn::Param;
use wgrad_optim::{AdamW, AdamWConfig, OptimError, Optimizer, OptimizerState, ParamGroup};
use wgrad_runtime::PlanningDevice;
use wgrad_tensor::{DType, DeviceHandle, Tensor, TensorError};

mod support;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn group(params: &[(String, Param)], weight_decay: f64) -> ParamGroup {
    ParamGroup::new(params.to_vec(), weight_decay)
}

/// Parameters of awkward sizes, none of them a multiple of the alignment but one.
fn awkward(device: &DeviceHandle) -> Vec<(String, Param)> {
    let shapes: [&[usize]; 7] = [&[3, 5], &[], &[64], &[130], &[0, 4], &[1], &[2, 2, 2]];
    let make = |(i, dims): (usize, &&[usize])| {
        let count: usize = dims.iter().product();
        let values = (0..count).map(|k| (i as f64 + 1.0) * 0.1 - 0.03 * k as f64).collect();
        (format!("p{i}"), Param::new(Tensor::from_vec::<f64>(values, *dims, device)))
    };
    shapes.iter().enumerate().map(make).collect()
}

/// `Σ (x p - 1)²` over the elements of the parameters that are picked.
fn loss(params: &[(String, Param)], picked: &[usize], x: f64, device: &DeviceHandle) -> Tensor {
    let zero = Tensor::zeros([], DType::F64, device);
    picked.iter().fold(zero, |sum, &i| sum.add(params[i].1.tensor().mul(x).sub(1.0).square().sum_all()))
}

/// One parameter on the host.
#[derive(Clone, Default)]
struct Host {
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    steps: i32,
    frozen: bool,
    sum: Option<Vec<f64>>,
}

impl Host {
    fn gather(&mut self, x: f64) {
        let g = self.p.iter().map(|p| 2.0 * x * (x * p - 1.0));
        self.sum = Some(match self.sum.take() {
            Some(sum) => sum.iter().zip(g).map(|(a, b)| a + b).collect(),
            None => g.collect(),
        });
    }

    fn update(&mut self, scale: f64, lr: f64, decay: f64) {
        let Some(sum) = self.sum.take().filter(|_| !self.frozen) else { return };
        self.steps += 1;
        for (i, g) in sum.iter().map(|g| g * scale).enumerate() {
            self.m[i] = 0.9 * self.m[i] + 0.1 * g;
            self.v[i] = 0.999 * self.v[i] + 0.001 * g * g;
            let (m, v) =
                (self.m[i] / (1.0 - 0.9f64.powi(self.steps)), self.v[i] / (1.0 - 0.999f64.powi(self.steps)));
            self.p[i] = self.p[i] * (1.0 - lr * decay) - lr * m / (v.sqrt() + 1e-8);
        }
    }
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn optimizer(params: &[(String, Param)]) -> AdamW {
    // The second parameter of the first group comes again in the second one, under another name; one group is empty.
    let mut tied = params[4..].to_vec();
    tied.push(("tied".into(), params[1].1.clone()));
    let groups = vec![group(&params[..4], 0.1), group(&[], 0.5), group(&tied, 0.0)];
    let mut opt = AdamW::new(groups, AdamWConfig::default());
    opt.set_lr(0.01);
    opt.set_clip_grad_norm(Some(5.0));
    opt
}

fn compare(params: &[(String, Param)], host: &[Host], what: &str) -> Outcome {
    for ((name, param), host) in params.iter().zip(host) {
        let found = param.tensor().to_vec::<f64>()?;
        for (f, e) in found.iter().zip(&host.p) {
            assert!((f - e).abs() <= 1e-9 * e.abs().max(1.0), "{what}: {name}: {f} instead of {e}");
        }
    }
    Ok(())
}

/// Runs a random history on a device that binds at most `limit` bytes, and the same one on the host.
fn random_history(seed: u64, limit: u64) -> Outcome {
    let device: DeviceHandle = Arc::new(support::Fragile::new(limit));
    let mut params = awkward(&device);
    let mut opt = optimizer(&params);
    let mut host = Vec::new();
    for (_, param) in &params {
        let p = param.tensor().to_vec::<f64>()?;
        host.push(Host { m: vec![0.0; p.len()], v: vec![0.0; p.len()], p, ..Host::default() });
    }
    let (mut numbers, mut gathered, mut old) = (Numbers(seed), 0, Vec::new());
    for step in 0..40 {
        let i = numbers.below(params.len() as u64) as usize;
        let x = 0.5 + 0.1 * numbers.below(20) as f64;
        let picked: Vec<usize> = match numbers.below(3) {
            0 => (0..params.len()).filter(|_| numbers.below(2) == 0).collect(),
            _ => (0..params.len()).collect(),
        };
        let free = |host: &[Host], i: usize| !host[i].frozen && !host[i].p.is_empty();
        match numbers.below(12) {
            0 => params[i].1.freeze(),
            1 => params[i].1.unfreeze(),
            2 => {
                let value = params[i].1.tensor().mul(0.5).detach_realized();
                host[i].p.iter_mut().for_each(|p| *p *= 0.5);
                params[i].1.set(value);
            }
            3 if gathered == 0 => {
                let state = opt.state_dict();
                let scalars = serde_json::from_str(&state.scalars.to_string())?;
                let copy = |(name, param): &(String, Param)| {
                    let tensor = param.tensor();
                    let values = tensor.to_vec::<f64>()?;
                    let copy = Param::new(Tensor::from_vec(values, tensor.shape(), &device));
                    if param.is_frozen() {
                        copy.freeze();
                    }
                    Ok((name.clone(), copy))
                };
                let copies = params.iter().map(copy).collect::<Result<Vec<_>, TensorError>>()?;
                // What was saved stays as it is, though the old optimizer goes on.
                params = copies;
                opt = optimizer(&params);
                opt.load_state_dict(&OptimizerState { tensors: state.tensors, scalars })?;
            }
            4 => {
                let held = params[i].1.tensor();
                let values = held.to_vec::<f64>()?;
                old.push((held, values));
            }
            5 | 6 if picked.iter().any(|&i| free(&host, i)) => {
                opt.accumulate(&loss(&params, &picked, x, &device))?;
                for &i in picked.iter().filter(|&&i| !params[i].1.is_frozen()) {
                    host[i].gather(x);
                }
                gathered += 1;
            }
            _ if picked.iter().any(|&i| free(&host, i)) => {
                let loss = loss(&params, &picked, x, &device);
                let outcome = opt.step(&loss)?;
                for &i in picked.iter().filter(|&&i| !params[i].1.is_frozen()) {
                    host[i].gather(x);
                }
                let share = 1.0 / f64::from(gathered + 1);
                let used = host.iter().filter(|h| !h.frozen);
                let norm =
                    used.flat_map(|h| h.sum.iter().flatten()).map(|g| (g * share).powi(2)).sum::<f64>();
                let found = outcome.grad_norm.item()?;
                assert!((found - norm.sqrt()).abs() <= 1e-9 * norm.sqrt().max(1.0), "{seed}: step {step}");
                let scale = share * (5.0 / (norm.sqrt() + 1e-6)).min(1.0);
                for (i, h) in host.iter_mut().enumerate() {
                    h.update(scale, 0.01, if i < 4 { 0.1 } else { 0.0 });
                    h.sum = None;
                }
                assert!(loss.item()?.is_finite(), "the loss stays readable");
                gathered = 0;
            }
            _ => {}
        }
        for (host, (_, param)) in host.iter_mut().zip(&params) {
            host.frozen = param.is_frozen();
        }
        compare(&params, &host, &format!("seed {seed}, step {step}"))?;
    }
    for (tensor, values) in old {
        assert_eq!(tensor.to_vec::<f64>()?, values, "handles that are held keep their elements");
    }
    Ok(())
}

#[test]
fn random_histories_move_every_parameter_as_if_it_were_alone() -> Outcome {
    for seed in 0..12 {
        for limit in [u64::MAX, 4096, 512] {
            random_history(seed, limit)?;
        }
    }
    Ok(())
}

/// A perceptron of two layers; matrices decay, biases do not.
fn perceptron(device: &DeviceHandle) -> Vec<(String, Param)> {
    let make = |name: &str, dims: &[usize]| {
        let count: usize = dims.iter().product();
        let values = (0..count).map(|k| ((k * 7 % 13) as f32 - 6.0) * 0.05).collect();
        (name.to_owned(), Param::new(Tensor::from_vec::<f32>(values, dims, device)))
    };
    vec![make("w1", &[32, 64]), make("w2", &[64, 16]), make("b1", &[64]), make("b2", &[16])]
}

fn perceptron_loss(p: &[(String, Param)], device: &DeviceHandle) -> Tensor {
    let t = |i: usize| p[i].1.tensor();
    let x = Tensor::from_vec((0..8 * 32).map(|k| (k % 11) as f32 * 0.1 - 0.5).collect(), [8, 32], device);
    x.matmul(&t(0)).add(t(2)).relu().matmul(&t(1)).add(t(3)).square().mean_all()
}

fn perceptron_optimizer(p: &[(String, Param)]) -> AdamW {
    let mut opt = AdamW::new(vec![group(&p[..2], 0.1), group(&p[2..], 0.0)], AdamWConfig::default());
    opt.set_clip_grad_norm(Some(1.0));
    opt
}

#[test]
fn a_step_is_one_update_for_each_group_and_two_kernels_for_each_norm() -> Outcome {
    let device: DeviceHandle = Arc::new(CpuDevice::new());
    let params = perceptron(&device);
    let mut opt = perceptron_optimizer(&params);
    for _ in 0..4 {
        opt.step(&perceptron_loss(&params, &device))?;
    }
    let programs = device.cache().executables();
    let step = programs.iter().max_by_key(|e| e.program().flops()).ok_or("no program")?.program();
    // Value and two states of both arenas, and what writes them.
    let flat: Vec<BufferRef> = flat_outputs(step).collect();
    assert_eq!(flat.len(), 6, "{step}");
    let writes = |s: &&Step, to: &[BufferRef]| {
        s.kernel.writes().iter().any(|&a| to.contains(&s.args[a as usize].buffer))
    };
    assert_eq!(step.steps.iter().filter(|s| writes(s, &flat)).count(), 2, "{step}");
    let reductions = |s: &&Step| matches!(&*s.kernel, Kernel::Reduce(_) | Kernel::Row(_));
    // Two for each norm at most; the loss, and the gradients of the biases.
    assert!(step.steps.iter().filter(reductions).count() <= 4 + 3, "{step}");
    // Five products, the work around them, two updates.
    assert!(step.steps.len() <= 16, "{} steps: {step}", step.steps.len());
    Ok(())
}

/// Where the new values and states are.
fn flat_outputs(program: &Program) -> impl Iterator<Item = BufferRef> {
    program.outputs.iter().filter(|o| o.shape.rank() == 1).map(|o| match o.source {
        OutputSource::Result(i) => BufferRef::Output(i),
        OutputSource::Input(i) => BufferRef::Input(i),
    })
}

#[test]
fn updates_are_in_place_unless_somebody_holds_the_old_values() -> Outcome {
    let device: DeviceHandle = Arc::new(CpuDevice::new());
    let params = perceptron(&device);
    let mut opt = perceptron_optimizer(&params);
    for _ in 0..3 {
        opt.step(&perceptron_loss(&params, &device))?;
    }
    let before = device.stats();
    let loss = perceptron_loss(&params, &device);
    opt.step(&loss)?;
    assert_eq!(device.stats().copied_inputs, before.copied_inputs);
    assert!(loss.item()?.is_finite());
    let held = params[0].1.tensor();
    let values = held.to_vec::<f32>()?;
    opt.step(&perceptron_loss(&params, &device))?;
    assert_eq!(held.to_vec::<f32>()?, values, "a handle that is held keeps its elements");
    assert_ne!(params[0].1.tensor().to_vec::<f32>()?, values);
    Ok(())
}

#[test]
fn saving_compiles_nothing_and_what_was_saved_stays() -> Outcome {
    let device: DeviceHandle = Arc::new(CpuDevice::new());
    let params = perceptron(&device);
    let mut opt = perceptron_optimizer(&params);
    assert!(opt.state_dict().tensors.is_empty());
    opt.step(&perceptron_loss(&params, &device))?;
    let misses = device.cache().stats().misses;
    let state = opt.state_dict();
    let read = |state: &OptimizerState| -> Result<Vec<Vec<f32>>, TensorError> {
        state.tensors.iter().map(|(_, t)| t.to_vec::<f32>()).collect()
    };
    let values = read(&state)?;
    for (_, param) in &params {
        param.tensor().to_vec::<f32>()?;
    }
    assert_eq!(device.cache().stats().misses, misses);
    assert_eq!(state.tensors.len(), 8);
    assert!(state.tensors.iter().all(|(name, t)| t.name().as_deref() == Some(name.as_str())));
    opt.step(&perceptron_loss(&params, &device))?;
    assert_eq!(read(&state)?, values);
    assert_ne!(read(&opt.state_dict())?, values);
    Ok(())
}

#[test]
fn a_step_that_fails_changes_nothing() -> Outcome {
    let fragile = support::Fragile::new(u64::MAX);
    let broken = fragile.broken.clone();
    let device: DeviceHandle = Arc::new(fragile);
    let (params, twins) = (perceptron(&device), perceptron(&device));
    let (mut opt, mut twin) = (perceptron_optimizer(&params), perceptron_optimizer(&twins));
    for step in 0..4 {
        broken.store(true, Ordering::Relaxed);
        assert!(matches!(opt.step(&perceptron_loss(&params, &device)), Err(OptimError::Tensor(_))));
        assert!(opt.accumulate(&perceptron_loss(&params, &device)).is_err());
        broken.store(false, Ordering::Relaxed);
        if step == 2 {
            // The arenas cannot be filled anew either.
            params[1].1.set(params[1].1.tensor().detach_realized());
            broken.store(true, Ordering::Relaxed);
            assert!(opt.step(&perceptron_loss(&params, &device)).is_err());
            assert!(opt.load_state_dict(&opt.state_dict()).is_err());
            broken.store(false, Ordering::Relaxed);
        }
        if step == 3 {
            opt.accumulate(&perceptron_loss(&params, &device))?;
            twin.accumulate(&perceptron_loss(&twins, &device))?;
            broken.store(true, Ordering::Relaxed);
            assert!(opt.accumulate(&perceptron_loss(&params, &device)).is_err());
            assert!(opt.step(&perceptron_loss(&params, &device)).is_err());
            broken.store(false, Ordering::Relaxed);
        }
        opt.step(&perceptron_loss(&params, &device))?;
        twin.step(&perceptron_loss(&twins, &device))?;
        for ((_, param), (_, twin)) in params.iter().zip(&twins) {
            assert_eq!(param.tensor().to_vec::<f32>()?, twin.tensor().to_vec::<f32>()?);
        }
        let (state, twin) = (opt.state_dict(), twin.state_dict());
        assert_eq!(state.scalars, twin.scalars);
        for ((name, a), (_, b)) in state.tensors.iter().zip(&twin.tensors) {
            assert_eq!(a.to_vec::<f32>()?, b.to_vec::<f32>()?, "{name}");
        }
    }
    Ok(())
}

#[test]
fn arenas_end_where_the_device_can_bind_no_more() -> Outcome {
    let cpu: DeviceHandle = Arc::new(CpuDevice::new());
    // `w1` has 8 KiB, `w2` 4; the biases fit together.
    for (limit, arenas) in [(u64::MAX, 2), (12 << 10, 2), (11 << 10, 3)] {
        let device: DeviceHandle = Arc::new(support::Fragile::new(limit));
        let params = perceptron(&device);
        let mut opt = perceptron_optimizer(&params);
        opt.step(&perceptron_loss(&params, &device))?;
        let programs = device.cache().executables();
        let step = programs.iter().max_by_key(|e| e.program().flops()).ok_or("no program")?.program();
        assert_eq!(flat_outputs(step).count(), 3 * arenas, "{limit}: {step}");
    }
    // One that is too long for the device is refused by its name.
    let mut caps = cpu.caps().clone();
    caps.max_binding_bytes = 6 << 10;
    let device: DeviceHandle = Arc::new(PlanningDevice::new(cpu.info().clone(), caps));
    let params = perceptron(&device);
    let mut opt = perceptron_optimizer(&params);
    let refused = opt.step(&perceptron_loss(&params, &device));
    let message = refused.map(|_| ()).expect_err("too long").to_string();
    assert!(message.contains("`w1`"), "{message}");
    Ok(())
}

#[test]
fn a_parameter_that_has_changed_its_shape_keeps_no_state() -> Outcome {
    let device: DeviceHandle = Arc::new(CpuDevice::new());
    let params = perceptron(&device);
    let mut opt = perceptron_optimizer(&params);
    params[3].1.set(Tensor::ones([1], DType::F32, &device).detach_realized());
    opt.step(&perceptron_loss(&params, &device))?;
    params[3].1.set(Tensor::ones([16], DType::F32, &device).detach_realized());
    let before = params[0].1.tensor().to_vec::<f32>()?;
    let Err(OptimError::State { problems }) = opt.step(&perceptron_loss(&params, &device)) else {
        return Err("the states do not fit".into());
    };
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(params[0].1.tensor().to_vec::<f32>()?, before);
    Ok(())
}

#[test]
fn a_model_that_moves_to_another_device_takes_its_states_along() -> Outcome {
    let (here, there): (DeviceHandle, DeviceHandle) =
        (Arc::new(CpuDevice::new()), Arc::new(CpuDevice::new()));
    let (params, twins) = (perceptron(&here), perceptron(&here));
    let (mut opt, mut twin) = (perceptron_optimizer(&params), perceptron_optimizer(&twins));
    opt.step(&perceptron_loss(&params, &here))?;
    twin.step(&perceptron_loss(&twins, &here))?;
    for (_, param) in &params {
        param.set(param.tensor().to_device(&there));
    }
    opt.step(&perceptron_loss(&params, &there))?;
    twin.step(&perceptron_loss(&twins, &here))?;
    for ((_, param), (_, twin)) in params.iter().zip(&twins) {
        assert_eq!(param.tensor().device().uid(), there.uid());
        assert_eq!(param.tensor().to_vec::<f32>()?, twin.tensor().to_vec::<f32>()?);
    }
    Ok(())
}
