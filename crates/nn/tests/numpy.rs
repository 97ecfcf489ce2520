//! NumPy's files: what goes in comes out, what NumPy writes is read, and what is not an array is refused.

use half::f16;
use wgrad_nn::numpy::{load_npy, load_npz, save_npy, save_npz};
use wgrad_tensor::{DType, DeviceHandle, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn device() -> DeviceHandle {
    std::sync::Arc::new(wgrad_cpu::CpuDevice::new())
}

/// An array in the form that NumPy writes.
fn npy(descr: &str, column_major: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let order = if column_major { "True" } else { "False" };
    let text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
    let text = format!("{text:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.into_bytes());
    bytes.extend(data);
    bytes
}

/// `numpy.savez_compressed(f, w=arange(6, dtype=float16).reshape(2, 3), ids=array([-1, 7]), mask=array(True))`, NumPy 2.4.
const COMPRESSED: &str = "\
    504b03042d000000080000002100ce3c63afffffffffffffffff05001400772e6e7079010010008c00000000000000520000 \
    00000000009bec17ea1b10c9c850c650ad9e925a9c5ca46ea5a06e9366a4aea3a09e965f54529498179f5f94920a12774bcc \
    294e058a17672416a402f91a463a0ac69a3a0ab50a64032e0606061b060706270617065700504b03042d0000000800000021 \
    00c3eefa98ffffffffffffffff070014006964732e6e70790100100090000000000000004a000000000000009bec17ea1b10 \
    c9c850c650ad9e925a9c5ca46ea5a06e9369a1aea3a09e965f54529498179f5f94920a12774bcc294e058a17672416a402f9 \
    1a463a9a3a0ab50a1400aeff50c0ce000100504b03042d000000080000002100822df8d3ffffffffffffffff080014006d61 \
    736b2e6e707901001000810000000000000043000000000000009bec17ea1b10c9c850c650ad9e925a9c5ca46ea5a05e9364 \
    a8aea3a09e965f54529498179f5f94920a12774bcc294e058a17672416a402f91a9a3a0ab50a14012e4600504b01022d032d \
    000000080000002100ce3c63af520000008c000000050000000000000000000000800100000000772e6e7079504b01022d03 \
    2d000000080000002100c3eefa984a000000900000000700000000000000000000008001890000006964732e6e7079504b01 \
    022d032d000000080000002100822df8d3430000008100000008000000000000000000000080010c0100006d61736b2e6e70 \
    79504b050600000000030003009e000000890100000000";

fn compressed() -> Vec<u8> {
    let digits: Vec<u32> = COMPRESSED.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

#[test]
fn every_dtype_goes_in_and_out_bit_for_bit() -> Outcome {
    let folder = tempfile::tempdir()?;
    let d = &device();
    let f16s = vec![f16::from_bits(0x3c00), f16::from_bits(0x8000), f16::from_bits(1)];
    let tensors = [
        ("a", Tensor::from_vec(f16s, [3], d)),
        ("b", Tensor::from_vec(vec![1.5f64, -2.5], [2, 1], d)),
        ("c", Tensor::from_vec(vec![1.5f32], [0; 0], d)),
        ("d", Tensor::from_vec(vec![i32::MIN, 7, -1, 0, 1, 2], [1, 2, 3], d)),
        ("e", Tensor::from_vec(vec![u32::MAX, 7], [2], d)),
        ("f", Tensor::from_vec(vec![255u8, 7], [2], d)),
        ("g", Tensor::from_vec(vec![true, false], [2], d)),
        ("h/i", Tensor::zeros([0, 4], DType::F32, d)),
    ];
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().map(|(n, t)| (n.to_owned(), t)).collect();
    let archive = folder.path().join("all.npz");
    save_npz(&archive, &tensors)?;
    let members = load_npz(&archive, d)?;
    for ((name, saved), (same, member)) in tensors.iter().zip(&members) {
        let path = folder.path().join("one.npy");
        save_npy(&path, saved)?;
        for loaded in [load_npy(&path, d)?, member.clone()] {
            assert_eq!((name, saved.dtype(), saved.shape()), (same, loaded.dtype(), loaded.shape()));
            assert_eq!(saved.to_f64_vec()?, loaded.to_f64_vec()?);
        }
    }
    Ok(())
}

#[test]
fn what_numpy_compresses_is_read() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("compressed.npz");
    std::fs::write(&path, compressed())?;
    let arrays = load_npz(&path, &device())?;
    let names: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ids", "mask", "w"]);
    assert_eq!(arrays[0].1.to_vec::<i32>()?, [-1, 7]);
    assert_eq!((arrays[1].1.shape().rank(), arrays[1].1.to_vec::<bool>()?), (0, vec![true]));
    assert_eq!((arrays[2].1.dtype(), arrays[2].1.shape().dims()), (DType::F16, &[2, 3][..]));
    assert_eq!(arrays[2].1.to_f64_vec()?, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    Ok(())
}

#[test]
fn other_byte_orders_and_layouts_are_put_in_order() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("array.npy");
    let load = |bytes: Vec<u8>| {
        std::fs::write(&path, bytes)?;
        load_npy(&path, &device()).map_err(Box::<dyn std::error::Error>::from)
    };
    // numpy.asfortranarray(numpy.array([[1, 2, 3], [4, 5, 6]], ">i2"))
    let turned = load(npy(">i2", true, "(2, 3)", b"\x00\x01\x00\x04\x00\x02\x00\x05\x00\x03\x00\x06"))?;
    assert_eq!((turned.shape().dims(), turned.to_vec::<i32>()?), (&[2, 3][..], vec![1, 2, 3, 4, 5, 6]));
    let numbers: Vec<u8> = [1.5f64, -0.25].iter().flat_map(|x| x.to_be_bytes()).collect();
    assert_eq!(load(npy(">f8", false, "(2,)", &numbers))?.to_vec::<f64>()?, [1.5, -0.25]);
    assert_eq!(load(npy("|i1", false, "(2,)", &[255, 3]))?.to_vec::<i32>()?, [-1, 3]);
    assert_eq!(load(npy("<u2", true, "(1,)", &[255, 255]))?.to_vec::<i32>()?, [65535]);
    assert_eq!(
        load(npy("<u8", false, "()", &u64::from(u32::MAX).to_le_bytes()))?.to_vec::<u32>()?,
        [u32::MAX]
    );
    Ok(())
}

#[test]
fn values_that_wgrad_does_not_have_are_refused() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("array.npy");
    let refused = |bytes: Vec<u8>, why: &str| -> Outcome {
        std::fs::write(&path, bytes)?;
        let error = load_npy(&path, &device()).expect_err(why).to_string();
        assert!(error.contains(why) && error.contains("array.npy"), "{error}");
        Ok(())
    };
    refused(npy("<i8", false, "(1,)", &(1i64 << 31).to_le_bytes()), "32 bits")?;
    refused(npy("<u8", false, "(1,)", &u64::MAX.to_le_bytes()), "32 bits")?;
    refused(npy("<c8", false, "(1,)", &[0; 8]), "`c8`")?;
    refused(npy("|O", false, "(1,)", &[0; 8]), "`O`")?;
    refused(npy("|V2", false, "(1,)", &[0; 2]), "`V2`")?;
    let half = Tensor::zeros([2], DType::BF16, &device());
    assert!(save_npy(&path, &half).expect_err("bf16").to_string().contains("f32"));
    assert!(save_npz(&path, &[("x".into(), half)]).is_err());
    Ok(())
}

#[test]
fn files_that_lie_are_refused_before_memory_is_taken_for_them() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("array.npy");
    let d = &device();
    let whole = npy("<f4", false, "(2,)", &[0; 8]);
    let mut wrong: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
    wrong.push(npy("<f4", false, "(2,)", &[0; 9]));
    wrong.push(npy("<f8", false, "(4611686018427387904, 4)", &[]));
    wrong.push(npy("<f8", false, "(0, 4611686018427387904, 4)", &[]));
    wrong.push(npy("<f4", false, "(1000000000000,)", &[0; 8]));
    let mut endless = whole.clone();
    endless[6] = 2;
    endless[8..12].copy_from_slice(&[255; 4]);
    wrong.push(endless);
    for bytes in wrong {
        std::fs::write(&path, &bytes)?;
        assert!(load_npy(&path, d).is_err(), "{}", String::from_utf8_lossy(&bytes));
    }
    Ok(())
}

#[test]
fn damaged_archives_are_refused() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("arrays.npz");
    let (d, good) = (&device(), compressed());
    for len in (0..good.len()).step_by(7) {
        std::fs::write(&path, &good[..len])?;
        assert!(load_npz(&path, d).is_err(), "{len} bytes");
    }
    // Any byte may be another one: an error or some arrays, but no panic.
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x5a;
        std::fs::write(&path, &bytes)?;
        let _ = load_npz(&path, d);
    }
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&path)?);
    archive.start_file("notes.txt", zip::write::SimpleFileOptions::default())?;
    archive.finish()?;
    assert!(load_npz(&path, d).expect_err("a text").to_string().contains("`notes.txt`"));
    Ok(())
}

#[test]
fn one_name_is_that_of_one_array() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("arrays.npz");
    let x = Tensor::zeros([1], DType::F32, &device());
    assert!(save_npz(&path, &[("x".into(), x.clone()), ("x".into(), x)]).is_err());
    assert!(!path.exists());
}
