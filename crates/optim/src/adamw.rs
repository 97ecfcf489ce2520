//! AdamW.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use crate::{Numbers, ParamGroup, Stepper, UpdateRule};

/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019), computed as PyTorch's `AdamW` computes it: for the `t`-th
/// update with gradient `g`,
///
/// ```text
/// p ← p (1 - lr wd)
/// m ← m + (1 - β₁) (g - m)
/// v ← β₂ v + (1 - β₂) g²
/// p ← p - lr / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + eps)
/// ```
pub type AdamW = Stepper<AdamWConfig>;

/// The constants of [`AdamW`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct AdamWConfig {
    /// Decay rates of the running means of `g` and of `g²`.
    pub betas: (f64, f64),
    /// Added to the root of the mean square, outside of the root.
    pub eps: f64,
}

impl Default for AdamWConfig {
    /// PyTorch's: betas 0.9 and 0.999, eps 1e-8.
    fn default() -> Self {
        AdamWConfig { betas: (0.9, 0.999), eps: 1e-8 }
    }
}

impl Stepper<AdamWConfig> {
    /// With a learning rate of 1e-3; see [`Optimizer::set_lr`](crate::Optimizer::set_lr).
    pub fn new(groups: Vec<ParamGroup>, config: AdamWConfig) -> Self {
        Stepper::with_rule(groups, config)
    }
}

impl UpdateRule for AdamWConfig {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn state_names(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        let (beta1, beta2) = self.betas;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        let keep = 1.0 - lr * weight_decay;
        vec![
            keep,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            lr / correction(beta1),
            correction(beta2).sqrt().recip(),
            self.eps,
        ]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [keep, new1, beta2, new2, step_size, inverse_root, eps] = n.get();
        let [m, v] = [&state[0], &state[1]];
        let m = m.add(gradient.sub(m).mul(new1));
        let v = v.mul(beta2).add(gradient.square().mul(new2));
        let denominator = v.sqrt().mul(inverse_root).add(eps);
        let param = param.mul(keep).sub(m.div(&denominator).mul(step_size));
        (param, vec![m, v])
    }
}
