//! Every row of floats in f16 and bf16 on both devices, against f32 on the same rounded inputs.
//!
//! Needs an adapter (a software one will do) and fails without; the environment variable `WGRAD_TEST_DEVICES=cpu` leaves it out.

mod common;

use common::{Trial, cpu, differences, gpu, run};
use wgrad::prelude::*;
use wgrad_optable::{Dtypes, Layout, Row, Sample, table};

/// Gradients pass through several operations, each of which rounds.
const OF_GRADIENTS: f64 = 3.0;

/// In f32, of inputs that `half` holds exactly.
fn expected(
    row: &Row,
    sample: &Sample,
    device: &DeviceHandle,
    half: DType,
) -> Result<Vec<(String, Vec<f64>)>, TensorError> {
    let rounded = sample.tensors(device, half, Layout::Contiguous);
    let elements = rounded.iter().map(|(_, t)| t.to_f64_vec()).collect::<Result<Vec<_>, _>>()?;
    let inputs = sample.tensors_of(&elements, device, DType::F32, Layout::Contiguous);
    Trial::new(row, sample, inputs, device).numbers()
}

fn check(half: DType, unit: f64) {
    let (host, mut devices) = (cpu(), vec![cpu()]);
    devices.extend(gpu());
    let (mut failures, mut tried) = (Vec::new(), 0);
    for row in table().iter().filter(|row| !matches!(row.dtypes, Dtypes::Ints | Dtypes::Bools)) {
        for (n, sample) in row.samples.iter().enumerate() {
            let expected = expected(row, sample, &host, half).unwrap_or_else(|e| panic!("{}: {e}", row.name));
            for device in &devices {
                if device.info().id != "cpu" && row.cpu_only.is_some() {
                    continue;
                }
                let at = format!("{} on sample {n}, {}", row.name, device.info().id);
                // Every other element, or pairs that share no word.
                let layout = [Layout::Contiguous, Layout::Strided][n % 2];
                match run(row, sample, device, half, layout) {
                    Ok(got) => {
                        let (y, dx): (Vec<usize>, Vec<usize>) =
                            (0..got.len()).partition(|&i| got[i].0.starts_with("output"));
                        for (part, times) in [(y, 1.0), (dx, OF_GRADIENTS)] {
                            let pick = |all: &[(String, Vec<f64>)]| {
                                part.iter().map(|&i| all[i].clone()).collect::<Vec<_>>()
                            };
                            let tolerance = times * row.half_tolerance * unit;
                            let found = differences(&pick(&got), &pick(&expected), tolerance);
                            failures.extend(found.iter().map(|d| format!("{at}: {d}")));
                        }
                        tried += 1;
                    }
                    Err(error) => failures.push(format!("{at}: {error}")),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(tried > 50, "{tried} trials");
}

/// In f32, but products by halves: outputs, and gradients of the loss.
fn autocast(trial: &Trial, half: DType) -> Trial {
    Trial {
        outputs: trial.outputs.iter().map(|y| y.autocast(half)).collect(),
        loss: trial.loss.as_ref().map(|loss| loss.autocast(half)),
        wrt: trial.wrt.clone(),
    }
}

#[test]
fn rows_of_products_under_autocast_are_those_of_f32_to_their_tolerance() {
    let (host, mut devices) = (cpu(), vec![cpu()]);
    devices.extend(gpu());
    let (mut failures, mut rows) = (Vec::new(), std::collections::BTreeSet::new());
    for row in table().iter().filter(|row| !matches!(row.dtypes, Dtypes::Ints | Dtypes::Bools)) {
        for (n, sample) in row.samples.iter().enumerate() {
            let on = |device: &DeviceHandle| {
                let inputs = sample.tensors(device, DType::F32, Layout::Contiguous);
                Trial::new(row, sample, inputs, device)
            };
            let plain = on(&host);
            if plain.outputs.iter().all(|y| y.autocast(DType::BF16).is_same(y)) {
                continue;
            }
            rows.insert(row.name);
            let expected = plain.numbers().unwrap_or_else(|e| panic!("{}: {e}", row.name));
            for device in devices.iter().filter(|d| d.info().id == "cpu" || row.cpu_only.is_none()) {
                for (half, unit) in [(DType::F16, 1.0 / 1024.0), (DType::BF16, 1.0 / 128.0)] {
                    let at = format!("{} on sample {n}, {half}, {}", row.name, device.info().id);
                    match autocast(&on(device), half).numbers() {
                        Ok(got) => {
                            let tolerance = OF_GRADIENTS * row.half_tolerance * unit;
                            let found = differences(&got, &expected, tolerance);
                            failures.extend(found.iter().map(|d| format!("{at}: {d}")));
                        }
                        Err(error) => failures.push(format!("{at}: {error}")),
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    for name in ["matmul", "linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "lstm", "gru"] {
        assert!(rows.contains(name), "`{name}` is not among {rows:?}");
    }
}

#[test]
fn every_row_in_f16_is_that_of_f32_to_its_tolerance() {
    check(DType::F16, 1.0 / 1024.0);
}

#[test]
fn every_row_in_bf16_is_that_of_f32_to_its_tolerance() {
    check(DType::BF16, 1.0 / 128.0);
}
