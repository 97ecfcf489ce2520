//! Blocks of a convolution's operand, copied so that what a tap sees of all outputs lies at one distance from the first.
//!
//! With padding written out, the outputs of a block are a flat range of places: output `[y, x]` is place `y * width + x`, and tap
//! `[j, i]` sees at place `p` the element `offset(j, i) + p`. Between the outputs of two rows lie some places that are nobody's.
//! Strides split the copy into one plane for each remainder of coordinates.

use std::ops::Range;

use bytemuck::Pod;
use pulp::{Arch, Simd, WithSimd};
use wgrad_ir::ConvAxis;

/// How the outputs of a convolution see its operand, along three spatial axes; fewer are the last ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spatial {
    /// Extents of the operand.
    pub(crate) extents: [usize; 3],
    /// Elements of the buffer between neighbours.
    pub(crate) strides: [i64; 3],
    pub(crate) taps: [usize; 3],
    pub(crate) outputs: [usize; 3],
    /// Elements between the views of neighbouring outputs, and of neighbouring taps.
    pub(crate) step: [usize; 3],
    pub(crate) dilation: [usize; 3],
    pub(crate) before: [usize; 3],
}

impl Spatial {
    /// `spatial`: extent, elements between neighbours, taps and outputs of each axis.
    pub(crate) fn new(axes: &[ConvAxis], spatial: &[(usize, i64, usize, usize)]) -> Spatial {
        let first = 3 - axes.len().min(3);
        let mut s = Spatial {
            extents: [1; 3],
            strides: [0; 3],
            taps: [1; 3],
            outputs: [1; 3],
            step: [1; 3],
            dilation: [1; 3],
            before: [0; 3],
        };
        for (d, (axis, &(extent, stride, taps, outputs))) in axes.iter().zip(spatial).enumerate() {
            let d = first + d;
            (s.extents[d], s.strides[d], s.taps[d], s.outputs[d]) = (extent, stride, taps, outputs);
            (s.step[d], s.dilation[d], s.before[d]) = (axis.stride, axis.dilation, axis.before as usize);
        }
        s
    }

    /// The element of an axis that an output sees through a tap, if there is one.
    pub(crate) fn element(&self, axis: usize, output: usize, tap: usize) -> Option<usize> {
        let at = (output * self.step[axis] + tap * self.dilation[axis]).checked_sub(self.before[axis])?;
        (at < self.extents[axis]).then_some(at)
    }

    /// Elements of an axis from the first to the last that `outputs` neighbours see.
    pub(crate) fn reach(&self, axis: usize, outputs: usize) -> usize {
        (outputs - 1) * self.step[axis] + (self.taps[axis] - 1) * self.dilation[axis] + 1
    }
}

/// The copy of a plane for a block of outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Padded {
    spatial: Spatial,
    /// Rows and columns of a plane for one remainder.
    rows: usize,
    pub(crate) width: usize,
    /// Elements of the copy.
    pub(crate) size: usize,
}

impl Padded {
    /// For blocks of as many outputs along the last two axes, at most.
    pub(crate) fn new(spatial: Spatial, (y, x): (usize, usize)) -> Padded {
        let [_, down, across] = spatial.step;
        let (rows, width) = (spatial.reach(1, y).div_ceil(down), spatial.reach(2, x).div_ceil(across));
        Padded { spatial, rows, width, size: down * across * rows * width }
    }

    /// How many places `y` rows of `x` outputs take.
    pub(crate) fn places(&self, y: usize, x: usize) -> usize {
        (y - 1) * self.width + x
    }

    /// The remainder of coordinates that a tap sees along an axis, and its distance from there.
    fn remainder(&self, axis: usize, tap: usize) -> (usize, usize) {
        let (at, step) = (tap * self.spatial.dilation[axis], self.spatial.step[axis]);
        (at % step, at / step)
    }

    /// Where a tap sees the first output.
    pub(crate) fn offset(&self, y: usize, x: usize) -> usize {
        let ((ry, qy), (rx, qx)) = (self.remainder(1, y), self.remainder(2, x));
        ((ry * self.spatial.step[2] + rx) * self.rows + qy) * self.width + qx
    }

    /// Copies what the outputs `[y, x]` see of the plane whose first element is `x[first]`; `None`: of a plane of zeros.
    pub(crate) fn copy(
        &self,
        from: &[f32],
        first: Option<i64>,
        (y, x): (&Range<usize>, &Range<usize>),
        to: &mut [f32],
    ) {
        let Some(first) = first else { return to[..self.size].fill(0.0) };
        let s = &self.spatial;
        let [_, down, across] = s.step;
        let seen = |axis: usize, r: usize| (0..s.taps[axis]).any(|tap| self.remainder(axis, tap).0 == r);
        for rx in (0..across).filter(|&r| seen(2, r)) {
            // Columns of the plane that lie within the operand.
            let base = (x.start * across + rx) as i64 - s.before[2] as i64;
            let low = ((-base).max(0) as usize).div_ceil(across).min(self.width);
            let high = (s.extents[2] as i64 - base).max(0) as usize;
            let high = high.div_ceil(across).clamp(low, self.width);
            let start = first + (base + (low * across) as i64) * s.strides[2];
            for ry in (0..down).filter(|&r| seen(1, r)) {
                let plane = (ry * across + rx) * self.rows * self.width;
                let rows = to[plane..][..self.rows * self.width].chunks_exact_mut(self.width);
                for (q, row) in rows.enumerate() {
                    let at = ((y.start + q) * down + ry) as i64 - s.before[1] as i64;
                    if !(0..s.extents[1] as i64).contains(&at) {
                        row.fill(0.0);
                        continue;
                    }
                    row[..low].fill(0.0);
                    row[high..].fill(0.0);
                    let step = across as i64 * s.strides[2];
                    strided(from, start + at * s.strides[1], step, &mut row[low..high]);
                }
            }
        }
    }
}

/// `to[i] = from[first + i * step]`
pub(crate) fn strided<T: Pod>(from: &[T], first: i64, step: i64, to: &mut [T]) {
    struct Pairs<'a, T>(&'a [T], &'a mut [T]);
    impl<T: Pod> WithSimd for Pairs<'_, T> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            for (to, pair) in self.1.iter_mut().zip(self.0.as_chunks::<2>().0) {
                *to = pair[0];
            }
        }
    }
    match step {
        _ if to.is_empty() => {}
        1 => to.copy_from_slice(&from[first as usize..][..to.len()]),
        2 => {
            // The last element has no neighbour that counts.
            let (last, most) = (to.len() - 1, &from[first as usize..][..2 * to.len() - 1]);
            to[last] = most[2 * last];
            Arch::new().dispatch(Pairs(most, &mut to[..last]));
        }
        _ => {
            for (i, to) in to.iter_mut().enumerate() {
                *to = from[(first + i as i64 * step) as usize];
            }
        }
    }
}
