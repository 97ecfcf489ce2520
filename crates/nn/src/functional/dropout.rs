//! Dropout: noise in training, the identity in evaluation. Masks depend on the context's seed, step and stream, on no device.

use wgrad_ir::Shape;
use wgrad_tensor::{RandomKey, Tensor};

use super::like;
use crate::Context;

/// In training, sets each element to zero with probability `p` and divides the others by `1 - p` (Srivastava et al., 2014).
///
/// A `p` outside of `[0, 1]` is an error that the result carries.
#[track_caller]
pub fn dropout(x: &Tensor, p: f64, ctx: &Context) -> Tensor {
    masked("dropout", x, p, ctx, x.shape().clone())
}

/// In training, sets whole channels of `[n, channels, sp..]` or `[channels, sp..]` to zero with probability `p` and divides the others
/// by `1 - p`, where there are `spatial` axes `sp`: PyTorch's `dropout1d`, `dropout2d`, `dropout3d` (Tompson et al., 2015).
///
/// A `p` outside of `[0, 1]` is an error that the result carries.
#[track_caller]
pub fn feature_dropout(x: &Tensor, p: f64, spatial: usize, ctx: &Context) -> Tensor {
    if x.error().is_some() {
        return x.clone();
    }
    let Some(channels) = x.rank().checked_sub(spatial).filter(|n| [1, 2].contains(n)) else {
        let message =
            format!("expects [channels, ..] or [n, channels, ..] with {spatial} more, got {}", x.shape());
        return x.invalid("feature_dropout", message);
    };
    let each = x.shape().iter().enumerate().map(|(d, &n)| if d < channels { n } else { 1 }).collect();
    masked("feature_dropout", x, p, ctx, each)
}

/// Dropout that keeps mean 0 and variance 1, for networks of SELUs: dropped elements become `α' = -1.7581`, then all are scaled and
/// shifted by `a = ((1 - p) (1 + p α'²))^-1/2` and `-a p α'` (Klambauer et al., 2017).
///
/// A `p` outside of `[0, 1]` is an error that the result carries.
#[track_caller]
pub fn alpha_dropout(x: &Tensor, p: f64, ctx: &Context) -> Tensor {
    const DROPPED: f64 = -1.758_099_340_847_376_6;
    if !(0.0..=1.0).contains(&p) {
        return refused("alpha_dropout", x, p);
    }
    if !ctx.is_training() || p == 0.0 || x.error().is_some() {
        return x.clone();
    }
    if p == 1.0 {
        return x.mul(like(0.0, x));
    }
    let a = ((1.0 - p) * (1.0 + p * DROPPED * DROPPED)).sqrt().recip();
    let kept = keep(x, p, ctx, x.shape().clone());
    kept.where_(&x.mul(a), &like(1.0, x).mul(a * DROPPED)).add(-a * p * DROPPED)
}

/// [`dropout`] in training with a key that has been drawn before, for layers that know no context.
#[track_caller]
pub(crate) fn dropout_by(x: &Tensor, p: f64, key: &RandomKey) -> Tensor {
    if x.error().is_some() {
        return x.clone();
    }
    let kept = Tensor::random_uniform(x.shape().clone(), key, x.device()).ge(p);
    kept.where_(&x.mul((1.0 - p).recip()), &like(0.0, x))
}

#[track_caller]
fn masked(op: &'static str, x: &Tensor, p: f64, ctx: &Context, each: Shape) -> Tensor {
    if !(0.0..=1.0).contains(&p) {
        return refused(op, x, p);
    }
    if !ctx.is_training() || p == 0.0 || x.error().is_some() {
        return x.clone();
    }
    // At p = 1 nothing is kept; a scale of 1/0 would turn the gradient into 0 * inf.
    let scale = if p < 1.0 { (1.0 - p).recip() } else { 0.0 };
    keep(x, p, ctx, each).where_(&x.mul(scale), &like(0.0, x))
}

/// Which elements stay, drawn in this shape.
#[track_caller]
fn keep(x: &Tensor, p: f64, ctx: &Context, each: Shape) -> Tensor {
    Tensor::random_uniform(each, &ctx.next_key(), x.device()).ge(p)
}

#[track_caller]
fn refused(op: &'static str, x: &Tensor, p: f64) -> Tensor {
    x.invalid(op, format!("expects a probability in [0, 1], got {p}"))
}
