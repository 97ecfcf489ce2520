//! NAdam.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::{lerp, power, stepper};
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check_betas, check_not_negative},
};

/// Adam with Nesterov's momentum (Dozat, 2016), computed as PyTorch's `NAdam` computes it: for the `t`-th update with
/// gradient `g`,
///
/// ```text
/// p ← p (1 - lr wd)   with `decoupled_weight_decay`, else   g ← g + wd p
/// μₜ = β₁ (1 - 0.96^(t ψ) / 2)
/// m ← m + (1 - β₁) (g - m)
/// v ← β₂ v + (1 - β₂) g²
/// p ← p - lr (1 - μₜ) / (1 - μ₁⋯μₜ) · g / (√(v / (1 - β₂ᵗ)) + eps) - lr μₜ₊₁ / (1 - μ₁⋯μₜ₊₁) · m / (√(v / (1 - β₂ᵗ)) + eps)
/// ```
pub type NAdam = Stepper<NAdamConfig>;

/// The constants of [`NAdam`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NAdamConfig {
    /// Decay rates of the running means of `g` and of `g²`.
    pub betas: (f64, f64),
    /// Added to the root of the mean square.
    pub eps: f64,
    /// `ψ`: how fast the momentum reaches `β₁`.
    pub momentum_decay: f64,
    /// Whether weight decay shrinks the parameters themselves, as AdamW does.
    pub decoupled_weight_decay: bool,
}

impl Default for NAdamConfig {
    /// PyTorch's: betas 0.9 and 0.999, eps 1e-8, momentum decay 4e-3; its learning rate is 2e-3.
    fn default() -> Self {
        NAdamConfig { betas: (0.9, 0.999), eps: 1e-8, momentum_decay: 4e-3, decoupled_weight_decay: false }
    }
}

stepper!(NAdamConfig);

impl NAdamConfig {
    /// `μₜ`.
    fn momentum(&self, t: u64) -> f64 {
        self.betas.0 * (1.0 - 0.5 * 0.96f64.powf(t as f64 * self.momentum_decay))
    }

    /// `μ₁⋯μₜ`. Once the product is beyond the precision of `1 - μ₁⋯μₜ`, no more factors are needed.
    fn product(&self, t: u64) -> f64 {
        let mut product = 1.0;
        for i in 1..=t {
            product *= self.momentum(i);
            if product < 1e-20 {
                return 0.0;
            }
        }
        product
    }
}

impl UpdateRule for NAdamConfig {
    fn name(&self) -> &'static str {
        "nadam"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_betas(self.betas)?;
        check_not_negative("eps", self.eps)?;
        check_not_negative("momentum_decay", self.momentum_decay)
    }

    fn default_lr(&self) -> f64 {
        2e-3
    }

    fn state_names(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        let (beta1, beta2) = self.betas;
        let (now, next, product) = (self.momentum(step), self.momentum(step + 1), self.product(step));
        let (decay, keep) =
            if self.decoupled_weight_decay { (0.0, 1.0 - lr * weight_decay) } else { (weight_decay, 1.0) };
        vec![
            decay,
            keep,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            (1.0 - power(beta2, step)).recip(),
            self.eps,
            lr * (1.0 - now) / (1.0 - product),
            lr * next / (1.0 - product * next),
        ]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [decay, keep, new1, beta2, new2, correction, eps, of_gradient, of_mean] = n.get();
        let gradient = gradient.add(param.mul(decay));
        let m = lerp(&state[0], &gradient, new1);
        let v = state[1].mul(beta2).add(gradient.square().mul(new2));
        let denominator = v.mul(correction).sqrt().add(eps);
        let change = gradient.mul(of_gradient).add(m.mul(of_mean)).div(denominator);
        (param.mul(keep).sub(change), vec![m, v])
    }
}
