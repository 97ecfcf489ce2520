//! What can go wrong in a training step.

use thiserror::Error;
use wgrad_tensor::TensorError;

/// A failure of an optimizer or a schedule. Parameters and states are as before the call.
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
    /// The optimizer cannot do what it was asked to, or not with these parameters.
    #[error("{0}")]
    Unsuited(String),
    /// A setting or a measurement that makes no sense.
    #[error("`{name}` must be {expected}, found {found}")]
    Value {
        /// What it is called.
        name: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
}

/// Checks decay rates of running means.
pub(crate) fn check_betas(betas: (f64, f64)) -> Result<(), OptimError> {
    let share = |x: f64| (0.0..1.0).contains(&x);
    check("betas", share(betas.0) && share(betas.1), format!("{betas:?}"), "two numbers in 0..1")
}

/// Checks a number that must be finite and not negative.
pub(crate) fn check_not_negative(name: &str, found: f64) -> Result<(), OptimError> {
    check(name, found >= 0.0 && found.is_finite(), found, "finite and 0 or more")
}

/// Checks a setting; NaN fails every comparison and is thereby refused.
pub(crate) fn check(
    name: &str,
    good: bool,
    found: impl std::fmt::Display,
    expected: &str,
) -> Result<(), OptimError> {
    if good {
        Ok(())
    } else {
        Err(OptimError::Value {
            name: name.to_owned(),
            expected: expected.to_owned(),
            found: found.to_string(),
        })
    }
}
