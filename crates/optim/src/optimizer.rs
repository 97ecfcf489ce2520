//! What an optimizer does for a training loop.

use wgrad_tensor::Tensor;

use crate::{Clipping, GradScaler, OptimError, OptimizerState};

/// Something that changes parameters so that a loss falls.
pub trait Optimizer {
    /// One update. Traces gradients, clipping and update onto the loss, evaluates everything as one program and rebinds the
    /// parameters. Gradients that [`Optimizer::accumulate`] has gathered enter with the same weight as the new ones.
    ///
    /// Frozen parameters are left alone, and so are those that the loss does not depend on (they are listed in
    /// [`StepOutcome::unused`]); neither decays.
    ///
    /// # Errors
    /// The loss, a gradient or the update cannot be computed, nothing is left to train, or a setting makes no sense
    /// ([`OptimError::Value`]). Nothing has changed then.
    fn step(&mut self, loss: &Tensor) -> Result<StepOutcome, OptimError>;

    /// One update by an optimizer that may need the loss at several points. `closure` computes the loss from the parameters as they
    /// are when it is called. All optimizers but [`Lbfgs`](crate::Lbfgs) call it once.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    fn step_closure(&mut self, closure: &mut dyn FnMut() -> Tensor) -> Result<StepOutcome, OptimError> {
        self.step(&closure())
    }

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

    /// The learning rate of the next steps, finite and 0 or more: another one is an error of the next step.
    fn set_lr(&mut self, lr: f64);

    /// The learning rate.
    fn lr(&self) -> f64;

    /// What is done to long gradients from now on, or `None` for no clipping (the default). Limits that are negative or NaN are an error
    /// of the next step.
    fn set_clipping(&mut self, clipping: Option<Clipping>);

    /// The global norm to which gradients are clipped from now on, or `None` for no clipping: [`Clipping::Norm`].
    fn set_clip_grad_norm(&mut self, max_norm: Option<f64>) {
        self.set_clipping(max_norm.map(Clipping::Norm));
    }

    /// How losses are scaled before they are differentiated from now on, or `None` for not at all (the default). `false` where the
    /// optimizer cannot.
    fn set_grad_scaler(&mut self, scaler: Option<GradScaler>) -> bool {
        scaler.is_none()
    }

    /// The momentum (or `betas[0]`) of the next steps, for schedules that cycle it. `false` where the optimizer has none.
    fn set_momentum(&mut self, momentum: f64) -> bool;

    /// What it remembers, for a checkpoint. Accumulated gradients are not part of it: save after a step.
    fn state_dict(&self) -> OptimizerState;

    /// Goes on from a saved state, bit for bit.
    ///
    /// # Errors
    /// The state is of another kind of optimizer or of other parameters; nothing has changed then.
    fn load_state_dict(&mut self, state: &OptimizerState) -> Result<(), OptimError>;
}

impl Optimizer for Box<dyn Optimizer> {
    fn step(&mut self, loss: &Tensor) -> Result<StepOutcome, OptimError> {
        (**self).step(loss)
    }

    fn step_closure(&mut self, closure: &mut dyn FnMut() -> Tensor) -> Result<StepOutcome, OptimError> {
        (**self).step_closure(closure)
    }

    fn accumulate(&mut self, loss: &Tensor) -> Result<Tensor, OptimError> {
        (**self).accumulate(loss)
    }

    fn grads(&self, loss: &Tensor) -> Result<Vec<(String, Option<Tensor>)>, OptimError> {
        (**self).grads(loss)
    }

    fn set_lr(&mut self, lr: f64) {
        (**self).set_lr(lr);
    }

    fn lr(&self) -> f64 {
        (**self).lr()
    }

    fn set_clipping(&mut self, clipping: Option<Clipping>) {
        (**self).set_clipping(clipping);
    }

    fn set_grad_scaler(&mut self, scaler: Option<GradScaler>) -> bool {
        (**self).set_grad_scaler(scaler)
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        (**self).set_momentum(momentum)
    }

    fn state_dict(&self) -> OptimizerState {
        (**self).state_dict()
    }

    fn load_state_dict(&mut self, state: &OptimizerState) -> Result<(), OptimError> {
        (**self).load_state_dict(state)
    }
}

/// What one step did. The tensors are computed and hold no history: read them when it suits, for example a step later, so that
/// the device need not wait.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// The loss before the update, rank 0; the mean over micro-batches where gradients were accumulated.
    pub loss: Tensor,
    /// The global norm of the gradients before clipping, rank 0; not finite where a [`GradScaler`] skipped the step.
    pub grad_norm: Tensor,
    /// Trainable parameters that the loss does not depend on. They were not changed.
    pub unused: Vec<String>,
}
