//! Averaged stochastic gradient descent.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use super::{lerp, stepper};
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check, check_not_negative},
};

/// Averaged stochastic gradient descent (Polyak and Juditsky, 1992), computed as PyTorch's `ASGD` computes it: for the `t`-th
/// update with gradient `g`,
///
/// ```text
/// g ← g + wd p
/// η = lr / (1 + λ lr (t - 1))^α
/// p ← p (1 - λ η) - η g
/// ax ← ax + (p - ax) / max(1, t - 1 - t0)
/// ```
///
/// The mean `ax` of the parameters after `t0` is kept as a state (`NAME.ax`); the parameters themselves are not averaged.
/// PyTorch computes `η` one update ahead, by the learning rate of that update; with a schedule, this takes the current one.
pub type Asgd = Stepper<AsgdConfig>;

/// The constants of [`Asgd`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AsgdConfig {
    /// `λ`: decay of the parameters and of the learning rate.
    pub lambd: f64,
    /// `α`: how fast the learning rate falls.
    pub alpha: f64,
    /// When averaging begins.
    pub t0: f64,
}

impl Default for AsgdConfig {
    /// PyTorch's: lambd 1e-4, alpha 0.75, t0 1e6; its learning rate is 0.01.
    fn default() -> Self {
        AsgdConfig { lambd: 1e-4, alpha: 0.75, t0: 1e6 }
    }
}

stepper!(AsgdConfig);

impl UpdateRule for AsgdConfig {
    fn name(&self) -> &'static str {
        "asgd"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_not_negative("lambd", self.lambd)?;
        check_not_negative("alpha", self.alpha)?;
        check("t0", self.t0.is_finite(), self.t0, "finite")
    }

    fn default_lr(&self) -> f64 {
        1e-2
    }

    fn state_names(&self) -> &'static [&'static str] {
        &["ax"]
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        let before = step as f64 - 1.0;
        let eta = lr / (1.0 + self.lambd * lr * before).powf(self.alpha);
        let share = 1.0 / (before - self.t0).max(1.0);
        vec![weight_decay, 1.0 - self.lambd * eta, eta, share]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [decay, keep, eta, share] = n.get();
        let gradient = gradient.add(param.mul(decay));
        let param = param.mul(keep).sub(gradient.mul(eta));
        let mean = lerp(&state[0], &param, share);
        (param, vec![mean])
    }
}
