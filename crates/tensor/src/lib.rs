//! The lazy, differentiable [`Tensor`]: a handle onto a graph of primitive operations, which is compiled and run when its
//! elements are asked for.
//!
//! Calling an operation computes nothing; it notes what is to be computed and infers the result's shape. [`eval`] compiles all
//! that is asked for into one program (found again in the device's cache when the same expression comes back) and runs it.
//! [`grad`] gives gradients as tensors, lazy themselves.
//!
//! **Errors.** Operations neither panic nor return `Result`: an invalid call gives a tensor that carries the error, and so does
//! whatever is computed from it. Evaluation returns the first one as `Err`, with operation, operand shapes and source line.
//! Gradients, devices and memory can fail for outside reasons; they return `Result`.
//!
//! **Numbers that change** from step to step (every `f64` operand, [`Tensor::scalar`], [`Tensor::full`], [`RandomKey`]) are
//! parameters of the compiled program; [`Tensor::constant`], [`Tensor::zeros`] and shapes are part of its structure.
//!
//! ```no_run
//! # fn example(device: &wgrad_runtime::DeviceHandle) -> Result<(), wgrad_tensor::TensorError> {
//! use wgrad_tensor::{Tensor, grad};
//! let w = Tensor::from_vec(vec![1.0f32, 2.0], [2, 1], device);
//! let x = Tensor::from_vec(vec![3.0f32, 4.0], [1, 2], device);
//! let loss = x.matmul(&w).square().mean_all();
//! let gradients = grad(&loss, &[&w])?;
//! assert_eq!(gradients[0].to_vec::<f32>()?, [66.0, 88.0]);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod autocast;
mod create;
mod display;
mod donate;
mod element;
mod elements;
mod error;
mod eval;
mod function;
mod gradient;
mod nowhere;
mod operand;
mod operators;
mod ops;
mod read;
mod scan;
mod tensor;
mod trace;

pub use create::RandomKey;
pub use donate::Donation;
pub use element::Element;
pub use error::TensorError;
pub use eval::{eval, eval_donating, eval_with};
pub use function::{
    Backward, call, checkpoint, function, function_with_gradient, trace_function,
    trace_function_with_gradient,
};
pub use gradient::{depends_on, grad, grad_allow_unused};
pub use operand::IntoOperand;
pub use ops::{GridMode, GridPadding, Interpolation, PadMode};
pub use read::PendingValue;
pub use scan::{Scanned, scan};
pub use tensor::Tensor;
pub use wgrad_compile::Options as CompileOptions;
pub use wgrad_ir::{ConvAxis, DType, Function, FunctionKernel, Shape};
pub use wgrad_runtime::{DeviceError, DeviceHandle};
