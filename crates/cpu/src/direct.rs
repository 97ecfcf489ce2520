//! Convolutions computed from padded copies of blocks of their operand.

use wgrad_ir::ConvKernel;

use crate::{
    after::{After, Finish},
    args::Args,
    padded::{Padded, Spatial},
    scratch::Scratch,
    shifted::{COLUMNS, ROWS, Shifted},
    threads,
};

/// Terms that are summed up at once, at most: what they read of the operand stays in the first-level cache.
const TERMS: usize = 320;
/// Places of a block, roughly, at most.
const PLACES: usize = 896;
/// Elements of a block of results, at most.
const PART: usize = 64 * 1024;

/// A convolution of f32, along its outputs.
#[derive(Debug)]
pub(crate) struct Direct {
    spatial: Spatial,
    padded: Padded,
    images: (usize, i64),
    groups: (usize, i64),
    channels: (usize, i64),
    x_offset: i64,
    /// Filters of a group.
    rows: usize,
    /// Planes, of channels and taps of the first axis, that are summed up at once.
    planes: usize,
    /// Blocks of outputs: rows and columns.
    block: (usize, usize),
    /// Where the taps of these planes see a place.
    offsets: Vec<u32>,
    filters: Filters,
}

/// Where filters lie: strides of group, row, channel and taps.
#[derive(Debug)]
struct Filters {
    offset: i64,
    group: i64,
    row: i64,
    channel: i64,
    taps: [i64; 3],
}

impl Direct {
    pub(crate) fn new(kernel: &ConvKernel, spatial: Spatial, tasks: usize) -> Direct {
        let (x, w) = (&kernel.x.view, &kernel.w.view);
        let first = 6 - x.shape.rank();
        let taps = |d: usize| if d < first { 0 } else { w.strides[3 + d - first] };
        let filters = Filters {
            offset: w.offset,
            group: w.strides[0],
            row: w.strides[1],
            channel: w.strides[2],
            taps: [taps(0), taps(1), taps(2)],
        };
        let rows = w.shape[1];
        let [deep, down, across] = spatial.outputs;
        let columns = across.div_ceil(across.div_ceil(PLACES));
        // Copies of neighbouring blocks overlap, so they should be tall; but there is one for every task, and it fits the caches.
        let width = Padded::new(spatial, (1, columns)).width;
        let most = PLACES.min(PART / rows.max(1)).max(COLUMNS);
        let tall = (most / width).clamp(1, down);
        let others = x.shape[0] * x.shape[1] * deep * across.div_ceil(columns);
        let parts = down.div_ceil(tall).max(tasks.div_ceil(others.max(1)).min(down));
        let tall = down.div_ceil(parts);
        let padded = Padded::new(spatial, (tall, columns));
        let [deep_taps, down_taps, across_taps] = spatial.taps;
        let each = down_taps * across_taps;
        let all = x.shape[2] * deep_taps;
        let planes = (TERMS / each).clamp(1, all);
        let planes = all.div_ceil(all.div_ceil(planes));
        let mut offsets = Vec::with_capacity(planes * each);
        for plane in 0..planes {
            for y in 0..down_taps {
                offsets.extend((0..across_taps).map(|x| (plane * padded.size + padded.offset(y, x)) as u32));
            }
        }
        Direct {
            spatial,
            padded,
            images: (x.shape[0], x.strides[0]),
            groups: (x.shape[1], x.strides[1]),
            channels: (x.shape[2], x.strides[2]),
            x_offset: x.offset,
            rows,
            planes,
            block: (tall, columns),
            offsets,
            filters,
        }
    }

    /// Planes and taps of each.
    fn terms(&self) -> (usize, usize) {
        let [deep, down, across] = self.spatial.taps;
        (self.channels.0 * deep, down * across)
    }

    pub(crate) fn run(&self, args: &Args<'_>, (x, w): (u32, u32), after: &After, tasks: usize) {
        let (x, w) = (args.read::<f32>(x), args.read::<f32>(w));
        let (planes, taps) = self.terms();
        let group = self.rows.next_multiple_of(ROWS) * planes * taps;
        let mut packed = Scratch::new(4 * self.groups.0 * group);
        let packed = packed.slice::<f32>(self.groups.0 * group);
        self.pack(w, packed);
        let packed = &*packed;
        let uniforms = after.uniforms(args);
        let [deep, down, across] = self.spatial.outputs;
        let (tall, wide) = self.block;
        let blocks = [deep, down.div_ceil(tall), across.div_ceil(wide)];
        let each: usize = blocks.iter().product();
        let items = self.images.0 * self.groups.0 * each;
        let tasks = tasks.min(items);
        threads::for_each(tasks, &|task| {
            let mut finish = Finish::new(after, args, &uniforms);
            let (mut copy, mut part, mut line) = (Scratch::new(0), Scratch::new(0), Scratch::new(0));
            for item in items * task / tasks..items * (task + 1) / tasks {
                let (matrix, block) = (item / each, item % each);
                let z = block / (blocks[1] * blocks[2]);
                let y = block / blocks[2] % blocks[1] * tall;
                let x_first = block % blocks[2] * wide;
                let (y, columns) = (y..down.min(y + tall), x_first..across.min(x_first + wide));
                let filters = &packed[matrix % self.groups.0 * group..][..group];
                let (part, stride) = self.block(x, filters, matrix, (z, &y, &columns), &mut copy, &mut part);
                let start = |row: usize| ((matrix * self.rows + row) * deep + z) * down * across;
                let gap = self.padded.width != columns.len();
                for row in 0..self.rows {
                    let places = &part[row * stride..][..stride];
                    let start = start(row) + y.start * across + columns.start;
                    let lines =
                        places.chunks(self.padded.width).take(y.len()).map(|line| &line[..columns.len()]);
                    if columns.len() != across || matches!(after, After::Result(_)) && gap {
                        lines.enumerate().for_each(|(i, line)| finish.put(start + i * across, line));
                    } else if gap {
                        let whole = line_of(&mut line, y.len() * across);
                        whole
                            .chunks_exact_mut(across)
                            .zip(lines)
                            .for_each(|(to, line)| to.copy_from_slice(line));
                        finish.put(start, whole);
                    } else {
                        finish.put(start, &places[..y.len() * across]);
                    }
                }
            }
        });
    }

    /// The places of a block of outputs `[z, y, x]`, and how many there are of a filter.
    fn block<'p>(
        &self,
        x: &[f32],
        filters: &[f32],
        matrix: usize,
        (z, y, columns): (usize, &std::ops::Range<usize>, &std::ops::Range<usize>),
        copy: &mut Scratch,
        part: &'p mut Scratch,
    ) -> (&'p [f32], usize) {
        let (planes, taps) = self.terms();
        let [deep, ..] = self.spatial.taps;
        let places = self.padded.places(y.len(), columns.len());
        let stride = places.next_multiple_of(COLUMNS);
        let size = self.padded.size;
        // Registers may reach beyond the last place.
        let all = self.planes * size + COLUMNS;
        copy.grow(4 * all);
        let copy = copy.slice::<f32>(all);
        part.grow(4 * self.rows * stride);
        let part = part.slice::<f32>(self.rows * stride);
        let (image, group) = (matrix / self.groups.0, matrix % self.groups.0);
        let base = self.x_offset + image as i64 * self.images.1 + group as i64 * self.groups.1;
        let mut done = 0;
        while done < planes {
            let count = self.planes.min(planes - done);
            for plane in 0..count {
                let (channel, tap) = ((done + plane) / deep, (done + plane) % deep);
                let at = self.spatial.element(0, z, tap);
                let first = at
                    .map(|at| base + channel as i64 * self.channels.1 + at as i64 * self.spatial.strides[0]);
                self.padded.copy(x, first, (y, columns), &mut copy[plane * size..][..size]);
            }
            let from = self.rows.next_multiple_of(ROWS) * taps * done;
            let offsets = &self.offsets[..count * taps];
            Shifted {
                rows: self.rows,
                columns: stride,
                a: &filters[from..][..self.rows.next_multiple_of(ROWS) * count * taps],
                b: copy,
                offsets,
                furthest: offsets.iter().max().map_or(0, |&o| o as usize),
                c: part,
                stride,
                add: done > 0,
            }
            .multiply();
            done += count;
        }
        (part, stride)
    }

    /// Filters as [`Shifted`] wants them, for each group and each part of its terms.
    fn pack(&self, w: &[f32], to: &mut [f32]) {
        let (planes, taps) = self.terms();
        let [deep, _, across] = self.spatial.taps;
        let panels = self.rows.div_ceil(ROWS);
        let f = &self.filters;
        let group = panels * ROWS * planes * taps;
        let to = crate::args::Out::of(to);
        let items = self.groups.0 * panels;
        let tasks = threads::tasks_for((items * ROWS * planes * taps) as f64).min(items);
        threads::for_each(tasks, &|task| {
            for item in items * task / tasks..items * (task + 1) / tasks {
                let (g, panel) = (item / panels, item % panels);
                let rows = ROWS.min(self.rows - panel * ROWS);
                let first = f.offset + g as i64 * f.group + (panel * ROWS) as i64 * f.row;
                let mut done = 0;
                while done < planes {
                    let count = self.planes.min(planes - done);
                    let start = g * group + panels * ROWS * done * taps + panel * ROWS * count * taps;
                    // SAFETY: one task per panel of a group.
                    let to = unsafe { to.slice(start, ROWS * count * taps) };
                    for (l, to) in to.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
                        let (plane, tap) = (done + l / taps, l % taps);
                        let at = first
                            + (plane / deep) as i64 * f.channel
                            + (plane % deep) as i64 * f.taps[0]
                            + (tap / across) as i64 * f.taps[1]
                            + (tap % across) as i64 * f.taps[2];
                        for (r, to) in to[..rows].iter_mut().enumerate() {
                            *to = w[(at + r as i64 * f.row) as usize];
                        }
                    }
                    done += count;
                }
            }
        });
    }
}

/// Elements `[0, len)` of scratch memory.
fn line_of(scratch: &mut Scratch, len: usize) -> &mut [f32] {
    scratch.grow(4 * len);
    scratch.slice(len)
}
