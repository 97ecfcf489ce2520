//! The GPU runtime against the CPU runtime: every row of the table in `f32`, forward and gradient.
//!
//! Needs an adapter (a software one will do) and fails without; the environment variable `WGRAD_TEST_DEVICES=cpu` leaves these tests out.

mod common;

use common::{assert_close, cpu, leaf, numbers, ops::cases};
use wgrad_runtime::Registry;
use wgrad_tensor::{DType, DeviceHandle, RandomKey, Tensor, grad};

fn gpu() -> Option<DeviceHandle> {
    if std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|d| d == "cpu") {
        eprintln!("left out: WGRAD_TEST_DEVICES=cpu");
        return None;
    }
    let registry = Registry::new(vec![Box::new(wgrad_gpu::GpuBackend::new())]);
    Some(
        registry
            .open("gpu")
            .unwrap_or_else(|e| panic!("{e}; WGRAD_TEST_DEVICES=cpu leaves GPU tests out"))
            .device,
    )
}

/// The value and the gradients of `Σ y w`.
fn run(
    device: &DeviceHandle,
    shapes: &[Vec<usize>],
    domain: (f64, f64),
    build: &dyn Fn(&[Tensor]) -> Tensor,
) -> Result<Vec<Vec<f64>>, wgrad_tensor::TensorError> {
    let xs: Vec<Tensor> = shapes
        .iter()
        .enumerate()
        .map(|(i, s)| leaf::<f32>(&numbers(s.iter().product(), domain, i), s, device))
        .collect();
    let y = build(&xs);
    let w = leaf::<f32>(&numbers(y.elements(), (-1.0, 1.0), 7), y.shape(), device);
    let gradients = grad(&y.mul(&w).sum_all(), &xs.iter().collect::<Vec<_>>())?;
    wgrad_tensor::eval(&gradients.iter().chain([&y]).collect::<Vec<_>>())?;
    [y].iter().chain(&gradients).map(Tensor::to_f64_vec).collect()
}

#[test]
fn every_operation_agrees_between_devices() {
    let Some(gpu) = gpu() else { return };
    let cpu = cpu();
    let mut failures = Vec::new();
    for case in cases() {
        let expected = run(&cpu, &case.shapes, case.domain, &*case.build).expect(case.name);
        match run(&gpu, &case.shapes, case.domain, &*case.build) {
            Ok(got) => {
                for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
                    // Row 0 is the value, the others are gradients.
                    let check = || assert_close(&format!("{} [{i}]", case.name), g, e, 2e-5);
                    if std::panic::catch_unwind(check).is_err() {
                        failures.push(format!("{} [{i}]", case.name));
                    }
                }
            }
            Err(error) => failures.push(format!("{}: {error}", case.name)),
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn integers_and_truth_values_agree_between_devices() {
    let Some(gpu) = gpu() else { return };
    let results = |d: &DeviceHandle| -> Vec<Vec<f64>> {
        let x = Tensor::from_vec(vec![-7i32, -1, 0, 3, 9, i32::MAX], [6], d);
        let y = Tensor::from_vec(vec![2i32, 0, 5, -2, 4, 1], [6], d);
        let u = Tensor::from_vec(vec![0u32, 1, u32::MAX, 7, 8, 9], [6], d);
        let flags = Tensor::from_vec(vec![true, false, true, true, false, false], [6], d);
        let f = Tensor::from_vec(vec![-1.5f32, 0.0, 3e9, 0.5, -3e9, 2.0], [6], d);
        let all = [
            &x + &y,
            &x - &y,
            &x * &y,
            &x / &y,
            x.fmod(&y),
            x.maximum(&y),
            x.abs(),
            -&y,
            &u + &u,
            &u / 2.0,
            u.fmod(4.0),
            u.cast(DType::F32),
            x.cast(DType::U32),
            x.lt(&y),
            u.ge(u.flip(&[0])),
            flags.logical_and(x.gt(&y)),
            flags.logical_or(x.gt(&y)).logical_not(),
            flags.reshape([2, 3]).t().pad(&[(1, 0), (0, 1)], 1.0),
            flags.cast(DType::I32).sum_all(),
            x.amin(&[0], false),
            u.amax(&[0], true),
            f.cast(DType::I32),
            f.cast(DType::U32),
            f.cast(DType::Bool),
            flags.where_(&x, &y),
            Tensor::cat(&[&x, &y.flip(&[0])], 0),
            x.embedding(&Tensor::from_vec(vec![5u32, 0, 3], [3], d)),
            x.scatter_add_rows(3, &Tensor::from_vec(vec![0i32, 1, 2, 2, 1, 0], [6], d)),
        ];
        all.iter().enumerate().map(|(i, t)| t.to_f64_vec().unwrap_or_else(|e| panic!("{i}: {e}"))).collect()
    };
    for (i, (g, c)) in results(&gpu).iter().zip(&results(&cpu())).enumerate() {
        assert_eq!(g, c, "row {i}");
    }
}

#[test]
fn random_elements_agree_between_devices() {
    let Some(gpu) = gpu() else { return };
    let cpu = cpu();
    let key = RandomKey { seed: 0xdead_beef_1234_5678, step: 9, stream: 2 };
    let bits = |d: &DeviceHandle| Tensor::random_bits([5, 13], &key, d).to_vec::<u32>().unwrap();
    assert_eq!(bits(&gpu), bits(&cpu));
    let uniform = |d: &DeviceHandle| {
        let key = RandomKey { stream: 3, ..key };
        Tensor::random_uniform([5, 13], &key, d).t().narrow(0, 2, 9).to_vec::<f32>().unwrap()
    };
    assert_eq!(uniform(&gpu), uniform(&cpu));
    let normal = |d: &DeviceHandle| Tensor::random_normal([999], &key, d).to_f64_vec().unwrap();
    assert_close("normal", &normal(&gpu), &normal(&cpu), 1e-5);
}

#[test]
fn long_shapes_agree_between_devices() {
    let Some(gpu) = gpu() else { return };
    let cpu = cpu();
    type Build = fn(&[Tensor]) -> Tensor;
    let cases: [(&str, Vec<Vec<usize>>, Build); 5] = [
        ("long row", vec![vec![3, 5003]], |x| x[0].softmax(-1)),
        ("long column", vec![vec![5003, 3]], |x| x[0].mean(&[0], false)),
        ("everything", vec![vec![41, 37, 29]], |x| x[0].square().mean_all()),
        ("matmul", vec![vec![67, 129], vec![129, 65]], |x| x[0].matmul(&x[1]) * 0.1),
        ("many elements", vec![vec![70_001]], |x| x[0].gelu()),
    ];
    for (name, shapes, build) in cases {
        let expected = run(&cpu, &shapes, (-1.0, 1.0), &build).expect(name);
        let got = run(&gpu, &shapes, (-1.0, 1.0), &build).expect(name);
        for (g, e) in got.iter().zip(&expected) {
            assert_close(name, g, e, 5e-5);
        }
    }
}

#[test]
fn f64_is_refused_where_a_device_does_not_compute_it() {
    let Some(gpu) = gpu() else { return };
    if !gpu.caps().f64 {
        let x = Tensor::from_vec(vec![1.0f64], [1], &gpu);
        assert!(x.exp().realize().is_err());
        let y = Tensor::from_vec(vec![1.0f32], [1], &gpu).cast(DType::F64);
        assert!(y.realize().unwrap_err().to_string().contains("f64"));
    }
}
