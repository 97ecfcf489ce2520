//! What the integration tests share: devices, numbers, and the table of operations.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod ops;

use wgrad_tensor::{DeviceHandle, Element, Tensor};

/// The native CPU runtime.
pub(crate) fn cpu() -> DeviceHandle {
    std::sync::Arc::new(wgrad_cpu::CpuDevice::new())
}

/// The CPU and a GPU, which the environment variable `WGRAD_TEST_DEVICES=cpu` leaves out.
pub(crate) fn devices() -> Vec<DeviceHandle> {
    if std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|d| d == "cpu") {
        eprintln!("the GPU is left out: WGRAD_TEST_DEVICES=cpu");
        return vec![cpu()];
    }
    let registry = wgrad_runtime::Registry::new(vec![Box::new(wgrad_gpu::GpuBackend::new())]);
    let gpu = registry.open("gpu");
    vec![cpu(), gpu.unwrap_or_else(|e| panic!("{e}; WGRAD_TEST_DEVICES=cpu leaves GPU tests out")).device]
}

/// Deterministic numbers spread over `[low, high]`, no two of them equal.
pub(crate) fn numbers(count: usize, (low, high): (f64, f64), salt: usize) -> Vec<f64> {
    let golden = 0.618_033_988_749_895;
    (0..count).map(|i| low + (high - low) * ((i + 1 + 31 * salt) as f64 * golden).fract()).collect()
}

/// A leaf of such numbers in `f64` or `f32`.
pub(crate) fn leaf<T: Element + FromF64>(values: &[f64], shape: &[usize], device: &DeviceHandle) -> Tensor {
    Tensor::from_vec(values.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>(), shape, device)
}

/// Floats made from `f64`.
pub(crate) trait FromF64 {
    fn from_f64(x: f64) -> Self;
}

impl FromF64 for f64 {
    fn from_f64(x: f64) -> Self {
        x
    }
}

impl FromF64 for half::f16 {
    fn from_f64(x: f64) -> Self {
        half::f16::from_f64(x)
    }
}

impl FromF64 for half::bf16 {
    fn from_f64(x: f64) -> Self {
        half::bf16::from_f64(x)
    }
}

impl FromF64 for f32 {
    fn from_f64(x: f64) -> Self {
        x as f32
    }
}

/// Asserts that two lists agree to `tolerance`, relative to the larger of the expected magnitude and 1.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of elements");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let close = (g - e).abs() <= tolerance * e.abs().max(1.0) || g == e;
        assert!(close, "{what}: element {i} is {g}, expected {e}");
    }
}
