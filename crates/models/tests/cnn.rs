//! The convolutional network: shapes, names, folders.

use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_models::{Cnn, CnnConfig};
use wgrad_nn::{Context, Init, Module};
use wgrad_tensor::{DType, DeviceHandle, Tensor};

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

fn small() -> CnnConfig {
    CnnConfig {
        image_size: [8, 9],
        num_channels: 2,
        num_labels: 3,
        channels: vec![4, 5],
        depth: 2,
        hidden_size: Some(6),
        ..CnnConfig::default()
    }
}

#[test]
fn parameters_are_named_and_counted() {
    let model = Cnn::new(&small(), &Init::new(&device(), 1)).expect("a model");
    assert_eq!(model.num_parameters(), small().parameters());
    let names: Vec<String> = model.named_tensors().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names[..2], ["blocks.0.layers.0.conv.weight", "blocks.0.layers.0.norm.weight"]);
    for name in ["blocks.1.layers.1.norm.running_var", "fc.weight", "classifier.bias"] {
        assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
    }
    assert_eq!(CnnConfig::default().parameters(), 9 * 32 + 2 * 32 + 9 * 32 * 64 + 2 * 64 + 64 * 49 * 10 + 10);
}

#[test]
fn a_folder_holds_the_model_with_the_statistics_of_its_norms() {
    let device = device();
    let model = Cnn::new(&small(), &Init::new(&device, 1)).expect("a model");
    let values: Vec<f32> = (0..3 * 2 * 72).map(|i| ((i * 37 % 101) as f32) / 50.0).collect();
    let x = Tensor::from_vec(values, [3, 2, 8, 9], &device);
    let trained = model.forward(&x, &Context::train(0, 0));
    assert_eq!(trained.shape().dims(), [3, 3]);
    trained.to_vec::<f32>().expect("computed");
    let expected = model.forward(&x, &Context::eval()).to_vec::<f32>().expect("computed");

    let dir = tempfile::tempdir().expect("a temporary folder");
    model.save_pretrained(dir.path()).expect("saved");
    let loaded = Cnn::from_pretrained(dir.path(), &device).expect("loaded");
    assert_eq!(loaded.forward(&x, &Context::eval()).to_vec::<f32>().expect("computed"), expected);
    let mean = loaded.blocks[0].layers[0].norm.running_mean.as_ref().expect("statistics");
    assert!(mean.tensor().to_vec::<f32>().expect("a mean").iter().any(|&m| m != 0.0));
}

#[test]
fn what_cannot_be_is_refused_by_key() {
    for (config, message) in [
        (CnnConfig { channels: vec![], ..small() }, "`channels` is empty"),
        (CnnConfig { channels: vec![4, 0], ..small() }, "`channels` is 0"),
        (CnnConfig { channels: vec![4; 4], ..small() }, "4 blocks halve images of 8 x 9 away"),
        (CnnConfig { channels: vec![4; 200], ..small() }, "200 blocks halve"),
        (CnnConfig { kernel_size: 4, ..small() }, "`kernel_size` is 4, expected an odd number"),
        (CnnConfig { depth: 0, ..small() }, "`depth` is 0"),
        (CnnConfig { classifier_dropout: f64::NAN, ..small() }, "`classifier_dropout`"),
        (CnnConfig { model_type: "resnet".into(), ..small() }, "`model_type` is `resnet`"),
    ] {
        let error = Cnn::new(&config, &Init::new(&device(), 1)).expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    let model = Cnn::new(&small(), &Init::new(&device(), 1)).expect("a model");
    let wrong = Tensor::zeros([3, 2, 9, 9], DType::F32, &device());
    let error =
        model.forward(&wrong, &Context::eval()).to_vec::<f32>().expect_err("another size").to_string();
    assert!(error.contains("expects images [n, 2, 8, 9]"), "{error}");
}
