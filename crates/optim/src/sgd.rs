//! Stochastic gradient descent.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use crate::{Numbers, ParamGroup, Stepper, UpdateRule};

/// Stochastic gradient descent with momentum, computed as PyTorch's `SGD` computes it:
///
/// ```text
/// g ← g + wd p
/// b ← g at the first update, then μ b + (1 - dampening) g
/// p ← p - lr b            (with Nesterov's momentum: p - lr (g + μ b))
/// ```
///
/// Without momentum, `p ← p - lr g`, and no state is kept.
pub type Sgd = Stepper<SgdConfig>;

/// The constants of [`Sgd`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SgdConfig {
    /// `μ`.
    pub momentum: f64,
    /// How much less than fully a gradient enters the momentum.
    pub dampening: f64,
    /// Looks ahead along the momentum (Sutskever et al., 2013).
    pub nesterov: bool,
}

impl Stepper<SgdConfig> {
    /// With a learning rate of 1e-3; see [`Optimizer::set_lr`](crate::Optimizer::set_lr).
    pub fn new(groups: Vec<ParamGroup>, config: SgdConfig) -> Self {
        Stepper::with_rule(groups, config)
    }
}

impl UpdateRule for SgdConfig {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn state_names(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &["momentum_buffer"] }
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        // The buffer is zero before the first update, which takes the gradient undamped.
        let fresh = if step <= 1 { 1.0 } else { 1.0 - self.dampening };
        vec![lr, weight_decay, self.momentum, fresh]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [lr, weight_decay, momentum, fresh] = n.get();
        let gradient = gradient.add(param.mul(weight_decay));
        let Some(buffer) = state.first() else {
            return (param.sub(gradient.mul(lr)), Vec::new());
        };
        let buffer = buffer.mul(momentum).add(gradient.mul(fresh));
        let direction = if self.nesterov { gradient.add(buffer.mul(momentum)) } else { buffer.clone() };
        (param.sub(direction.mul(lr)), vec![buffer])
    }
}
