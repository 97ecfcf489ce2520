//! The rows of a block of attention scores.

use pulp::{Arch, Simd, WithSimd};

use crate::{
    attention::{Rows, Seen},
    lanes::has_fma,
    math,
};

/// Partial results side by side, a fixed number, so that results are the same at every SIMD level.
const LANES: usize = 16;

/// Scores of some queries, `stride` from one to the next.
pub(crate) struct Scores<'a> {
    /// The scores; those of keys that the query's group does not see are not there.
    pub(crate) x: &'a mut [f32],
    pub(crate) stride: usize,
    /// Which keys each query sees, apart from the mask.
    pub(crate) seen: &'a Seen,
    /// Which keys are there, 0 or 1.
    pub(crate) mask: Option<&'a [u8]>,
}

impl Scores<'_> {
    /// The scores of the keys that a query's group sees; those that the query does not see, or the mask excludes, are hidden.
    #[inline(always)]
    fn row(&mut self, row: usize) -> &mut [f32] {
        let ((from, to), (first, last)) = (self.seen.row(row), self.seen.group(row));
        let x = &mut self.x[row * self.stride..][..last];
        x[first.min(from)..from].fill(f32::NEG_INFINITY);
        x[to.min(last)..].fill(f32::NEG_INFINITY);
        if let Some(mask) = self.mask {
            for (x, &there) in x[first..].iter_mut().zip(&mask[first..last]) {
                *x = if there == 0 { f32::NEG_INFINITY } else { *x };
            }
        }
        &mut x[first..]
    }
}

/// Calls `f` with as many elements as a loop has side by side, over and over; the last ones are padded as hidden.
#[inline(always)]
fn by_lanes(x: &mut [f32], mut f: impl FnMut(&mut [f32; LANES])) {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    chunks.iter_mut().for_each(&mut f);
    if !rest.is_empty() {
        let mut padded = [f32::NEG_INFINITY; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        f(&mut padded);
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}

/// Combines lanes pairwise.
#[inline(always)]
fn across(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

#[inline(always)]
fn largest(x: &mut [f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    by_lanes(x, |x| {
        for (lane, &mut x) in lanes.iter_mut().zip(x) {
            *lane = larger(*lane, x);
        }
    });
    across(lanes, larger)
}

/// `exp(x - shift)`; what is hidden has no weight at all, and not the smallest there is.
#[inline(always)]
fn weight<const FMA: bool>(x: f32, shift: f32) -> f32 {
    let weight = math::exp::<FMA>(x - shift);
    if x == f32::NEG_INFINITY { 0.0 } else { weight }
}

/// Replaces scores by weights, and adds them up.
#[inline(always)]
fn weigh<const FMA: bool>(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    by_lanes(x, |x| {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *x = weight::<FMA>(*x, shift);
            *lane += *x;
        }
    });
    across(lanes, |a, b| a + b)
}

/// One step of the online softmax (Milakov & Gimelshein, 2018): replaces scores by `exp(score - top)`, with the largest score
/// so far as `top`, and adds them to `sum`. `shrink` is what earlier results are to be multiplied by.
pub(crate) fn online(scores: Scores<'_>, top: &mut [f32], sum: &mut [f32], shrink: &mut [f32]) {
    struct Online<'a>(Scores<'a>, &'a mut [f32], &'a mut [f32], &'a mut [f32]);
    impl Online<'_> {
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            let Online(mut scores, top, sum, shrink) = self;
            for row in 0..scores.seen.rows {
                let x = scores.row(row);
                let old = top[row];
                let new = old.max(largest(x));
                (top[row], shrink[row]) = (new, 1.0);
                if new == f32::NEG_INFINITY {
                    x.fill(0.0);
                } else {
                    if old != new {
                        shrink[row] =
                            if old == f32::NEG_INFINITY { 0.0 } else { math::exp::<FMA>(old - new) };
                    }
                    sum[row] = sum[row] * shrink[row] + weigh::<FMA>(x, new);
                }
            }
        }
    }
    impl WithSimd for Online<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            if has_fma::<S>() { self.run::<true>() } else { self.run::<false>() }
        }
    }
    Arch::new().dispatch(Online(scores, top, sum, shrink));
}

/// Replaces scores by `p = exp(score - lse)`, and `dp` by `scale p (dp - delta)`.
pub(crate) fn backward(scores: Scores<'_>, dp: &mut [f32], lse: &[f32], delta: &[f32], scale: f32) {
    struct Backward<'a>(Scores<'a>, &'a mut [f32], &'a [f32], &'a [f32], f32);
    impl Backward<'_> {
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            let Backward(mut scores, dp, lse, delta, scale) = self;
            for row in 0..scores.seen.rows {
                let (start, (first, last)) = (row * scores.stride, scores.seen.group(row));
                let x = scores.row(row);
                let dp = &mut dp[start..][first..last];
                let (dp, rest) = dp.as_chunks_mut::<LANES>();
                let (x, x_rest) = x.as_chunks_mut::<LANES>();
                for (x, dp) in x.iter_mut().zip(dp) {
                    for (x, dp) in x.iter_mut().zip(dp) {
                        *x = weight::<FMA>(*x, lse[row]);
                        *dp = scale * *x * (*dp - delta[row]);
                    }
                }
                by_lanes(x_rest, |x| x.iter_mut().for_each(|x| *x = weight::<FMA>(*x, lse[row])));
                for (x, dp) in x_rest.iter().zip(rest) {
                    *dp = scale * *x * (*dp - delta[row]);
                }
            }
        }
    }
    impl WithSimd for Backward<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            if has_fma::<S>() { self.run::<true>() } else { self.run::<false>() }
        }
    }
    Arch::new().dispatch(Backward(scores, dp, lse, delta, scale));
}

/// `to[i] = Σ_d x[i, d] y[i, d]` for rows of `width` elements.
pub(crate) fn dots(x: Rows<'_>, y: Rows<'_>, width: usize, to: &mut [f32]) {
    struct Dots<'a>(Rows<'a>, Rows<'a>, usize, &'a mut [f32]);
    impl WithSimd for Dots<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Dots(x, y, width, to) = self;
            for (i, to) in to.iter_mut().enumerate() {
                let mut lanes = [0.0; LANES];
                let (x, x_rest) = x.from(i)[..width].as_chunks::<LANES>();
                let (y, y_rest) = y.from(i)[..width].as_chunks::<LANES>();
                for (x, y) in x.iter().zip(y) {
                    for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
                        *lane += x * y;
                    }
                }
                for ((lane, &x), &y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
                    *lane += x * y;
                }
                *to = across(lanes, |a, b| a + b);
            }
        }
    }
    Arch::new().dispatch(Dots(x, y, width, to));
}
