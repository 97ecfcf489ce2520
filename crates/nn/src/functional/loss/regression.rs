//! Losses of real numbers.

use std::f64::consts::PI;

use wgrad_tensor::Tensor;

use super::{Reduction, equal_shapes};
use crate::functional::like;

/// `(x - y)²`; the two are of one shape.
#[track_caller]
pub fn mse_loss(prediction: &Tensor, target: &Tensor, reduction: Reduction) -> Tensor {
    equal_shapes("mse_loss", prediction, target, |x, y| reduction.apply(&x.sub(y).square()))
}

/// `|x - y|`.
#[track_caller]
pub fn l1_loss(prediction: &Tensor, target: &Tensor, reduction: Reduction) -> Tensor {
    equal_shapes("l1_loss", prediction, target, |x, y| reduction.apply(&x.sub(y).abs()))
}

/// `d²/(2 beta)` where `d = |x - y| < beta`, else `d - beta/2` (Girshick, *Fast R-CNN*, 2015). With `beta` 0 it is [`l1_loss`].
#[track_caller]
pub fn smooth_l1_loss(prediction: &Tensor, target: &Tensor, beta: f64, reduction: Reduction) -> Tensor {
    if beta < 0.0 || beta.is_nan() {
        return prediction.invalid("smooth_l1_loss", format!("expects beta >= 0, got {beta}"));
    }
    if beta == 0.0 {
        return l1_loss(prediction, target, reduction);
    }
    equal_shapes("smooth_l1_loss", prediction, target, |x, y| {
        let difference = x.sub(y);
        let distance = difference.abs();
        let near = difference.square().mul(like(0.5 / beta, x));
        reduction.apply(&distance.lt(like(beta, x)).where_(&near, &distance.sub(like(0.5 * beta, x))))
    })
}

/// `d²/2` where `d = |x - y| <= delta`, else `delta (d - delta/2)` (Huber, 1964).
#[track_caller]
pub fn huber_loss(prediction: &Tensor, target: &Tensor, delta: f64, reduction: Reduction) -> Tensor {
    if delta.is_nan() || delta <= 0.0 {
        return prediction.invalid("huber_loss", format!("expects delta > 0, got {delta}"));
    }
    equal_shapes("huber_loss", prediction, target, |x, y| {
        let difference = x.sub(y);
        let distance = difference.abs();
        let near = difference.square().mul(like(0.5, x));
        let far = distance.sub(like(0.5 * delta, x)).mul(like(delta, x));
        reduction.apply(&distance.le(like(delta, x)).where_(&near, &far))
    })
}

/// The negative logarithm of the Poisson likelihood of `target`, without its constant: `eˣ - y x` where `x` is the logarithm of the
/// rate (`log_input`), else `x - y ln(x + eps)`. With `full`, Stirling's approximation of `ln y!` is added where `y > 1`.
#[track_caller]
pub fn poisson_nll_loss(
    input: &Tensor,
    target: &Tensor,
    log_input: bool,
    full: bool,
    eps: f64,
    reduction: Reduction,
) -> Tensor {
    equal_shapes("poisson_nll_loss", input, target, |x, y| {
        let loss = if log_input { x.exp().sub(y.mul(x)) } else { x.sub(y.mul(x.add(like(eps, x)).log())) };
        if !full {
            return reduction.apply(&loss);
        }
        let many = y.gt(like(1.0, y));
        let safe = many.where_(y, &like(1.0, y));
        let half_log = safe.mul(like(2.0 * PI, y)).log().mul(like(0.5, y));
        let stirling = safe.mul(safe.log()).sub(&safe).add(half_log);
        reduction.apply(&loss.add(many.where_(&stirling, &like(0.0, y))))
    })
}

/// `(ln v + (x - y)²/v) / 2` with `v = max(variance, eps)` (Nix and Weigend, 1994); with `full`, plus `ln(2π)/2`. The limit does not
/// stop the variance's gradient, as in PyTorch. `variance` is broadcast to the others' shape.
#[track_caller]
pub fn gaussian_nll_loss(
    input: &Tensor,
    target: &Tensor,
    variance: &Tensor,
    full: bool,
    eps: f64,
    reduction: Reduction,
) -> Tensor {
    equal_shapes("gaussian_nll_loss", input, target, |x, y| {
        let floor = variance.maximum(like(eps, variance)).sub(variance).detach();
        let variance = variance.add(floor);
        let loss = variance.log().add(x.sub(y).square().div(&variance)).mul(like(0.5, x));
        let constant = if full { 0.5 * (2.0 * PI).ln() } else { 0.0 };
        reduction.apply(&if full { loss.add(like(constant, x)) } else { loss })
    })
}
