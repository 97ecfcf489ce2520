//! Every row on a GPU against the CPU, in f32 and in the other dtypes that it lists.
//!
//! Needs an adapter (a software one will do) and fails without; the environment variable `WGRAD_TEST_DEVICES=cpu` leaves these tests out.

mod common;

use common::{cpu, differences, gpu, run};
use wgrad::prelude::*;
use wgrad_optable::{Dtypes, Layout, table};

#[test]
fn every_row_agrees_between_devices() {
    let Some(gpu) = gpu() else { return };
    let cpu = cpu();
    let mut failures = Vec::new();
    for row in table().iter().filter(|row| row.cpu_only.is_none()) {
        for (n, sample) in row.samples.iter().enumerate() {
            let on = |device| run(row, sample, device, DType::F32, Layout::Contiguous);
            let expected = on(&cpu).unwrap_or_else(|e| panic!("{}: {e}", row.name));
            match on(&gpu) {
                Ok(got) => {
                    let found = differences(&got, &expected, row.gpu_tolerance);
                    failures.extend(found.iter().map(|d| format!("{} on sample {n}: {d}", row.name)));
                }
                Err(error) => failures.push(format!("{} on sample {n}: {error}", row.name)),
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn integers_and_truth_values_agree_between_devices() {
    let Some(gpu) = gpu() else { return };
    let cpu = cpu();
    let mut failures = Vec::new();
    for row in table().iter().filter(|row| row.cpu_only.is_none() && row.dtypes != Dtypes::Floats) {
        let Some(sample) = row.samples.first() else { continue };
        for &dtype in row.dtypes.list().iter().filter(|d| !d.is_float()) {
            let on = |device| run(row, sample, device, dtype, Layout::Transposed);
            match (on(&gpu), on(&cpu)) {
                (Ok(got), Ok(expected)) => {
                    let found = differences(&got, &expected, 0.0);
                    failures.extend(found.iter().map(|d| format!("{} in {dtype}: {d}", row.name)));
                }
                (Err(error), _) | (_, Err(error)) => {
                    failures.push(format!("{} in {dtype}: {error}", row.name))
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
