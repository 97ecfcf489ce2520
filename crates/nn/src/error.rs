//! What can go wrong with modules and their files.

use std::{io, path::PathBuf};

use thiserror::Error;
use wgrad_tensor::TensorError;

/// A failure of a module or of a file of tensors.
#[derive(Debug, Error)]
pub enum NnError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// `read`, `write`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is damaged or not a {format} file: {message}; fetch or write it again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// What was found.
        message: String,
    },
    /// A weight is not a number.
    #[error("{}: element {index} of `{name}` is not a number; the training that wrote the file had failed, or the file is damaged: \
        take an earlier one, or fetch it again", .path.display())]
    NotANumber {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Which of its elements, in row-major order.
        index: usize,
    },
    /// Tensors and parameters do not fit together.
    #[error("{origin} does not fit the model: {}; check that both have the same configuration", list(.problems))]
    Mismatch {
        /// Where the tensors come from.
        origin: String,
        /// One entry for each name that is missing, unexpected, or of another shape or dtype.
        problems: Vec<String>,
    },
    /// A name that has no meaning here.
    #[error("unknown {what} `{name}`; known: {known}")]
    Unknown {
        /// `activation`, ...
        what: &'static str,
        /// The name that came.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// An operation that answers on the host was called wrongly.
    #[error("[{op}] {message}")]
    Invalid {
        /// Which one.
        op: &'static str,
        /// What was expected, and what came.
        message: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// The first few problems; a wrong configuration can give hundreds.
fn list(problems: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = problems.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}
