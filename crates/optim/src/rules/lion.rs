//! Lion.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::{lerp, sign, stepper};
use crate::{Numbers, OptimError, Stepper, UpdateRule, error::check_betas};

/// Evolved sign momentum (Chen et al., 2023, "Symbolic Discovery of Optimization Algorithms", program 1):
///
/// ```text
/// p ← p (1 - lr wd)
/// p ← p - lr sign(β₁ m + (1 - β₁) g)
/// m ← β₂ m + (1 - β₂) g
/// ```
///
/// It wants learning rates three to ten times smaller than Adam's, and weight decays as much larger.
pub type Lion = Stepper<LionConfig>;

/// The constants of [`Lion`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LionConfig {
    /// How much of the momentum enters the update, and stays.
    pub betas: (f64, f64),
}

impl Default for LionConfig {
    /// The paper's: betas 0.9 and 0.99; its learning rate is 1e-4.
    fn default() -> Self {
        LionConfig { betas: (0.9, 0.99) }
    }
}

stepper!(LionConfig);

impl UpdateRule for LionConfig {
    fn name(&self) -> &'static str {
        "lion"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_betas(self.betas)
    }

    fn default_lr(&self) -> f64 {
        1e-4
    }

    fn state_names(&self) -> &'static [&'static str] {
        &["exp_avg"]
    }

    fn numbers(&self, lr: f64, weight_decay: f64, _step: u64) -> Vec<f64> {
        vec![1.0 - lr * weight_decay, lr, 1.0 - self.betas.0, 1.0 - self.betas.1]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [keep, lr, now, later] = n.get();
        let direction = sign(&lerp(&state[0], gradient, now));
        (param.mul(keep).sub(direction.mul(lr)), vec![lerp(&state[0], gradient, later)])
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        self.betas.0 = momentum;
        true
    }
}
