//! A case of a model: outputs, loss, every gradient, a training pass where the reference has one, and trajectories.

use std::path::Path;

use wgrad::{
    optim::{AdamW, AdamWConfig, ParamGroup, Schedule, all_parameters, decay_matrices_only},
    prelude::*,
    tensor::{CompileOptions as Options, eval_with, grad_allow_unused},
};

use super::{
    compare::Report,
    models::{Batch, Case, Kind, Outputs, Tensors},
    reference::{Meta, Trajectory, WeightDecay, json, json_or_default, tensors},
};
use crate::Result;

/// Runs the case.
pub(crate) fn run(dir: &Path, device: &DeviceHandle, gpu: bool) -> Result<Report> {
    let run = Run::open(dir, device, gpu, Options::default())?;
    let mut report = run.passes()?;
    for file in ["trajectory.json", "trajectory_recipe.json"] {
        let path = dir.join(file);
        if path.is_file() {
            run.trajectory(file, &path, &mut report)?;
        }
    }
    Ok(report)
}

/// Outputs, loss and gradients, by the passes of the compiler that are chosen.
pub(crate) fn run_passes(dir: &Path, device: &DeviceHandle, gpu: bool, options: &Options) -> Result<Report> {
    Run::open(dir, device, gpu, *options)?.passes()
}

/// What stands before the names of a pass in training mode.
const TRAIN: &str = "train.";

struct Run<'a> {
    kind: Kind,
    io: Tensors,
    meta: Meta,
    dir: &'a Path,
    device: &'a DeviceHandle,
    gpu: bool,
    options: Options,
}

impl<'a> Run<'a> {
    fn open(dir: &'a Path, device: &'a DeviceHandle, gpu: bool, options: Options) -> Result<Self> {
        Ok(Run {
            kind: Kind::read(dir)?,
            io: tensors(&dir.join("io.safetensors"))?,
            meta: json_or_default(&dir.join("meta.json"))?,
            dir,
            device,
            gpu,
            options,
        })
    }

    /// The pass in evaluation mode, and the one in training mode where the reference has one.
    fn passes(&self) -> Result<Report> {
        let mut report = Report::default();
        self.pass("", &Context::eval(), &mut report)?;
        if self.io.keys().any(|name| name.starts_with(TRAIN)) {
            self.pass(TRAIN, &Context::train(0, 0), &mut report)?;
        }
        Ok(report)
    }

    /// A fresh model.
    fn case(&self) -> Result<Box<dyn Case>> {
        self.kind.open(self.dir, self.device)
    }

    /// Outputs of batch 0 and gradients of its loss; in training mode the buffers after it too.
    fn pass(&self, prefix: &str, ctx: &Context, report: &mut Report) -> Result {
        let case = self.case()?;
        let batch = Batch::read(&self.io, 0, self.device);
        let mut outputs = case.forward(&batch, ctx)?;
        let loss = loss(&outputs)?;
        if prefix.is_empty() {
            let wanted = |name: &str| self.io.get(&format!("out.{name}"));
            outputs.extend(case.further(&batch, &wanted)?);
        }
        let mut results: Outputs =
            outputs.into_iter().map(|(name, tensor)| (format!("{prefix}out.{name}"), tensor)).collect();
        // Outputs may be more than the reference has, gradients may not.
        results.retain(|name, _| self.io.contains_key(name));
        let mut named = case.module().named_parameters();
        named.retain(|(_, param)| !param.is_frozen());
        let parameters: Vec<Tensor> = named.iter().map(|(_, param)| param.tensor()).collect();
        let gradients = grad_allow_unused(&loss, &parameters.iter().collect::<Vec<_>>())?;
        for ((name, _), gradient) in named.iter().zip(gradients) {
            if let Some(gradient) = gradient {
                results.insert(format!("{prefix}grad.{name}"), gradient);
            }
        }
        let mut wanted: Vec<&Tensor> = results.values().collect();
        wanted.push(&loss);
        eval_with(&wanted, &self.options)?;
        if ctx.is_training() {
            for (name, buffer) in case.module().named_buffers() {
                results.insert(format!("{prefix}buffer_after.{name}"), buffer.tensor());
            }
        }
        for (name, tensor) in &results {
            match self.io.get(name) {
                Some(want) => {
                    let got = tensor.to_f64_vec()?;
                    report.tensor(name, want, tensor.shape(), &got, &self.meta, self.gpu);
                }
                None => report.missing(format!("{name}: computed, but the reference has none")),
            }
        }
        let parts = ["out.", "grad.", "buffer_after."];
        let ours = |name: &str| {
            name.strip_prefix(prefix).is_some_and(|rest| parts.iter().any(|part| rest.starts_with(part)))
        };
        for name in self.io.keys().filter(|name| ours(name) && !results.contains_key(*name)) {
            report.missing(format!("{name}: in the reference, but not computed"));
        }
        Ok(())
    }

    fn trajectory(&self, file: &str, path: &Path, report: &mut Report) -> Result {
        let case = self.case()?;
        let content: serde_json::Value = json(path)?;
        if content.get("losses").is_none() {
            let batch = Batch::read(&self.io, 0, self.device);
            return case.other_trajectory(&content, &batch, self.gpu, report);
        }
        let want: Trajectory = serde_json::from_value(content).map_err(|e| format!("{file}: {e}"))?;
        let schedule = schedule(&want).map_err(|e| format!("{file}: {e}"))?;
        let [beta1, beta2] = want.optimizer.betas;
        let config = AdamWConfig { betas: (beta1, beta2), eps: want.optimizer.eps, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(groups(&*case, &want.optimizer.weight_decay), config);
        optimizer.set_clip_grad_norm(want.clip_grad_norm);
        if want.losses.len() != want.steps || want.grad_l2.len() != want.steps || want.n_batches == 0 {
            let counts = (want.losses.len(), want.steps, want.n_batches);
            return Err(format!(
                "{file}: {} losses for {} steps on {} batches",
                counts.0, counts.1, counts.2
            )
            .into());
        }
        let label = file.trim_end_matches(".json");
        let slack = if self.gpu { 3.0 } else { 1.0 };
        let tolerance = |loss: f64| slack * (10.0 * want.drift()).max(1e-5 * loss.abs());
        let batches: Vec<Batch> =
            (0..want.n_batches).map(|number| Batch::read(&self.io, number, self.device)).collect();
        let loss_of = |batch: &Batch, step: u32| {
            let ctx =
                if want.model_mode.starts_with("train") { Context::train(0, step) } else { Context::eval() };
            loss(&case.forward(batch, &ctx)?)
        };
        for step in 0..want.steps {
            let loss = loss_of(&batches[step % want.n_batches], step as u32)?;
            optimizer.set_lr(schedule.lr(step as u64));
            let outcome = optimizer.step(&loss)?;
            let name = |what: &str| format!("{label}[{step}].{what}");
            let expected = want.losses[step];
            report.scalar(&name("loss"), expected, outcome.loss.item()?, tolerance(expected));
            // The norm is no loss, but moves with it; ten times the share of rounding is what it is held to.
            let norm = want.grad_l2[step];
            report.scalar(&name("grad_norm"), norm, outcome.grad_norm.item()?, 10.0 * tolerance(norm));
        }
        let last = loss_of(&batches[0], want.steps as u32)?.item()?;
        let expected = want.final_loss_batch0_same_mode;
        report.scalar(&format!("{label}.final_loss"), expected, last, tolerance(expected));
        Ok(())
    }
}

fn loss(outputs: &Outputs) -> Result<Tensor> {
    Ok(outputs.get("loss").ok_or("the case computes no `loss`")?.clone())
}

fn schedule(want: &Trajectory) -> Result<Schedule> {
    if want.optimizer.name != "AdamW" {
        return Err(format!("the optimizer `{}` is not known; known: AdamW", want.optimizer.name).into());
    }
    let lr = want.optimizer.lr;
    match &want.schedule {
        None => Ok(Schedule::Constant { lr }),
        Some(s) if s.name == "cosine_with_warmup" => {
            Ok(Schedule::WarmupCosine { lr, warmup: s.warmup_steps, total: s.total_steps })
        }
        Some(s) => Err(format!("the schedule `{}` is not known", s.name).into()),
    }
}

fn groups(case: &dyn Case, decay: &WeightDecay) -> Vec<ParamGroup> {
    match *decay {
        WeightDecay::All(decay) => all_parameters(case.module(), decay),
        WeightDecay::Groups([decayed, other]) => {
            let mut groups = decay_matrices_only(case.module(), decayed);
            if let Some(last) = groups.last_mut() {
                last.weight_decay = other;
            }
            groups
        }
    }
}
