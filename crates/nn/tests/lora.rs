//! Low-rank adapters: they begin as nothing, alone are trained, become part of the weights, and go in and out of files.

use std::{fs, sync::Arc};

use wgrad_cpu::CpuDevice;
use wgrad_nn::{
    Context, Init, Linear, Module,
    lora::{LoraConfig, add_lora, draw_lora_dropout, load_lora, merge_lora, save_lora},
    safetensors,
};
use wgrad_tensor::{DeviceHandle, Tensor, grad};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[derive(Module)]
struct Net {
    q_proj: Linear,
    k_proj: Linear,
    layers: Vec<Linear>,
}

impl Net {
    fn new(device: &DeviceHandle, seed: u64) -> Self {
        let init = Init::new(device, seed);
        let linear = || Linear::new(&init, 6, 6, true);
        Net { q_proj: linear(), k_proj: linear(), layers: vec![linear(), linear()] }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let x = self.q_proj.forward(x).add(self.k_proj.forward(x)).tanh();
        self.layers.iter().fold(x, |x, layer| layer.forward(&x).tanh())
    }
}

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

fn config() -> LoraConfig {
    let target_modules = vec!["q_proj".into(), "layers.1".into()];
    LoraConfig { r: 2, lora_alpha: 6.0, target_modules, ..LoraConfig::default() }
}

fn input(device: &DeviceHandle) -> Tensor {
    Tensor::from_vec((0..18).map(|i| (i as f32 * 0.7).sin()).collect(), [3, 6], device)
}

/// Descends the squares of the output along every parameter that is not frozen.
fn train(net: &Net, device: &DeviceHandle) -> Outcome {
    for _ in 0..5 {
        let free: Vec<_> = net.named_parameters().into_iter().filter(|(_, p)| !p.is_frozen()).collect();
        let values: Vec<Tensor> = free.iter().map(|(_, p)| p.tensor()).collect();
        let loss = net.forward(&input(device)).square().sum_all();
        for ((_, param), gradient) in free.iter().zip(grad(&loss, &values.iter().collect::<Vec<_>>())?) {
            param.set(param.tensor().sub(gradient.mul(0.1)).detach_realized());
        }
    }
    Ok(())
}

#[test]
fn adapters_begin_as_nothing_are_trained_alone_and_become_part_of_the_weights() -> Outcome {
    let device = device();
    let net = Net::new(&device, 3);
    let before = net.forward(&input(&device)).to_vec::<f32>()?;
    let weights: Vec<Vec<f32>> =
        net.state_dict().iter().map(|(_, t)| t.to_vec()).collect::<Result<_, _>>()?;
    assert_eq!(add_lora(&net, &config(), &Init::new(&device, 4))?, 2);
    assert_eq!(net.forward(&input(&device)).to_vec::<f32>()?, before);
    let free: Vec<String> =
        net.named_parameters().into_iter().filter(|(_, p)| !p.is_frozen()).map(|(name, _)| name).collect();
    assert_eq!(
        free,
        ["q_proj.lora_A.weight", "q_proj.lora_B.weight", "layers.1.lora_A.weight", "layers.1.lora_B.weight"]
    );
    train(&net, &device)?;
    let after = net.forward(&input(&device)).to_vec::<f32>()?;
    assert!(before.iter().zip(&after).any(|(a, b)| (a - b).abs() > 1e-3));
    let kept: Vec<_> = net.state_dict().into_iter().filter(|(name, _)| !name.contains("lora_")).collect();
    for ((name, now), then) in kept.iter().zip(&weights) {
        assert_eq!(&now.to_vec::<f32>()?, then, "{name}");
    }
    assert_eq!(merge_lora(&net)?, 2);
    for (a, b) in net.forward(&input(&device)).to_vec::<f32>()?.iter().zip(&after) {
        assert!((a - b).abs() < 1e-6, "{a} and {b}");
    }
    assert_eq!(net.named_parameters().len(), 8);
    assert!(net.named_parameters().iter().all(|(_, p)| !p.is_frozen()));
    Ok(())
}

#[test]
fn adapters_go_in_and_out_as_peft_names_them() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let net = Net::new(&device, 3);
    assert!(save_lora(&net, &config(), dir.path()).is_err());
    add_lora(&net, &config(), &Init::new(&device, 4))?;
    train(&net, &device)?;
    save_lora(&net, &config(), dir.path())?;
    let names: Vec<String> = safetensors::load(&dir.path().join("adapter_model.safetensors"), &device)?
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names[0], "base_model.model.layers.1.lora_A.weight");
    assert_eq!(names.len(), 4);
    let json: serde_json::Value = serde_json::from_slice(&fs::read(dir.path().join("adapter_config.json"))?)?;
    assert_eq!((json["peft_type"].as_str(), json["r"].as_u64()), (Some("LORA"), Some(2)));
    let other = Net::new(&device, 3);
    assert_eq!(load_lora(&other, dir.path(), &Init::new(&device, 9))?, config());
    let both = [&net, &other].map(|net| net.forward(&input(&device)).to_vec::<f32>());
    let [a, b] = both;
    assert_eq!(a?, b?);
    Ok(())
}

#[test]
fn what_cannot_be_adapted_is_refused_and_changes_nothing() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let net = Net::new(&device, 3);
    let init = Init::new(&device, 4);
    for (bad, part) in [
        (LoraConfig { r: 0, ..config() }, "rank `r` is 0"),
        (LoraConfig { lora_dropout: 1.0, ..config() }, "`lora_dropout` is 1"),
        (LoraConfig { bias: "all".into(), ..config() }, "`bias` is `all`"),
        (LoraConfig { target_modules: vec!["proj".into()], ..config() }, "q_proj"),
    ] {
        let error = add_lora(&net, &bad, &init).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    add_lora(&net, &config(), &init)?;
    save_lora(&net, &LoraConfig { r: 3, ..config() }, dir.path())?;
    let other = Net::new(&device, 3);
    let error = load_lora(&other, dir.path(), &init).unwrap_err().to_string();
    assert!(error.contains("lora_A.weight` is [2, 6] instead of [3, 6]"), "{error}");
    assert_eq!(other.named_parameters().len(), 8);
    assert!(other.named_parameters().iter().all(|(_, p)| !p.is_frozen()));
    Ok(())
}

#[test]
fn an_adapter_s_dropout_is_drawn_for_each_pass_and_is_off_in_evaluation() -> Outcome {
    let device = device();
    let net = Net::new(&device, 3);
    let target_modules = vec!["*layers.*".into()];
    let config = LoraConfig { r: 2, lora_dropout: 0.5, target_modules, ..LoraConfig::default() };
    let config = config.expanded(&net);
    assert_eq!(config.target_modules, ["layers.0", "layers.1"]);
    assert_eq!(add_lora(&net, &config, &Init::new(&device, 4))?, 2);
    for (name, param) in net.named_parameters() {
        if name.ends_with("lora_B.weight") {
            param.set(Tensor::from_vec(vec![0.5f32; 12], [6, 2], &device));
        }
    }
    let pass = |ctx: Context| {
        draw_lora_dropout(&net, &ctx);
        net.forward(&input(&device)).to_vec::<f32>()
    };
    let plain = pass(Context::eval())?;
    let (one, again, other) =
        (pass(Context::train(1, 1))?, pass(Context::train(1, 1))?, pass(Context::train(1, 2))?);
    assert!(one == again && one != other && one != plain);
    assert_eq!(pass(Context::eval())?, plain);
    // On average nothing changes where the layer itself is linear.
    let x = input(&device);
    let layer = &net.layers[0];
    let expected = layer.forward(&x).to_vec::<f32>()?;
    let mut mean = vec![0.0; expected.len()];
    for step in 0..2000 {
        draw_lora_dropout(&net, &Context::train(5, step));
        for (mean, y) in mean.iter_mut().zip(layer.forward(&x).to_vec::<f32>()?) {
            *mean += y / 2000.0;
        }
    }
    for (mean, expected) in mean.iter().zip(&expected) {
        assert!((mean - expected).abs() < 0.05, "{mean} and {expected}");
    }
    Ok(())
}
