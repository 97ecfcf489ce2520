//! Reading a case's files.

use std::{collections::BTreeMap, fs, path::Path};

use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, de::DeserializeOwned};

use crate::Result;

/// A reference tensor, in f64 whatever the file's dtype.
pub(crate) struct Reference {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
    pub(crate) kind: Kind,
}

/// What a reference tensor's elements are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Float,
    Integer,
    Bool,
}

/// `meta.json`, as far as the comparison needs it.
#[derive(Default, Deserialize)]
pub(crate) struct Meta {
    #[serde(default)]
    pub(crate) noise_grad_params: Vec<String>,
    /// `[largest |f32 - f64|, largest |f64|]` per tensor.
    #[serde(default, rename = "max_abs_diff_f32_f64__max_abs_f64")]
    pub(crate) precision: Option<BTreeMap<String, [f64; 2]>>,
}

/// `trajectory.json` or `trajectory_recipe.json`.
#[derive(Deserialize)]
pub(crate) struct Trajectory {
    pub(crate) optimizer: OptimizerSpec,
    pub(crate) steps: usize,
    /// `train`, or `eval` and a remark.
    pub(crate) model_mode: String,
    pub(crate) n_batches: usize,
    pub(crate) losses: Vec<f64>,
    pub(crate) grad_l2: Vec<f64>,
    pub(crate) final_loss_batch0_same_mode: f64,
    #[serde(rename = "max_abs_loss_diff_f32_f64")]
    drift_f64: Option<f64>,
    #[serde(rename = "max_abs_loss_diff_3_runs_weights_perturbed_3e-7")]
    drift_perturbed: f64,
    pub(crate) schedule: Option<ScheduleSpec>,
    pub(crate) clip_grad_norm: Option<f64>,
}

impl Trajectory {
    /// How far rounding alone moves a loss.
    pub(crate) fn drift(&self) -> f64 {
        self.drift_f64.unwrap_or(0.0).max(self.drift_perturbed)
    }
}

#[derive(Deserialize)]
pub(crate) struct OptimizerSpec {
    pub(crate) name: String,
    pub(crate) lr: f64,
    pub(crate) betas: [f64; 2],
    pub(crate) eps: f64,
    pub(crate) weight_decay: WeightDecay,
}

/// One for all parameters, or `[of those with two or more dimensions, of the others]`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum WeightDecay {
    All(f64),
    Groups([f64; 2]),
}

#[derive(Deserialize)]
pub(crate) struct ScheduleSpec {
    pub(crate) name: String,
    pub(crate) warmup_steps: u64,
    pub(crate) total_steps: u64,
}

/// A JSON file.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    Ok(serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))?)
}

/// A JSON file that may be missing.
pub(crate) fn json_or_default<T: DeserializeOwned + Default>(path: &Path) -> Result<T> {
    if path.is_file() { json(path) } else { Ok(T::default()) }
}

/// Every tensor of a safetensors file.
pub(crate) fn tensors(path: &Path) -> Result<BTreeMap<String, Reference>> {
    let bytes = fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut all = BTreeMap::new();
    for (name, view) in file.tensors() {
        let data = view.data();
        let values: Vec<f64> = match view.dtype() {
            Dtype::F64 => chunks(data, f64::from_le_bytes),
            Dtype::F32 => chunks(data, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::I64 => chunks(data, |b| i64::from_le_bytes(b) as f64),
            Dtype::I32 => chunks(data, |b| f64::from(i32::from_le_bytes(b))),
            Dtype::BOOL | Dtype::U8 => data.iter().map(|&b| f64::from(b)).collect(),
            other => return Err(format!("{}: `{name}` has the dtype {other:?}", path.display()).into()),
        };
        let kind = match view.dtype() {
            Dtype::F32 | Dtype::F64 => Kind::Float,
            Dtype::BOOL => Kind::Bool,
            _ => Kind::Integer,
        };
        all.insert(name, Reference { shape: view.shape().to_vec(), values, kind });
    }
    Ok(all)
}

fn chunks<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.as_chunks::<N>().0.iter().map(|c| value(*c)).collect()
}
