//! Losses of distances and similarities.

use wgrad_tensor::Tensor;

use super::{Reduction, equal_shapes};
use crate::functional::{like, loss::cross_entropy};

/// `‖a - b + eps‖_p` along the last axis.
#[track_caller]
pub fn pairwise_distance(a: &Tensor, b: &Tensor, p: f64, eps: f64) -> Tensor {
    let difference = a.sub(b).add(like(eps, a));
    if p == 2.0 {
        return difference.square().sum(&[-1], false).sqrt();
    }
    if p == 1.0 {
        return difference.abs().sum(&[-1], false);
    }
    if p == f64::INFINITY {
        return difference.abs().amax(&[-1], false);
    }
    if p.is_nan() || p <= 0.0 {
        return a.invalid("pairwise_distance", format!("expects a norm of order p > 0, got {p}"));
    }
    difference.abs().pow(like(p, a)).sum(&[-1], false).pow(like(p.recip(), a))
}

/// `max(0, d(a, p) - d(a, n) + margin)` of anchors, positives and negatives `[n, d]` (Schroff et al., *FaceNet*, 2015). `d` is
/// [`pairwise_distance`]; with `swap`, a negative is as far as it is from anchor or positive, whichever is nearer.
#[track_caller]
pub fn triplet_margin_loss(
    [anchor, positive, negative]: [&Tensor; 3],
    margin: f64,
    p: f64,
    eps: f64,
    swap: bool,
    reduction: Reduction,
) -> Tensor {
    let near = pairwise_distance(anchor, positive, p, eps);
    let mut far = pairwise_distance(anchor, negative, p, eps);
    if swap {
        far = far.minimum(pairwise_distance(positive, negative, p, eps));
    }
    reduction.apply(&near.sub(far).add(like(margin, anchor)).relu())
}

/// `1 - cos(a, b)` where `y = 1`, `max(0, cos(a, b) - margin)` where `y = -1`; `a` and `b` `[n, d]`, `y [n]`.
#[track_caller]
pub fn cosine_embedding_loss(
    [a, b]: [&Tensor; 2],
    target: &Tensor,
    margin: f64,
    reduction: Reduction,
) -> Tensor {
    let dot = |x: &Tensor, y: &Tensor| x.mul(y).sum(&[-1], false);
    let eps = like(1e-12, a);
    let cosine = dot(a, b).div(dot(a, a).add(&eps).mul(dot(b, b).add(&eps)).sqrt());
    let same = like(1.0, a).sub(&cosine);
    let other = cosine.sub(like(margin, a)).relu();
    reduction.apply(&by_sign(target, &same, &other))
}

/// `max(0, -y (a - b) + margin)`: `a` should rank above `b` where `y = 1`, below where `y = -1`.
#[track_caller]
pub fn margin_ranking_loss(
    [a, b]: [&Tensor; 2],
    target: &Tensor,
    margin: f64,
    reduction: Reduction,
) -> Tensor {
    reduction.apply(&target.neg().mul(a.sub(b)).add(like(margin, a)).relu())
}

/// `x` where `y = 1`, `max(0, margin - x)` where `y = -1`.
#[track_caller]
pub fn hinge_embedding_loss(x: &Tensor, target: &Tensor, margin: f64, reduction: Reduction) -> Tensor {
    equal_shapes("hinge_embedding_loss", x, target, |x, y| {
        reduction.apply(&by_sign(y, x, &like(margin, x).sub(x).relu()))
    })
}

/// The first where `y = 1`, the second where `y = -1`, 0 elsewhere.
#[track_caller]
fn by_sign(target: &Tensor, positive: &Tensor, negative: &Tensor) -> Tensor {
    let rest = target.eq(like(-1.0, target)).where_(negative, &like(0.0, negative));
    target.eq(like(1.0, target)).where_(positive, &rest)
}

/// InfoNCE (van den Oord et al., 2018): the cross-entropy of the cosine similarities `q kᵀ / temperature`, where row `i` of `keys`
/// belongs to row `i` of `queries` and all others are negatives; `negatives [m, d]` are further ones. `queries` and `keys` `[n, d]`.
/// CLIP's loss is the mean of this for texts and images in both roles.
#[track_caller]
pub fn info_nce(queries: &Tensor, keys: &Tensor, negatives: Option<&Tensor>, temperature: f64) -> Tensor {
    if temperature.is_nan() || temperature <= 0.0 {
        return queries.invalid("info_nce", format!("expects a temperature > 0, got {temperature}"));
    }
    equal_shapes("info_nce", queries, keys, |q, k| {
        let unit = |x: &Tensor| {
            let norm = x.square().sum(&[-1], true).sqrt();
            x.div(norm.maximum(like(1e-12, x)))
        };
        let keys = match negatives {
            Some(negatives) => Tensor::cat(&[k, negatives], 0),
            None => k.clone(),
        };
        let scores = unit(q).matmul(&unit(&keys).t()).mul(like(temperature.recip(), q));
        let own = Tensor::arange(q.shape().first().copied().unwrap_or(1), q.device());
        cross_entropy(&scores, &own, None)
    })
}
