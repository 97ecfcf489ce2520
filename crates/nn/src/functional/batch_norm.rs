//! Batch normalisation (Ioffe and Szegedy, 2015).

use wgrad_ir::{DType, Shape};
use wgrad_tensor::{Backward, Tensor, TensorError, call, trace_function_with_gradient};

use super::{conv::per_channel, known::Known};

/// Mean and variance of each channel, `[channels]`.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// The mean.
    pub mean: Tensor,
    /// The variance: biased where it normalises, unbiased where it is remembered.
    pub var: Tensor,
}

/// `(x - mean) / √(var + eps) * weight + bias` for each channel of `x [n, channels, ..]` with given statistics, as in evaluation.
#[track_caller]
pub fn batch_norm(
    x: &Tensor,
    statistics: &Statistics,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Tensor {
    if let Some(message) = misfit(x, false) {
        return x.invalid("batch_norm", message);
    }
    let per_channel = |t: &Tensor| per_channel(t, x.rank());
    let rstd = statistics.var.add(eps).rsqrt();
    let scale = weight.map_or_else(|| rstd.clone(), |w| rstd.mul(w));
    let y = x.sub(per_channel(&statistics.mean)).mul(per_channel(&scale));
    bias.map_or_else(|| y.clone(), |bias| y.add(per_channel(bias)))
}

/// The same with the statistics of the batch, as in training, and these statistics, without gradients, with the unbiased variance
/// that is remembered for evaluation. A channel must have more than one value.
#[track_caller]
pub fn batch_norm_train(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> (Tensor, Statistics) {
    if let Some(message) = misfit(x, true) {
        let faulty = x.invalid("batch_norm", message);
        return (faulty.clone(), Statistics { mean: faulty.clone(), var: faulty });
    }
    if x.error().is_some() {
        return (x.clone(), Statistics { mean: x.clone(), var: x.clone() });
    }
    let channels = x.shape()[1];
    let or = |t: Option<&Tensor>, value: f64| {
        let fill = || Tensor::constant(value, x.dtype(), x.device()).expand([channels]);
        t.cloned().unwrap_or_else(fill)
    };
    let (weight, bias) = (or(weight, 1.0), or(bias, 0.0));
    let y = normalise([x, &weight, &bias], eps).unwrap_or_else(|e| x.invalid("batch_norm", e.to_string()));
    // The same as in the function's body, so that a program computes them once.
    let [mean, var] = moments(&x.detach());
    let n = (x.elements() / channels.max(1)) as f64;
    let unbiased = Tensor::constant(n / (n - 1.0), x.dtype(), x.device());
    (y, Statistics { mean: mean.reshape([channels]), var: var.mul(unbiased).reshape([channels]) })
}

fn misfit(x: &Tensor, training: bool) -> Option<String> {
    if x.error().is_some() {
        return None;
    }
    if x.rank() < 2 || !x.dtype().is_float() {
        return Some(format!("expects floats [batch, channels, ..], got {}{}", x.dtype(), x.shape()));
    }
    let few = training && x.elements() / x.shape()[1].max(1) < 2;
    few.then(|| format!("the variance of one value per channel means nothing; got {}", x.shape()))
}

/// All axes but that of the channels.
fn others(x: &Tensor) -> Vec<isize> {
    (0..x.rank() as isize).filter(|&d| d != 1).collect()
}

/// Mean and biased variance of each channel, `[1, channels, 1..]`.
#[track_caller]
fn moments(x: &Tensor) -> [Tensor; 2] {
    let mean = x.mean(&others(x), true);
    let var = x.sub(&mean).square().mean(&others(x), true);
    [mean, var]
}

/// Normalises by the batch's own statistics; the gradient takes one pass for the sums of each channel, and one for all else.
fn normalise(operands: [&Tensor; 3], eps: f64) -> Result<Tensor, TensorError> {
    static KNOWN: Known<(Shape, DType, u64)> = Known::new();
    let [x, weight, bias] = operands;
    if let Some(faulty) = operands.into_iter().find(|t| t.error().is_some()) {
        return Ok(faulty.clone());
    }
    let fits = |t: &Tensor| t.shape().dims() == [x.shape()[1]] && t.dtype() == x.dtype();
    if !fits(weight) || !fits(bias) {
        let message = format!(
            "expects weight and bias of {} {}, one for each channel, got {}{} and {}{}",
            x.shape()[1],
            x.dtype(),
            weight.dtype(),
            weight.shape(),
            bias.dtype(),
            bias.shape()
        );
        return Ok(x.invalid("batch_norm", message));
    }
    let function = KNOWN.get_or_make((x.shape().clone(), x.dtype(), eps.to_bits()), || {
        let forward = |args: &[Tensor]| {
            let [x, weight, bias] = [0, 1, 2].map(|i| &args[i]);
            let [mean, var] = moments(x);
            let rstd = var.add(eps).rsqrt();
            let scale = per_channel(weight, x.rank()).mul(&rstd);
            let y = x.sub(&mean).mul(scale).add(per_channel(bias, x.rank()));
            vec![y, mean, rstd]
        };
        // With x̂ = (x - mean) rstd: dx = weight rstd (g - mean(g) - x̂ mean(g x̂)).
        let gradient = |b: &Backward<'_>| {
            let (x, weight, g) = (&b.operands[0], &b.operands[1], &b.cotangents[0]);
            let (mean, rstd) = (&b.outputs[1], &b.outputs[2]);
            let normal = x.sub(mean).mul(rstd);
            let sum = g.sum(&others(x), true);
            let product = g.mul(&normal).sum(&others(x), true);
            let channels = x.shape()[1];
            let per = Tensor::constant(channels as f64 / x.elements() as f64, x.dtype(), x.device());
            let centred = g.sub(sum.mul(&per)).sub(normal.mul(product.mul(&per)));
            let dx = centred.mul(per_channel(weight, x.rank()).mul(rstd));
            vec![dx, product.reshape([channels]), sum.reshape([channels])]
        };
        trace_function_with_gradient("batch_norm", &operands, 1, forward, gradient)
    })?;
    Ok(call(&function, &operands)[0].clone())
}
