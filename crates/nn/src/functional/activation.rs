//! Activation functions, elementwise unless said otherwise. Their numbers are part of the compiled program.

use wgrad_tensor::Tensor;

use super::like;

/// `x Φ(x)`, exact (Hendrycks and Gimpel, 2016).
#[track_caller]
pub fn gelu(x: &Tensor) -> Tensor {
    x.gelu()
}

/// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
#[track_caller]
pub fn gelu_tanh(x: &Tensor) -> Tensor {
    x.gelu_tanh()
}

/// `x σ(1.702 x)`, as CLIP has it.
#[track_caller]
pub fn quick_gelu(x: &Tensor) -> Tensor {
    x.mul(x.mul(like(1.702, x)).sigmoid())
}

/// `max(x, 0)`.
#[track_caller]
pub fn relu(x: &Tensor) -> Tensor {
    x.relu()
}

/// `min(max(x, 0), 6)`.
#[track_caller]
pub fn relu6(x: &Tensor) -> Tensor {
    hardtanh(x, 0.0, 6.0)
}

/// `x` where `x > 0`, else `slope x` (Maas et al., 2013).
#[track_caller]
pub fn leaky_relu(x: &Tensor, slope: f64) -> Tensor {
    x.gt(like(0.0, x)).where_(x, &x.mul(like(slope, x)))
}

/// [`leaky_relu`] with slopes that are learned (He et al., 2015): `weight` has one element, or one for each channel, which is axis 1
/// of `x` (axis 0 of a vector).
#[track_caller]
pub fn prelu(x: &Tensor, weight: &Tensor) -> Tensor {
    let slopes = match weight.elements() {
        1 => weight.reshape([1]),
        n if x.rank() >= 2 && x.shape()[1] == n => {
            let mut shape = vec![1; x.rank() - 1];
            shape[0] = n;
            weight.reshape(shape)
        }
        n if x.error().is_none() && weight.error().is_none() => {
            let message = format!("expects 1 slope or one for each channel of {}, got {n}", x.shape());
            return x.invalid("prelu", message);
        }
        _ => weight.clone(),
    };
    x.gt(like(0.0, x)).where_(x, &x.mul(slopes))
}

/// `x` where `x > 0`, else `alpha (eˣ - 1)` (Clevert et al., 2015).
#[track_caller]
pub fn elu(x: &Tensor, alpha: f64) -> Tensor {
    let zero = like(0.0, x);
    // The exponential of what is not selected must not overflow: its gradient would be 0 * inf.
    let below = x.gt(&zero).where_(&zero, x).exp().sub(like(1.0, x)).mul(like(alpha, x));
    x.gt(&zero).where_(x, &below)
}

/// [`elu`] that is smooth at 0 for every `alpha`: `max(x, 0) + min(0, alpha (e^(x/alpha) - 1))` (Barron, 2017).
#[track_caller]
pub fn celu(x: &Tensor, alpha: f64) -> Tensor {
    let zero = like(0.0, x);
    let below = x.gt(&zero).where_(&zero, x).mul(like(alpha.recip(), x)).exp();
    x.gt(&zero).where_(x, &below.sub(like(1.0, x)).mul(like(alpha, x)))
}

/// `λ elu(x, α)` with the constants that keep mean 0 and variance 1 (Klambauer et al., 2017).
#[track_caller]
pub fn selu(x: &Tensor) -> Tensor {
    const ALPHA: f64 = 1.673_263_242_354_377_2;
    const LAMBDA: f64 = 1.050_700_987_355_480_5;
    elu(x, ALPHA).mul(like(LAMBDA, x))
}

/// `x σ(x)`, also called swish (Elfwing et al., 2017).
#[track_caller]
pub fn silu(x: &Tensor) -> Tensor {
    x.silu()
}

/// `x tanh(softplus(x))` (Misra, 2019).
#[track_caller]
pub fn mish(x: &Tensor) -> Tensor {
    x.mul(softplus(x, 1.0, 20.0).tanh())
}

/// `ln(1 + e^(beta x)) / beta`, and `x` itself where `beta x > threshold`.
#[track_caller]
pub fn softplus(x: &Tensor, beta: f64, threshold: f64) -> Tensor {
    let scaled = x.mul(like(beta, x));
    let linear = scaled.gt(like(threshold, x));
    let soft = log1p_exp(&linear.where_(&like(0.0, x), &scaled)).mul(like(beta.recip(), x));
    linear.where_(x, &soft)
}

/// `ln σ(x)`, without overflow at either end.
#[track_caller]
pub fn logsigmoid(x: &Tensor) -> Tensor {
    log1p_exp(&x.neg()).neg()
}

/// `ln(1 + eˣ) = max(x, 0) + ln(1 + e^(-|x|))`.
#[track_caller]
pub(super) fn log1p_exp(x: &Tensor) -> Tensor {
    // Written as choices, so that the gradient at 0 is 1/2 as it should be: 1 of the first term, -1/2 of the second.
    let positive = x.ge(like(0.0, x));
    let tail = positive.where_(&x.neg(), x).exp().add(like(1.0, x)).log();
    positive.where_(x, &like(0.0, x)).add(tail)
}

/// `σ(x)`.
#[track_caller]
pub fn sigmoid(x: &Tensor) -> Tensor {
    x.sigmoid()
}

/// `tanh x`.
#[track_caller]
pub fn tanh(x: &Tensor) -> Tensor {
    x.tanh()
}

/// `x - tanh x`.
#[track_caller]
pub fn tanhshrink(x: &Tensor) -> Tensor {
    x.sub(x.tanh())
}

/// `x / (1 + |x|)`.
#[track_caller]
pub fn softsign(x: &Tensor) -> Tensor {
    x.div(x.abs().add(like(1.0, x)))
}

/// `x ∓ lambda` beyond `±lambda`, else 0.
#[track_caller]
pub fn softshrink(x: &Tensor, lambda: f64) -> Tensor {
    let (above, below) = (x.sub(like(lambda, x)), x.add(like(lambda, x)));
    let rest = x.lt(like(-lambda, x)).where_(&below, &like(0.0, x));
    x.gt(like(lambda, x)).where_(&above, &rest)
}

/// `x` beyond `±lambda`, else 0.
#[track_caller]
pub fn hardshrink(x: &Tensor, lambda: f64) -> Tensor {
    x.abs().gt(like(lambda, x)).where_(x, &like(0.0, x))
}

/// `x` where `x > threshold`, else `value`.
#[track_caller]
pub fn threshold(x: &Tensor, threshold: f64, value: f64) -> Tensor {
    x.gt(like(threshold, x)).where_(x, &like(value, x))
}

/// `x` limited to `[min, max]`; the gradient is 0 at both limits, as PyTorch has it.
#[track_caller]
pub fn hardtanh(x: &Tensor, min: f64, max: f64) -> Tensor {
    let floored = x.gt(like(min, x)).where_(x, &like(min, x));
    x.lt(like(max, x)).where_(&floored, &like(max, x))
}

/// `min(max(x + 3, 0), 6) / 6` (Howard et al., *Searching for MobileNetV3*, 2019).
#[track_caller]
pub fn hardsigmoid(x: &Tensor) -> Tensor {
    relu6(&x.add(like(3.0, x))).mul(like(1.0 / 6.0, x))
}

/// `x hardsigmoid(x)` (MobileNetV3).
#[track_caller]
pub fn hardswish(x: &Tensor) -> Tensor {
    x.mul(hardsigmoid(x))
}

/// `a σ(b)`, where `a` and `b` are the halves of `x` along `dim` (Dauphin et al., 2016).
#[track_caller]
pub fn glu(x: &Tensor, dim: isize) -> Tensor {
    halves("glu", x, dim, |a, b| a.mul(b.sigmoid()))
}

/// `silu(a) b` for the halves of `x` along `dim` (Shazeer, *GLU variants improve Transformer*, 2020).
#[track_caller]
pub fn swiglu(x: &Tensor, dim: isize) -> Tensor {
    halves("swiglu", x, dim, |a, b| a.silu().mul(b))
}

/// `gelu(a) b` for the halves of `x` along `dim` (Shazeer, 2020).
#[track_caller]
pub fn geglu(x: &Tensor, dim: isize) -> Tensor {
    halves("geglu", x, dim, |a, b| a.gelu().mul(b))
}

#[track_caller]
fn halves(name: &'static str, x: &Tensor, dim: isize, f: impl FnOnce(&Tensor, &Tensor) -> Tensor) -> Tensor {
    if x.error().is_some() {
        return x.clone();
    }
    let axis = if dim < 0 { dim + x.rank() as isize } else { dim };
    let extent = usize::try_from(axis).ok().and_then(|axis| x.shape().get(axis).copied());
    match extent {
        Some(extent) if extent % 2 == 0 => {
            let half = extent / 2;
            f(&x.narrow(dim, 0, half), &x.narrow(dim, half, half))
        }
        Some(extent) => {
            x.invalid(name, format!("axis {dim} of {} has {extent} elements, which is odd", x.shape()))
        }
        None => x.invalid(name, format!("axis {dim} is out of range for {}", x.shape())),
    }
}
