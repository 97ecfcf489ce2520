//! Folders of `config.json` and `model.safetensors`.

use std::{fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use wgrad_nn::{Module, safetensors::write_atomically};

use crate::ModelError;

const CONFIG: &str = "config.json";
/// The file of parameters.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// Reads `config.json` of a folder.
pub(crate) fn read_config<C: DeserializeOwned>(dir: &Path) -> Result<C, ModelError> {
    let path = dir.join(CONFIG);
    let text = fs::read_to_string(&path).map_err(|source| ModelError::Io {
        action: "read",
        path: path.clone(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| ModelError::ConfigFile { path, source })
}

/// Writes `config.json` and `model.safetensors`, making the folder where it is not there.
pub(crate) fn save(dir: &Path, config: &impl Serialize, model: &impl Module) -> Result<(), ModelError> {
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
