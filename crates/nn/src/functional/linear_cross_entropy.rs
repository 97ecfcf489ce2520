//! Output layer and cross-entropy in one.
//!
//! Legend: n positions, c width, v vocabulary.

use wgrad_ir::{DType, Function, Shape};
use wgrad_tensor::{Backward, Tensor, TensorError, call, trace_function_with_gradient};

use super::{
    known::Known,
    loss::{checked, cross_entropy, misfit},
};

/// [`cross_entropy`] of the logits `hidden weightᵀ`, which never exist as a whole: they are computed for `chunk` positions at a time,
/// together with what the gradient needs of them (Liger's `fused_linear_cross_entropy`; Hsu et al., 2024).
///
/// `hidden [.., c]`, `weight [v, c]`, `targets [..]` (i32 class numbers) give the mean over all positions, or over those whose target
/// is not `ignore_index`. Memory beyond the operands and their gradients is that of `chunk * v` logits.
///
/// Where a gradient is asked for, both are computed in the forward pass and scaled in the backward pass.
#[track_caller]
pub fn linear_cross_entropy(
    hidden: &Tensor,
    weight_vc: &Tensor,
    targets: &Tensor,
    ignore_index: Option<i32>,
    chunk: usize,
) -> Tensor {
    const NAME: &str = "linear_cross_entropy";
    if let Some(faulty) = [hidden, weight_vc, targets].into_iter().find(|t| t.error().is_some()) {
        return faulty.clone();
    }
    let ([positions @ .., c], [v, width]) = (hidden.shape().dims(), weight_vc.shape().dims()) else {
        let message = format!(
            "expects hidden [.., width] and a weight [vocabulary, width], got {} and {}",
            hidden.shape(),
            weight_vc.shape()
        );
        return hidden.invalid(NAME, message);
    };
    if c != width || hidden.dtype() != weight_vc.dtype() || !hidden.dtype().is_float() {
        let message = format!(
            "expects hidden and weight of one width and float dtype, got {}{} and {}{}",
            hidden.dtype(),
            hidden.shape(),
            weight_vc.dtype(),
            weight_vc.shape()
        );
        return hidden.invalid(NAME, message);
    }
    if let Some(message) = misfit(positions, *v, targets, ignore_index) {
        return hidden.invalid(NAME, message);
    }
    if chunk == 0 {
        return hidden.invalid(NAME, "expects chunks of at least 1 position, got 0");
    }
    let n = targets.elements();
    if n == 0 || *v == 0 {
        return cross_entropy(&hidden.matmul(&weight_vc.t()), targets, ignore_index);
    }
    let targets = checked(targets, *v, ignore_index);
    let operands = [&hidden.reshape([n, *c]), weight_vc, &targets.reshape([n])];
    static KNOWN: Known<(DType, Shape, Shape, DType, Option<i32>, usize)> = Known::new();
    let shapes = (operands[0].shape().clone(), weight_vc.shape().clone());
    let key = (hidden.dtype(), shapes.0, shapes.1, targets.dtype(), ignore_index, chunk);
    match KNOWN.get_or_make(key, || define(&operands, ignore_index, chunk)) {
        Ok(function) => call(&function, &operands)[0].clone(),
        Err(error) => hidden.invalid(NAME, error.to_string()),
    }
}

/// The loss, and as residuals its gradients for `hidden` and `weight`.
fn define(operands: &[&Tensor], ignore_index: Option<i32>, chunk: usize) -> Result<Function, TensorError> {
    let body = |args: &[Tensor]| forward(&args[0], &args[1], &args[2], ignore_index, chunk);
    let gradient =
        |b: &Backward<'_>| vec![b.outputs[1].mul(&b.cotangents[0]), b.outputs[2].mul(&b.cotangents[0])];
    trace_function_with_gradient("linear_cross_entropy", operands, 1, body, gradient)
}

#[track_caller]
fn forward(
    hidden_nc: &Tensor,
    weight_vc: &Tensor,
    targets_n: &Tensor,
    ignore_index: Option<i32>,
    chunk: usize,
) -> Vec<Tensor> {
    let (dtype, device) = (hidden_nc.dtype(), hidden_nc.device());
    let constant = |value| Tensor::constant(value, dtype, device);
    let [n, _] = hidden_nc.dims::<2>();
    let [v, _] = weight_vc.dims::<2>();
    // 1 over the number of positions that count. Where none does, the loss is 0/0, but each of its gradients a sum of nothing.
    let (share, share_n1) = match ignore_index {
        Some(ignored) => {
            let ignored = Tensor::constant(f64::from(ignored), targets_n.dtype(), device);
            let counted_n = targets_n.ne(&ignored);
            let share = counted_n.cast(dtype).sum_all().reciprocal();
            let share_n = counted_n.where_(&share, &constant(0.0));
            (share, share_n.unsqueeze(-1))
        }
        None => {
            let share = constant(1.0 / n as f64);
            (share.clone(), Tensor::ones([n, 1], dtype, device).mul(&share))
        }
    };
    let (mut loss, mut grad_hidden, mut grad_weight) = (None::<Tensor>, Vec::new(), None::<Tensor>);
    for start in (0..n).step_by(chunk) {
        let part = |t: &Tensor| t.narrow(0, start, chunk.min(n - start));
        let (hidden, share) = (part(hidden_nc), part(&share_n1));
        let hit = part(targets_n).unsqueeze(-1).eq(Tensor::arange(v, device).cast(targets_n.dtype()));
        let logs = hidden.matmul(&weight_vc.t()).log_softmax(-1);
        let of_targets = hit.where_(&logs.neg(), &constant(0.0)).sum(&[-1], true);
        let part_loss = of_targets.mul(&share).sum_all();
        let grad_logits = logs.exp().sub(hit.cast(dtype)).mul(&share);
        grad_hidden.push(grad_logits.matmul(weight_vc));
        let part_weight = grad_logits.t().matmul(&hidden);
        loss = Some(loss.map_or_else(|| part_loss.clone(), |sum| sum.add(&part_loss)));
        grad_weight = Some(grad_weight.map_or_else(|| part_weight.clone(), |sum| sum.add(&part_weight)));
    }
    let loss = loss.map(|loss| loss.add(share.mul(constant(0.0))));
    let grad_hidden = Tensor::cat(&grad_hidden.iter().collect::<Vec<_>>(), 0);
    [loss, Some(grad_hidden), grad_weight].into_iter().flatten().collect()
}
