//! What can go wrong with a model.

use std::{io, path::PathBuf};

use thiserror::Error;
use wgrad_nn::NnError;
use wgrad_runtime::human_bytes;
use wgrad_tensor::TensorError;

/// A failure to make, load, save or run a model.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A configuration asks for something impossible or unsupported.
    #[error("configuration of {model}: {message}")]
    Config {
        /// The kind of model.
        model: &'static str,
        /// What was expected and what came.
        message: String,
    },
    /// A configuration file cannot be understood.
    #[error("cannot understand {}: {source}", .path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A folder holds a model of a kind that there is not.
    #[error("{}: {}; known: {known}", .path.display(), kind(.found))]
    UnknownModelType {
        /// The configuration.
        path: PathBuf,
        /// What it names.
        found: Option<String>,
        /// The names that there are.
        known: String,
    },
    /// The files of a folder do not fit together.
    #[error("{}: {message}", .path.display())]
    Folder {
        /// The file that asks for it.
        path: PathBuf,
        /// What was expected and what came.
        message: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// `read`, `create`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The weights alone are more than there is room for.
    #[error("{device}: a {model} of {parameters} parameters takes {}, but only {} are available; choose a smaller model (fewer or \
        narrower layers, a smaller vocabulary)", human_bytes(*.needed), human_bytes(*.available))]
    TooLarge {
        /// Where the weights were to lie.
        device: String,
        /// The kind of model.
        model: &'static str,
        /// How many numbers it has.
        parameters: usize,
        /// Their bytes.
        needed: u64,
        /// Bytes that there are.
        available: u64,
    },
    /// A parameter could not be made.
    #[error("parameter `{name}`: {source}")]
    Parameter {
        /// Its name.
        name: String,
        /// Why.
        source: Box<TensorError>,
    },
    /// Generation was asked for something impossible.
    #[error("cannot generate: {0}")]
    Generate(String),
    /// Parameters or their file.
    #[error(transparent)]
    Nn(#[from] NnError),
    /// A tensor operation.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

fn kind(found: &Option<String>) -> String {
    match found {
        Some(name) => format!("`model_type` is `{name}`, which is not known"),
        None => "there is no `model_type`".to_owned(),
    }
}
