//! Tiles of the matrix of all windows of a convolution, which never exists whole.

use bytemuck::Pod;
use wgrad_ir::ConvAxis;

/// Axes of an operand that one side of the matrix walks: channels (or images), and three spatial axes.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// Extents, the last one fastest.
    pub(crate) extents: [usize; 4],
    /// Elements of the buffer between channels (or images).
    pub(crate) stride: i64,
    /// Elements of each spatial axis that a step goes.
    pub(crate) steps: [usize; 3],
}

impl Side {
    pub(crate) fn len(&self) -> usize {
        self.extents.iter().product()
    }

    fn split(&self, mut flat: usize) -> [usize; 4] {
        let mut index = [0; 4];
        for d in (0..4).rev() {
            index[d] = flat % self.extents[d];
            flat /= self.extents[d];
        }
        index
    }
}

/// Where windows lie in an operand.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    /// Channels and taps.
    pub(crate) terms: Side,
    /// Outputs (of several images, if these are no matrices of their own).
    pub(crate) places: Side,
    /// Extents of the three spatial axes.
    extents: [usize; 3],
    /// Elements of the buffer between neighbours along each.
    strides: [i64; 3],
    before: [usize; 3],
}

impl Windows {
    /// `images` and `channels`: how many, and elements between them; `spatial`: extent, elements between neighbours and taps of each
    /// axis, with its outputs.
    pub(crate) fn new(
        images: (usize, i64),
        channels: (usize, i64),
        axes: &[ConvAxis],
        spatial: &[(usize, i64, usize, usize)],
    ) -> Windows {
        // Fewer axes than three are the last ones.
        let first = 3 - axes.len().min(3);
        let mut w = Windows {
            terms: Side { extents: [channels.0, 1, 1, 1], stride: channels.1, steps: [1; 3] },
            places: Side { extents: [images.0, 1, 1, 1], stride: images.1, steps: [1; 3] },
            extents: [1; 3],
            strides: [0; 3],
            before: [0; 3],
        };
        for (d, (axis, &(extent, stride, taps, outputs))) in axes.iter().zip(spatial).enumerate() {
            let d = first + d;
            (w.terms.extents[d + 1], w.terms.steps[d]) = (taps, axis.dilation);
            (w.places.extents[d + 1], w.places.steps[d]) = (outputs, axis.stride);
            (w.extents[d], w.strides[d], w.before[d]) = (extent, stride, axis.before as usize);
        }
        w
    }

    /// Whether rows of a tile should run along the outputs of a term, rather than along the terms of an output.
    pub(crate) fn along_places(&self) -> bool {
        self.places.extents[3] >= self.terms.extents[3]
    }

    /// Writes a tile of the matrix, zeros where windows hang over the edge: a row of `to` for each of `lines` of one side, along
    /// `run` of the other.
    pub(crate) fn fill<T: Pod>(
        &self,
        x: &[T],
        offset: i64,
        along_places: bool,
        lines: std::ops::Range<usize>,
        run: std::ops::Range<usize>,
        to: &mut [T],
    ) {
        let (line_side, run_side) =
            if along_places { (&self.terms, &self.places) } else { (&self.places, &self.terms) };
        let zero = T::zeroed();
        let mut rows = to.chunks_exact_mut(run.len());
        let [_, across, down, last] = run_side.extents;
        let start = run_side.split(run.start);
        let (step, stride) = (run_side.steps[2], run_side.strides_of(self.strides[2]));
        for line in lines {
            let Some(row) = rows.next() else { break };
            let at = line_side.split(line);
            // Places along the spatial axes, relative to the operand's first element.
            let base: [i64; 3] =
                std::array::from_fn(|d| (at[d + 1] * line_side.steps[d]) as i64 - self.before[d] as i64);
            let line_offset = offset + at[0] as i64 * line_side.stride;
            // The part of the last axis that lies within the operand.
            let low = (-base[2]).max(0) as usize;
            let low = low.div_ceil(step);
            let high = (self.extents[2] as i64 - base[2]).max(0) as usize;
            let high = high.div_ceil(step);
            let mut index = start;
            let mut done = 0;
            while done < row.len() {
                let count = (last - index[3]).min(row.len() - done);
                let (from, end) = (index[3], index[3] + count);
                let part = &mut row[done..done + count];
                let y = base[0] + (index[1] * run_side.steps[0]) as i64;
                let z = base[1] + (index[2] * run_side.steps[1]) as i64;
                let inside =
                    (0..self.extents[0] as i64).contains(&y) && (0..self.extents[1] as i64).contains(&z);
                let (a, b) = (low.clamp(from, end), high.clamp(from, end));
                if !inside || a >= b {
                    part.fill(zero);
                } else {
                    part[..a - from].fill(zero);
                    part[b - from..].fill(zero);
                    let first = line_offset
                        + index[0] as i64 * run_side.stride
                        + y * self.strides[0]
                        + z * self.strides[1]
                        + (base[2] + (a * step) as i64) * self.strides[2];
                    copy(x, first, stride, &mut part[a - from..b - from]);
                }
                done += count;
                index[3] = 0;
                index[2] += 1;
                if index[2] == down {
                    index[2] = 0;
                    index[1] += 1;
                    if index[1] == across {
                        index[1] = 0;
                        index[0] += 1;
                    }
                }
            }
        }
    }
}

impl Side {
    /// Elements of the buffer between neighbours along the last axis.
    fn strides_of(&self, stride: i64) -> i64 {
        self.steps[2] as i64 * stride
    }
}

/// Elements `first`, `first + stride`, ... of `x`.
fn copy<T: Pod>(x: &[T], first: i64, stride: i64, to: &mut [T]) {
    if stride == 1 {
        to.copy_from_slice(&x[first as usize..][..to.len()]);
    } else {
        for (i, to) in to.iter_mut().enumerate() {
            *to = x[(first + i as i64 * stride) as usize];
        }
    }
}
