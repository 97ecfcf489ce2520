//! Hugging Face's folders: `config.json`, and `model.safetensors` whole or in shards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use wgrad_nn::{
    Init, Module, name_matches,
    safetensors::{load_into, load_weights, write_atomically},
};
use wgrad_runtime::{DeviceError, DeviceHandle, check_available};
use wgrad_tensor::{Tensor, TensorError};

use crate::ModelError;

const CONFIG: &str = "config.json";
/// The file of parameters.
const WEIGHTS: &str = "model.safetensors";
/// The file that says which shard holds which parameter.
const INDEX: &str = "model.safetensors.index.json";

/// Reads `config.json` of a folder.
pub(crate) fn read_config<C: DeserializeOwned>(dir: &Path) -> Result<C, ModelError> {
    read_json(dir.join(CONFIG))
}

/// Reads `config.json` of a folder where `understand` fills in what is not there.
pub(crate) fn read_keys<C>(
    dir: &Path,
    understand: impl FnOnce(Map<String, Value>) -> Result<C, serde_json::Error>,
) -> Result<C, ModelError> {
    understand(read_config(dir)?).map_err(|source| ModelError::ConfigFile { path: dir.join(CONFIG), source })
}

/// The `model_type` of a folder's `config.json`, which must be one of `known`.
pub(crate) fn read_model_type(dir: &Path, known: &[&str]) -> Result<String, ModelError> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    let kind: Kind = read_config(dir)?;
    match kind.model_type {
        Some(name) if known.contains(&name.as_str()) => Ok(name),
        found => Err(ModelError::UnknownModelType { path: dir.join(CONFIG), found, known: known.join(", ") }),
    }
}

fn read_json<C: DeserializeOwned>(path: PathBuf) -> Result<C, ModelError> {
    let text = fs::read_to_string(&path).map_err(|source| ModelError::Io {
        action: "read",
        path: path.clone(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| ModelError::ConfigFile { path, source })
}

/// Writes `config.json` and `model.safetensors`, making the folder where it is not there.
pub(crate) fn save(dir: &Path, config: &impl Serialize, model: &impl Module) -> Result<(), ModelError> {
    if model.named_parameters().iter().any(|(name, _)| name.ends_with(".lora_A.weight")) {
        let message =
            "the model has adapters, which have files of their own; merge them first, or save them alone";
        return Err(ModelError::Folder { path: dir.to_owned(), message: message.into() });
    }
    fs::create_dir_all(dir).map_err(|source| ModelError::Io {
        action: "create",
        path: dir.to_owned(),
        source,
    })?;
    let path = dir.join(CONFIG);
    let mut text = serde_json::to_string_pretty(config)
        .map_err(|source| ModelError::ConfigFile { path: path.clone(), source })?;
    text.push('\n');
    write_atomically(&path, text.as_bytes())?;
    Ok(model.save_safetensors(&dir.join(WEIGHTS))?)
}

/// Whether there is room for so many parameters, which are drawn on the host before they go to the device.
pub(crate) fn check_room(model: &'static str, parameters: usize, init: &Init) -> Result<(), ModelError> {
    let bytes = (parameters as u64).saturating_mul(init.dtype().host_bytes() as u64);
    check_available(&init.device().info().id, || "its weights".into(), bytes).map_err(|error| match error {
        DeviceError::OutOfMemory { device, needed, available, .. } => {
            ModelError::TooLarge { device, model, parameters, needed, available }
        }
        error => TensorError::from(error).into(),
    })
}

/// Names the parameters of a new model, and the first one that could not be made.
pub(crate) fn check_parameters(model: &impl Module) -> Result<(), ModelError> {
    for (name, param) in model.named_tensors() {
        let tensor = param.tensor().named(&name);
        if let Some(source) = tensor.error() {
            return Err(ModelError::Parameter { name, source: Box::new(source.clone()) });
        }
    }
    Ok(())
}

/// The tensors of a folder, on their way into a model.
pub(crate) struct Weights {
    /// Where they come from, for messages.
    origin: PathBuf,
    tensors: Vec<(String, Tensor)>,
}

impl Weights {
    /// Reads `model.safetensors`, or the shards that `model.safetensors.index.json` names. NaN is refused.
    pub(crate) fn read(dir: &Path, device: &DeviceHandle) -> Result<Self, ModelError> {
        let (whole, index) = (dir.join(WEIGHTS), dir.join(INDEX));
        if whole.is_file() || !index.is_file() {
            return Ok(Weights { tensors: load_weights(&whole, device)?, origin: whole });
        }
        Self::read_shards(dir, index, device)
    }

    fn read_shards(dir: &Path, index: PathBuf, device: &DeviceHandle) -> Result<Self, ModelError> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let Index { weight_map } = read_json(index.clone())?;
        let refuse = |message: String| ModelError::Folder { path: index.clone(), message };
        let files: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        let mut tensors = Vec::new();
        for file in files {
            // The index is not trusted: it may not lead out of the folder.
            let mut parts = Path::new(file).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(refuse(format!("`{file}` is not the name of a file in the folder")));
            }
            for (name, tensor) in load_weights(&dir.join(file), device)? {
                if weight_map.get(&name).is_none_or(|shard| shard != file) {
                    let told = weight_map.get(&name).map_or("nowhere", String::as_str);
                    return Err(refuse(format!("`{name}` is in {file}, but the index says {told}")));
                }
                tensors.push((name, tensor));
            }
        }
        let found: BTreeSet<&String> = tensors.iter().map(|(name, _)| name).collect();
        if let Some((name, file)) = weight_map.iter().find(|(name, _)| !found.contains(name)) {
            return Err(refuse(format!("`{name}` should be in {file}, but is not; fetch the file again")));
        }
        Ok(Weights { origin: index, tensors })
    }

    /// Leaves out tensors whose names match one of the patterns, in which `*` stands for any characters: constants that old files hold.
    pub(crate) fn drop_matching(&mut self, patterns: &[&str]) {
        self.tensors.retain(|(name, _)| !patterns.iter().any(|pattern| name_matches(pattern, name)));
    }

    /// Puts `prefix` before all names but `others`, unless one of them has it: files of a model without its head lack it.
    pub(crate) fn add_prefix(&mut self, prefix: &str, others: &[&str]) {
        if !self.tensors.iter().any(|(name, _)| name.starts_with(prefix)) {
            for (name, _) in self.tensors.iter_mut().filter(|(name, _)| !others.contains(&name.as_str())) {
                name.insert_str(0, prefix);
            }
        }
    }

    /// Of a tied pair only `kept` is a parameter here; a file may hold either name, or both.
    pub(crate) fn tie(&mut self, copy: &str, kept: &str) {
        if self.tensors.iter().any(|(name, _)| name == kept) {
            self.tensors.retain(|(name, _)| name != copy);
        } else if let Some((name, _)) = self.tensors.iter_mut().find(|(name, _)| name == copy) {
            kept.clone_into(name);
        }
    }

    /// Gives the tensors other names.
    pub(crate) fn rename(&mut self, new: impl Fn(&str) -> String) {
        for (name, _) in &mut self.tensors {
            *name = new(name);
        }
    }

    /// Whether there is a tensor whose name matches the pattern.
    pub(crate) fn contains(&self, pattern: &str) -> bool {
        self.tensors.iter().any(|(name, _)| name_matches(pattern, name))
    }

    /// Of a file of a larger model only what is under `prefix`, without it; everything where nothing is.
    pub(crate) fn below(&mut self, prefix: &str) {
        if self.tensors.iter().any(|(name, _)| name.starts_with(prefix)) {
            self.tensors.retain_mut(|(name, _)| match name.strip_prefix(prefix) {
                Some(rest) => {
                    *name = rest.to_owned();
                    true
                }
                None => false,
            });
        }
    }

    /// Adds a tensor that files may leave out, unless it is there.
    pub(crate) fn or(&mut self, name: &str, tensor: Tensor) {
        if !self.contains(name) {
            self.tensors.push((name.to_owned(), tensor));
        }
    }

    /// Puts them into the parameters of their names, converted to their dtype. Every parameter must be there, and nothing else.
    pub(crate) fn load_into(&self, model: &impl Module) -> Result<(), ModelError> {
        let origin = self.origin.display().to_string();
        Ok(load_into(&origin, &model.named_tensors(), &self.tensors, true)?)
    }
}
