//! Stochastic gradient descent.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::stepper;
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check, check_not_negative},
};

/// Stochastic gradient descent with momentum, computed as PyTorch's `SGD` computes it:
///
/// ```text
/// g ← g + wd p
/// b ← g at the first update, then μ b + (1 - dampening) g
/// p ← p - lr b            (with Nesterov's momentum: p - lr (g + μ b))
/// ```
///
/// Without momentum, `p ← p - lr g`, and no state is kept.
pub type Sgd = Stepper<SgdConfig>;

/// The constants of [`Sgd`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// `μ`.
    pub momentum: f64,
    /// How much less than fully a gradient enters the momentum.
    pub dampening: f64,
    /// Looks ahead along the momentum (Sutskever et al., 2013).
    pub nesterov: bool,
}

stepper!(SgdConfig);

impl UpdateRule for SgdConfig {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_not_negative("momentum", self.momentum)?;
        check("dampening", self.dampening.is_finite(), self.dampening, "finite")?;
        let plain = self.momentum > 0.0 && self.dampening == 0.0;
        check("nesterov", !self.nesterov || plain, self.nesterov, "false without momentum, or with dampening")
    }

    fn state_names(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &["momentum_buffer"] }
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        // The buffer is zero before the first update, which takes the gradient undamped.
        let fresh = if step <= 1 { 1.0 } else { 1.0 - self.dampening };
        vec![lr, weight_decay, self.momentum, fresh]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [lr, weight_decay, momentum, fresh] = n.get();
        let gradient = gradient.add(param.mul(weight_decay));
        let Some(buffer) = state.first() else {
            return (param.sub(gradient.mul(lr)), Vec::new());
        };
        let buffer = buffer.mul(momentum).add(gradient.mul(fresh));
        let direction = if self.nesterov { gradient.add(buffer.mul(momentum)) } else { buffer.clone() };
        (param.sub(direction.mul(lr)), vec![buffer])
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        // Without a buffer there is nothing to set, and a buffer does not come or go within a run.
        let has = self.momentum != 0.0 && momentum != 0.0;
        if has {
            self.momentum = momentum;
        }
        has
    }
}
