//! The table itself, and every row on the CPU: finite differences, precision, layouts, dtypes.

mod common;

use std::collections::BTreeSet;

use common::{Trial, cpu, differences, run};
use wgrad::prelude::*;
use wgrad_optable::{Call, Dtypes, Layout, Sample, table};

#[test]
fn every_row_has_a_name_of_its_own_and_samples() {
    let mut names = BTreeSet::new();
    for row in table() {
        assert!(names.insert(row.name), "{} twice", row.name);
        assert!(!row.samples.is_empty(), "{} is tried on nothing", row.name);
        let differentiable =
            row.samples.iter().any(|s| s.inputs.iter().any(|i| i.gradient && i.dtype(DType::F32).is_float()));
        assert!(row.no_gradient.is_some() || differentiable, "{}: no sample has a gradient", row.name);
    }
}

#[test]
fn every_reference_entry_is_answered_by_one_row() {
    let (mut answered, mut parts) = (BTreeSet::new(), BTreeSet::new());
    for entry in table().iter().flat_map(|row| &row.entries) {
        if entry.run.is_some() {
            assert!(answered.insert(entry.name), "two rows answer for {}", entry.name);
        } else {
            parts.insert(entry.name);
        }
    }
    let unanswered: Vec<_> = parts.difference(&answered).collect();
    assert!(unanswered.is_empty(), "rows have a part in {unanswered:?}, but none answers");
}

#[test]
fn a_call_says_what_it_lacks() {
    let call = Call::new(serde_json::json!({"dim": "one", "k": 3}), Vec::new(), &cpu());
    assert!(call.named("x").error().is_some_and(|e| e.to_string().contains("no input `x`")));
    assert_eq!((call.usize("k", 1), call.fault()), (3, None));
    assert_eq!(call.isize("dim", -1), -1);
    assert!(call.fault().is_some_and(|f| f.contains("`dim`") && f.contains("an integer")));
}

/// Samples that are small enough to move every element of.
const SMALL: usize = 80;

#[test]
fn gradients_match_finite_differences_in_f64() {
    let device = cpu();
    let mut failures = Vec::new();
    for row in table().iter().filter(|row| row.no_gradient.is_none()) {
        for (n, sample) in row.samples.iter().enumerate().filter(|(_, s)| s.size() <= SMALL) {
            let elements = sample.elements();
            let trial = |elements: &[Vec<f64>]| {
                let inputs = sample.tensors_of(elements, &device, DType::F64, Layout::Contiguous);
                Trial::new(row, sample, inputs, &device)
            };
            let at = trial(&elements);
            let gradients = match at.gradients() {
                Ok(gradients) => gradients,
                Err(error) => {
                    failures.push(format!("{} on sample {n}: {error}", row.name));
                    continue;
                }
            };
            for ((input, _), gradient) in at.wrt.iter().zip(gradients) {
                let analytic = gradient.to_f64_vec().unwrap_or_else(|e| panic!("{}: {e}", row.name));
                for (element, &slope) in analytic.iter().enumerate() {
                    let h = 1e-5;
                    let loss = |shift: f64| {
                        let mut moved = elements.clone();
                        moved[*input][element] += shift;
                        let loss = trial(&moved).loss.map(|l| l.item());
                        loss.transpose().unwrap_or_else(|e| panic!("{}: {e}", row.name)).unwrap_or(0.0)
                    };
                    let numeric = (loss(h) - loss(-h)) / (2.0 * h);
                    let near = (numeric - slope).abs() <= row.difference_tolerance * slope.abs().max(1.0);
                    if !near {
                        failures.push(format!(
                            "{} on sample {n}: input {input}, element {element}: {slope}, central difference {numeric}",
                            row.name
                        ));
                        break;
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn single_precision_agrees_with_double() {
    let device = cpu();
    let mut failures = Vec::new();
    for row in table() {
        for (n, sample) in row.samples.iter().enumerate() {
            // The same rounded elements for both.
            let rounded: Vec<Vec<f64>> = sample
                .elements()
                .into_iter()
                .map(|values| values.into_iter().map(|x| f64::from(x as f32)).collect())
                .collect();
            let numbers = |dtype| {
                let inputs = sample.tensors_of(&rounded, &device, dtype, Layout::Contiguous);
                Trial::new(&row, sample, inputs, &device).numbers()
            };
            match (numbers(DType::F32), numbers(DType::F64)) {
                (Ok(single), Ok(double)) => {
                    let found = differences(&single, &double, 1e-5);
                    failures.extend(found.iter().map(|d| format!("{} on sample {n}: {d}", row.name)));
                }
                (Err(error), _) | (_, Err(error)) => {
                    failures.push(format!("{} on sample {n}: {error}", row.name))
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn results_do_not_depend_on_where_operands_lie() {
    let device = cpu();
    let mut failures = Vec::new();
    for row in table() {
        for (n, sample) in row.samples.iter().enumerate() {
            let numbers = |layout| run(&row, sample, &device, DType::F64, layout);
            let expected = numbers(Layout::Contiguous).unwrap_or_else(|e| panic!("{}: {e}", row.name));
            for layout in [Layout::Transposed, Layout::Strided] {
                match numbers(layout) {
                    Ok(got) => {
                        let found = differences(&got, &expected, 1e-12);
                        failures.extend(
                            found.iter().map(|d| format!("{} on sample {n}, {layout:?}: {d}", row.name)),
                        );
                    }
                    Err(error) => failures.push(format!("{} on sample {n}, {layout:?}: {error}", row.name)),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Integers as main operands, against the same numbers in f64: wherever both are exact they agree.
#[test]
fn every_dtype_that_a_row_lists_is_computed() {
    let device = cpu();
    let mut failures = Vec::new();
    for row in table().iter().filter(|row| row.dtypes != Dtypes::Floats) {
        let Some(sample) = row.samples.first() else { continue };
        for &dtype in row.dtypes.list() {
            if let Err(error) = run(row, sample, &device, dtype, Layout::Contiguous) {
                failures.push(format!("{} in {dtype}: {error}", row.name));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn layouts_place_the_same_elements() {
    let sample = Sample::of([wgrad_optable::floats("x", &[2, 3, 5])]);
    let device = cpu();
    let read = |layout| sample.tensors(&device, DType::F64, layout)[0].1.to_vec::<f64>().unwrap();
    assert_eq!(read(Layout::Contiguous), sample.elements()[0]);
    assert_eq!(read(Layout::Transposed), sample.elements()[0]);
    assert_eq!(read(Layout::Strided), sample.elements()[0]);
}
