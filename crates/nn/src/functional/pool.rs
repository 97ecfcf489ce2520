//! Pooling over windows of the last `N` axes, and what else is made of windows.

use wgrad_ir::{DType, Shape};
use wgrad_tensor::{Backward, Tensor, TensorError, call, grad, trace_function_with_gradient};

use super::known::Known;

/// What a maximum over windows is told besides its operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MaxPool<const N: usize> {
    /// Extents of a window.
    pub kernel: [usize; N],
    /// Elements between neighbouring windows; PyTorch's default is the kernel.
    pub stride: [usize; N],
    /// Elements at both ends that are never the largest, at most half of the kernel.
    pub padding: [usize; N],
    /// Elements between neighbours within a window.
    pub dilation: [usize; N],
    /// Whether a window that hangs over the end counts, if it starts before.
    pub ceil_mode: bool,
}

impl<const N: usize> MaxPool<N> {
    /// Windows side by side.
    pub fn new(kernel: [usize; N]) -> Self {
        MaxPool { kernel, stride: kernel, padding: [0; N], dilation: [1; N], ceil_mode: false }
    }
}

/// What a mean over windows is told besides its operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AvgPool<const N: usize> {
    /// Extents of a window.
    pub kernel: [usize; N],
    /// Elements between neighbouring windows; PyTorch's default is the kernel.
    pub stride: [usize; N],
    /// Zeros at both ends, at most half of the kernel.
    pub padding: [usize; N],
    /// Whether a window that hangs over the end counts, if it starts before.
    pub ceil_mode: bool,
    /// Whether the zeros of the padding count as elements.
    pub count_include_pad: bool,
}

impl<const N: usize> AvgPool<N> {
    /// Windows side by side.
    pub fn new(kernel: [usize; N]) -> Self {
        AvgPool { kernel, stride: kernel, padding: [0; N], ceil_mode: false, count_include_pad: true }
    }
}

/// How windows lie along one axis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Windows {
    size: usize,
    step: usize,
    dilation: usize,
    /// Elements added before and after.
    widths: (usize, usize),
}

impl Windows {
    /// As PyTorch counts them (`pooling_output_shape`); an error where no window fits.
    fn new(
        len: usize,
        [size, step, padding, dilation]: [usize; 4],
        ceil_mode: bool,
    ) -> Result<Windows, String> {
        if size == 0 || step == 0 || dilation == 0 || padding > size / 2 {
            return Err(format!(
                "expects kernel, stride and dilation of 1 or more and a padding of at most half of the kernel, got {size}, {step}, \
                 {dilation} and {padding}"
            ));
        }
        let span = (size - 1).saturating_mul(dilation).saturating_add(1);
        let room = (len + 2 * padding).checked_sub(span);
        let Some(room) = room.filter(|_| len > 0) else {
            return Err(format!(
                "a window of {span} elements does not fit {len} with a padding of {padding}"
            ));
        };
        let mut count = if ceil_mode { room.div_ceil(step) } else { room / step } + 1;
        // The last window must start within the operand or the padding before it.
        if ceil_mode && (count - 1) * step >= len + padding {
            count -= 1;
        }
        let after = ((count - 1) * step + span).saturating_sub(len + padding);
        Ok(Windows { size, step, dilation, widths: (padding, after) })
    }
}

/// `[.., sp..]` as `[.., out.., size..]`, surrounded by `fill`.
#[track_caller]
fn windows(x: &Tensor, list: &[Windows], fill: f64) -> Tensor {
    let first = x.rank() - list.len();
    let widths: Vec<_> = (0..first).map(|_| (0, 0)).chain(list.iter().map(|w| w.widths)).collect();
    let padded = x.pad(&widths, fill);
    let along =
        |x: Tensor, (d, w): (usize, &Windows)| x.window((first + d) as isize, w.size, w.step, w.dilation);
    list.iter().enumerate().fold(padded, along)
}

/// The last `n` axes.
fn last(n: usize) -> Vec<isize> {
    (-(n as isize)..0).collect()
}

/// Whether `x` is `[batch, channels, sp..]`, `[channels, sp..]` of floats, and what is wrong otherwise.
fn check(x: &Tensor, n: usize) -> Result<(), String> {
    if x.error().is_none() && (x.rank() <= n || !x.dtype().is_float()) {
        return Err(format!("expects floats [.., {n} spatial axes], got {}{}", x.dtype(), x.shape()));
    }
    Ok(())
}

/// The largest element of each window of the last `N` axes. Its gradient goes to the first element that attains it, in row-major
/// order, as in PyTorch.
#[track_caller]
pub fn max_pool<const N: usize>(x: &Tensor, options: &MaxPool<N>) -> Tensor {
    let name = ["max_pool", "max_pool1d", "max_pool2d", "max_pool3d"][N.min(3)];
    if x.error().is_some() {
        return x.clone();
    }
    let MaxPool { kernel, stride, padding, dilation, ceil_mode } = *options;
    let one = |d: usize| {
        let len = x.shape()[x.rank() - N + d];
        Windows::new(len, [kernel[d], stride[d], padding[d], dilation[d]], ceil_mode)
    };
    match check(x, N).and_then(|()| (0..N).map(one).collect::<Result<Vec<_>, _>>()) {
        Ok(list) => first_maximum(x, list).unwrap_or_else(|e| x.invalid(name, e.to_string())),
        Err(message) => x.invalid(name, message),
    }
}

/// Windows of up to so many elements are compared element by element: a few passes over all windows instead of a tiny reduction in each.
const UNROLLED: usize = 16;

/// Of windows `[.., out.., size..]` the elements at each place, row-major, `[.., out..]`.
#[track_caller]
fn elements(seen: &Tensor, sizes: &[usize]) -> impl Iterator<Item = Tensor> {
    let rank = seen.rank() - sizes.len();
    let shape: Shape = seen.shape().iter().copied().take(rank).collect();
    (0..sizes.iter().product()).map(move |k: usize| {
        let mut rest = k;
        let mut one = seen.clone();
        for (d, &size) in sizes.iter().enumerate().rev() {
            one = one.narrow((rank + d) as isize, rest % size, 1);
            rest /= size;
        }
        one.reshape(shape.clone())
    })
}

/// The maximum over windows as a function.
#[track_caller]
fn first_maximum(x: &Tensor, list: Vec<Windows>) -> Result<Tensor, TensorError> {
    static KNOWN: Known<(Vec<Windows>, Shape, DType)> = Known::new();
    let key = (list.clone(), x.shape().clone(), x.dtype());
    let function = KNOWN.get_or_make(key, || {
        // A finite minimum: shaders may assume that infinities do not occur.
        let lowest = f64::from(f32::MIN);
        let n = list.len();
        let sizes: Vec<usize> = list.iter().map(|w| w.size).collect();
        let taps: usize = sizes.iter().product();
        let unrolled = taps <= UNROLLED;
        let forward = |args: &[Tensor]| {
            let seen = windows(&args[0], &list, lowest);
            let largest = if unrolled { elements(&seen, &sizes).reduce(|a, b| a.maximum(&b)) } else { None };
            vec![largest.unwrap_or_else(|| seen.amax(&last(n), false))]
        };
        let gradient = |b: &Backward<'_>| {
            let (x, y, g) = (&b.operands[0], &b.outputs[0], &b.cotangents[0]);
            let seen = windows(x, &list, lowest);
            let number = |k: usize| Tensor::constant(k as f64, DType::I32, x.device());
            let first = if unrolled {
                let numbered: Vec<_> = elements(&seen, &sizes).enumerate().collect();
                let nothing = number(taps).expand(y.shape().clone());
                numbered.iter().rev().fold(nothing, |next, (k, tap)| tap.eq(y).where_(&number(*k), &next))
            } else {
                let ones = std::iter::repeat_n(1, n);
                let beside: Shape = y.shape().iter().copied().chain(ones).collect();
                let place = Tensor::arange(taps, x.device()).reshape(Shape::from(sizes.clone()));
                seen.eq(y.reshape(beside)).where_(&place, &number(taps)).amin(&last(n), false)
            };
            // The windows' elements come first, so that what is written lies as `g` does; then they are turned to their places.
            let ones = std::iter::repeat_n(1, y.rank());
            let place = Tensor::arange(taps, x.device());
            let place = place.reshape(std::iter::once(taps).chain(ones).collect::<Shape>());
            let zero = Tensor::constant(0.0, x.dtype(), x.device());
            let share = first.unsqueeze(0).eq(&place).where_(&g.unsqueeze(0), &zero);
            let apart: Shape = sizes.iter().chain(y.shape().iter()).copied().collect();
            let turned: Vec<usize> = (n..n + y.rank()).chain(0..n).collect();
            let share = share.reshape(apart).permute(&turned);
            let passed = windows(x, &list, 0.0).mul(share).sum_all();
            match grad(&passed, &[x]) {
                Ok(gradients) => gradients,
                Err(error) => vec![x.invalid("max_pool", error.to_string())],
            }
        };
        trace_function_with_gradient("max_pool", &[x], 1, forward, gradient)
    })?;
    Ok(call(&function, &[x])[0].clone())
}

/// The mean of each window of the last `N` axes; the divisor counts elements, and the padding's zeros if `count_include_pad`, but
/// never what hangs over the end in `ceil_mode`.
#[track_caller]
pub fn avg_pool<const N: usize>(x: &Tensor, options: &AvgPool<N>) -> Tensor {
    let name = ["avg_pool", "avg_pool1d", "avg_pool2d", "avg_pool3d"][N.min(3)];
    if x.error().is_some() {
        return x.clone();
    }
    let AvgPool { kernel, stride, padding, ceil_mode, count_include_pad } = *options;
    let one = |d: usize| {
        let len = x.shape()[x.rank() - N + d];
        Windows::new(len, [kernel[d], stride[d], padding[d], 1], ceil_mode)
    };
    let list = match check(x, N).and_then(|()| (0..N).map(one).collect::<Result<Vec<_>, _>>()) {
        Ok(list) => list,
        Err(message) => return x.invalid(name, message),
    };
    let mut mean = windows(x, &list, 0.0).sum(&last(N), false);
    let mut whole = 1.0;
    for (d, w) in list.iter().enumerate() {
        let (len, (before, after)) = (x.shape()[x.rank() - N + d], w.widths);
        // What counts, of `before`, the operand and `after`.
        let counted = if count_include_pad { (before, len + after.min(padding[d])) } else { (0, len) };
        if counted == (before, len + after) {
            whole *= w.size as f64;
            continue;
        }
        let ones = Tensor::ones([counted.0 + counted.1], x.dtype(), x.device());
        let ones = ones.pad(&[(before - counted.0, len + after - counted.1)], 0.0);
        let counts = ones.window(0, w.size, w.step, 1).sum(&[-1], false);
        let beside: Shape = counts.shape().iter().copied().chain((d + 1..N).map(|_| 1)).collect();
        mean = mean.div(counts.reshape(beside));
    }
    mean.mul(Tensor::constant(1.0 / whole, x.dtype(), x.device()))
}

/// [`max_pool`] of `[.., t]`.
#[track_caller]
pub fn max_pool1d(x: &Tensor, options: &MaxPool<1>) -> Tensor {
    max_pool(x, options)
}

/// [`max_pool`] of `[.., h, w]`.
#[track_caller]
pub fn max_pool2d(x: &Tensor, options: &MaxPool<2>) -> Tensor {
    max_pool(x, options)
}

/// [`max_pool`] of `[.., d, h, w]`.
#[track_caller]
pub fn max_pool3d(x: &Tensor, options: &MaxPool<3>) -> Tensor {
    max_pool(x, options)
}

/// [`avg_pool`] of `[.., t]`.
#[track_caller]
pub fn avg_pool1d(x: &Tensor, options: &AvgPool<1>) -> Tensor {
    avg_pool(x, options)
}

/// [`avg_pool`] of `[.., h, w]`.
#[track_caller]
pub fn avg_pool2d(x: &Tensor, options: &AvgPool<2>) -> Tensor {
    avg_pool(x, options)
}

/// [`avg_pool`] of `[.., d, h, w]`.
#[track_caller]
pub fn avg_pool3d(x: &Tensor, options: &AvgPool<3>) -> Tensor {
    avg_pool(x, options)
}

/// Where window `i` of `count` over `len` elements begins and ends: `⌊i len / count⌋` to `⌈(i + 1) len / count⌉`.
fn uneven(i: usize, len: usize, count: usize) -> (usize, usize) {
    (i * len / count, ((i + 1) * len).div_ceil(count))
}

/// The mean over windows of the last `N` axes that divide them into `output` as evenly as possible; they overlap where extents
/// do not divide.
#[track_caller]
pub fn adaptive_avg_pool<const N: usize>(x: &Tensor, output: [usize; N]) -> Tensor {
    if let Some(message) = adaptive_misfit(x, &output) {
        return x.invalid("adaptive_avg_pool", message);
    }
    let mut y = x.clone();
    for (d, &count) in output.iter().enumerate() {
        let dim = d as isize - N as isize;
        let Ok(axis) = usize::try_from(y.rank() as isize + dim) else { return y };
        let len = y.shape()[axis];
        y = if len.is_multiple_of(count) {
            y.window(dim, len / count, len / count, 1).mean(&[-1], false)
        } else {
            // A product with the windows' weights, `[len, count]`.
            let weight = |k: usize| {
                let (from, to) = uneven(k % count, len, count);
                if (from..to).contains(&(k / count)) { 1.0 / (to - from) as f32 } else { 0.0 }
            };
            let weights: Vec<f32> = (0..len * count).map(weight).collect();
            let weights = Tensor::from_vec(weights, [len, count], x.device()).cast(x.dtype());
            y.transpose(dim, -1).matmul(&weights).transpose(dim, -1)
        };
    }
    y
}

/// The largest element of windows as those of [`adaptive_avg_pool`]; the gradient goes to the first that attains it.
#[track_caller]
pub fn adaptive_max_pool<const N: usize>(x: &Tensor, output: [usize; N]) -> Tensor {
    if let Some(message) = adaptive_misfit(x, &output) {
        return x.invalid("adaptive_max_pool", message);
    }
    if x.error().is_some() {
        return x.clone();
    }
    let extents: [usize; N] = std::array::from_fn(|d| x.shape()[x.rank() - N + d]);
    if (0..N).all(|d| extents[d].is_multiple_of(output[d])) {
        let kernel: [usize; N] = std::array::from_fn(|d| extents[d] / output[d]);
        return max_pool(x, &MaxPool::new(kernel));
    }
    largest(x, &extents, &output, 0)
}

/// Windows along axis `d` and those after it, one by one.
fn largest<const N: usize>(x: &Tensor, extents: &[usize; N], output: &[usize; N], d: usize) -> Tensor {
    if d == N {
        let here: [usize; N] = std::array::from_fn(|d| x.shape()[x.rank() - N + d]);
        return max_pool(x, &MaxPool::new(here));
    }
    let dim = d as isize - N as isize;
    let mut parts = Vec::with_capacity(output[d]);
    for i in 0..output[d] {
        let (from, to) = uneven(i, extents[d], output[d]);
        parts.push(largest(&x.narrow(dim, from, to - from), extents, output, d + 1));
    }
    Tensor::cat(&parts.iter().collect::<Vec<_>>(), dim)
}

/// More windows than any picture has: each may be an expression of its own.
const MOST_WINDOWS: usize = 1 << 20;

fn adaptive_misfit(x: &Tensor, output: &[usize]) -> Option<String> {
    let message = check(x, output.len()).err();
    if output.iter().try_fold(1usize, |n, &count| n.checked_mul(count)).is_none_or(|n| n > MOST_WINDOWS) {
        return Some(format!("expects at most {MOST_WINDOWS} windows, got {output:?}"));
    }
    let empty =
        || x.error().is_none() && (output.contains(&0) || x.shape()[x.rank() - output.len()..].contains(&0));
    message.or_else(|| empty().then(|| format!("cannot divide {} into {output:?} windows", x.shape())))
}

/// The windows of `[n, c, h, w]` as columns, `[n, c * kh * kw, windows]` (im2col; PyTorch's `unfold`).
#[track_caller]
pub fn unfold(
    x: &Tensor,
    kernel: [usize; 2],
    dilation: [usize; 2],
    padding: [usize; 2],
    stride: [usize; 2],
) -> Tensor {
    if x.error().is_some() {
        return x.clone();
    }
    if x.rank() != 4 {
        return x.invalid("unfold", format!("expects [batch, channels, height, width], got {}", x.shape()));
    }
    let widths = [(0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])];
    let seen = x.pad(&widths, 0.0).window(2, kernel[0], stride[0], dilation[0]);
    let seen = seen.window(3, kernel[1], stride[1], dilation[1]);
    if seen.error().is_some() {
        return seen;
    }
    let [n, c, h, w, kh, kw] = seen.dims();
    seen.permute(&[0, 1, 4, 5, 2, 3]).reshape([n, c * kh * kw, h * w])
}

/// `[.., c r², h, w]` to `[.., c, h r, w r]`: channels become places (Shi et al., 2016).
#[track_caller]
pub fn pixel_shuffle(x: &Tensor, r: usize) -> Tensor {
    x.pixel_shuffle(r)
}

/// `[.., c, h r, w r]` to `[.., c r², h, w]`: the inverse of [`pixel_shuffle`].
#[track_caller]
pub fn pixel_unshuffle(x: &Tensor, r: usize) -> Tensor {
    x.pixel_unshuffle(r)
}
