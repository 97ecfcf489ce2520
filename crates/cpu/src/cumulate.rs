//! Cumulate kernels: sums so far and first-order linear recurrences along lines, each in order.
//!
//! Lines that are neighbours in memory go side by side, a strip of them per task; others go one after the other. Sums of `f32` are
//! kept in `f64`, so that the last ones are as accurate as the first.

use pulp::{Arch, Simd, WithSimd};
use wgrad_ir::{CumulateKernel, View};

use crate::{
    args::{Args, Out},
    ops::{Element, by_dtype},
    threads,
};

/// Lines side by side.
const STRIP: usize = 64;

/// An element with the type in which results so far are kept.
trait Kept: Element {
    type Sum: Copy;
    const ZERO: Self::Sum;
    fn next(sum: Self::Sum, factor: Self, term: Self) -> Self::Sum;
    fn add(sum: Self::Sum, term: Self) -> Self::Sum;
    fn of(sum: Self::Sum) -> Self;
}

macro_rules! float {
    ($T:ty) => {
        impl Kept for $T {
            type Sum = f64;
            const ZERO: f64 = 0.0;
            #[inline(always)]
            fn next(sum: f64, factor: $T, term: $T) -> f64 {
                sum * f64::from(factor) + f64::from(term)
            }
            #[inline(always)]
            fn add(sum: f64, term: $T) -> f64 {
                sum + f64::from(term)
            }
            #[inline(always)]
            fn of(sum: f64) -> $T {
                sum as $T
            }
        }
    };
}

macro_rules! int {
    ($T:ty) => {
        impl Kept for $T {
            type Sum = $T;
            const ZERO: $T = 0;
            #[inline(always)]
            fn next(sum: $T, factor: $T, term: $T) -> $T {
                sum.wrapping_mul(factor).wrapping_add(term)
            }
            #[inline(always)]
            fn add(sum: $T, term: $T) -> $T {
                sum.wrapping_add(term)
            }
            #[inline(always)]
            fn of(sum: $T) -> $T {
                sum
            }
        }
    };
}

float!(f32);
float!(f64);
int!(i32);
int!(u32);
int!(u8);
// Only moved; `verify` lets no sums of 16-bit floats through.
int!(u16);

/// Nanoseconds on one core, roughly.
pub(crate) fn cost(kernel: &CumulateKernel) -> f64 {
    let each = if side_by_side(kernel) > 1 { 0.4 } else { 1.5 };
    each * (kernel.lines.elements() * kernel.len) as f64
}

pub(crate) fn run(kernel: &CumulateKernel, args: &Args<'_>) {
    if kernel.lines.elements() * kernel.len > 0 {
        by_dtype!(kernel.dtype, T => typed::<T>(kernel, args));
    }
}

/// How many lines lie side by side in every operand: the extent of the innermost axis that numbers them, or 1.
fn side_by_side(kernel: &CumulateKernel) -> usize {
    let views = [Some(&kernel.out), Some(&kernel.terms), kernel.factors.as_ref()];
    let last = kernel.lines.rank().wrapping_sub(1);
    let dense = |view: &View| view.strides.get(last) == Some(&1);
    let all = views.into_iter().flatten().all(|o| dense(&o.view));
    if all { kernel.lines.last().copied().unwrap_or(1) } else { 1 }
}

fn typed<T: Kept>(kernel: &CumulateKernel, args: &Args<'_>) {
    let run = side_by_side(kernel);
    let strips = run.div_ceil(STRIP);
    let items = kernel.lines.elements() / run * strips;
    let out = args.out::<T>(kernel.out.arg);
    let operand = |o: &wgrad_ir::Operand, line: usize| -> Walked<'_, T> {
        let (first, step) = first_and_step(&o.view, line, kernel.len);
        Walked { elements: args.read(o.arg), first, step }
    };
    let tasks = threads::tasks_for(cost(kernel)).min(items);
    threads::for_each(tasks, &|task| {
        for item in items * task / tasks..items * (task + 1) / tasks {
            let from = item % strips * STRIP;
            let line = item / strips * run + from;
            let (first, step) = first_and_step(&kernel.out.view, line, kernel.len);
            let strip = Strip {
                len: kernel.len,
                width: STRIP.min(run - from),
                terms: operand(&kernel.terms, line),
                factors: kernel.factors.as_ref().map(|o| operand(o, line)),
                out,
                out_first: first,
                out_step: step,
            };
            if strip.width == 1 { strip.line() } else { Arch::new().dispatch(strip) }
        }
    });
}

/// Where a line begins, and how far its elements are apart.
fn first_and_step(view: &View, mut line: usize, len: usize) -> (i64, i64) {
    let axis = view.shape.rank() - 1;
    let mut at = view.offset;
    for d in (0..axis).rev() {
        at += (line % view.shape[d]) as i64 * view.strides[d];
        line /= view.shape[d];
    }
    (at, if len > 1 { view.strides[axis] } else { 0 })
}

/// The elements of an operand along a strip of lines.
struct Walked<'a, T> {
    elements: &'a [T],
    first: i64,
    step: i64,
}

impl<T> Walked<'_, T> {
    /// Element `i` of neighbouring lines.
    #[inline(always)]
    fn at(&self, i: usize, width: usize) -> &[T] {
        &self.elements[(self.first + i as i64 * self.step) as usize..][..width]
    }
}

/// Neighbouring lines.
struct Strip<'a, T: Kept> {
    len: usize,
    width: usize,
    terms: Walked<'a, T>,
    factors: Option<Walked<'a, T>>,
    out: Out<T>,
    out_first: i64,
    out_step: i64,
}

impl<T: Kept> Strip<'_, T> {
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "what is borrowed lies in the results, not in this")]
    fn result(&self, i: usize) -> &mut [T] {
        // SAFETY: each line has its own elements, and one task.
        unsafe { self.out.slice((self.out_first + i as i64 * self.out_step) as usize, self.width) }
    }

    fn line(&self) {
        let mut sum = T::ZERO;
        for i in 0..self.len {
            let term = self.terms.at(i, 1)[0];
            sum = match &self.factors {
                // Nothing comes before the first element, whatever its factor is.
                Some(factors) if i > 0 => T::next(sum, factors.at(i, 1)[0], term),
                _ => T::add(sum, term),
            };
            self.result(i)[0] = T::of(sum);
        }
    }
}

impl<T: Kept> WithSimd for Strip<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let mut sums = [T::ZERO; STRIP];
        let sums = &mut sums[..self.width];
        for i in 0..self.len {
            let terms = self.terms.at(i, self.width);
            match &self.factors {
                Some(factors) if i > 0 => {
                    let both = terms.iter().zip(factors.at(i, self.width));
                    sums.iter_mut().zip(both).for_each(|(sum, (&t, &f))| *sum = T::next(*sum, f, t));
                }
                _ => sums.iter_mut().zip(terms).for_each(|(sum, &t)| *sum = T::add(*sum, t)),
            }
            let out = self.result(i);
            out.iter_mut().zip(sums.iter()).for_each(|(out, &sum)| *out = T::of(sum));
        }
    }
}
