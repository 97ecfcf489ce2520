//! What can be wrong with a graph or a program.

use thiserror::Error;

/// A graph or program that does not mean anything.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IrError {
    /// An operation was applied to operands that it does not take.
    #[error("[{op}] {message}")]
    Invalid {
        /// Name of the operation.
        op: &'static str,
        /// What was expected and what came.
        message: String,
    },
    /// A structural rule that the compiler must keep is broken; this is a defect of wgrad, not of a model.
    #[error("inconsistent {what}: {message} (this is a defect in wgrad; please report it)")]
    Inconsistent {
        /// `graph` or `program`.
        what: &'static str,
        /// The rule and where it is broken.
        message: String,
    },
}
