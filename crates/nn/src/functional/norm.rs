//! Normalisations.

use wgrad_tensor::{Shape, Tensor};

use super::{add_bias, like};

/// `(x - E[x]) / √(Var[x] + eps) * weight + bias` over the last axes, as many as `weight` has, with the biased variance (Ba, Kiros
/// and Hinton, 2016). `x [.., d..]`, `weight` and `bias` `[d..]`.
#[track_caller]
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Tensor {
    let axes: Vec<isize> = (1..=weight.rank().max(1) as isize).map(|a| -a).collect();
    add_bias(standardised(x, &axes, eps).mul(weight), bias)
}

/// Mean 0 and variance 1 along `axes`. The mean is taken first, so that nothing cancels.
#[track_caller]
fn standardised(x: &Tensor, axes: &[isize], eps: f64) -> Tensor {
    let centred = x.sub(x.mean(axes, true));
    let variance = centred.square().mean(axes, true);
    centred.mul(variance.add(eps).rsqrt())
}

/// `x / √(E[x²] + eps) * weight` over the last axes, as many as `weight` has (Zhang and Sennrich, 2019). `x [.., d..]`, `weight [d..]`.
#[track_caller]
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let axes: Vec<isize> = (1..=weight.rank().max(1) as isize).map(|a| -a).collect();
    x.mul(x.square().mean(&axes, true).add(eps).rsqrt()).mul(weight)
}

/// Normalises `groups` of channels of each sample to mean 0 and variance 1, then scales and shifts each channel (Wu and He, 2018).
/// `x [n, channels, ..]`, `weight` and `bias` `[channels]`.
#[track_caller]
pub fn group_norm(
    x: &Tensor,
    groups: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Tensor {
    if x.error().is_some() {
        return x.clone();
    }
    let &[n, channels, ref rest @ ..] = x.shape().dims() else {
        return x.invalid("group_norm", format!("expects [n, channels, ..], got {}", x.shape()));
    };
    if groups == 0 || channels % groups != 0 {
        let message =
            format!("expects groups that divide the {channels} channels of {}, got {groups}", x.shape());
        return x.invalid("group_norm", message);
    }
    let size = rest.iter().product::<usize>() * (channels / groups);
    let y = standardised(&x.reshape([n, groups, size]), &[-1], eps).reshape(x.shape());
    let by_channel = |t: &Tensor| t.reshape(per_channel(channels, rest.len()));
    let y = weight.map_or_else(|| y.clone(), |w| y.mul(by_channel(w)));
    bias.map_or_else(|| y.clone(), |b| y.add(by_channel(b)))
}

/// `[channels, 1, ..]`, which broadcasts against `[n, channels, ..]`.
fn per_channel(channels: usize, axes: usize) -> Shape {
    std::iter::once(channels).chain(std::iter::repeat_n(1, axes)).collect()
}

/// [`group_norm`] with each channel a group of its own (Ulyanov et al., 2016).
#[track_caller]
pub fn instance_norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Tensor {
    let channels = x.shape().get(1).copied().unwrap_or(1);
    group_norm(x, channels, weight, bias, eps)
}

/// `x / (k + alpha/size Σ x²)^beta`, the sum over `size` neighbouring channels, those at the rim being 0 (Krizhevsky et al., 2012).
/// `x [n, channels, ..]`.
#[track_caller]
pub fn local_response_norm(x: &Tensor, size: usize, alpha: f64, beta: f64, k: f64) -> Tensor {
    if x.error().is_some() {
        return x.clone();
    }
    if x.rank() < 2 || size == 0 {
        let message =
            format!("expects [n, channels, ..] and at least 1 neighbour, got {} and {size}", x.shape());
        return x.invalid("local_response_norm", message);
    }
    let channels = x.shape()[1];
    // From twice the channels on, all of them are neighbours.
    let near = size.min((2 * channels).max(1));
    let mut widths = vec![(0, 0); x.rank()];
    widths[1] = (near / 2, (near - 1) / 2);
    let squares = x.square().pad(&widths, 0.0);
    let sum =
        (1..near).fold(squares.narrow(1, 0, channels), |sum, i| sum.add(squares.narrow(1, i, channels)));
    let scale = sum.mul(like(alpha / size as f64, x)).add(like(k, x));
    x.div(scale.pow(like(beta, x)))
}

/// `g v / ‖v‖`, the norm over all axes but `dim` (Salimans and Kingma, 2016). `g` has the extent of `v` along `dim` and 1 elsewhere.
#[track_caller]
pub fn weight_norm(v: &Tensor, g: &Tensor, dim: isize) -> Tensor {
    let rank = v.rank() as isize;
    let kept = if dim < 0 { dim + rank } else { dim };
    if !(0..rank).contains(&kept) && v.error().is_none() {
        return v.invalid("weight_norm", format!("axis {dim} is out of range for {}", v.shape()));
    }
    let axes: Vec<isize> = (0..rank).filter(|&a| a != kept).collect();
    v.mul(g.div(v.square().sum(&axes, true).sqrt()))
}
