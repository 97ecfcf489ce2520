//! Resilient backpropagation.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::{sign, stepper};
use crate::{Numbers, OptimError, Stepper, UpdateRule, error::check};

/// Resilient backpropagation (Riedmiller and Braun, 1993), computed as PyTorch's `Rprop` computes it. Only signs of gradients
/// count, so it suits full batches. For each element, with the gradient `g'` of the update before and its own step size `Δ`, which
/// is `lr` at first:
///
/// ```text
/// Δ ← Δ η₊ where g g' > 0, Δ η₋ where g g' < 0, within step_sizes
/// g ← 0 where g g' < 0
/// p ← p - Δ sign(g)
/// ```
///
/// There is no weight decay, and the learning rate matters to the first update alone.
pub type Rprop = Stepper<RpropConfig>;

/// The constants of [`Rprop`].
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpropConfig {
    /// `η₋` and `η₊`.
    pub etas: (f64, f64),
    /// The smallest and the largest step size.
    pub step_sizes: (f64, f64),
}

impl Default for RpropConfig {
    /// PyTorch's: etas 0.5 and 1.2, step sizes within 1e-6 and 50; its learning rate is 0.01.
    fn default() -> Self {
        RpropConfig { etas: (0.5, 1.2), step_sizes: (1e-6, 50.0) }
    }
}

stepper!(RpropConfig);

impl UpdateRule for RpropConfig {
    fn name(&self) -> &'static str {
        "rprop"
    }

    fn check(&self) -> Result<(), OptimError> {
        let ((lower, raise), (least, most)) = (self.etas, self.step_sizes);
        let good = 0.0 < lower && lower < 1.0 && 1.0 < raise && raise.is_finite();
        check("etas", good, format!("{:?}", self.etas), "one in 0..1 and one above 1")?;
        let good = 0.0 < least && least < most && most.is_finite();
        check("step_sizes", good, format!("{:?}", self.step_sizes), "two increasing numbers above 0")
    }

    fn default_lr(&self) -> f64 {
        1e-2
    }

    fn state_names(&self) -> &'static [&'static str] {
        &["prev", "step_size"]
    }

    fn numbers(&self, lr: f64, _weight_decay: f64, step: u64) -> Vec<f64> {
        // States begin at zero: the first update adds what is there before.
        let initial = if step <= 1 { lr } else { 0.0 };
        vec![initial, self.etas.0, self.etas.1, self.step_sizes.0, self.step_sizes.1]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [initial, slower, faster, smallest, largest] = n.get();
        let constant = |value| Tensor::constant(value, param.dtype(), param.device());
        // By signs: the product of two small gradients may be zero.
        let agreement = sign(gradient).mul(sign(&state[0]));
        let (same, turned) = (agreement.gt(constant(0.0)), agreement.lt(constant(0.0)));
        let factor = same.where_(faster, &turned.where_(slower, &constant(1.0)));
        let size = state[1].add(initial).mul(factor).maximum(smallest).minimum(largest);
        let gradient = turned.where_(&constant(0.0), gradient);
        (param.sub(sign(&gradient).mul(&size)), vec![gradient, size])
    }
}
