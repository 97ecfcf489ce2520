//! What can be wrong with a tensor.

use std::{panic::Location, sync::Arc};

use thiserror::Error;
use wgrad_autograd::AutogradError;
use wgrad_compile::CompileError;
use wgrad_ir::IrError;
use wgrad_runtime::DeviceError;

/// Why a tensor has no value. Cheap to clone: every tensor computed from a faulty one carries the same error.
#[derive(Clone, Debug, Error)]
pub enum TensorError {
    /// An operation was called with operands that it does not take.
    #[error("[{op}] {message} (at {location})")]
    Op {
        /// The operation's name.
        op: &'static str,
        /// What was expected and what came, with the operands' shapes.
        message: String,
        /// The call.
        location: &'static Location<'static>,
    },
    /// The device failed: memory, limits, driver, an index out of range.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The compiler refused the graph.
    #[error(transparent)]
    Compile(Arc<CompileError>),
    /// The loss cannot be differentiated.
    #[error(transparent)]
    Gradient(#[from] AutogradError),
    /// No differentiable path leads from the loss to a tensor whose gradient was asked for.
    #[error(
        "[grad] the loss does not depend differentiably on {tensor} (number {position} of those asked for); \
        leave it out, or use `grad_allow_unused` (at {location})"
    )]
    Unreachable {
        /// The tensor: its name where it has one, dtype and shape.
        tensor: String,
        /// Its place in the list, from zero.
        position: usize,
        /// The call of `grad`.
        location: &'static Location<'static>,
    },
    /// A traced graph is inconsistent.
    #[error(transparent)]
    Ir(#[from] IrError),
}

impl From<CompileError> for TensorError {
    fn from(error: CompileError) -> Self {
        TensorError::Compile(Arc::new(error))
    }
}
