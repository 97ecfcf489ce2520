//! Losses.

use wgrad_tensor::{Shape, Tensor};

/// The mean of `-log softmax(logits)[target]`, in nats, over all positions, or over those whose target is not `ignore_index`.
///
/// `logits [.., classes]` (float), `targets [..]` (i32 class numbers). The logarithm is taken of the shifted exponentials, so that
/// large logits do not overflow, and the target's entry is selected by comparison, so that nothing is gathered or scattered in
/// either direction. Where every target is ignored the result is 0/0, NaN, as in PyTorch. Targets outside of the
/// classes that the host can see are an error that the result carries.
#[track_caller]
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, ignore_index: Option<i32>) -> Tensor {
    let (dtype, device) = (logits.dtype(), logits.device());
    let [positions @ .., classes] = logits.shape().dims() else {
        return logits.invalid("cross_entropy", "expects logits [.., classes], got a scalar");
    };
    if logits.error().is_none()
        && targets.error().is_none()
        && let Some(message) = misfit(positions, *classes, targets, ignore_index)
    {
        return logits.invalid("cross_entropy", message);
    }
    let zero = Tensor::constant(0.0, dtype, device);
    let targets = targets.unsqueeze(-1);
    let mut hit = targets.eq(Tensor::arange(*classes, device));
    let count = match ignore_index {
        Some(ignored) => {
            let counted = targets.ne(f64::from(ignored));
            hit = hit.logical_and(&counted);
            counted.cast(dtype).sum_all()
        }
        None => Tensor::constant(targets.elements() as f64, dtype, device),
    };
    hit.where_(&logits.log_softmax(-1), &zero).sum_all().neg().div(&count)
}

/// Why targets do not fit logits of these leading extents and classes.
pub(super) fn misfit(
    positions: &[usize],
    classes: usize,
    targets: &Tensor,
    ignore_index: Option<i32>,
) -> Option<String> {
    if positions != targets.shape().dims() {
        let logits: Shape = positions.iter().chain([&classes]).copied().collect();
        return Some(format!(
            "expects logits [.., classes] and targets [..] of the same leading extents, got {logits} and {}",
            targets.shape()
        ));
    }
    let (low, high) = targets.int_range()?;
    // The ignored value may be the one that sticks out.
    let counts = |target: i64| ignore_index.is_none_or(|ignored| target != i64::from(ignored));
    let bad = low < 0 && counts(low) || high >= classes as i64 && counts(high);
    bad.then(|| format!("targets lie in {low}..={high}, but there are {classes} classes"))
}

/// The mean of `(prediction - target)²` over all elements; the two are of one shape.
#[track_caller]
pub fn mse_loss(prediction: &Tensor, target: &Tensor) -> Tensor {
    if prediction.error().is_none() && target.error().is_none() && prediction.shape() != target.shape() {
        let message = format!("expects equal shapes, got {} and {}", prediction.shape(), target.shape());
        return prediction.invalid("mse_loss", message);
    }
    prediction.sub(target).square().mean_all()
}
