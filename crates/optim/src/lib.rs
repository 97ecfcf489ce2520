//! Optimizers, learning-rate schedules and gradient clipping.
//!
//! An optimizer owns groups of parameters. [`Optimizer::step`] takes a loss and does the rest of a training step as one
//! program: loss, gradients, clipping and update; afterwards the parameters hold their new values. Learning rate, decay and
//! bias corrections are inputs of that program, so that it is compiled once for a whole run.
//!
//! What tells one optimizer from another is its [`UpdateRule`]; [`OptimizerSpec`] chooses one by name. Formulas and sources are in
//! the rules' documentation.
//!
//! The parameters of a group lie end to end in flat *arenas*, and so do their gradients and states: each [`Param`](wgrad_nn::Param) holds a
//! slice. An update is one kernel for a whole arena, in place. Rules that need parameters as a whole, such as Muon, get arenas of one
//! parameter each.
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

mod arena;
mod audit;
mod average;
mod bits;
mod clip;
mod error;
mod groups;
mod lbfgs;
mod lr_find;
mod optimizer;
mod rule;
mod rules;
mod saved;
mod scaler;
mod schedule;
mod spec;
mod state;
mod stepper;

pub use audit::{GradientAudit, GradientFlow};
pub use average::{AveragedModel, Averaging, Lookahead, lerp};
pub use clip::{Clipping, clip_adaptive, clip_coefficient, clip_value, global_norm};
pub use error::OptimError;
pub use groups::{ParamGroup, all_parameters, decay_matrices_only};
pub use lbfgs::{Lbfgs, LbfgsConfig, LineSearch};
pub use lr_find::{LrCurve, LrRangeTest};
pub use optimizer::{Optimizer, StepOutcome};
pub use rule::{Numbers, UpdateRule};
pub use rules::{
    Adadelta, AdadeltaConfig, Adafactor, AdafactorConfig, AdafactorHf, AdafactorHfConfig, Adagrad,
    AdagradConfig, Adam, AdamConfig, AdamW, AdamWConfig, Adamax, AdamaxConfig, AdjustLr, Asgd, AsgdConfig,
    Lamb, LambConfig, Lion, LionConfig, Muon, MuonConfig, NAdam, NAdamConfig, RAdam, RAdamConfig, RmsProp,
    RmsPropConfig, Rprop, RpropConfig, Sgd, SgdConfig,
};
pub use scaler::GradScaler;
pub use schedule::{
    Anneal, Cyclic, CyclicMode, DecayShape, ErrorRatio, Feedback, LrScheduler, OneCycle, PlateauMode, Rate,
    ReduceLrOnPlateau, Schedule, ThresholdMode,
};
pub use spec::{OptimizerSpec, Rest};
pub use state::OptimizerState;
pub use stepper::Stepper;
