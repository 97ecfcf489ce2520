//! The text classifier of Keras' guides, with a trajectory of its own format.

use std::path::Path;

use serde::Deserialize;
use wgrad::{
    models::{TextClassifier, TextClassifierConfig},
    nn::safetensors,
    optim::{Adam, AdamConfig},
    prelude::*,
};

use super::{Batch, Case, Kind, Outputs};
use crate::{Result, parity::compare::Report};

pub(super) fn open(dir: &Path, device: &DeviceHandle, _: &Kind) -> Result<Box<dyn Case>> {
    Ok(Box::new(load(dir, device)?))
}

/// A model of the extents that the file's tensors have. A `kernel` is a weight the other way round.
pub(crate) fn load(dir: &Path, device: &DeviceHandle) -> Result<TextClassifier> {
    let mut tensors = safetensors::load(&dir.join("model.safetensors"), device)?;
    for (name, tensor) in &mut tensors {
        if let Some(layer) = name.strip_suffix(".kernel") {
            (*name, *tensor) = (format!("{layer}.weight"), tensor.t());
        }
    }
    let table = tensors.iter().find(|(name, _)| name == "embedding.weight");
    let (_, table) = table.ok_or("model.safetensors has no `embedding.weight`")?;
    let &[num_words, dim] = table.shape().dims() else {
        return Err(format!("`embedding.weight` is {}, expected a matrix", table.shape()).into());
    };
    let model = TextClassifier::new(&TextClassifierConfig { num_words, dim }, &Init::new(device, 0))?;
    model.load_state_dict(&tensors, true)?;
    Ok(model)
}

/// Keras' Adam for all parameters of a model.
pub(crate) fn keras_adam(model: &TextClassifier) -> Adam {
    let config = AdamConfig { eps: 1e-7, epsilon_hat: true, ..AdamConfig::default() };
    Adam::new(all_parameters(model, 0.0), config)
}

impl Case for TextClassifier {
    fn module(&self) -> &dyn Module {
        self
    }

    fn forward(&self, batch: &Batch, ctx: &Context) -> Result<Outputs> {
        let probs = TextClassifier::forward(self, batch.get("input_ids")?, ctx);
        let loss = TextClassifier::loss(&probs, batch.get("labels")?);
        Ok([("probs".to_owned(), probs), ("loss".to_owned(), loss)].into())
    }

    fn other_trajectory(
        &self,
        content: &serde_json::Value,
        batch: &Batch,
        gpu: bool,
        report: &mut Report,
    ) -> Result {
        let want: Trajectories = serde_json::from_value(content.clone())?;
        let start = self.state_dict();
        let eps = |eps: f64| AdamConfig { eps, ..AdamConfig::default() };
        let runs = [
            ("torch_adam_eps1e-8", Some(&want.eps8), Adam::new(all_parameters(self, 0.0), eps(1e-8))),
            ("torch_adam_eps1e-7", Some(&want.eps7), Adam::new(all_parameters(self, 0.0), eps(1e-7))),
            ("keras", want.keras.as_ref(), keras_adam(self)),
        ];
        // No precision is recorded; probabilities are ten steps of 1e-3 away from weights that agree to 1e-7.
        let tolerance = if gpu { 1e-5 } else { 2e-6 };
        for (label, want, mut optimizer) in runs {
            let Some(want) = want else { continue };
            self.load_state_dict(&start, true)?;
            optimizer.set_lr(1e-3);
            for (step, expected) in want.losses.iter().enumerate() {
                let probs = TextClassifier::forward(self, batch.get("input_ids")?, &Context::eval());
                if let Some(expected) = want.accuracy.get(step) {
                    let accuracy = TextClassifier::accuracy(&probs, batch.get("labels")?).item()?;
                    report.scalar(&format!("{label}[{step}].accuracy"), *expected, accuracy, 1e-6);
                }
                let outcome = optimizer.step(&TextClassifier::loss(&probs, batch.get("labels")?))?;
                report.scalar(&format!("{label}[{step}].loss"), *expected, outcome.loss.item()?, tolerance);
                if let Some(norm) = want.grad_l2.get(step) {
                    let found = outcome.grad_norm.item()?;
                    report.scalar(&format!("{label}[{step}].grad_norm"), *norm, found, tolerance);
                }
            }
            let probs =
                TextClassifier::forward(self, batch.get("input_ids")?, &Context::eval()).to_f64_vec()?;
            if probs.len() != want.final_probs.len() {
                return Err(format!(
                    "{label}: {} final_probs for {} texts",
                    want.final_probs.len(),
                    probs.len()
                )
                .into());
            }
            for (row, (found, expected)) in probs.iter().zip(&want.final_probs).enumerate() {
                report.scalar(&format!("{label}.final_probs[{row}]"), *expected, *found, tolerance);
            }
        }
        Ok(())
    }
}

/// `trajectory.json` of `keras_text_cls`.
#[derive(Deserialize)]
struct Trajectories {
    #[serde(rename = "torch_adam_eps1e-8")]
    eps8: OneTrajectory,
    #[serde(rename = "torch_adam_eps1e-7")]
    eps7: OneTrajectory,
    keras: Option<OneTrajectory>,
}

#[derive(Deserialize)]
struct OneTrajectory {
    losses: Vec<f64>,
    final_probs: Vec<f64>,
    #[serde(default)]
    grad_l2: Vec<f64>,
    #[serde(default)]
    accuracy: Vec<f64>,
}
