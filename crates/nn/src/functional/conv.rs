//! Convolutions in one to three dimensions, with PyTorch's layouts.
//!
//! Legend: n batch, c channels, g groups, o output channels of a group, sp spatial extents.

use wgrad_ir::{ConvAxis, Shape};
use wgrad_tensor::Tensor;

/// How many zeros surround the operand of a convolution.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Padding<const N: usize> {
    /// So many at both ends of each spatial axis.
    Both([usize; N]),
    /// As many as keep the extents (PyTorch's `"same"`, for stride 1): where their number is odd, one more at the end.
    Same,
}

/// What a convolution is told besides its operands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Conv<const N: usize> {
    /// Elements between neighbouring outputs.
    pub stride: [usize; N],
    /// Zeros around the operand.
    pub padding: Padding<N>,
    /// Elements between neighbouring taps of the filter.
    pub dilation: [usize; N],
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl<const N: usize> Default for Conv<N> {
    fn default() -> Self {
        Conv { stride: [1; N], padding: Padding::Both([0; N]), dilation: [1; N], groups: 1 }
    }
}

/// What a transposed convolution is told besides its operands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConvTranspose<const N: usize> {
    /// Elements between what neighbouring elements of the operand add to.
    pub stride: [usize; N],
    /// Elements cut off at both ends of the result.
    pub padding: [usize; N],
    /// Elements added at the end of the result, less than stride or dilation.
    pub output_padding: [usize; N],
    /// Elements between neighbouring taps of the filter.
    pub dilation: [usize; N],
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl<const N: usize> Default for ConvTranspose<N> {
    fn default() -> Self {
        ConvTranspose { stride: [1; N], padding: [0; N], output_padding: [0; N], dilation: [1; N], groups: 1 }
    }
}

/// `x [n, c, sp..]`, `weight [out, c / groups, taps..]` and `bias [out]` give `[n, out, ..]` (cross-correlation, as in PyTorch), each
/// spatial extent `⌊(sp + 2 padding - dilation (taps - 1) - 1) / stride⌋ + 1`. `[c, sp..]` is taken as a batch of one.
#[track_caller]
pub fn conv<const N: usize>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, options: &Conv<N>) -> Tensor {
    let name = NAMES[N.min(3)];
    batched(x, N, |x| {
        let (groups, dims) = (options.groups, weight.shape().dims());
        if let Some(faulty) = [x, weight].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
        }
        let fits = fit(x, weight, groups, [&options.stride, &options.dilation]);
        if !fits || x.shape()[1] != dims[1] * groups {
            return x.invalid(name, misfit(x, weight, groups, "[out, channels / groups, taps..]"));
        }
        let mut axes = [ConvAxis::default(); N];
        for (d, axis) in axes.iter_mut().enumerate() {
            let (stride, dilation) = (options.stride[d], options.dilation[d]);
            let [before, after] = match options.padding {
                Padding::Both(padding) => [padding[d]; 2],
                Padding::Same if stride != 1 => {
                    return x.invalid(
                        name,
                        "padding `same` keeps extents at stride 1 only; give the padding in numbers",
                    );
                }
                Padding::Same => {
                    let all = dims[2 + d].saturating_sub(1).saturating_mul(dilation);
                    [all / 2, all - all / 2]
                }
            };
            *axis = ConvAxis { stride, dilation, spread: 1, before: signed(before), after: signed(after) };
        }
        let filters = split(weight, 0, groups);
        finish(&split(x, 1, groups).conv(&filters, &axes), dims[0], bias)
    })
}

/// The gradient of [`conv`] with respect to its operand, as an operation (Zeiler et al., 2010): `x [n, c, sp..]`, `weight
/// [c, out / groups, taps..]` and `bias [out]` give `[n, out, ..]`, each spatial extent
/// `(sp - 1) stride - 2 padding + dilation (taps - 1) + output_padding + 1`.
#[track_caller]
pub fn conv_transpose<const N: usize>(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    options: &ConvTranspose<N>,
) -> Tensor {
    let name = TRANSPOSED[N.min(3)];
    batched(x, N, |x| {
        let (groups, dims) = (options.groups, weight.shape().dims());
        if let Some(faulty) = [x, weight].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
        }
        let fits = fit(x, weight, groups, [&options.stride, &options.dilation]);
        if !fits || x.shape()[1] != dims[0] {
            return x.invalid(name, misfit(x, weight, groups, "[channels, out / groups, taps..]"));
        }
        let mut axes = [ConvAxis::default(); N];
        for (d, axis) in axes.iter_mut().enumerate() {
            let (stride, dilation, extra) =
                (options.stride[d], options.dilation[d], options.output_padding[d]);
            if extra >= stride.max(dilation) {
                let message = format!(
                    "an output padding of {extra} is not less than stride {stride} or dilation {dilation}"
                );
                return x.invalid(name, message);
            }
            let reach = signed(dims[2 + d].saturating_sub(1).saturating_mul(dilation));
            let before = reach.saturating_sub(signed(options.padding[d]));
            let after = before.saturating_add(signed(extra));
            *axis = ConvAxis { stride: 1, dilation, spread: stride, before, after };
        }
        // Turned round, and from what goes in to what comes out.
        let turned: Vec<isize> = (3..N as isize + 3).collect();
        let filters = split(weight, 0, groups).transpose(1, 2).flip(&turned);
        finish(&split(x, 1, groups).conv(&filters, &axes), dims[1] * groups, bias)
    })
}

const NAMES: [&str; 4] = ["conv", "conv1d", "conv2d", "conv3d"];
const TRANSPOSED: [&str; 4] = ["conv_transpose", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"];

macro_rules! dimensions {
    ($($name:ident $transposed:ident $n:literal $shape:literal;)*) => {$(
        #[doc = concat!("[`conv`] of `", $shape, "`.")]
        #[track_caller]
        pub fn $name(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, options: &Conv<$n>) -> Tensor {
            conv(x, weight, bias, options)
        }

        #[doc = concat!("[`conv_transpose`] of `", $shape, "`.")]
        #[track_caller]
        pub fn $transposed(
            x: &Tensor,
            weight: &Tensor,
            bias: Option<&Tensor>,
            options: &ConvTranspose<$n>,
        ) -> Tensor {
            conv_transpose(x, weight, bias, options)
        }
    )*};
}

dimensions! {
    conv1d conv_transpose1d 1 "[n, c, t]";
    conv2d conv_transpose2d 2 "[n, c, h, w]";
    conv3d conv_transpose3d 3 "[n, c, d, h, w]";
}

/// What an operand and a weight of whatever kind must be: a batch with channels and `N` axes, and filters that groups divide.
fn fit<const N: usize>(x: &Tensor, weight: &Tensor, groups: usize, steps: [&[usize; N]; 2]) -> bool {
    let dims = weight.shape().dims();
    groups > 0
        && dims.len() == N + 2
        && x.rank() == N + 2
        && dims[0].is_multiple_of(groups)
        && steps.iter().all(|step| !step.contains(&0))
}

/// A count as a distance, the largest one where it is larger.
fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Applies `f` to a batch, or to a lone element as a batch of one.
#[track_caller]
fn batched(x: &Tensor, spatial: usize, f: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    if x.rank() != spatial + 1 {
        return f(x);
    }
    let y = f(&x.unsqueeze(0));
    if y.error().is_some() { y } else { y.squeeze(0) }
}

/// An axis as groups and what is in them.
#[track_caller]
fn split(x: &Tensor, axis: usize, groups: usize) -> Tensor {
    let dims = x.shape().dims();
    let parts = [groups, dims[axis] / groups];
    x.reshape(dims[..axis].iter().chain(&parts).chain(&dims[axis + 1..]).copied().collect::<Shape>())
}

/// Groups joined, and the bias of each channel.
#[track_caller]
fn finish(y: &Tensor, channels: usize, bias: Option<&Tensor>) -> Tensor {
    if y.error().is_some() {
        return y.clone();
    }
    let dims = y.shape().dims();
    let y = y.reshape([dims[0], channels].iter().chain(&dims[3..]).copied().collect::<Shape>());
    match bias {
        Some(bias) => y.add(per_channel(bias, y.rank())),
        None => y,
    }
}

/// `[channels]` as `[channels, 1..]`, to meet `[n, channels, ..]` of this rank.
#[track_caller]
pub(super) fn per_channel(x: &Tensor, rank: usize) -> Tensor {
    if x.error().is_some() {
        return x.clone();
    }
    x.reshape(x.shape().iter().copied().chain((2..rank).map(|_| 1)).collect::<Shape>())
}

fn misfit(x: &Tensor, weight: &Tensor, groups: usize, layout: &str) -> String {
    format!(
        "expects x [batch, channels, ..] and weight {layout} for {groups} group(s), with strides and dilations of 1 or more, \
         got {}{} and {}{}",
        x.dtype(),
        x.shape(),
        weight.dtype(),
        weight.shape()
    )
}
