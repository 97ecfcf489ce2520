//! Adam.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::{lerp, power, stepper};
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check_betas, check_not_negative},
};

/// Adam (Kingma and Ba, 2015), computed as PyTorch's `Adam` computes it: for the `t`-th update with gradient `g`,
///
/// ```text
/// g ← g + wd p
/// m ← m + (1 - β₁) (g - m)
/// v ← β₂ v + (1 - β₂) g²
/// v̂ ← max(v̂, v)                                           with `amsgrad`, else v̂ = v
/// p ← p - lr / (1 - β₁ᵗ) · m / (√v̂ / √(1 - β₂ᵗ) + eps)
/// ```
///
/// AMSGrad: Reddi, Kale and Kumar, 2018.
pub type Adam = Stepper<AdamConfig>;

/// The constants of [`Adam`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamConfig {
    /// Decay rates of the running means of `g` and of `g²`.
    pub betas: (f64, f64),
    /// Added to the root of the mean square, outside of the root.
    pub eps: f64,
    /// Whether the largest mean square so far is divided by, instead of the last one.
    pub amsgrad: bool,
    /// Whether the means are divided by `1 - βᵗ`, because they begin at zero. BERT's original optimizer left it out.
    pub bias_correction: bool,
    /// Where `eps` goes: `false`, onto the corrected root, as above (PyTorch); `true`, onto the uncorrected one,
    /// `p ← p - lr √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v̂ + eps)` (Keras and TensorFlow; `ε̂` at the end of section 2 of the paper).
    pub epsilon_hat: bool,
}

impl Default for AdamConfig {
    /// PyTorch's: betas 0.9 and 0.999, eps 1e-8.
    fn default() -> Self {
        AdamConfig {
            betas: (0.9, 0.999),
            eps: 1e-8,
            amsgrad: false,
            bias_correction: true,
            epsilon_hat: false,
        }
    }
}

stepper!(AdamConfig);

impl AdamConfig {
    /// Step size, factor of `√v` and `eps`, for the `step`-th update.
    pub(super) fn scales(&self, lr: f64, step: u64) -> [f64; 3] {
        let correction = |beta: f64| if self.bias_correction { 1.0 - power(beta, step) } else { 1.0 };
        let (first, root) = (correction(self.betas.0), correction(self.betas.1).sqrt());
        if self.epsilon_hat {
            [lr * root / first, 1.0, self.eps]
        } else {
            [lr / first, root.recip(), self.eps]
        }
    }

    /// New moments (two, or three with `amsgrad`), and what is subtracted from the parameter.
    pub(super) fn moments(
        &self,
        gradient: &Tensor,
        state: &[Tensor],
        [new1, beta2, new2]: [&Tensor; 3],
        [step_size, inverse_root, eps]: [&Tensor; 3],
    ) -> (Vec<Tensor>, Tensor) {
        let m = lerp(&state[0], gradient, new1);
        let v = state[1].mul(beta2).add(gradient.square().mul(new2));
        let mut states = vec![m.clone(), v.clone()];
        let second = match state.get(2) {
            Some(largest) => {
                states.push(largest.maximum(&v));
                states[2].clone()
            }
            None => v,
        };
        let denominator = second.sqrt().mul(inverse_root).add(eps);
        (states, m.div(&denominator).mul(step_size))
    }

    pub(super) fn states_kept(&self) -> &'static [&'static str] {
        if self.amsgrad { &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"] } else { &["exp_avg", "exp_avg_sq"] }
    }
}

impl UpdateRule for AdamConfig {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_betas(self.betas)?;
        check_not_negative("eps", self.eps)
    }

    fn state_names(&self) -> &'static [&'static str] {
        self.states_kept()
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        let [step_size, inverse_root, eps] = self.scales(lr, step);
        let (beta1, beta2) = self.betas;
        vec![weight_decay, 1.0 - beta1, beta2, 1.0 - beta2, step_size, inverse_root, eps]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [decay, new1, beta2, new2, step_size, inverse_root, eps] = n.get();
        let gradient = gradient.add(param.mul(decay));
        let (states, change) =
            self.moments(&gradient, state, [new1, beta2, new2], [step_size, inverse_root, eps]);
        (param.sub(change), states)
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        self.betas.0 = momentum;
        true
    }
}
