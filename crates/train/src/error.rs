//! The error type of a training run.

use std::io;
use std::path::{Path, PathBuf};

use wgrad_optim::OptimError;
use wgrad_runtime::{DeviceError, human_bytes};
use wgrad_tensor::TensorError;

use crate::RecipeError;

/// `Result` with [`TrainError`].
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// What can end a training run early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The text cannot be read or is too short.
    #[error(transparent)]
    Data(#[from] wgrad_data::DataError),
    /// The model or its files.
    #[error(transparent)]
    Model(#[from] wgrad_models::ModelError),
    /// Parameters and their files.
    #[error(transparent)]
    Nn(#[from] wgrad_nn::NnError),
    /// The optimizer.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// A computation, or the device.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Weights, gradients and optimizer state alone are more than there is room for.
    #[error("{device}: training {parameters} parameters takes {} for {what}, whatever the batch, but \
        only {} are available; choose a smaller model ({advice})",
        human_bytes(*.needed), human_bytes(*.available))]
    ModelTooLarge {
        /// The device.
        device: String,
        /// How many numbers the model has.
        parameters: usize,
        /// What they are kept with.
        what: &'static str,
        /// Bytes that all of this takes.
        needed: u64,
        /// Bytes that there are.
        available: u64,
        /// What makes the model smaller.
        advice: &'static str,
    },
    /// Images are not those that the recipe tells of.
    #[error("the {split} images in `{}` do not fit the recipe: {what} say {expected}, found {found}", folder.display())]
    Images {
        /// Their folder.
        folder: PathBuf,
        /// Which of them.
        split: String,
        /// The keys of the recipe.
        what: &'static str,
        /// What these say.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A conversation cannot be written as the model reads it.
    #[error("chat template: {0}")]
    Chat(String),
    /// A task was opened without the data that is asked of it.
    #[error("there is no {0}: the task was opened without it; open it to train")]
    NoData(&'static str),
    /// The operating system refused a file operation: a full disk, for one.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A run folder that cannot be used as one.
    #[error("{}: {reason}", path.display())]
    RunFolder {
        /// The folder.
        path: PathBuf,
        /// What was expected, what is there, what to do.
        reason: String,
    },
    /// A checkpoint is damaged or not one.
    #[error("the checkpoint `{}` cannot be used: {reason}", path.display())]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// Which file, what its bytes should be, what they are.
        reason: String,
    },
    /// A loss or a gradient is infinite or not a number.
    #[error("step {step}: the loss is {loss} and the gradient norm {grad_norm}: {culprit}; {way_out}")]
    NotFinite {
        /// The update, counted from 1.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Its gradient norm before clipping.
        grad_norm: f64,
        /// The first tensor that holds such values.
        culprit: String,
        /// What to do.
        way_out: String,
    },
    /// The curve cannot be drawn.
    #[error("cannot draw the loss curve: {0}")]
    Picture(String),
}

impl From<DeviceError> for TrainError {
    fn from(error: DeviceError) -> Self {
        TrainError::Tensor(error.into())
    }
}

impl TrainError {
    /// Whether a step exceeds the memory that there is or a limit of the device, so that one with a smaller batch or other settings
    /// might do.
    pub fn is_too_large(&self) -> bool {
        let (TrainError::Tensor(error) | TrainError::Optim(OptimError::Tensor(error))) = self else {
            return false;
        };
        matches!(error, TensorError::Device(DeviceError::OutOfMemory { .. } | DeviceError::TooLarge { .. }))
    }

    /// Wraps an I/O error with the operation and the path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| TrainError::Io { action, path, source }
    }
}
