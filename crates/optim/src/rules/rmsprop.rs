//! RMSprop.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::{lerp, stepper};
use crate::{Numbers, OptimError, Stepper, UpdateRule, error::check_not_negative};

/// RMSprop (Hinton, Srivastava and Swersky, 2012, lecture 6), centred as by Graves (2013), computed as PyTorch's `RMSprop`
/// computes it:
///
/// ```text
/// g ← g + wd p
/// v ← α v + (1 - α) g²
/// a ← a + (1 - α) (g - a)                       with `centered`, else a = 0
/// b ← μ b + g / (√(v - a²) + eps)               (μ is the momentum)
/// p ← p - lr b
/// ```
pub type RmsProp = Stepper<RmsPropConfig>;

/// The constants of [`RmsProp`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RmsPropConfig {
    /// Decay rate of the means.
    pub alpha: f64,
    /// Added to the root.
    pub eps: f64,
    /// `μ`.
    pub momentum: f64,
    /// Whether the variance is divided by, instead of the mean square.
    pub centered: bool,
}

impl Default for RmsPropConfig {
    /// PyTorch's: alpha 0.99, eps 1e-8, no momentum, not centred; its learning rate is 0.01.
    fn default() -> Self {
        RmsPropConfig { alpha: 0.99, eps: 1e-8, momentum: 0.0, centered: false }
    }
}

stepper!(RmsPropConfig);

impl UpdateRule for RmsPropConfig {
    fn name(&self) -> &'static str {
        "rmsprop"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_not_negative("alpha", self.alpha)?;
        check_not_negative("eps", self.eps)?;
        check_not_negative("momentum", self.momentum)
    }

    fn default_lr(&self) -> f64 {
        1e-2
    }

    fn state_names(&self) -> &'static [&'static str] {
        match (self.momentum != 0.0, self.centered) {
            (false, false) => &["square_avg"],
            (false, true) => &["square_avg", "grad_avg"],
            (true, false) => &["square_avg", "momentum_buffer"],
            (true, true) => &["square_avg", "momentum_buffer", "grad_avg"],
        }
    }

    fn numbers(&self, lr: f64, weight_decay: f64, _step: u64) -> Vec<f64> {
        vec![weight_decay, self.alpha, 1.0 - self.alpha, self.eps, self.momentum, lr]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [decay, alpha, new, eps, momentum, lr] = n.get();
        let gradient = gradient.add(param.mul(decay));
        let v = state[0].mul(alpha).add(gradient.square().mul(new));
        let mut states = vec![v.clone()];
        let mean = match state.last() {
            Some(mean) if self.centered => Some(lerp(mean, &gradient, new)),
            _ => None,
        };
        let variance = match &mean {
            // Rounding may leave a variance just below zero.
            Some(mean) => v.sub(mean.square()).maximum(Tensor::constant(0.0, v.dtype(), v.device())),
            None => v,
        };
        let mut change = gradient.div(variance.sqrt().add(eps));
        if self.momentum != 0.0 {
            change = state[1].mul(momentum).add(change);
            states.push(change.clone());
        }
        states.extend(mean);
        (param.sub(change.mul(lr)), states)
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
