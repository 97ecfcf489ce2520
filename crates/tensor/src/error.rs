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
    /// The elements of an old handle are gone.
    #[error(
        "{tensor} was updated in place by {by}, so that its former elements are gone; take the tensor anew (of a parameter, \
        `Param::tensor`), and read what you need of the old one before the update"
    )]
    Updated {
        /// The tensor: its name where it has one, dtype and shape.
        tensor: String,
        /// What overwrote the elements.
        by: &'static str,
    },
    /// A tensor that stands for a function's operand was asked for elements.
    #[error(
        "{tensor} stands for an operand of a function that is being traced, and has no elements; evaluate outside of it"
    )]
    Placeholder {
        /// The tensor: its name, dtype and shape.
        tensor: String,
    },
    /// A function with a gradient of its own uses a tensor from outside.
    #[error(
        "{tensor} comes from outside of a function with a gradient of its own, which could not give it one; make it an operand"
    )]
    Captured {
        /// The tensor: its name where it has one, dtype and shape.
        tensor: String,
    },
    /// What a function's gradient returned does not fit its operands.
    #[error(
        "the gradient of `{function}` gives {found}, expected {expected}: one for each floating-point operand, in order"
    )]
    Cotangents {
        /// The function.
        function: String,
        /// Dtypes and shapes of the floating-point operands.
        expected: String,
        /// Dtypes and shapes that came.
        found: String,
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
