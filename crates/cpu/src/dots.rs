//! Gradients of few filters at a time, as those of depthwise convolutions: scalar products of planes.

use pulp::{Arch, Simd, WithSimd};
use wgrad_ir::ConvKernel;

use crate::{
    after::{After, Finish},
    args::{Args, Out},
    lanes::has_fma,
    padded::{Padded, Spatial, strided},
    scratch::Scratch,
    threads,
};

/// Partial sums side by side, a fixed number, so that results are the same at every SIMD level.
const LANES: usize = 16;
/// Places of a block, roughly, at most.
const PLACES: usize = 2048;

/// A convolution by group whose taps are the outputs of another one, and whose outputs are that one's taps. The names below are that
/// one's.
#[derive(Debug)]
pub(crate) struct Dots {
    spatial: Spatial,
    padded: Padded,
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
    /// Rows of outputs of a block.
    tall: usize,
}

impl Dots {
    /// `spatial` has taps and outputs as this convolution has them.
    pub(crate) fn new(kernel: &ConvKernel, spatial: Spatial) -> Dots {
        let (x, w) = (&kernel.x.view, &kernel.w.view);
        let first = 6 - x.shape.rank();
        let axis = |d: usize| if d < first { 0 } else { w.strides[3 + d - first] };
        let spatial = Spatial {
            taps: spatial.outputs,
            outputs: spatial.taps,
            step: spatial.dilation,
            dilation: spatial.step,
            ..spatial
        };
        let [_, down, across] = spatial.outputs;
        let tall = (PLACES / Padded::new(spatial, (1, across)).width).clamp(1, down);
        let tall = down.div_ceil(down.div_ceil(tall));
        Dots {
            spatial,
            padded: Padded::new(spatial, (tall, across)),
            images: x.shape[2],
            groups: x.shape[1],
            channels: x.shape[0],
            filters: w.shape[1],
            x: [x.strides[2], x.strides[1], x.strides[0]],
            x_offset: x.offset,
            g: [w.strides[2], w.strides[0], w.strides[1]],
            g_axes: [axis(0), axis(1), axis(2)],
            g_offset: w.offset,
            tall,
        }
    }

    /// Whether this way is the best: there are not too many taps, nor too few channels to share out.
    pub(crate) fn pays(kernel: &ConvKernel) -> bool {
        let taps: usize = kernel.result()[3..].iter().product();
        taps <= 128 && kernel.x.view.shape[0] * kernel.x.view.shape[1] >= 8
    }

    pub(crate) fn run(&self, args: &Args<'_>, (x, g): (u32, u32), after: &After, tasks: usize) {
        let (x, g) = (args.read::<f32>(x), args.read::<f32>(g));
        let taps: usize = self.spatial.taps.iter().product();
        let items = self.groups * self.channels;
        let each = self.filters * taps;
        let mut sums = Scratch::new(4 * items * each);
        let sums = sums.slice::<f32>(items * each);
        let out = Out::of(sums);
        let tasks = tasks.min(items);
        threads::for_each(tasks, &|task| {
            let (mut copy, mut places) = (Scratch::new(0), Scratch::new(0));
            let mut lanes = vec![[0.0; LANES]; each];
            for item in items * task / tasks..items * (task + 1) / tasks {
                lanes.fill([0.0; LANES]);
                self.channel((x, g), item, (&mut copy, &mut places), &mut lanes);
                // SAFETY: one task per channel.
                let sums = unsafe { out.slice(item * each, each) };
                sums.iter_mut().zip(&lanes).for_each(|(sum, lanes)| *sum = across(lanes));
            }
        });
        // From [group, channel, filter, tap] to [group, filter, channel, tap].
        let uniforms = after.uniforms(args);
        let mut finish = Finish::new(after, args, &uniforms);
        let mut line = Scratch::new(4 * self.channels * taps);
        let line = line.slice::<f32>(self.channels * taps);
        for (group, sums) in sums.chunks_exact((self.channels * each).max(1)).enumerate() {
            for filter in 0..self.filters {
                for (to, sums) in line.chunks_exact_mut(taps).zip(sums.chunks_exact(each)) {
                    to.copy_from_slice(&sums[filter * taps..][..taps]);
                }
                finish.put((group * self.filters + filter) * line.len(), line);
            }
        }
    }

    /// The sums of one channel of a group, `[filter, tap]`.
    fn channel(
        &self,
        (x, g): (&[f32], &[f32]),
        item: usize,
        (copy, places): (&mut Scratch, &mut Scratch),
        sums: &mut [[f32; LANES]],
    ) {
        let (s, width) = (&self.spatial, self.padded.width);
        let [deep, down, across] = s.outputs;
        let [deep_taps, down_taps, across_taps] = s.taps;
        let taps = down_taps * across_taps;
        let (group, channel) = (item / self.channels, item % self.channels);
        // Lanes may reach beyond the last place.
        let all = self.padded.size + LANES;
        copy.grow(4 * all);
        let copy = copy.slice::<f32>(all);
        copy[self.padded.size..].fill(0.0);
        let most = self.padded.places(self.tall, across).next_multiple_of(LANES);
        places.grow(4 * (most + width));
        let places = places.slice::<f32>(most + width);
        let offsets: Vec<usize> =
            (0..taps).map(|t| self.padded.offset(t / across_taps, t % across_taps)).collect();
        // Places that are nobody's must count as zeros times zeros.
        copy.fill(0.0);
        for image in 0..self.images {
            let x_base = self.x_offset
                + image as i64 * self.x[0]
                + group as i64 * self.x[1]
                + channel as i64 * self.x[2];
            let g_base = self.g_offset + image as i64 * self.g[0] + group as i64 * self.g[1];
            for (z, first) in (0..deep).flat_map(|z| (0..down).step_by(self.tall).map(move |y| (z, y))) {
                let y = first..down.min(first + self.tall);
                let count = self.padded.places(y.len(), across).next_multiple_of(LANES);
                for tap in 0..deep_taps {
                    let Some(at) = s.element(0, z, tap) else { continue };
                    self.padded.copy(x, Some(x_base + at as i64 * s.strides[0]), (&y, &(0..across)), copy);
                    for filter in 0..self.filters {
                        let base = g_base + filter as i64 * self.g[2] + z as i64 * self.g_axes[0];
                        for (i, row) in places.chunks_exact_mut(width).take(y.len()).enumerate() {
                            let first = base + (y.start + i) as i64 * self.g_axes[1];
                            strided(g, first, self.g_axes[2], &mut row[..across]);
                            row[across..].fill(0.0);
                        }
                        places[y.len() * width..].fill(0.0);
                        let sums = &mut sums[(filter * deep_taps + tap) * taps..][..taps];
                        Planes { places: &places[..count], copy, offsets: &offsets, sums }.add();
                    }
                }
            }
        }
    }
}

/// `sums[t][lane] += Σ places[i] copy[offsets[t] + i]` over the `i` of the lane.
struct Planes<'a> {
    places: &'a [f32],
    copy: &'a [f32],
    offsets: &'a [usize],
    sums: &'a mut [[f32; LANES]],
}

impl Planes<'_> {
    fn add(self) {
        Arch::new().dispatch(self);
    }

    #[inline(always)]
    fn taps<const T: usize, const FMA: bool>(&mut self, first: usize) {
        let places = self.places.as_chunks::<LANES>().0;
        let seen: [&[[f32; LANES]]; T] = std::array::from_fn(|t| {
            let seen = &self.copy[self.offsets[first + t]..][..places.len() * LANES];
            seen.as_chunks::<LANES>().0
        });
        let mut sums: [[f32; LANES]; T] = std::array::from_fn(|t| self.sums[first + t]);
        for (i, place) in places.iter().enumerate() {
            for (sums, seen) in sums.iter_mut().zip(&seen) {
                for ((sum, &x), &y) in sums.iter_mut().zip(&seen[i]).zip(place) {
                    *sum = if FMA { y.mul_add(x, *sum) } else { y * x + *sum };
                }
            }
        }
        self.sums[first..first + T].copy_from_slice(&sums);
    }

    #[inline(always)]
    fn all<const FMA: bool>(&mut self) {
        let mut t = 0;
        while t + 3 <= self.offsets.len() {
            self.taps::<3, FMA>(t);
            t += 3;
        }
        while t < self.offsets.len() {
            self.taps::<1, FMA>(t);
            t += 1;
        }
    }
}

impl WithSimd for Planes<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        if has_fma::<S>() { self.all::<true>() } else { self.all::<false>() }
    }
}

/// Combines lanes pairwise.
fn across(lanes: &[f32; LANES]) -> f32 {
    let mut lanes = *lanes;
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}
