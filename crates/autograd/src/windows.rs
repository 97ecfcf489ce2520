//! Gradients of windows and convolutions.

use wgrad_ir::{ConvAxis, ConvSpec, IrError, NodeId, Op};

use crate::{Axes, build::Builder};

/// Adds up what windows hold of each element of the axis: element `i` gets `Σ g[o, j]` over all `o * step + j * dilation = i`.
///
/// Elements `i = q * step + r` of one remainder `r` are sums of shifted slices of `g`; the remainders are then interleaved.
pub(crate) fn unwindow(
    b: &mut Builder<'_>,
    x: NodeId,
    axis: usize,
    (size, step, dilation): (usize, usize, usize),
    g: NodeId,
) -> Result<NodeId, IrError> {
    let n = b.shape(x)[axis];
    if dilation == 1 && size <= step {
        return place_apart(b, n, axis, (size, step), g);
    }
    let shape = b.shape(g);
    let (rank, windows) = (shape.rank() - 1, shape[axis]);
    let groups = n.div_ceil(step);
    let mut parts = Vec::with_capacity(step);
    for r in 0..step {
        let mut sum = None;
        for j in (0..size).filter(|j| j * dilation % step == r) {
            let mut ranges: Vec<_> = shape.iter().map(|&d| (0, d, 1)).collect();
            ranges[rank] = (j, 1, 1);
            let slice = b.slice(g, &ranges)?;
            let slice = b.reshape(slice, shape[..rank].into())?;
            let first = j * dilation / step;
            let mut widths = vec![(0, 0); rank];
            widths[axis] = (first, groups - first - windows);
            let placed = b.pad(slice, &widths)?;
            sum = Some(match sum {
                Some(so_far) => b.add(so_far, placed)?,
                None => placed,
            });
        }
        parts.push(match sum {
            Some(sum) => sum,
            None => {
                let mut ranges: Vec<_> = shape.iter().map(|&d| (0, d, 1)).collect();
                ranges[rank] = (0, 1, 1);
                ranges[axis] = (0, 1, 1);
                let one = b.slice(g, &ranges)?;
                let one = b.reshape(one, ranges[..rank].iter().map(|r| r.1).collect())?;
                let zero = b.constant_like(one, 0.0)?;
                b.expand(zero, (0..rank).map(|d| if d == axis { groups } else { shape[d] }).collect())?
            }
        });
    }
    if let [sum] = parts.as_slice() {
        return Ok(*sum);
    }
    let with = |extents: &[usize]| {
        let extents = extents.iter().copied();
        shape[..axis].iter().copied().chain(extents).chain(shape[axis + 1..rank].iter().copied()).collect()
    };
    for part in &mut parts {
        *part = b.reshape(*part, with(&[groups, 1]))?;
    }
    let joined = b.graph.push(Op::Concat { axis: axis + 1 }, &parts)?;
    let joined = b.reshape(joined, with(&[groups * step]))?;
    let kept: Vec<_> = b.shape(x).iter().map(|&d| (0, d, 1)).collect();
    b.slice(joined, &kept)
}

/// [`unwindow`] of windows that do not overlap.
fn place_apart(
    b: &mut Builder<'_>,
    n: usize,
    axis: usize,
    (size, step): (usize, usize),
    g: NodeId,
) -> Result<NodeId, IrError> {
    let rank = b.shape(g).rank() - 1;
    let beside: Axes = (0..=axis).chain([rank]).chain(axis + 1..rank).collect();
    let g = b.permute(g, beside)?;
    let mut widths = vec![(0, 0); rank + 1];
    widths[axis + 1] = (0, step - size);
    let g = b.pad(g, &widths)?;
    let shape = b.shape(g);
    let covered = shape[axis] * step;
    let merged = shape[..axis].iter().copied().chain([covered]).chain(shape[axis + 2..].iter().copied());
    let g = b.reshape(g, merged.collect())?;
    let mut ranges: Vec<_> = b.shape(g).iter().map(|&d| (0, d, 1)).collect();
    ranges[axis].1 = covered.min(n);
    let g = b.slice(g, &ranges)?;
    let mut widths = vec![(0, 0); rank];
    widths[axis].1 = n - covered.min(n);
    b.pad(g, &widths)
}

/// The cotangent of an operand of `y = conv(x, w)`, from the cotangent of `y`; where output `p` sees element `i` through tap `j`,
/// element `i` sees output `p` through tap `taps - 1 - j`, and tap `j` sees element `i` through output `p`.
pub(crate) fn unconv(
    b: &mut Builder<'_>,
    spec: &ConvSpec,
    [x, w]: [NodeId; 2],
    operand: usize,
    g: NodeId,
) -> Result<NodeId, IrError> {
    let (x_shape, w_shape) = (b.shape(x), b.shape(w));
    let rank = x_shape.rank();
    let target = [x, w][operand];
    if b.shape(target).elements() == 0 || b.shape(g).elements() == 0 {
        return b.constant_like(target, 0.0);
    }
    // [n, g, o, ..] and [g, o, n, ..], whichever way it came.
    let swapped = |first: [usize; 3]| -> Axes { first.into_iter().chain(3..rank).collect() };
    let [by_batch, by_group] = if spec.by_group { [[2, 0, 1], [0, 1, 2]] } else { [[0, 1, 2], [1, 2, 0]] };
    let outputs = &b.shape(g)[3..];
    let each = |axis: &dyn Fn(&ConvAxis, i64, i64, i64) -> ConvAxis| {
        let extents = x_shape[3..].iter().zip(&w_shape[3..]).zip(outputs);
        let axes = spec.axes.iter().zip(extents);
        axes.map(|(a, ((&len, &taps), &p))| axis(a, len as i64, taps as i64, p as i64)).collect()
    };
    if operand == 0 {
        let axes = each(&|a, len, taps, p| {
            let reach = (taps - 1) * a.dilation as i64;
            let before = reach - a.before;
            let all = (len - 1) * a.spread as i64 + reach + 1;
            let after = all - before - ((p - 1) * a.stride as i64 + 1);
            ConvAxis { stride: a.spread, dilation: a.dilation, spread: a.stride, before, after }
        });
        let g = b.permute(g, swapped(by_batch))?;
        let turned = b.graph.push(Op::Flip((3..rank).collect()), &[w])?;
        let turned = b.permute(turned, swapped([0, 2, 1]))?;
        return b.graph.push(Op::Conv(ConvSpec { axes, by_group: false }), &[g, turned]);
    }
    let axes = each(&|a, len, taps, p| {
        let all = (taps - 1) * a.dilation as i64 + (p - 1) * a.stride as i64 + 1;
        let after = all - a.before - a.spread_len(len as usize);
        ConvAxis { stride: a.dilation, dilation: a.stride, spread: a.spread, before: a.before, after }
    });
    let g = b.permute(g, swapped(by_group))?;
    let x = b.permute(x, swapped([2, 1, 0]))?;
    b.graph.push(Op::Conv(ConvSpec { axes, by_group: true }), &[x, g])
}
