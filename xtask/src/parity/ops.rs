//! The case `ops`: single operations, each with inputs, outputs and gradients for given upstream ones, answered for by the rows of the
//! table of operations.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;
use wgrad::prelude::*;
use wgrad_optable::{Call, Run, table};

use super::{
    compare::Report,
    reference::{Kind, Meta, Reference, json, tensors},
};
use crate::Result;

#[derive(Deserialize)]
struct List {
    ops: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    attrs: Value,
    inputs: Vec<String>,
    outputs: usize,
    grads: Vec<String>,
    #[serde(rename = "max_abs_diff_f32_f64__max_abs")]
    precision: Option<[f64; 2]>,
}

/// Runs every entry, or those named in `only`.
pub(crate) fn run(dir: &Path, device: &DeviceHandle, gpu: bool, only: &[String]) -> Result<Report> {
    let list: List = json(&dir.join("ops.json"))?;
    let data = tensors(&dir.join("ops.safetensors"))?;
    for name in only {
        if !list.ops.iter().any(|entry| entry.name == *name) {
            return Err(format!("ops.json has no entry `{name}`").into());
        }
    }
    let mut answers: BTreeMap<&str, Run> = BTreeMap::new();
    for entry in table().into_iter().flat_map(|row| row.entries) {
        if let Some(run) = entry.run {
            answers.insert(entry.name, run);
        }
    }
    let mut report = Report::default();
    let (mut entries, mut passed) = (0, 0);
    for entry in list.ops.iter().filter(|e| only.is_empty() || only.contains(&e.name)) {
        entries += 1;
        let before = report.failures().len();
        match answers.get(entry.name.as_str()) {
            None => {
                report.missing(format!("{}: no row of the table of operations answers for it", entry.name))
            }
            Some(answer) => {
                if let Err(error) = compare(entry, answer, &data, device, gpu, &mut report) {
                    report.missing(format!("{}: {error}", entry.name));
                }
            }
        }
        passed += usize::from(report.failures().len() == before);
    }
    report.note(format!("{passed} of {entries} entries passed"));
    Ok(report)
}

fn compare(
    entry: &Entry,
    answer: &Run,
    data: &BTreeMap<String, Reference>,
    device: &DeviceHandle,
    gpu: bool,
    report: &mut Report,
) -> Result {
    let find = |part: &str, key: &str| {
        let key = format!("{}.{part}.{key}", entry.name);
        data.get(&key).ok_or_else(|| format!("ops.safetensors has no `{key}`"))
    };
    let mut inputs = Vec::new();
    for name in &entry.inputs {
        inputs.push((name.clone(), upload(find("in", name)?, device)?));
    }
    let call = Call::new(entry.attrs.clone(), inputs.clone(), device);
    let outputs = answer(&call).0;
    if let Some(fault) = call.fault() {
        return Err(fault.into());
    }
    if outputs.len() != entry.outputs {
        return Err(format!("{} outputs, the reference has {}", outputs.len(), entry.outputs).into());
    }
    // Σ out · gout, whose gradients are those for the given upstream ones.
    let mut loss: Option<Tensor> = None;
    for (i, output) in outputs.iter().enumerate() {
        output.check()?;
        if let Ok(upstream) = find("gout", &i.to_string()) {
            let upstream = upload(upstream, device)?;
            if upstream.shape() != output.shape() {
                return Err(
                    format!("output {i} is {}, the reference {}", output.shape(), upstream.shape()).into()
                );
            }
            let part = output.mul(&upstream).sum_all();
            loss = Some(loss.map_or_else(|| part.clone(), |sum| sum.add(&part)));
        }
    }
    let mut results: Vec<(String, Tensor, &Reference)> = Vec::new();
    for (i, output) in outputs.into_iter().enumerate() {
        results.push((format!("{}.out.{i}", entry.name), output, find("out", &i.to_string())?));
    }
    if !entry.grads.is_empty() {
        let loss = loss.ok_or("gradients without an upstream one")?;
        let wrt: Vec<&Tensor> = entry
            .grads
            .iter()
            .map(|name| inputs.iter().find(|(n, _)| n == name).map(|(_, x)| x))
            .collect::<Option<_>>()
            .ok_or("a gradient of what is no input")?;
        for (name, gradient) in entry.grads.iter().zip(grad(&loss, &wrt)?) {
            results.push((format!("{}.grad.{name}", entry.name), gradient, find("grad", name)?));
        }
    }
    eval(&results.iter().map(|(_, tensor, _)| tensor).collect::<Vec<_>>())?;
    for (name, tensor, want) in &results {
        let mut meta = Meta::default();
        meta.precision.get_or_insert_default().extend(entry.precision.map(|p| (name.clone(), p)));
        report.tensor(name, want, tensor.shape(), &tensor.to_f64_vec()?, &meta, gpu);
    }
    Ok(())
}

fn upload(x: &Reference, device: &DeviceHandle) -> Result<Tensor> {
    let shape = x.shape.as_slice();
    Ok(match x.kind {
        Kind::Float => Tensor::from_vec(x.values.iter().map(|&v| v as f32).collect(), shape, device),
        Kind::Bool => Tensor::from_vec(x.values.iter().map(|&v| v != 0.0).collect(), shape, device),
        Kind::Integer => {
            if let Some(v) = x.values.iter().find(|v| **v != f64::from(**v as i32)) {
                return Err(format!("the integer {v} is beyond i32").into());
            }
            Tensor::from_vec(x.values.iter().map(|&v| v as i32).collect(), shape, device)
        }
    })
}
