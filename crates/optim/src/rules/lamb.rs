//! LAMB.

use serde::{Deserialize, Serialize};
use wgrad_tensor::{Shape, Tensor};

use super::{lerp, norm, power, stepper};
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check_betas, check_not_negative},
};

/// Layer-wise adaptive moments for large batches (You et al., 2020, algorithm 2), the step of each parameter scaled to its norm:
/// for the `t`-th update with gradient `g`,
///
/// ```text
/// m ← m + (1 - β₁) (g - m)
/// v ← β₂ v + (1 - β₂) g²
/// r = m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + eps) + wd p
/// p ← p - lr ‖p‖ / ‖r‖ · r                        (the quotient is 1 where either norm is 0)
/// ```
pub type Lamb = Stepper<LambConfig>;

/// The constants of [`Lamb`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LambConfig {
    /// Decay rates of the running means of `g` and of `g²`.
    pub betas: (f64, f64),
    /// Added to the root of the mean square.
    pub eps: f64,
}

impl Default for LambConfig {
    /// The paper's: betas 0.9 and 0.999, eps 1e-6.
    fn default() -> Self {
        LambConfig { betas: (0.9, 0.999), eps: 1e-6 }
    }
}

stepper!(LambConfig);

impl UpdateRule for LambConfig {
    fn name(&self) -> &'static str {
        "lamb"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_betas(self.betas)?;
        check_not_negative("eps", self.eps)
    }

    fn is_elementwise(&self) -> bool {
        false
    }

    fn states(&self, shape: &Shape) -> Vec<(&'static str, Shape)> {
        vec![("exp_avg", shape.clone()), ("exp_avg_sq", shape.clone())]
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        let (beta1, beta2) = self.betas;
        let correction = |beta: f64| (1.0 - power(beta, step)).recip();
        vec![
            weight_decay,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            correction(beta1),
            correction(beta2),
            self.eps,
            lr,
        ]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [decay, new1, beta2, new2, correction1, correction2, eps, lr] = n.get();
        let m = lerp(&state[0], gradient, new1);
        let v = state[1].mul(beta2).add(gradient.square().mul(new2));
        let adam = m.mul(correction1).div(v.mul(correction2).sqrt().add(eps));
        let step = adam.add(param.mul(decay));
        let (of_param, of_step) = (norm(param), norm(&step));
        let constant = |value| Tensor::constant(value, param.dtype(), param.device());
        let usable = of_param.gt(constant(0.0)).logical_and(of_step.gt(constant(0.0)));
        let trust = usable.where_(&of_param.div(&of_step), &constant(1.0));
        (param.sub(step.mul(trust.mul(lr))), vec![m, v])
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        self.betas.0 = momentum;
        true
    }
}
