//! AdamW.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::{AdamConfig, stepper};
use crate::{Numbers, OptimError, Stepper, UpdateRule};

/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019), computed as PyTorch's `AdamW` computes it: for the `t`-th
/// update with gradient `g`,
///
/// ```text
/// p ← p (1 - lr wd)
/// m ← m + (1 - β₁) (g - m)
/// v ← β₂ v + (1 - β₂) g²
/// v̂ ← max(v̂, v)                                           with `amsgrad`, else v̂ = v
/// p ← p - lr / (1 - β₁ᵗ) · m / (√v̂ / √(1 - β₂ᵗ) + eps)
/// ```
pub type AdamW = Stepper<AdamWConfig>;

/// The constants of [`AdamW`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay rates of the running means of `g` and of `g²`.
    pub betas: (f64, f64),
    /// Added to the root of the mean square, outside of the root.
    pub eps: f64,
    /// Whether the largest mean square so far is divided by, instead of the last one.
    pub amsgrad: bool,
    /// As [`AdamConfig::bias_correction`].
    pub bias_correction: bool,
    /// As [`AdamConfig::epsilon_hat`].
    pub epsilon_hat: bool,
}

impl Default for AdamWConfig {
    /// PyTorch's: betas 0.9 and 0.999, eps 1e-8.
    fn default() -> Self {
        let AdamConfig { betas, eps, amsgrad, bias_correction, epsilon_hat } = AdamConfig::default();
        AdamWConfig { betas, eps, amsgrad, bias_correction, epsilon_hat }
    }
}

stepper!(AdamWConfig);

impl AdamWConfig {
    /// The same constants of the rule that decays the other way.
    fn adam(&self) -> AdamConfig {
        let AdamWConfig { betas, eps, amsgrad, bias_correction, epsilon_hat } = *self;
        AdamConfig { betas, eps, amsgrad, bias_correction, epsilon_hat }
    }
}

impl UpdateRule for AdamWConfig {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn check(&self) -> Result<(), OptimError> {
        self.adam().check()
    }

    fn state_names(&self) -> &'static [&'static str] {
        self.adam().states_kept()
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        let [step_size, inverse_root, eps] = self.adam().scales(lr, step);
        let (beta1, beta2) = self.betas;
        vec![1.0 - lr * weight_decay, 1.0 - beta1, beta2, 1.0 - beta2, step_size, inverse_root, eps]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [keep, new1, beta2, new2, step_size, inverse_root, eps] = n.get();
        let (states, change) =
            self.adam().moments(gradient, state, [new1, beta2, new2], [step_size, inverse_root, eps]);
        (param.mul(keep).sub(change), states)
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        self.betas.0 = momentum;
        true
    }
}
