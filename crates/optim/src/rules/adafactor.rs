//! Adafactor as PyTorch computes it.

use serde::{Deserialize, Serialize};
use wgrad_tensor::{DType, Shape, Tensor};

use super::{norm, stepper};
use crate::{
    Numbers, OptimError, Stepper, UpdateRule,
    error::{check, check_not_negative},
};

/// Adafactor (Shazeer and Stern, 2018) as PyTorch's `Adafactor` computes it: of a matrix `[n, m]`, only `n + m` mean squares are
/// kept. For the `t`-th update with gradient `g`, with `βₜ = 1 - t^beta2_decay`:
///
/// ```text
/// p ← p (1 - lr wd)
/// R ← βₜ R + (1 - βₜ) mean of g² along rows;   C ← βₜ C + (1 - βₜ) mean of g² along columns
/// V = R C / max(mean R, eps₁)                 (vectors: V ← βₜ V + (1 - βₜ) g²)
/// u = g / √max(V, eps₁²)
/// p ← p - min(lr, 1/√t) max(eps₂, rms(p)) / max(1, rms(u) / d) · u
/// ```
pub type Adafactor = Stepper<AdafactorConfig>;

/// The constants of [`Adafactor`]. Weight decay belongs to the groups, the learning rate to the optimizer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdafactorConfig {
    /// The exponent of `1 - βₜ = t^beta2_decay`.
    pub beta2_decay: f64,
    /// `eps₁` (by default the dtype's rounding unit) and `eps₂`, the smallest scale of a parameter.
    #[serde(skip_serializing_if = "is_default")]
    pub eps: (Option<f64>, f64),
    /// The largest root mean square of an update.
    pub d: f64,
}

impl Default for AdafactorConfig {
    /// PyTorch's: beta2_decay -0.8, eps (none, 1e-3), d 1; its learning rate is 0.01.
    fn default() -> Self {
        AdafactorConfig { beta2_decay: -0.8, eps: (None, 1e-3), d: 1.0 }
    }
}

stepper!(AdafactorConfig);

impl UpdateRule for AdafactorConfig {
    fn name(&self) -> &'static str {
        "adafactor"
    }

    fn check(&self) -> Result<(), OptimError> {
        let (decay, d) = (self.beta2_decay, self.d);
        check("beta2_decay", decay <= 0.0 && decay.is_finite(), decay, "finite and 0 or less")?;
        check_not_negative("eps", self.eps.0.unwrap_or(0.0))?;
        check_not_negative("eps", self.eps.1)?;
        check("d", d >= 1.0 && d.is_finite(), d, "finite and 1 or more")
    }

    fn default_lr(&self) -> f64 {
        1e-2
    }

    fn is_elementwise(&self) -> bool {
        false
    }

    fn states(&self, shape: &Shape) -> Vec<(&'static str, Shape)> {
        factored(shape, ["row_var", "col_var", "variance"], true)
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        let step = step as f64;
        let rho = lr.min(step.sqrt().recip());
        vec![1.0 - lr * weight_decay, step.powf(self.beta2_decay), rho, self.eps.1, self.d.recip()]
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        let [keep, new, rho, smallest, inverse_d] = n.get();
        let eps = self.eps.0.unwrap_or(if param.dtype() == DType::F64 { f64::EPSILON } else { EPSILON });
        let alpha = rms(param).maximum(smallest).mul(rho);
        let squares = gradient.square();
        let towards = |old: &Tensor, now: Tensor| super::lerp(old, &now, new);
        let (variance, states) = match state {
            [rows, columns] => {
                let rows = towards(rows, squares.mean(&[-1], true));
                let columns = towards(columns, squares.mean(&[-2], true));
                let mean = rows.mean(&[-2], true).maximum(eps);
                (rows.mul(&columns).div(mean), vec![rows, columns])
            }
            _ => {
                let variance = towards(&state[0], squares);
                (variance.clone(), vec![variance])
            }
        };
        let update = variance.maximum(eps * eps).rsqrt().mul(gradient);
        let one = Tensor::constant(1.0, param.dtype(), param.device());
        let too_long = rms(&update).mul(inverse_d).maximum(one);
        (param.mul(keep).sub(update.mul(alpha.div(too_long))), states)
    }
}

/// TOML has no word for the first number's absence.
fn is_default(eps: &(Option<f64>, f64)) -> bool {
    eps.0.is_none() && eps.1 == 1e-3
}

/// The rounding unit of f32.
const EPSILON: f64 = f32::EPSILON as f64;

/// The root of the mean square, rank 0.
pub(super) fn rms(x: &Tensor) -> Tensor {
    norm(x).div((x.elements() as f64).sqrt())
}

/// Two factors for parameters of two dimensions and more (the last two are factored), the whole for others.
pub(super) fn factored(
    shape: &Shape,
    [rows, columns, whole]: [&'static str; 3],
    keep: bool,
) -> Vec<(&'static str, Shape)> {
    let rank = shape.rank();
    if rank < 2 {
        return vec![(whole, shape.clone())];
    }
    // The extents without one of them, or with 1 in its place.
    let without = |axis: usize| -> Shape {
        let dims = shape.dims().iter().enumerate();
        dims.filter(|(i, _)| keep || *i != axis).map(|(i, &d)| if i == axis { 1 } else { d }).collect()
    };
    vec![(rows, without(rank - 1)), (columns, without(rank - 2))]
}
