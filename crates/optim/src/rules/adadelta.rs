//! Adadelta.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::stepper;
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check, check_not_negative},
};

/// Adadelta (Zeiler, 2012), computed as PyTorch's `Adadelta` computes it:
///
/// ```text
/// g ← g + wd p
/// v ← ρ v + (1 - ρ) g²
/// δ = √(u + eps) / √(v + eps) · g
/// u ← ρ u + (1 - ρ) δ²
/// p ← p - lr δ
/// ```
pub type Adadelta = Stepper<AdadeltaConfig>;

/// The constants of [`Adadelta`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdadeltaConfig {
    /// Decay rate of both means.
    pub rho: f64,
    /// Added to the mean squares, inside of the roots.
    pub eps: f64,
}

impl Default for AdadeltaConfig {
    /// PyTorch's: rho 0.9, eps 1e-6; its learning rate is 1.
    fn default() -> Self {
        AdadeltaConfig { rho: 0.9, eps: 1e-6 }
    }
}

stepper!(AdadeltaConfig);

impl UpdateRule for AdadeltaConfig {
    fn name(&self) -> &'static str {
        "adadelta"
    }

    fn check(&self) -> Result<(), OptimError> {
        check("rho", (0.0..=1.0).contains(&self.rho), self.rho, "in 0..=1")?;
        check_not_negative("eps", self.eps)
    }

    fn default_lr(&self) -> f64 {
        1.0
    }

    fn state_names(&self) -> &'static [&'static str] {
        &["square_avg", "acc_delta"]
    }

    fn numbers(&self, lr: f64, weight_decay: f64, _step: u64) -> Vec<f64> {
        vec![weight_decay, self.rho, 1.0 - self.rho, self.eps, lr]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [decay, rho, new, eps, lr] = n.get();
        let gradient = gradient.add(param.mul(decay));
        let v = state[0].mul(rho).add(gradient.square().mul(new));
        let delta = state[1].add(eps).sqrt().div(v.add(eps).sqrt()).mul(&gradient);
        let u = state[1].mul(rho).add(delta.square().mul(new));
        (param.sub(delta.mul(lr)), vec![v, u])
    }
}
