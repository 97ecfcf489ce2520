//! What can go wrong in a training step.

use thiserror::Error;
use wgrad_tensor::TensorError;

/// A failure of an optimizer. Parameters and states are as before the call.
#[derive(Debug, Error)]
pub enum OptimError {
    /// The loss, a gradient or the update could not be computed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// No parameter is left to train.
    #[error("{0}")]
    NothingToTrain(String),
    /// A saved state does not belong to this optimizer.
    #[error("the optimizer state does not fit: {}; resume with the model and the optimizer that wrote it", .problems.join("; "))]
    State {
        /// What does not fit.
        problems: Vec<String>,
    },
}
