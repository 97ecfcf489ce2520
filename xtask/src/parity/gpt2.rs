//! A case of kind `gpt2`: outputs, loss, every gradient, greedy continuation and both trajectories.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path};

use wgrad::{
    models::{CausalLanguageModel, GenerateOptions, Gpt2LMHead, generate},
    optim::{AdamW, AdamWConfig, ParamGroup, Schedule, all_parameters, decay_matrices_only},
    prelude::*,
};

use super::{
    compare::Report,
    reference::{Meta, Reference, Trajectory, WeightDecay, json, tensors},
};
use crate::Result;

type Tensors = BTreeMap<String, Reference>;

/// Runs the case.
pub(crate) fn run(dir: &Path, device: &DeviceHandle, gpu: bool) -> Result<Report> {
    let io = tensors(&dir.join("io.safetensors"))?;
    let meta: Meta = json(&dir.join("meta.json"))?;
    let mut report = Report::default();
    outputs(dir, device, gpu, &io, &meta, &mut report)?;
    for file in ["trajectory.json", "trajectory_recipe.json"] {
        let path = dir.join(file);
        if path.is_file() {
            trajectory(dir, device, gpu, &io, file, &json(&path)?, &mut report)?;
        }
    }
    Ok(report)
}

/// One input of a batch, as the device takes it.
fn batch(io: &Tensors, batch: usize, name: &str, device: &DeviceHandle) -> Result<Tensor> {
    let key = format!("batch.{batch}.{name}");
    let found = io.get(&key).ok_or_else(|| format!("io.safetensors has no `{key}`"))?;
    let ids: Vec<i32> = found.values.iter().map(|&v| v as i32).collect();
    Ok(Tensor::from_vec(ids, found.shape.as_slice(), device))
}

/// Logits and loss of a batch.
fn forward(
    model: &Gpt2LMHead,
    io: &Tensors,
    number: usize,
    device: &DeviceHandle,
) -> Result<(Tensor, Tensor)> {
    let ids = batch(io, number, "input_ids", device)?;
    let mask = batch(io, number, "attention_mask", device)?;
    let labels = batch(io, number, "labels", device)?;
    let logits = model.forward(&ids, Some(&mask), &Context::eval());
    let loss = Gpt2LMHead::loss(&logits, &labels);
    Ok((logits, loss))
}

fn outputs(
    dir: &Path,
    device: &DeviceHandle,
    gpu: bool,
    io: &Tensors,
    meta: &Meta,
    report: &mut Report,
) -> Result {
    let model = Gpt2LMHead::from_pretrained(dir, device)?;
    let (logits, loss) = forward(&model, io, 0, device)?;
    let ids = batch(io, 0, "input_ids", device)?;
    let mask = batch(io, 0, "attention_mask", device)?;
    let mut results: BTreeMap<String, Tensor> = BTreeMap::new();
    for (i, state) in model.hidden_states(&ids, Some(&mask), &Context::eval()).into_iter().enumerate() {
        results.insert(format!("out.hidden_states.{i}"), state);
    }
    let named = model.named_parameters();
    let parameters: Vec<Tensor> = named.iter().map(|(_, p)| p.tensor()).collect();
    let gradients = wgrad::tensor::grad_allow_unused(&loss, &parameters.iter().collect::<Vec<_>>())?;
    for ((name, _), gradient) in named.iter().zip(gradients) {
        if let Some(gradient) = gradient {
            results.insert(format!("grad.{name}"), gradient);
        }
    }
    results.insert("out.logits".to_owned(), logits);
    results.insert("out.loss".to_owned(), loss);
    eval(&results.values().collect::<Vec<_>>())?;
    for (name, tensor) in &results {
        match io.get(name) {
            Some(want) => {
                let got: Vec<f64> = tensor.to_vec::<f32>()?.into_iter().map(f64::from).collect();
                report.tensor(name, want, tensor.shape(), &got, meta, gpu);
            }
            None => report.missing(format!("{name}: computed, but the reference has none")),
        }
    }
    if let Some(want) = io.get("out.greedy_ids") {
        let got = greedy(&model, io, want.values.len())?;
        report.tensor("out.greedy_ids", want, &want.shape, &got, meta, gpu);
    }
    // Every other output of the reference must have been computed; the two best logits of greedy steps follow from the ids.
    let known = |name: &str| results.contains_key(name) || name.starts_with("out.greedy_");
    for name in io.keys().filter(|n| (n.starts_with("out.") || n.starts_with("grad.")) && !known(n)) {
        report.missing(format!("{name}: in the reference, but not computed"));
    }
    Ok(())
}

/// The first tokens of row 0, and their greedy continuation up to `length` in all.
fn greedy(model: &Gpt2LMHead, io: &Tensors, length: usize) -> Result<Vec<f64>> {
    const PROMPT: usize = 4;
    let key = "batch.0.input_ids";
    let row = &io.get(key).ok_or("io.safetensors has no `batch.0.input_ids`")?.values;
    let prompt: Vec<u32> = row.iter().take(PROMPT).map(|&v| v as u32).collect();
    let options = GenerateOptions {
        max_new_tokens: length.saturating_sub(PROMPT).min(model.max_context()),
        temperature: 0.0,
        ..GenerateOptions::default()
    };
    let new = generate(model, &prompt, &options, |_| ControlFlow::Continue(()))?;
    Ok(prompt.into_iter().chain(new).map(f64::from).collect())
}

fn trajectory(
    dir: &Path,
    device: &DeviceHandle,
    gpu: bool,
    io: &Tensors,
    file: &str,
    want: &Trajectory,
    report: &mut Report,
) -> Result {
    if want.optimizer.name != "AdamW" {
        return Err(
            format!("{file}: the optimizer `{}` is not known; known: AdamW", want.optimizer.name).into()
        );
    }
    let schedule = match &want.schedule {
        None => Schedule::Constant { lr: want.optimizer.lr },
        Some(s) if s.name == "cosine_with_warmup" => {
            Schedule::WarmupCosine { lr: want.optimizer.lr, warmup: s.warmup_steps, total: s.total_steps }
        }
        Some(s) => return Err(format!("{file}: the schedule `{}` is not known", s.name).into()),
    };
    let model = Gpt2LMHead::from_pretrained(dir, device)?;
    let groups: Vec<ParamGroup> = match want.optimizer.weight_decay {
        WeightDecay::All(decay) => all_parameters(&model, decay),
        WeightDecay::Groups([decayed, other]) => {
            let mut groups = decay_matrices_only(&model, decayed);
            if let Some(last) = groups.last_mut() {
                last.weight_decay = other;
            }
            groups
        }
    };
    let [beta1, beta2] = want.optimizer.betas;
    let mut optimizer = AdamW::new(
        groups,
        AdamWConfig { betas: (beta1, beta2), eps: want.optimizer.eps, ..AdamWConfig::default() },
    );
    optimizer.set_clip_grad_norm(want.clip_grad_norm);
    let label = file.trim_end_matches(".json");
    let slack = if gpu { 3.0 } else { 1.0 };
    let tolerance = |loss: f64| slack * (10.0 * want.drift()).max(1e-5 * loss.abs());
    if want.losses.len() != want.steps || want.grad_l2.len() != want.steps {
        return Err(format!("{file}: {} losses for {} steps", want.losses.len(), want.steps).into());
    }
    for step in 0..want.steps {
        let (_, loss) = forward(&model, io, step % want.n_batches, device)?;
        optimizer.set_lr(schedule.lr(step as u64));
        let outcome = optimizer.step(&loss)?;
        let expected = want.losses[step];
        report.scalar(&format!("{label}[{step}].loss"), expected, outcome.loss.item()?, tolerance(expected));
        // The norm is no loss, but moves with it; ten times the share of rounding is what it is held to.
        let norm = want.grad_l2[step];
        report.scalar(
            &format!("{label}[{step}].grad_norm"),
            norm,
            outcome.grad_norm.item()?,
            10.0 * tolerance(norm),
        );
    }
    let (_, loss) = forward(&model, io, 0, device)?;
    let expected = want.final_loss_batch0_same_mode;
    report.scalar(&format!("{label}.final_loss"), expected, loss.item()?, tolerance(expected));
    Ok(())
}
