//! Losses of yes and no.

use wgrad_tensor::{Tensor, function_with_gradient};

use super::{Reduction, equal_shapes};
use crate::functional::{activation::log1p_exp, like};

/// `-(y ln p + (1 - y) ln(1 - p))` for probabilities `p`, with logarithms of at least -100; the gradient is
/// `(p - y) / max(p (1 - p), 1e-12)` as PyTorch has it. `weight`, if given, multiplies the elements. Prefer
/// [`binary_cross_entropy_with_logits`], which loses no digits.
///
/// Probabilities and targets outside of `[0, 1]` are an error of the evaluation.
#[track_caller]
pub fn binary_cross_entropy(
    probabilities: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
    reduction: Reduction,
) -> Tensor {
    equal_shapes("binary_cross_entropy", probabilities, target, |p, y| {
        let body = |args: &[Tensor]| {
            let (p, y) = (&args[0], &args[1]);
            let (one, least) = (like(1.0, p), like(-100.0, p));
            // The logarithm of 0 is taken of 1 instead and replaced, since shaders may assume that no infinity occurs.
            let log = |p: &Tensor| {
                let some = p.gt(like(0.0, p));
                some.where_(&some.where_(p, &one).log().maximum(&least), &least)
            };
            let rest = one.sub(p);
            vec![y.mul(log(p)).add(one.sub(y).mul(log(&rest))).neg()]
        };
        let inside = |x: &Tensor| x.ge(like(0.0, x)).logical_and(x.le(like(1.0, x)));
        let p = &p.ensure(&inside(p).logical_and(inside(y)));
        let loss = function_with_gradient("binary_cross_entropy", &[p, y], 1, body, |back| {
            let (p, y, g) = (&back.operands[0], &back.operands[1], &back.cotangents[0]);
            let spread = like(1.0, p).sub(p).mul(p).maximum(like(1e-12, p));
            let some = |p: &Tensor| p.maximum(like(1e-44, p));
            let clamped = |p: &Tensor| some(p).log().maximum(like(-100.0, p));
            let grad_y = clamped(&like(1.0, p).sub(p)).sub(clamped(p));
            vec![p.sub(y).div(spread).mul(g), grad_y.mul(g)]
        });
        reduction.apply(&weighted(&loss[0], weight))
    })
}

/// [`binary_cross_entropy`] of `σ(x)`, computed as `(1 - y) x + (1 + (w - 1) y) ln(1 + e^(-x))`, which neither overflows nor cancels.
/// `weight` multiplies the elements, `pos_weight` (`w`, 1 if not given) the losses of `y = 1`; both are broadcast.
#[track_caller]
pub fn binary_cross_entropy_with_logits(
    logits: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
    pos_weight: Option<&Tensor>,
    reduction: Reduction,
) -> Tensor {
    equal_shapes("binary_cross_entropy_with_logits", logits, target, |x, y| {
        reduction.apply(&weighted(&elements(x, y, pos_weight), weight))
    })
}

#[track_caller]
fn elements(x: &Tensor, y: &Tensor, pos_weight: Option<&Tensor>) -> Tensor {
    let soft = log1p_exp(&x.neg());
    let one = like(1.0, x);
    let soft = match pos_weight {
        Some(w) => w.sub(&one).mul(y).add(&one).mul(soft),
        None => soft,
    };
    one.sub(y).mul(x).add(soft)
}

#[track_caller]
fn weighted(loss: &Tensor, weight: Option<&Tensor>) -> Tensor {
    weight.map_or_else(|| loss.clone(), |w| loss.mul(w))
}

/// The focal loss `α_y (1 - p_y)^γ (-ln p_y)` of `σ(x)`, where `p_y` is the probability of the truth, and `α_y` is `alpha` for `y = 1` and
/// `1 - alpha` for `y = 0` (1 if `alpha` is not given) (Lin et al., 2017).
#[track_caller]
pub fn sigmoid_focal_loss(
    logits: &Tensor,
    target: &Tensor,
    alpha: Option<f64>,
    gamma: f64,
    reduction: Reduction,
) -> Tensor {
    equal_shapes("sigmoid_focal_loss", logits, target, |x, y| {
        let one = like(1.0, x);
        let p = x.sigmoid();
        let wrong = one.sub(&p).mul(y).add(p.mul(one.sub(y)));
        let loss = elements(x, y, None).mul(wrong.pow(like(gamma, x)));
        let loss = match alpha {
            Some(alpha) => loss.mul(y.mul(like(2.0 * alpha - 1.0, x)).add(like(1.0 - alpha, x))),
            None => loss,
        };
        reduction.apply(&loss)
    })
}

/// `1 - (2 Σ p y + smooth) / (Σ p + Σ y + smooth)`, over all axes but the first, then the mean (Milletari et al., *V-Net*, 2016).
/// `probabilities` and `target` `[n, ..]`.
#[track_caller]
pub fn dice_loss(probabilities: &Tensor, target: &Tensor, smooth: f64) -> Tensor {
    equal_shapes("dice_loss", probabilities, target, |p, y| {
        let axes: Vec<isize> = (1..p.rank() as isize).collect();
        let sum = |t: Tensor| t.sum(&axes, false);
        let smooth = like(smooth, p);
        let shared = sum(p.mul(y)).mul(like(2.0, p)).add(&smooth);
        let all = sum(p.clone()).add(sum(y.clone())).add(&smooth);
        like(1.0, p).sub(shared.div(all)).mean_all()
    })
}

/// `max(0, 1 - y x)` for `y` of -1 and 1.
#[track_caller]
pub fn hinge_loss(scores: &Tensor, target: &Tensor, reduction: Reduction) -> Tensor {
    equal_shapes("hinge_loss", scores, target, |x, y| reduction.apply(&like(1.0, x).sub(y.mul(x)).relu()))
}
