//! Hugging Face's folders: shards, 16-bit weights, tied copies, and everything that does not fit.

use std::{fs, path::Path, sync::Arc};

use wgrad_cpu::CpuDevice;
use wgrad_models::{AutoModelForCausalLM, Gpt2Config, Gpt2Init, Gpt2LMHead};
use wgrad_nn::{Context, Init, Module, safetensors};
use wgrad_tensor::{DType, DeviceHandle, Tensor};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

/// A small model in a folder, and its tensors.
fn folder(dir: &Path, device: &DeviceHandle) -> Outcome<Vec<(String, Tensor)>> {
    let config = Gpt2Config {
        vocab_size: 11,
        n_positions: 8,
        n_embd: 16,
        n_layer: 2,
        n_head: 4,
        ..Gpt2Config::default()
    };
    let model = Gpt2LMHead::new(&config, &Init::new(device, 3), Gpt2Init::default())?;
    model.save_pretrained(dir)?;
    Ok(model.state_dict())
}

fn logits(dir: &Path, device: &DeviceHandle) -> Outcome<Vec<f64>> {
    let model = AutoModelForCausalLM::from_pretrained(dir, device)?;
    let ids = Tensor::from_vec(vec![4i32, 5, 6], [1, 3], device);
    Ok(model.forward(&ids, None, &Context::eval()).to_f64_vec()?)
}

/// Why a folder is refused.
fn refusal(dir: &Path, device: &DeviceHandle) -> String {
    AutoModelForCausalLM::from_pretrained(dir, device).expect_err("the folder does not fit").to_string()
}

fn write(dir: &Path, tensors: &[(String, Tensor)]) -> Outcome {
    Ok(safetensors::save(&dir.join("model.safetensors"), tensors, &[])?)
}

#[test]
fn shards_are_read_as_one_file() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let dir = dir.path();
    let tensors = folder(dir, &device)?;
    let whole = logits(dir, &device)?;
    fs::remove_file(dir.join("model.safetensors"))?;
    let mut map = serde_json::Map::new();
    for (number, part) in tensors.chunks(tensors.len().div_ceil(3)).enumerate() {
        let file = format!("model-{:05}-of-00003.safetensors", number + 1);
        safetensors::save(&dir.join(&file), part, &[])?;
        map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
    }
    let index = dir.join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, serde_json::Value>| {
        let json = serde_json::json!({ "metadata": { "total_size": 0 }, "weight_map": map });
        fs::write(&index, json.to_string())
    };
    write(&map)?;
    assert_eq!(logits(dir, &device)?, whole);

    let mut wrong = map.clone();
    wrong.insert("transformer.ln_f.bias".into(), "model-00001-of-00003.safetensors".into());
    write(&wrong)?;
    let message = refusal(dir, &device);
    assert!(message.contains("`transformer.ln_f.bias` is in model-00003-of-00003"), "{message}");
    let mut more = map.clone();
    more.insert("transformer.h.7".into(), "model-00002-of-00003.safetensors".into());
    write(&more)?;
    let message = refusal(dir, &device);
    assert!(message.contains("`transformer.h.7` should be in model-00002"), "{message}");
    for outside in ["../model.safetensors", "/etc/passwd", "a/b", ""] {
        let mut leads_out = map.clone();
        leads_out.insert("transformer.ln_f.bias".into(), outside.into());
        write(&leads_out)?;
        let message = refusal(dir, &device);
        assert!(message.contains("is not the name of a file in the folder"), "{message}");
    }
    write(&map)?;
    fs::remove_file(dir.join("model-00002-of-00003.safetensors"))?;
    assert!(refusal(dir, &device).contains("model-00002-of-00003.safetensors"));
    Ok(())
}

#[test]
fn weights_of_16_bits_are_widened_or_kept_as_asked() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let dir = dir.path();
    let tensors = folder(dir, &device)?;
    let exact = logits(dir, &device)?;
    for (dtype, rounding) in [(DType::F16, 1e-3), (DType::BF16, 1e-2)] {
        let rounded: Vec<_> = tensors.iter().map(|(name, t)| (name.clone(), t.cast(dtype))).collect();
        write(dir, &rounded)?;
        for (a, b) in exact.iter().zip(logits(dir, &device)?) {
            assert!((a - b).abs() < rounding, "{dtype}: {a} and {b}");
        }
        let wide = Gpt2LMHead::from_pretrained(dir, &device)?;
        assert!(wide.state_dict().iter().all(|(_, t)| t.dtype() == DType::F32));
        let narrow = Gpt2LMHead::from_pretrained_as(dir, &Init::new(&device, 0).with_dtype(dtype))?;
        for ((name, a), (_, b)) in narrow.state_dict().iter().zip(&rounded) {
            assert_eq!(a.dtype(), dtype);
            assert_eq!(a.to_f64_vec()?, b.to_f64_vec()?, "{name}");
        }
    }
    Ok(())
}

#[test]
fn a_tied_head_may_be_in_the_file_or_be_all_there_is() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let dir = dir.path();
    let tensors = folder(dir, &device)?;
    let expected = logits(dir, &device)?;
    let table = tensors[0].1.clone();
    let mut both = tensors.clone();
    both.push(("lm_head.weight".into(), table));
    write(dir, &both)?;
    assert_eq!(logits(dir, &device)?, expected);
    let head_only: Vec<_> = both.into_iter().filter(|(name, _)| name != "transformer.wte.weight").collect();
    write(dir, &head_only)?;
    assert_eq!(logits(dir, &device)?, expected);
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let dir = dir.path();
    let tensors = folder(dir, &device)?;
    let mut wrong: Vec<_> = tensors.clone();
    wrong.retain(|(name, _)| name != "transformer.h.1.mlp.c_fc.bias");
    wrong.push(("transformer.h.2.ln_1.bias".into(), Tensor::zeros([16], DType::F32, &device)));
    for (name, tensor) in &mut wrong {
        if name == "transformer.wpe.weight" {
            *tensor = tensor.narrow(0, 0, 7);
        }
    }
    write(dir, &wrong)?;
    let message = refusal(dir, &device);
    for part in [
        "model.safetensors does not fit",
        "`transformer.h.1.mlp.c_fc.bias` [64] is missing",
        "`transformer.h.2.ln_1.bias` [16] is unexpected",
        "`transformer.wpe.weight` is [7, 16] instead of [8, 16]",
    ] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
    Ok(())
}

#[test]
fn a_weight_that_is_no_number_is_refused_by_name() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let dir = dir.path();
    let mut tensors = folder(dir, &device)?;
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let last = tensors.len() - 1;
        let mut values = vec![0.5f32; 16];
        values[9] = f32::NAN;
        tensors[last].1 = Tensor::from_vec(values, [16], &device).cast(dtype);
        write(dir, &tensors)?;
        let message = refusal(dir, &device);
        assert!(message.contains("element 9 of `transformer.ln_f.bias` is not a number"), "{message}");
    }
    Ok(())
}

#[test]
fn headers_that_lie_about_their_length_are_refused() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let dir = dir.path();
    folder(dir, &device)?;
    let path = dir.join("model.safetensors");
    let good = fs::read(&path)?;
    let length = u64::from_le_bytes(good[..8].try_into()?);
    for lie in [0, 1, length - 1, length + 1, length + 8, good.len() as u64, 1 << 40, u64::MAX] {
        let mut bad = good.clone();
        bad[..8].copy_from_slice(&lie.to_le_bytes());
        fs::write(&path, bad)?;
        let message = refusal(dir, &device);
        assert!(message.contains("model.safetensors is damaged"), "{lie}: {message}");
    }
    for cut in [0, 7, 8, 100, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..cut])?;
        let message = refusal(dir, &device);
        assert!(message.contains("model.safetensors is damaged"), "{cut}: {message}");
    }
    Ok(())
}

#[test]
fn kinds_of_models_that_there_are_not_are_answered_with_those_that_there_are() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let dir = dir.path();
    folder(dir, &device)?;
    for (config, part) in [
        (r#"{"model_type": "gpt5"}"#, "`model_type` is `gpt5`, which is not known; known: gpt2"),
        ("{}", "there is no `model_type`; known: gpt2"),
        (r#"{"model_type": 3}"#, "config.json"),
        ("[", "config.json"),
    ] {
        fs::write(dir.join("config.json"), config)?;
        let message = refusal(dir, &device);
        assert!(message.contains(part), "{message} lacks {part}");
    }
    assert!(refusal(&dir.join("none"), &device).contains("config.json"));
    Ok(())
}
