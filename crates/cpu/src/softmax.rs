//! The rows of a block of attention scores.

use pulp::{Arch, Simd, WithSimd};

use crate::{lanes::has_fma, math};

/// Partial results side by side, a fixed number, so that results are the same at every SIMD level.
const LANES: usize = 16;

/// Scores of some queries with `stride` keys each, and which of the keys each query sees.
pub(crate) struct Scores<'a> {
    /// The scores, a row per query.
    pub(crate) x: &'a mut [f32],
    pub(crate) stride: usize,
    /// For each query the keys `[from, to)` that it sees, apart from the mask.
    pub(crate) seen: &'a [(usize, usize)],
    /// Which keys are there, 0 or 1.
    pub(crate) mask: Option<&'a [u8]>,
}

impl Scores<'_> {
    /// Hides what the mask excludes.
    #[inline(always)]
    fn hide(&mut self, row: usize) {
        if let Some(mask) = self.mask {
            for (x, &there) in self.x[row * self.stride..][..self.stride].iter_mut().zip(mask) {
                *x = if there == 0 { f32::NEG_INFINITY } else { *x };
            }
        }
    }

    /// Zeros where a query does not see.
    #[inline(always)]
    fn clear(&mut self, row: usize) {
        let (from, to) = self.seen[row];
        let x = &mut self.x[row * self.stride..][..self.stride];
        x[..from].fill(0.0);
        x[to..].fill(0.0);
    }
}

#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

#[inline(always)]
fn exp_all<const FMA: bool>(x: &mut [f32], shift: f32) -> f32 {
    for x in x.iter_mut() {
        // What is hidden has no weight at all, and not the smallest there is.
        *x = if *x == f32::NEG_INFINITY { 0.0 } else { math::exp::<FMA>(*x - shift) };
    }
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

/// One step of the online softmax (Milakov & Gimelshein, 2018): replaces scores by `exp(score - top)`, with the largest score
/// so far as `top`, and adds them to `sum`. `shrink` is what earlier results are to be multiplied by.
pub(crate) fn online(scores: Scores<'_>, top: &mut [f32], sum: &mut [f32], shrink: &mut [f32]) {
    struct Online<'a>(Scores<'a>, &'a mut [f32], &'a mut [f32], &'a mut [f32]);
    impl Online<'_> {
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            let Online(mut scores, top, sum, shrink) = self;
            for row in 0..scores.seen.len() {
                scores.hide(row);
                let (from, to) = scores.seen[row];
                let x = &mut scores.x[row * scores.stride..][from..to];
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
                    sum[row] = sum[row] * shrink[row] + exp_all::<FMA>(x, new);
                }
                scores.clear(row);
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
            for row in 0..scores.seen.len() {
                scores.hide(row);
                let (from, to) = scores.seen[row];
                let start = row * scores.stride;
                for x in &mut scores.x[start..][from..to] {
                    *x = if *x == f32::NEG_INFINITY { 0.0 } else { math::exp::<FMA>(*x - lse[row]) };
                }
                scores.clear(row);
                let dp = &mut dp[start..][..scores.stride];
                for (dp, &p) in dp[from..to].iter_mut().zip(&scores.x[start..][from..to]) {
                    *dp = scale * p * (*dp - delta[row]);
                }
                dp[..from].fill(0.0);
                dp[to..].fill(0.0);
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
