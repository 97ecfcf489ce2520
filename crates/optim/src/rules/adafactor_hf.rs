//! Adafactor as Hugging Face computes it.

use serde::{Deserialize, Serialize};
use wgrad_tensor::{Shape, Tensor};

use super::{
    adafactor::{factored, rms},
    stepper,
};
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check, check_not_negative},
};

/// Adafactor (Shazeer and Stern, 2018) as transformers' `Adafactor` computes it, with which T5 is trained. Of a matrix `[n, m]`,
/// only `n + m` mean squares are kept. For the `t`-th update with gradient `g`, with `βₜ = 1 - t^decay_rate`:
///
/// ```text
/// α = lr   (with `relative_step`: min(1e-2, 1/√t), or min(1e-6 t, 1/√t) with `warmup_init`)
/// α ← α max(eps₂, rms(p))                                 with `scale_parameter`
/// R ← βₜ R + (1 - βₜ) mean of (g² + eps₁) along rows;   C likewise along columns
/// u = g / √(R C / mean R)     (vectors: V ← βₜ V + (1 - βₜ) (g² + eps₁),   u = g / √V)
/// u ← α u / max(1, rms(u) / clip_threshold)
/// m ← β₁ m + (1 - β₁) u,   u ← m                          with `beta1`
/// p ← p (1 - α wd) - u
/// ```
pub type AdafactorHf = Stepper<AdafactorHfConfig>;

/// The constants of [`AdafactorHf`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdafactorHfConfig {
    /// Added to squares, and the smallest scale of a parameter.
    pub eps: (f64, f64),
    /// The largest root mean square of an update before the learning rate.
    pub clip_threshold: f64,
    /// The exponent of `1 - βₜ = t^decay_rate`.
    pub decay_rate: f64,
    /// Decay rate of the running mean of updates, if one is to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// Whether steps are in proportion to the root mean square of the parameter.
    pub scale_parameter: bool,
    /// Whether the learning rate follows from the number of the update; the one that is set is not used then.
    pub relative_step: bool,
    /// Whether that rate begins near zero.
    pub warmup_init: bool,
}

impl Default for AdafactorHfConfig {
    /// Hugging Face's, but for `relative_step`, which is true there: a learning rate that was set should not be ignored unasked.
    fn default() -> Self {
        AdafactorHfConfig {
            eps: (1e-30, 1e-3),
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            scale_parameter: true,
            relative_step: false,
            warmup_init: false,
        }
    }
}

stepper!(AdafactorHfConfig);

impl UpdateRule for AdafactorHfConfig {
    fn name(&self) -> &'static str {
        "adafactor_hf"
    }

    fn check(&self) -> Result<(), OptimError> {
        check_not_negative("eps", self.eps.0)?;
        check_not_negative("eps", self.eps.1)?;
        check("clip_threshold", self.clip_threshold > 0.0, self.clip_threshold, "above 0")?;
        check("decay_rate", self.decay_rate.is_finite(), self.decay_rate, "finite")?;
        let beta1 = self.beta1.unwrap_or(0.0);
        check("beta1", (0.0..1.0).contains(&beta1), beta1, "in 0..1")
    }

    fn is_elementwise(&self) -> bool {
        false
    }

    fn states(&self, shape: &Shape) -> Vec<(&'static str, Shape)> {
        let mut states = factored(shape, ["exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"], false);
        if self.beta1.is_some() {
            states.push(("exp_avg", shape.clone()));
        }
        states
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        let step = step as f64;
        let rate = if self.relative_step {
            let most = if self.warmup_init { 1e-6 * step } else { 1e-2 };
            most.min(step.sqrt().recip())
        } else {
            lr
        };
        let new = step.powf(self.decay_rate);
        let (eps, threshold) = (self.eps, self.clip_threshold.recip());
        let beta1 = self.beta1.unwrap_or(0.0);
        vec![rate, new, 1.0 - new, eps.0, eps.1, threshold, weight_decay, beta1, 1.0 - beta1]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [rate, new, old, eps, smallest, inverse_threshold, decay, beta1, new1] = n.get();
        let mut rate = rate.clone();
        if self.scale_parameter {
            rate = rms(param).maximum(smallest).mul(rate);
        }
        let squares = gradient.square().add(eps);
        let mixed = |kept: &Tensor, now: Tensor| kept.mul(old).add(now.mul(new));
        let (update, mut states) = if param.rank() >= 2 {
            let rows = mixed(&state[0], squares.mean(&[-1], false));
            let columns = mixed(&state[1], squares.mean(&[-2], false));
            let r = rows.div(rows.mean(&[-1], true)).rsqrt().unsqueeze(-1);
            (r.mul(columns.rsqrt().unsqueeze(-2)).mul(gradient), vec![rows, columns])
        } else {
            let mean = mixed(&state[0], squares);
            (mean.rsqrt().mul(gradient), vec![mean])
        };
        let one = Tensor::constant(1.0, param.dtype(), param.device());
        let mut update = update.mul(rate.div(rms(&update).mul(inverse_threshold).maximum(one)));
        if self.beta1.is_some()
            && let Some(mean) = state.last()
        {
            update = mean.mul(beta1).add(update.mul(new1));
            states.push(update.clone());
        }
        let param = param.sub(param.mul(rate.mul(decay))).sub(update);
        (param, states)
    }
}
