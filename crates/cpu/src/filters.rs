//! Gradients of filters: contractions over all outputs of a convolution.
//!
//! Of each stretch of outputs the operand is copied with its channels as neighbours, and so is the cotangent with its filters: then
//! the vectors of channels that a tap sees of a row of outputs lie one after the other, for every tap at another place of one copy.

use std::ops::Range;

use wgrad_ir::ConvKernel;

use crate::{
    after::{After, Finish},
    args::{Args, Out},
    attention::transpose,
    outer::Outer,
    padded::Spatial,
    panels::{COLUMNS, pack},
    product::Matrix,
    scratch::Scratch,
    threads,
};

/// Outputs whose vectors are copied at once, roughly.
const VECTORS: usize = 448;
/// Channels and filters of a block, at most, and its elements: they fit the second-level cache beside the copies.
const CHANNELS: usize = 64;
const FILTERS: usize = 96;
const BLOCK: usize = 64 * 1024;
/// There are so many blocks that tasks find work: else the outputs are shared out too, to sums of their own. The shapes alone fix
/// their order.
const PARTS: usize = 8;
/// Operations that a task is worth.
const WORTH: usize = 4_000_000;
/// Elements of all sums, at most.
const SUMS: usize = 4 << 20;
/// Filters whose gradients are written together: a cache line of each sum.
const LINE: usize = 16;

/// A convolution by group whose taps are the outputs of another one, and whose outputs are that one's taps. The names below are that
/// one's.
#[derive(Debug)]
pub(crate) struct FilterGrad {
    /// With taps and outputs as this convolution has them.
    spatial: Spatial,
    images: usize,
    groups: usize,
    channels: usize,
    filters: usize,
    /// Strides of the operand by image, group and channel, and its first element.
    x: [i64; 3],
    x_offset: i64,
    /// Strides of the cotangent by image, group and filter, along its axes, and its first element.
    g: [i64; 3],
    g_axes: [i64; 3],
    g_offset: i64,
    /// Channels and filters of a block.
    block: (usize, usize),
    parts: usize,
}

/// Rows of outputs of one image.
struct Stretch {
    image: usize,
    /// Along the first axis.
    z: usize,
    y: Range<usize>,
}

impl FilterGrad {
    pub(crate) fn new(kernel: &ConvKernel, spatial: Spatial) -> FilterGrad {
        let (x, w) = (&kernel.x.view, &kernel.w.view);
        let first = 6 - x.shape.rank();
        let axis = |d: usize| if d < first { 0 } else { w.strides[3 + d - first] };
        let (images, groups, channels, filters) = (x.shape[2], x.shape[1], x.shape[0], w.shape[1]);
        let taps: usize = spatial.outputs.iter().product();
        let even = |n: usize, most: usize| n.div_ceil(n.div_ceil(most.max(1)).max(1));
        let some = even(filters, FILTERS).next_multiple_of(COLUMNS).min(filters);
        let block = (even(channels, (BLOCK / (taps * some).max(1)).clamp(1, CHANNELS)), some);
        let blocks = groups * channels.div_ceil(block.0.max(1)) * filters.div_ceil(some.max(1));
        let vectors = images * spatial.taps.iter().product::<usize>();
        let results = groups * channels * filters * taps;
        let rows = images * spatial.taps[0] * spatial.taps[1];
        let parts = (2 * vectors * results / WORTH).min(SUMS / results.max(1)).min(rows);
        let parts = parts.min(PARTS.div_ceil(blocks.max(1))).max(1);
        FilterGrad {
            spatial,
            images,
            groups,
            channels,
            filters,
            x: [x.strides[2], x.strides[1], x.strides[0]],
            x_offset: x.offset,
            g: [w.strides[2], w.strides[0], w.strides[1]],
            g_axes: [axis(0), axis(1), axis(2)],
            g_offset: w.offset,
            block,
            parts,
        }
    }

    /// Whether this way is the best.
    pub(crate) fn pays(kernel: &ConvKernel, spatial: &Spatial) -> bool {
        let taps: usize = spatial.outputs.iter().product();
        kernel.w.view.shape[1] >= 8 && (spatial.outputs[2] <= spatial.taps[2] || taps <= 128)
    }

    pub(crate) fn run(&self, args: &Args<'_>, (x, g): (u32, u32), after: &After, tasks: usize) {
        let (x, g) = (args.read::<f32>(x), args.read::<f32>(g));
        let taps: usize = self.spatial.outputs.iter().product();
        let (channels, filters) = self.block;
        let blocks = [self.channels.div_ceil(channels), self.filters.div_ceil(filters)];
        let (wide, each) = (filters.next_multiple_of(COLUMNS), blocks[0] * blocks[1]);
        let size = taps * channels * wide;
        let items = self.parts * self.groups * each;
        let mut sums = Scratch::new(4 * items * size);
        let sums = Out::of(sums.slice::<f32>(items * size));
        let workers = tasks.min(items);
        threads::for_each(workers, &|task| {
            let (mut copy, mut packed) = (Scratch::new(0), Scratch::new(0));
            for item in items * task / workers..items * (task + 1) / workers {
                // SAFETY: one task per block of sums.
                let sums = unsafe { sums.slice(item * size, size) };
                sums.fill(0.0);
                let (part, block) = (item / (self.groups * each), item % (self.groups * each));
                let (group, block) = (block / each, block % each);
                let (first, filter) = (block / blocks[1] * channels, block % blocks[1] * filters);
                let channels = first..self.channels.min(first + channels);
                let filters = filter..self.filters.min(filter + filters);
                let mut sum = |stretch: &Stretch| {
                    self.stretch(
                        (x, g),
                        group,
                        (&channels, &filters),
                        stretch,
                        (&mut copy, &mut packed),
                        sums,
                    );
                };
                self.stretches(part, &mut sum);
            }
        });
        let uniforms = after.uniforms(args);
        let lines = self.filters.div_ceil(LINE);
        let items = self.groups * lines;
        let results = items * LINE * self.channels * taps;
        let workers = threads::tasks_for(results as f64 * (1.0 + 0.1 * self.parts as f64)).min(items);
        threads::for_each(workers, &|task| {
            let mut finish = Finish::new(after, args, &uniforms);
            let len = self.channels * taps;
            let mut rows = Scratch::new(4 * LINE * len);
            let rows = rows.slice::<f32>(LINE * len);
            for item in items * task / workers..items * (task + 1) / workers {
                let (group, first) = (item / lines, item % lines * LINE);
                let count = LINE.min(self.filters - first);
                for channel in 0..self.channels {
                    let there = channels.min(self.channels - channel / channels * channels);
                    for tap in 0..taps {
                        let mut sum = [0.0; LINE];
                        for part in 0..self.parts {
                            for (r, sum) in sum[..count].iter_mut().enumerate() {
                                let filter = first + r;
                                let block = channel / channels * blocks[1] + filter / filters;
                                let item = (part * self.groups + group) * each + block;
                                let some = filters.min(self.filters - filter / filters * filters);
                                let stride = some.next_multiple_of(COLUMNS);
                                let at = (tap * there + channel % channels) * stride + filter % filters;
                                // SAFETY: all tasks that wrote sums have ended, and nothing writes them now.
                                *sum += unsafe { *sums.as_ptr().add(item * size + at) };
                            }
                        }
                        for (r, sum) in sum[..count].iter().enumerate() {
                            rows[r * len + channel * taps + tap] = *sum;
                        }
                    }
                }
                for (r, row) in rows.chunks_exact(len.max(1)).take(count).enumerate() {
                    finish.put((group * self.filters + first + r) * len, row);
                }
            }
        });
    }

    /// Calls `f` with the stretches of a part of all outputs, in order.
    fn stretches(&self, part: usize, f: &mut dyn FnMut(&Stretch)) {
        let [deep, down, across] = self.spatial.taps;
        let rows = self.images * deep * down;
        let some = (VECTORS / across).max(1);
        let (mut row, end) = (rows * part / self.parts, rows * (part + 1) / self.parts);
        while row < end {
            let (plane, y) = (row / down, row % down);
            // Equal stretches of what is left of the plane.
            let left = (down - y).min(end - row);
            let count = left.div_ceil(left.div_ceil(some));
            f(&Stretch { image: plane / deep, z: plane % deep, y: y..y + count });
            row += count;
        }
    }

    /// Adds what a stretch of outputs contributes to a block of sums.
    fn stretch(
        &self,
        (x, g): (&[f32], &[f32]),
        group: usize,
        (channels, filters): (&Range<usize>, &Range<usize>),
        stretch: &Stretch,
        (copy, packed): (&mut Scratch, &mut Scratch),
        sums: &mut [f32],
    ) {
        let s = &self.spatial;
        let [deep, down, across] = s.outputs;
        let (count, len) = (channels.len(), s.taps[2]);
        let lines = (stretch.y.len() - 1) * s.dilation[1] + (down - 1) * s.step[1] + 1;
        let width = s.reach(2, across);
        let row = width * count;
        copy.grow(4 * deep * lines * row);
        let copy = copy.slice::<f32>(deep * lines * row);
        let base = self.x_offset
            + stretch.image as i64 * self.x[0]
            + group as i64 * self.x[1]
            + channels.start as i64 * self.x[2];
        for (z, plane) in copy.chunks_exact_mut(lines * row).enumerate() {
            let at = s.element(0, z, stretch.z).map(|at| base + at as i64 * s.strides[0]);
            let top = (stretch.y.start * s.dilation[1]) as i64 - s.before[1] as i64;
            for (line, to) in plane.chunks_exact_mut(row).enumerate() {
                let y = top + line as i64;
                match at {
                    Some(at) if (0..s.extents[1] as i64).contains(&y) => {
                        self.line(x, at + y * s.strides[1], count, to);
                    }
                    _ => to.fill(0.0),
                }
            }
        }
        let vectors = stretch.y.len() * len;
        let panels = filters.len().div_ceil(COLUMNS);
        packed.grow(4 * panels * vectors * COLUMNS);
        let packed = packed.slice::<f32>(panels * vectors * COLUMNS);
        let first = self.g_offset
            + stretch.image as i64 * self.g[0]
            + group as i64 * self.g[1]
            + filters.start as i64 * self.g[2]
            + stretch.z as i64 * self.g_axes[0]
            + stretch.y.start as i64 * self.g_axes[1];
        // Rows that continue each other are packed as one.
        let joined = self.g_axes[1] == len as i64 * self.g_axes[2];
        let piece = if joined { vectors } else { len };
        for (p, panel) in packed.chunks_exact_mut(vectors * COLUMNS).enumerate() {
            let some = COLUMNS.min(filters.len() - p * COLUMNS);
            for (i, part) in panel.chunks_exact_mut(piece * COLUMNS).enumerate() {
                let offset = first + i as i64 * self.g_axes[1] + (p * COLUMNS) as i64 * self.g[2];
                let at = Matrix { offset, rows: self.g_axes[2], columns: self.g[2] };
                pack::<COLUMNS>(g, at, (piece, some), part);
            }
        }
        let runs: Vec<u32> = (0..stretch.y.len()).map(|y| (y * s.dilation[1] * row) as u32).collect();
        let mut rows = Vec::with_capacity(deep * down * across);
        for z in 0..deep {
            for y in 0..down {
                let first = (z * lines + y * s.step[1]) * row;
                // Taps beside each other are one vector.
                if s.step[2] == 1 {
                    rows.push((first as u32, (across * count) as u32));
                } else {
                    rows.extend((0..across).map(|x| ((first + x * s.step[2] * count) as u32, count as u32)));
                }
            }
        }
        let step = s.dilation[2] * count;
        Outer { a: copy, step, len, runs: &runs, rows: &rows, b: packed, columns: filters.len(), c: sums }
            .add();
    }

    /// A line of the operand, with what is around it: `[x, channel]`.
    fn line(&self, x: &[f32], first: i64, count: usize, to: &mut [f32]) {
        let s = &self.spatial;
        let width = to.len() / count;
        let low = s.before[2].min(width);
        let high = (low + s.extents[2]).min(width);
        let skipped = s.before[2] - low;
        to[..low * count].fill(0.0);
        to[high * count..].fill(0.0);
        let offset = first + skipped as i64 * s.strides[2];
        let at = Matrix { offset, rows: self.x[2], columns: s.strides[2] };
        transpose(x, at, count, high - low, 1.0, &mut to[low * count..high * count]);
    }
}
