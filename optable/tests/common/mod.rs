//! What the tests of the table share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use wgrad::prelude::*;
use wgrad_optable::{Call, Layout, Row, Sample};

pub(crate) fn cpu() -> DeviceHandle {
    wgrad::devices().open("cpu").expect("the CPU runtime").device
}

/// A device of Vulkan, Metal or DX12; `None` where WGRAD_TEST_DEVICES=cpu leaves these tests out.
pub(crate) fn gpu() -> Option<DeviceHandle> {
    if std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|d| d == "cpu") {
        eprintln!("left out: WGRAD_TEST_DEVICES=cpu");
        return None;
    }
    let opened = wgrad::devices().open("gpu");
    Some(opened.unwrap_or_else(|e| panic!("{e}; WGRAD_TEST_DEVICES=cpu leaves GPU tests out")).device)
}

/// Results of a trial: outputs, then gradients of `Σ w y` with arbitrary weights `w`.
pub(crate) struct Trial {
    pub(crate) outputs: Vec<Tensor>,
    pub(crate) loss: Option<Tensor>,
    pub(crate) wrt: Vec<(usize, Tensor)>,
}

impl Trial {
    /// Builds a trial; nothing is computed yet.
    pub(crate) fn new(
        row: &Row,
        sample: &Sample,
        inputs: Vec<(String, Tensor)>,
        device: &DeviceHandle,
    ) -> Self {
        let call = Call::new(sample.attrs.clone(), inputs.clone(), device);
        let outputs = row.run(&call);
        assert_eq!(call.fault(), None, "{}", row.name);
        let mut loss: Option<Tensor> = None;
        for (i, output) in outputs.iter().enumerate().filter(|(_, y)| y.dtype().is_float()) {
            let weights: Vec<f32> =
                (0..output.elements()).map(|n| ((n * 7 + i * 3) % 11) as f32 / 5.0 - 0.93).collect();
            let weights = Tensor::from_vec(weights, output.shape(), device).cast(output.dtype());
            let part = output.mul(&weights).sum_all();
            loss = Some(loss.map_or_else(|| part.clone(), |sum| sum.add(&part)));
        }
        let wanted = |(i, (_, x)): (usize, (String, Tensor))| {
            let wanted = row.no_gradient.is_none() && sample.inputs[i].gradient && x.dtype().is_float();
            wanted.then_some((i, x))
        };
        let wrt = inputs.into_iter().enumerate().filter_map(wanted).collect();
        Trial { outputs, loss, wrt }
    }

    /// Everything as numbers.
    pub(crate) fn numbers(&self) -> Result<Vec<(String, Vec<f64>)>, TensorError> {
        let mut all: Vec<(String, Tensor)> =
            self.outputs.iter().enumerate().map(|(i, y)| (format!("output {i}"), y.clone())).collect();
        for ((i, _), gradient) in self.wrt.iter().zip(self.gradients()?) {
            all.push((format!("gradient of input {i}"), gradient));
        }
        eval(&all.iter().map(|(_, t)| t).collect::<Vec<_>>())?;
        all.into_iter().map(|(name, t)| Ok((name, t.to_f64_vec()?))).collect()
    }

    /// Gradients of the loss with respect to the inputs that have one.
    pub(crate) fn gradients(&self) -> Result<Vec<Tensor>, TensorError> {
        match &self.loss {
            Some(loss) if !self.wrt.is_empty() => {
                grad(loss, &self.wrt.iter().map(|(_, x)| x).collect::<Vec<_>>())
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// A trial's results as numbers.
pub(crate) fn run(
    row: &Row,
    sample: &Sample,
    device: &DeviceHandle,
    dtype: DType,
    layout: Layout,
) -> Result<Vec<(String, Vec<f64>)>, TensorError> {
    Trial::new(row, sample, sample.tensors(device, dtype, layout), device).numbers()
}

/// What two runs of a trial disagree in, beyond `tolerance` relative to the largest expected magnitude and 1.
pub(crate) fn differences(
    got: &[(String, Vec<f64>)],
    expected: &[(String, Vec<f64>)],
    tolerance: f64,
) -> Vec<String> {
    assert_eq!(got.len(), expected.len());
    let mut found = Vec::new();
    for ((name, g), (_, e)) in got.iter().zip(expected) {
        if g.len() != e.len() {
            found.push(format!("{name}: {} elements, expected {}", g.len(), e.len()));
            continue;
        }
        let scale = e.iter().filter(|x| x.is_finite()).fold(1.0f64, |s, x| s.max(x.abs()));
        for (i, (g, e)) in g.iter().zip(e).enumerate() {
            // NaN is near nothing but NaN.
            let near = g == e || g.is_nan() && e.is_nan() || (g - e).abs() <= tolerance * scale;
            if !near {
                found.push(format!("{name}: element {i} is {g}, expected {e}"));
                break;
            }
        }
    }
    found
}
