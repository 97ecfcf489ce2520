//! Names, counts, freezing, saving and loading of modules.

use std::{fs, sync::Arc};

use wgrad_cpu::CpuDevice;
use wgrad_nn::{
    CausalSelfAttention, Conv1D, Embedding, Init, Initializer, LayerNorm, Linear, Module, NnError, Param,
};
use wgrad_tensor::{DeviceHandle, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    std::sync::Arc::new(CpuDevice::new())
}

#[derive(Module)]
struct Net {
    wte: Embedding,
    h: Vec<Layer>,
    #[module(rename = "final.norm")]
    norm: LayerNorm,
    #[module(rename = "")]
    inside: Inside,
    head: Option<Linear>,
    absent: Option<Linear>,
    r#type: Box<Param>,
    scale: f64,
    name: String,
    #[module(skip)]
    sizes: (usize, usize),
}

#[derive(Module)]
struct Layer(Conv1D, Arc<Linear>);

#[derive(Module)]
struct Inside {
    extra: Param,
}

#[derive(Module)]
struct Pair<A: Module, B>
where
    B: Module,
{
    left: A,
    right: B,
}

#[derive(Module)]
struct Nothing;

fn net(device: &DeviceHandle, seed: u64) -> Net {
    let init = Init::new(device, seed);
    let wte = Embedding::new(&init, 7, 4);
    let layer = || {
        Layer(
            Conv1D::new(&init, 4, 4, Initializer::Normal { std: 0.5 }),
            Arc::new(Linear::new(&init, 4, 4, false)),
        )
    };
    Net {
        h: vec![layer(), layer()],
        norm: LayerNorm::new(&init, 4, 1e-5),
        inside: Inside { extra: init.param([2], Initializer::Ones) },
        head: Some(Linear::of(wte.weight.clone(), None)),
        absent: None,
        r#type: Box::new(init.param([1], Initializer::Constant(0.25))),
        scale: 2.0,
        name: "net".into(),
        sizes: (1, 2),
        wte,
    }
}

fn names(module: &impl Module) -> Vec<String> {
    module.named_parameters().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn names_are_the_paths_of_fields_and_tied_parameters_appear_once() {
    let net = net(&device(), 0);
    assert_eq!(
        names(&net),
        [
            "wte.weight",
            "h.0.0.weight",
            "h.0.0.bias",
            "h.0.1.weight",
            "h.1.0.weight",
            "h.1.0.bias",
            "h.1.1.weight",
            "final.norm.weight",
            "final.norm.bias",
            "extra",
            "type"
        ]
    );
    assert_eq!(net.num_parameters(), 28 + 2 * (16 + 4 + 16) + 4 + 4 + 2 + 1);
    assert_eq!((net.scale, net.name.as_str(), net.sizes), (2.0, "net", (1, 2)));
}

#[test]
fn generic_and_empty_structs_are_modules_too() {
    let init = Init::new(&device(), 0);
    let pair = Pair { left: Linear::new(&init, 2, 3, true), right: vec![init.param([1], Initializer::Ones)] };
    assert_eq!(names(&pair), ["left.weight", "left.bias", "right.0"]);
    assert!(names(&Nothing).is_empty());
}

#[test]
fn freezing_picks_parameters_by_pattern() {
    let net = net(&device(), 0);
    assert_eq!(net.freeze("h.*.weight"), 4);
    let frozen: Vec<String> =
        net.named_parameters().into_iter().filter(|(_, p)| p.is_frozen()).map(|(name, _)| name).collect();
    assert_eq!(frozen, ["h.0.0.weight", "h.0.1.weight", "h.1.0.weight", "h.1.1.weight"]);
    assert_eq!(net.unfreeze("h.1.*"), 3);
    assert_eq!(net.named_parameters().iter().filter(|(_, p)| p.is_frozen()).count(), 2);
    assert_eq!(net.freeze("nothing.*"), 0);
}

fn values(module: &impl Module) -> Result<Vec<(String, Vec<f32>)>, wgrad_tensor::TensorError> {
    module.state_dict().into_iter().map(|(name, tensor)| Ok((name, tensor.to_vec()?))).collect()
}

#[test]
fn what_is_saved_loads_into_another_model_bit_for_bit() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let path = dir.path().join("model.safetensors");
    let (a, b) = (net(&device, 1), net(&device, 2));
    assert_ne!(values(&a)?, values(&b)?);
    a.save_safetensors(&path)?;
    b.load_safetensors(&path, true)?;
    assert_eq!(values(&a)?, values(&b)?);
    assert_eq!(fs::read_dir(dir.path())?.count(), 1, "no temporary file is left");
    // Tied weights stay tied.
    let head = b.head.as_ref().ok_or("there is a head")?;
    assert!(head.weight.is_same(&b.wte.weight));
    Ok(())
}

#[test]
fn loading_lists_all_that_does_not_fit_and_changes_nothing() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let path = dir.path().join("model.safetensors");
    let small = net(&device, 3);
    small.norm.weight.set(Tensor::zeros([9], wgrad_tensor::DType::F32, &device));
    small.inside.extra.set(Tensor::from_vec(vec![1i32, 2], [2], &device));
    let mut tensors = small.state_dict();
    tensors.retain(|(name, _)| name != "type");
    tensors.push(("stranger".into(), Tensor::zeros([3], wgrad_tensor::DType::F32, &device)));
    wgrad_nn::safetensors::save(&path, &tensors, &[])?;

    let target = net(&device, 4);
    let before = values(&target)?;
    let error = target.load_safetensors(&path, true).expect_err("the file does not fit");
    let NnError::Mismatch { problems, .. } = &error else { return Err(error.into()) };
    assert_eq!(problems.len(), 4, "{problems:?}");
    let message = error.to_string();
    for part in [
        "model.safetensors",
        "`final.norm.weight` is [9] instead of [4]",
        "`extra` is i32 instead of f32",
        "`type` [1] is missing",
        "`stranger` [3] is unexpected",
    ] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
    assert_eq!(values(&target)?, before);
    // Without strictness only shapes and dtypes matter.
    let loose: Vec<_> =
        tensors.into_iter().filter(|(n, _)| n != "final.norm.weight" && n != "extra").collect();
    target.load_state_dict(&loose, false)?;
    assert_eq!(target.wte.weight.tensor().to_vec::<f32>()?, small.wte.weight.tensor().to_vec::<f32>()?);
    Ok(())
}

#[test]
fn damaged_files_are_refused_without_a_panic() -> Outcome {
    let (device, dir) = (device(), tempfile::tempdir()?);
    let path = dir.path().join("model.safetensors");
    let net = net(&device, 5);
    net.save_safetensors(&path)?;
    let good = fs::read(&path)?;
    let before = values(&net)?;

    for length in (0..good.len()).step_by(7) {
        fs::write(&path, &good[..length])?;
        let error = net.load_safetensors(&path, true).expect_err("a cut file is refused");
        assert!(matches!(error, NnError::Damaged { .. }), "{error}");
    }
    // Every byte of the header changed; some changes are harmless (a space more), none may panic.
    let header = 8 + u64::from_le_bytes(good[..8].try_into()?) as usize;
    for at in 0..header {
        for change in [0xff, 0x01] {
            let mut bad = good.clone();
            bad[at] ^= change;
            fs::write(&path, &bad)?;
            let _ = net.load_safetensors(&path, true);
        }
    }
    let huge = br#"{"w":{"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,16]}}"#;
    let mut file = (huge.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(huge);
    file.extend_from_slice(&[0; 16]);
    fs::write(&path, &file)?;
    assert!(net.load_safetensors(&path, false).is_err());
    fs::write(&path, &good)?;
    net.load_safetensors(&path, true)?;
    assert_eq!(values(&net)?, before);
    assert!(net.load_safetensors(&dir.path().join("none"), true).is_err());
    Ok(())
}

#[test]
fn initial_values_depend_on_seed_and_order_only() -> Outcome {
    let (a, b) = (net(&device(), 11), net(&device(), 11));
    assert_eq!(values(&a)?, values(&b)?);
    let init = Init::new(&device(), 1);
    let attention = CausalSelfAttention::new(&init, 8, 2, 0.0);
    assert_eq!(names(&attention), ["c_attn.weight", "c_attn.bias", "c_proj.weight", "c_proj.bias"]);
    Ok(())
}
