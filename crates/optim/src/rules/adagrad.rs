//! Adagrad.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::stepper;
use crate::{Numbers, OptimError, Stepper, UpdateRule, error::check_not_negative};

/// Adagrad (Duchi, Hazan and Singer, 2011), computed as PyTorch's `Adagrad` computes it: for the `t`-th update with gradient `g`,
///
/// ```text
/// g ← g + wd p
/// s ← s + g²
/// p ← p - lr / (1 + (t - 1) lr_decay) · g / (√s + eps)
/// ```
pub type Adagrad = Stepper<AdagradConfig>;

/// The constants of [`Adagrad`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdagradConfig {
    /// How fast the learning rate falls.
    pub lr_decay: f64,
    /// Where `s` begins.
    pub initial_accumulator_value: f64,
    /// Added to the root.
    pub eps: f64,
}

impl Default for AdagradConfig {
    /// PyTorch's: no decay, from 0, eps 1e-10; its learning rate is 0.01.
    fn default() -> Self {
        AdagradConfig { lr_decay: 0.0, initial_accumulator_value: 0.0, eps: 1e-10 }
    }
}

stepper!(AdagradConfig);

impl UpdateRule for AdagradConfig {
    fn name(&self) -> &'static str {
        "adagrad"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_not_negative("lr_decay", self.lr_decay)?;
        check_not_negative("initial_accumulator_value", self.initial_accumulator_value)?;
        check_not_negative("eps", self.eps)
    }

    fn default_lr(&self) -> f64 {
        1e-2
    }

    fn state_names(&self) -> &'static [&'static str] {
        &["sum"]
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        // States begin at zero: the first update adds what is there before.
        let initial = if step <= 1 { self.initial_accumulator_value } else { 0.0 };
        let step_size = lr / (1.0 + (step as f64 - 1.0) * self.lr_decay);
        vec![weight_decay, initial, step_size, self.eps]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [decay, initial, step_size, eps] = n.get();
        let gradient = gradient.add(param.mul(decay));
        let sum = state[0].add(initial).add(gradient.square());
        (param.sub(gradient.div(sum.sqrt().add(eps)).mul(step_size)), vec![sum])
    }
}
