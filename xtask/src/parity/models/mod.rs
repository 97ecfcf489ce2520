//! The models that cases are made of: one file for each family, and the registry.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use wgrad::prelude::*;

use super::{
    compare::Report,
    reference::{Kind as Elements, Reference, json, json_or_default},
};
use crate::Result;

mod causal;
mod encoders;
pub(crate) mod keras;
mod multi_task;
mod seq2seq;

/// Reference tensors by name.
pub(crate) type Tensors = BTreeMap<String, Reference>;

/// Computed tensors by name.
pub(crate) type Outputs = BTreeMap<String, Tensor>;

/// Looks up an output of the reference, by its name without `out.`.
pub(crate) type Wanted<'a> = &'a dyn Fn(&str) -> Option<&'a Reference>;

/// Opens a case's model.
type Open = fn(&Path, &DeviceHandle, &Kind) -> Result<Box<dyn Case>>;

/// Every kind of model, by `model_type` or `source` of `config.json`, or `kind` of `meta.json`.
const FAMILIES: &[(&str, Open)] = &[
    ("gpt2", causal::open),
    ("bert", encoders::open),
    ("roberta", encoders::open),
    ("t5", seq2seq::t5),
    ("bart", seq2seq::bart),
    ("marian", seq2seq::marian),
    ("torch nn.Transformer", seq2seq::transformer),
    ("torch nn.TransformerEncoder", multi_task::open),
    ("text_classifier", keras::open),
    ("gpt_neox", causal::open),
    ("llama", causal::open),
    ("mistral", causal::open),
    ("qwen2", causal::open),
    ("qwen3", causal::open),
];

/// A model as the comparison runs it.
pub(crate) trait Case {
    /// Its parameters, named as `model.safetensors` names them. Frozen ones take no part in gradients and trajectories.
    fn module(&self) -> &dyn Module;

    /// The outputs of a batch, named as the reference names them without `out.`; `loss` among them. Those that the reference lacks are
    /// left out of the comparison, and not computed.
    fn forward(&self, batch: &Batch, ctx: &Context) -> Result<Outputs>;

    /// What takes more than one forward pass, in evaluation mode: generated ids, detections, assignments.
    fn further(&self, _batch: &Batch, _wanted: Wanted<'_>) -> Result<Outputs> {
        Ok(Outputs::new())
    }

    /// Compares with a `trajectory.json` of another format than the usual one. The model is fresh.
    fn other_trajectory(
        &self,
        _content: &serde_json::Value,
        _batch: &Batch,
        _gpu: bool,
        _report: &mut Report,
    ) -> Result {
        Err("trajectory.json has no `losses`, and the case knows no other format".into())
    }
}

/// The inputs of a batch, on the device.
pub(crate) struct Batch {
    number: usize,
    inputs: Outputs,
}

impl Batch {
    /// The inputs `batch.NUMBER.*`: integers as `i32`, floats as `f32`.
    pub(crate) fn read(io: &Tensors, number: usize, device: &DeviceHandle) -> Self {
        let prefix = format!("batch.{number}.");
        let named = io.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?, tensor)));
        let inputs = named.map(|(name, tensor)| (name.to_owned(), upload(tensor, device))).collect();
        Batch { number, inputs }
    }

    /// An input that must be there, by its name without `batch.NUMBER.`.
    pub(crate) fn get(&self, name: &str) -> Result<&Tensor> {
        let missing = || format!("io.safetensors has no `batch.{}.{name}`", self.number);
        Ok(self.inputs.get(name).ok_or_else(missing)?)
    }

    /// An input that may be there.
    pub(crate) fn find(&self, name: &str) -> Option<&Tensor> {
        self.inputs.get(name)
    }
}

fn upload(tensor: &Reference, device: &DeviceHandle) -> Tensor {
    let (values, shape) = (tensor.values.iter(), tensor.shape.as_slice());
    match tensor.kind {
        Elements::Float => Tensor::from_vec(values.map(|&v| v as f32).collect::<Vec<_>>(), shape, device),
        Elements::Integer => Tensor::from_vec(values.map(|&v| v as i32).collect::<Vec<_>>(), shape, device),
        Elements::Bool => Tensor::from_vec(values.map(|&v| v != 0.0).collect::<Vec<_>>(), shape, device),
    }
}

/// `NAME.0`, `NAME.1`, ...
fn numbered(name: &str, tensors: Vec<Tensor>) -> Outputs {
    tensors.into_iter().enumerate().map(|(i, tensor)| (format!("{name}.{i}"), tensor)).collect()
}

/// Greedily generated ids, and of the logits `[1, steps, v]` that led to them the two best of each step.
fn best_two(ids: &Tensor, logits: &Tensor) -> Outputs {
    let (top2, _) = logits.squeeze(0).topk(2, -1, true);
    [("greedy_ids".to_owned(), ids.clone()), ("greedy_top2".to_owned(), top2)].into()
}

/// What a case's files say that it is.
#[derive(Default, Deserialize)]
pub(crate) struct Kind {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Vec<String>,
    source: Option<String>,
    /// Of `meta.json`.
    kind: Option<String>,
    /// Keras' layers, where `config.json` lists them.
    #[serde(default)]
    layers: serde_json::Value,
}

impl Kind {
    /// Reads `config.json` and `meta.json`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let config: Kind = json(&dir.join("config.json"))?;
        let meta: Kind = json_or_default(&dir.join("meta.json"))?;
        let averages = config.layers.as_array().is_some_and(|layers| {
            layers.iter().any(|layer| layer.as_str().is_some_and(|name| name == "GlobalAveragePooling1D"))
        });
        let kind = meta.kind.or(averages.then(|| "text_classifier".to_owned()));
        Ok(Kind { kind, ..config })
    }

    /// The first architecture, such as `BertForMaskedLM`; empty where none is named.
    pub(crate) fn architecture(&self) -> &str {
        self.architectures.first().map_or("", String::as_str)
    }

    /// A fresh model with the case's weights.
    pub(crate) fn open(&self, dir: &Path, device: &DeviceHandle) -> Result<Box<dyn Case>> {
        let names = [&self.model_type, &self.source, &self.kind];
        let open = FAMILIES.iter().find(|(known, _)| names.iter().any(|n| n.as_deref() == Some(*known)));
        let Some((_, open)) = open else {
            let known: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
            let name = names.into_iter().flatten().next().map_or("without a name", String::as_str);
            return Err(
                format!("models of kind `{name}` are not supported; known: {}", known.join(", ")).into()
            );
        };
        open(dir, device, self)
    }
}
