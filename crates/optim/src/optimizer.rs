//! What an optimizer does for a training loop.

use wgrad_tensor::Tensor;

use crate::{OptimError, OptimizerState};

/// Something that changes parameters so that a loss falls.
pub trait Optimizer {
    /// One update. Traces gradients, clipping and update onto the loss, evaluates everything as one program and rebinds the
    /// parameters. Gradients that [`Optimizer::accumulate`] has gathered enter with the same weight as the new ones.
    ///
    /// Frozen parameters are left alone, and so are those that the loss does not depend on (they are listed in
    /// [`StepOutcome::unused`]); neither decays.
    ///
    /// # Errors
    /// The loss, a gradient or the update cannot be computed, or nothing is left to train. Nothing has changed then.
    fn step(&mut self, loss: &Tensor) -> Result<StepOutcome, OptimError>;

    /// Adds the gradients of a micro-batch to those of the next [`Optimizer::step`], which takes the mean of all micro-batches,
    /// its own included. Returns the loss, computed and without history.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    fn accumulate(&mut self, loss: &Tensor) -> Result<Tensor, OptimError>;

    /// The gradients of a loss for the trainable parameters, lazy and unclipped; `None` where the loss does not depend on it.
    ///
    /// # Errors
    /// A tensor carries an error, or an operation has no gradient.
    fn grads(&self, loss: &Tensor) -> Result<Vec<(String, Option<Tensor>)>, OptimError>;

    /// The learning rate of the next steps.
    fn set_lr(&mut self, lr: f64);

    /// The learning rate.
    fn lr(&self) -> f64;

    /// The global norm to which gradients are clipped from now on, or `None` for no clipping (the default).
    fn set_clip_grad_norm(&mut self, max_norm: Option<f64>);

    /// What it remembers, for a checkpoint. Accumulated gradients are not part of it: save after a step.
    fn state_dict(&self) -> OptimizerState;

    /// Goes on from a saved state, bit for bit.
    ///
    /// # Errors
    /// The state is of another kind of optimizer or of other parameters; nothing has changed then.
    fn load_state_dict(&mut self, state: &OptimizerState) -> Result<(), OptimError>;
}

/// What one step did. The tensors are computed and hold no history: read them when it suits, for example a step later, so that
/// the device need not wait.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// The loss before the update, rank 0; the mean over micro-batches where gradients were accumulated.
    pub loss: Tensor,
    /// The global norm of the gradients before clipping, rank 0.
    pub grad_norm: Tensor,
    /// Trainable parameters that the loss does not depend on. They were not changed.
    pub unused: Vec<String>,
}
