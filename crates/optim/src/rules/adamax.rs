//! Adamax.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::{lerp, power, stepper};
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check_betas, check_not_negative},
};

/// Adam with the infinity norm (Kingma and Ba, 2015, section 7.1), computed as PyTorch's `Adamax` computes it:
///
/// ```text
/// g ← g + wd p
/// m ← m + (1 - β₁) (g - m)
/// u ← max(β₂ u, |g| + eps)
/// p ← p - lr / (1 - β₁ᵗ) · m / u
/// ```
pub type Adamax = Stepper<AdamaxConfig>;

/// The constants of [`Adamax`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamaxConfig {
    /// Decay rates of the running mean of `g` and of the largest `|g|`.
    pub betas: (f64, f64),
    /// Added to `|g|`.
    pub eps: f64,
}

impl Default for AdamaxConfig {
    /// PyTorch's: betas 0.9 and 0.999, eps 1e-8; its learning rate is 2e-3.
    fn default() -> Self {
        AdamaxConfig { betas: (0.9, 0.999), eps: 1e-8 }
    }
}

stepper!(AdamaxConfig);

impl UpdateRule for AdamaxConfig {
    fn name(&self) -> &'static str {
        "adamax"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_betas(self.betas)?;
        check_not_negative("eps", self.eps)
    }

    fn default_lr(&self) -> f64 {
        2e-3
    }

    fn state_names(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_inf"]
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        let (beta1, beta2) = self.betas;
        vec![weight_decay, 1.0 - beta1, beta2, self.eps, lr / (1.0 - power(beta1, step))]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [decay, new1, beta2, eps, step_size] = n.get();
        let gradient = gradient.add(param.mul(decay));
        let m = lerp(&state[0], &gradient, new1);
        let u = state[1].mul(beta2).maximum(gradient.abs().add(eps));
        (param.sub(m.div(&u).mul(step_size)), vec![m, u])
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        self.betas.0 = momentum;
        true
    }
}
