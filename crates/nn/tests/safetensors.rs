//! Files of tensors: what goes in comes out, and what other programs write is read.

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use wgrad_nn::safetensors::{load, save};
use wgrad_tensor::{DType, DeviceHandle, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    std::sync::Arc::new(wgrad_cpu::CpuDevice::new())
}

#[test]
fn every_dtype_of_files_goes_in_and_out_bit_for_bit() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("tensors.safetensors");
    let d = &device();
    let halves: Vec<u16> = vec![0x3c00, 0x8000, 0x0001, 0x7c00, 0xc123];
    let f16s: Vec<f16> = halves.iter().map(|&b| f16::from_bits(b)).collect();
    let bf16s: Vec<bf16> = halves.iter().map(|&b| bf16::from_bits(b)).collect();
    let tensors = [
        ("a", Tensor::from_vec(f16s.clone(), [5], d)),
        ("b", Tensor::from_vec(bf16s.clone(), [5, 1], d)),
        ("c", Tensor::from_vec(vec![0u8, 7, 255], [3], d)),
        ("d", Tensor::from_vec(vec![1.5f64, -2.5], [2], d)),
    ];
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().map(|(n, t)| (n.to_owned(), t)).collect();
    save(&path, &tensors, &[])?;
    let back = load(&path, d)?;
    for ((name, saved), (same, loaded)) in tensors.iter().zip(&back) {
        assert_eq!((name, saved.dtype(), saved.shape()), (same, loaded.dtype(), loaded.shape()));
    }
    assert_eq!(back[0].1.to_vec::<f16>()?, f16s);
    assert_eq!(back[1].1.to_vec::<bf16>()?, bf16s);
    assert_eq!(back[2].1.to_vec::<u8>()?, [0, 7, 255]);
    Ok(())
}

#[test]
fn integers_of_64_bits_narrow_to_32_or_are_refused_by_name() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("ids.safetensors");
    let write = |values: [i64; 2]| -> Outcome {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::I64, vec![2], &bytes)?;
        std::fs::write(&path, safetensors::serialize([("ids", view)], None)?)?;
        Ok(())
    };
    write([-5, i64::from(i32::MAX)])?;
    let back = load(&path, &device())?;
    assert_eq!((back[0].1.dtype(), back[0].1.to_vec::<i32>()?), (DType::I32, vec![-5, i32::MAX]));
    write([0, 1 << 31])?;
    let error = load(&path, &device()).expect_err("beyond 32 bits").to_string();
    assert!(error.contains("`ids`") && error.contains("32 bits"), "{error}");
    Ok(())
}
