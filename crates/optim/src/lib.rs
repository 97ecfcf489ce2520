//! Optimizers, learning-rate schedules and gradient clipping.
//!
//! An optimizer owns groups of parameters. [`Optimizer::step`] takes a loss and does the rest of a training step as one
//! program: loss, gradients, clipping and update; afterwards the parameters hold their new values. Learning rate, decay and
//! bias corrections are inputs of that program, so that it is compiled once for a whole run.
//!
//! The parameters of a group lie end to end in flat *arenas*, and so do their gradients and states: each [`Param`](wgrad_nn::Param) holds a
//! slice. An update is one kernel for a whole arena, in place.
//!
//! ```no_run
//! # fn example(model: &impl wgrad_nn::Module, loss: &wgrad_tensor::Tensor) -> Result<(), wgrad_optim::OptimError> {
//! use wgrad_optim::{AdamW, AdamWConfig, Optimizer, Schedule, decay_matrices_only};
//! let schedule = Schedule::WarmupCosineTo { lr: 1e-3, min_lr: 1e-4, warmup: 100, total: 2000 };
//! let mut opt = AdamW::new(decay_matrices_only(model, 0.1), AdamWConfig::default());
//! opt.set_clip_grad_norm(Some(1.0));
//! opt.set_lr(schedule.lr(0));
//! let outcome = opt.step(loss)?;
//! println!("{} {}", outcome.loss.item()?, outcome.grad_norm.item()?);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod adamw;
mod arena;
mod clip;
mod error;
mod groups;
mod optimizer;
mod rule;
mod saved;
mod schedule;
mod sgd;
mod state;
mod stepper;

pub use adamw::{AdamW, AdamWConfig};
pub use clip::{clip_coefficient, global_norm};
pub use error::OptimError;
pub use groups::{ParamGroup, all_parameters, decay_matrices_only};
pub use optimizer::{Optimizer, StepOutcome};
pub use rule::{Numbers, UpdateRule};
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdConfig};
pub use state::OptimizerState;
pub use stepper::Stepper;
