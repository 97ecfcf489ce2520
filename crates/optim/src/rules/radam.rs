//! RAdam.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::{lerp, power, stepper};
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check_betas, check_not_negative},
};

/// Rectified Adam (Liu et al., 2020), computed as PyTorch's `RAdam` computes it: for the `t`-th update with gradient `g`,
///
/// ```text
/// p ← p (1 - lr wd)   with `decoupled_weight_decay`, else   g ← g + wd p
/// m ← m + (1 - β₁) (g - m)
/// v ← β₂ v + (1 - β₂) g²
/// ρ∞ = 2 / (1 - β₂) - 1,   ρ = ρ∞ - 2 t β₂ᵗ / (1 - β₂ᵗ)
/// r = √((ρ - 4) (ρ - 2) ρ∞ / ((ρ∞ - 4) (ρ∞ - 2) ρ))
/// p ← p - lr m / (1 - β₁ᵗ) · (r √(1 - β₂ᵗ) / (√v + eps)   where ρ > 5, else 1)
/// ```
pub type RAdam = Stepper<RAdamConfig>;

/// The constants of [`RAdam`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RAdamConfig {
    /// Decay rates of the running means of `g` and of `g²`.
    pub betas: (f64, f64),
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Whether weight decay shrinks the parameters themselves, as AdamW does.
    pub decoupled_weight_decay: bool,
}

impl Default for RAdamConfig {
    /// PyTorch's: betas 0.9 and 0.999, eps 1e-8.
    fn default() -> Self {
        RAdamConfig { betas: (0.9, 0.999), eps: 1e-8, decoupled_weight_decay: false }
    }
}

stepper!(RAdamConfig);

impl UpdateRule for RAdamConfig {
    fn name(&self) -> &'static str {
        "radam"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_betas(self.betas)?;
        check_not_negative("eps", self.eps)
    }

    fn state_names(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        let (beta1, beta2) = self.betas;
        let remembered = power(beta2, step);
        let longest = 2.0 / (1.0 - beta2) - 1.0;
        let length = longest - 2.0 * step as f64 * remembered / (1.0 - remembered);
        // One formula for both cases, so that all steps are one program.
        let (plain, adaptive) = if length > 5.0 {
            let rectified =
                (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length);
            (0.0, (rectified * (1.0 - remembered)).sqrt())
        } else {
            (1.0, 0.0)
        };
        let (decay, keep) =
            if self.decoupled_weight_decay { (0.0, 1.0 - lr * weight_decay) } else { (weight_decay, 1.0) };
        let step_size = lr / (1.0 - power(beta1, step));
        vec![decay, keep, 1.0 - beta1, beta2, 1.0 - beta2, self.eps, step_size, plain, adaptive]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [decay, keep, new1, beta2, new2, eps, step_size, plain, adaptive] = n.get();
        let gradient = gradient.add(param.mul(decay));
        let m = lerp(&state[0], &gradient, new1);
        let v = state[1].mul(beta2).add(gradient.square().mul(new2));
        let scale = adaptive.div(v.sqrt().add(eps)).add(plain);
        (param.mul(keep).sub(m.mul(step_size).mul(scale)), vec![m, v])
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        self.betas.0 = momentum;
        true
    }
}
