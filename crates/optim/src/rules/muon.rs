//! Muon.

use serde::{Deserialize, Serialize};
use wgrad_tensor::{Shape, Tensor};

use super::{lerp, norm, stepper};
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check, check_not_negative},
};

/// Momentum, orthogonalised (Jordan et al., 2024), computed as PyTorch's `Muon` computes it, for matrices alone:
///
/// ```text
/// b ← b + (1 - μ) (g - b)
/// u = g + μ (b - g)                                       with `nesterov`, else u = b
/// p ← p (1 - lr wd) - lr ρ NewtonSchulz(u)
/// ```
///
/// `NewtonSchulz` makes all singular values about 1: `X = u / ‖u‖` (transposed if it is tall), then `ns_steps` times
/// `S = X Xᵀ,   X ← a X + (b S + c S²) X`. `ρ` is [`AdjustLr`]'s. PyTorch iterates in bf16, this in the parameter's dtype.
///
/// Biases, norms, embeddings and output layers are usually trained by [`AdamW`](crate::AdamW) beside it: see
/// [`Stepper::with_rules`].
pub type Muon = Stepper<MuonConfig>;

/// The constants of [`Muon`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MuonConfig {
    /// `μ`.
    pub momentum: f64,
    /// Whether the momentum looks ahead.
    pub nesterov: bool,
    /// `a`, `b` and `c`.
    pub ns_coefficients: (f64, f64, f64),
    /// The smallest norm that is divided by.
    pub eps: f64,
    /// Newton-Schulz iterations.
    pub ns_steps: u32,
    /// How the learning rate depends on the shape; absent for [`AdjustLr::Original`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adjust_lr_fn: Option<AdjustLr>,
}

impl Default for MuonConfig {
    /// PyTorch's: momentum 0.95 (Nesterov), 5 iterations; its weight decay is 0.1.
    fn default() -> Self {
        MuonConfig {
            momentum: 0.95,
            nesterov: true,
            ns_coefficients: (3.4445, -4.775, 2.0315),
            eps: 1e-7,
            ns_steps: 5,
            adjust_lr_fn: None,
        }
    }
}

/// The factor `ρ` of the learning rate for a parameter `[n, m]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustLr {
    /// `√max(1, n / m)`, as Jordan's.
    Original,
    /// `0.2 √max(n, m)`: steps about as long as AdamW's (Liu et al., 2025, "Muon is scalable for LLM training").
    MatchRmsAdamw,
    /// `√(n / m)`.
    SpectralUnclamped,
}

stepper!(MuonConfig);

impl MuonConfig {
    /// `ρ` of a shape.
    fn ratio(&self, shape: &Shape) -> f64 {
        let (n, m) = (shape[0] as f64, shape[1] as f64);
        match self.adjust_lr_fn.unwrap_or(AdjustLr::Original) {
            AdjustLr::Original => (n / m).max(1.0).sqrt(),
            AdjustLr::MatchRmsAdamw => 0.2 * n.max(m).sqrt(),
            AdjustLr::SpectralUnclamped => (n / m).sqrt(),
        }
    }
}

impl UpdateRule for MuonConfig {
    fn name(&self) -> &'static str {
        "muon"
    }

    fn check(&self) -> Result<(), OptimError> {
        let (a, b, c) = self.ns_coefficients;
        let finite = [a, b, c].iter().all(|x| x.is_finite());
        check("ns_coefficients", finite, format!("{:?}", self.ns_coefficients), "three finite numbers")?;
        check("ns_steps", (1..100).contains(&self.ns_steps), self.ns_steps, "in 1..100")?;
        check_not_negative("eps", self.eps)?;
        check_not_negative("momentum", self.momentum)
    }

    fn is_elementwise(&self) -> bool {
        false
    }

    fn states(&self, shape: &Shape) -> Vec<(&'static str, Shape)> {
        vec![("momentum_buffer", shape.clone())]
    }

    fn refuses(&self, shape: &Shape) -> Option<String> {
        let reason = "it trains matrices only; give vectors, tables of more dimensions, biases and norms to a group with another \
            rule (`Stepper::with_rules`)";
        (shape.rank() != 2).then(|| reason.to_owned())
    }

    fn numbers(&self, lr: f64, weight_decay: f64, _step: u64) -> Vec<f64> {
        let (a, b, c) = self.ns_coefficients;
        vec![1.0 - lr * weight_decay, lr, self.momentum, 1.0 - self.momentum, self.eps, a, b, c]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [keep, lr, momentum, new, eps, a, b, c] = n.get();
        let buffer = lerp(&state[0], gradient, new);
        let update = if self.nesterov { lerp(gradient, &buffer, momentum) } else { buffer.clone() };
        let update = orthogonalized(&update, self.ns_steps, eps, [a, b, c]);
        let rate = lr.mul(self.ratio(param.shape()));
        (param.mul(keep).sub(update.mul(rate)), vec![buffer])
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        self.momentum = momentum;
        true
    }
}

/// A matrix with the singular vectors of another, and singular values of about 1.
fn orthogonalized(matrix: &Tensor, steps: u32, eps: &Tensor, [a, b, c]: [&Tensor; 3]) -> Tensor {
    let tall = matrix.shape()[0] > matrix.shape()[1];
    let flat = if tall { matrix.t() } else { matrix.clone() };
    let mut x = flat.div(norm(&flat).maximum(eps));
    for _ in 0..steps {
        let s = x.matmul(&x.t());
        let polynomial = s.mul(b).add(s.matmul(&s).mul(c));
        x = x.mul(a).add(polynomial.matmul(&x));
    }
    if tall { x.t() } else { x }
}
