//! Combining the elements of slices, in an order that depends on lengths alone.

use pulp::{Arch, Simd, WithSimd};
use wgrad_ir::ReduceOp;

use crate::ops::Element;

/// Partial results that run side by side, so that additions do not wait for each other (fewer for short rows); a number that
/// depends on the length alone, so that the result is the same at every SIMD level.
const LANES: usize = 32;

/// An element that reductions combine.
pub(crate) trait Fold: Element {
    /// The value that changes nothing.
    fn identity(op: ReduceOp) -> Self;
    /// Combines two values.
    fn combine(op: ReduceOp, a: Self, b: Self) -> Self;
    /// Combines all of a slice.
    fn fold(op: ReduceOp, x: &[Self]) -> Self {
        let mut out = [Self::identity(op)];
        if !x.is_empty() {
            Self::fold_rows(op, x, x.len(), &mut out);
        }
        out[0]
    }
    /// Combines each row of `row` elements.
    fn fold_rows(op: ReduceOp, x: &[Self], row: usize, out: &mut [Self]);
    /// `acc[i] = combine(acc[i], x[i])`
    fn accumulate(op: ReduceOp, acc: &mut [Self], x: &[Self]);
}

struct FoldRows<'a, T, F> {
    x: &'a [T],
    row: usize,
    out: &'a mut [T],
    identity: T,
    f: F,
}

impl<T: Element, F: Fn(T, T) -> T> FoldRows<'_, T, F> {
    /// In `N` lanes.
    #[inline(always)]
    fn run<const N: usize>(self) {
        for (out, row) in self.out.iter_mut().zip(self.x.chunks_exact(self.row)) {
            let mut lanes = [self.identity; N];
            let (chunks, rest) = row.as_chunks::<N>();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane = (self.f)(*lane, x);
                }
            }
            for (lane, &x) in lanes.iter_mut().zip(rest) {
                *lane = (self.f)(*lane, x);
            }
            let mut width = N;
            while width > 1 {
                width /= 2;
                for i in 0..width {
                    lanes[i] = (self.f)(lanes[i], lanes[i + width]);
                }
            }
            *out = lanes[0];
        }
    }

    /// Rows of `R` elements, in the order of eight lanes.
    #[inline(always)]
    fn short<const R: usize>(self) {
        for (out, row) in self.out.iter_mut().zip(self.x.as_chunks::<R>().0) {
            let mut lanes = [self.identity; 8];
            for (lane, &x) in lanes.iter_mut().zip(row) {
                *lane = (self.f)(*lane, x);
            }
            let mut width = 8;
            while width > 1 {
                width /= 2;
                for i in 0..width {
                    lanes[i] = (self.f)(lanes[i], lanes[i + width]);
                }
            }
            *out = lanes[0];
        }
    }
}

impl<T: Element, F: Fn(T, T) -> T> WithSimd for FoldRows<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        match self.row {
            2 => self.short::<2>(),
            4 => self.short::<4>(),
            row if row < LANES => self.run::<8>(),
            _ => self.run::<LANES>(),
        }
    }
}

struct Accumulate<'a, T, F> {
    acc: &'a mut [T],
    x: &'a [T],
    f: F,
}

impl<T: Element, F: Fn(T, T) -> T> WithSimd for Accumulate<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (acc, &x) in self.acc.iter_mut().zip(self.x) {
            *acc = (self.f)(*acc, x);
        }
    }
}

macro_rules! fold_impl {
    ($T:ty, $low:expr, $high:expr, $add:expr, $max:expr, $min:expr) => {
        impl Fold for $T {
            fn identity(op: ReduceOp) -> Self {
                match op {
                    ReduceOp::Sum => <$T>::from_bits64(0),
                    ReduceOp::Max => $low,
                    ReduceOp::Min => $high,
                }
            }
            #[inline]
            fn combine(op: ReduceOp, a: Self, b: Self) -> Self {
                match op {
                    ReduceOp::Sum => $add(a, b),
                    ReduceOp::Max => $max(a, b),
                    ReduceOp::Min => $min(a, b),
                }
            }
            fn fold_rows(op: ReduceOp, x: &[Self], row: usize, out: &mut [Self]) {
                let identity = Self::identity(op);
                match op {
                    ReduceOp::Sum => Arch::new().dispatch(FoldRows { x, row, out, identity, f: $add }),
                    ReduceOp::Max => Arch::new().dispatch(FoldRows { x, row, out, identity, f: $max }),
                    ReduceOp::Min => Arch::new().dispatch(FoldRows { x, row, out, identity, f: $min }),
                }
            }
            fn accumulate(op: ReduceOp, acc: &mut [Self], x: &[Self]) {
                match op {
                    ReduceOp::Sum => Arch::new().dispatch(Accumulate { acc, x, f: $add }),
                    ReduceOp::Max => Arch::new().dispatch(Accumulate { acc, x, f: $max }),
                    ReduceOp::Min => Arch::new().dispatch(Accumulate { acc, x, f: $min }),
                }
            }
        }
    };
}

macro_rules! float_fold {
    ($T:ty) => {
        fold_impl!(
            $T,
            <$T>::NEG_INFINITY,
            <$T>::INFINITY,
            |a: $T, b: $T| a + b,
            |a: $T, b: $T| if a > b || a.is_nan() { a } else { b },
            |a: $T, b: $T| if a < b || a.is_nan() { a } else { b }
        );
    };
}

macro_rules! int_fold {
    ($T:ty) => {
        fold_impl!(
            $T,
            <$T>::MIN,
            <$T>::MAX,
            |a: $T, b: $T| a.wrapping_add(b),
            |a: $T, b: $T| a.max(b),
            |a: $T, b: $T| a.min(b)
        );
    };
}

float_fold!(f64);
float_fold!(f32);
int_fold!(i32);
int_fold!(u32);
int_fold!(u8);
// Only moved; `verify` lets no reduction of 16-bit floats through.
int_fold!(u16);

/// The combination of `n` equal elements.
pub(crate) fn repeated<T: Fold>(op: ReduceOp, x: T, n: usize) -> T {
    match op {
        ReduceOp::Max | ReduceOp::Min if n > 0 => x,
        // In the order that a slice of them would have.
        _ => T::fold(op, &vec![x; n]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_many_equal_numbers_stay_accurate() {
        let x = vec![0.1f32; 1024];
        let error = (f64::from(f32::fold(ReduceOp::Sum, &x)) - 1024.0 * f64::from(0.1f32)).abs();
        // An ulp of the sum is 7.6e-6; adding one after the other is off by 1e-3.
        assert!(error < 5e-5, "{error}");
    }

    #[test]
    fn extremes_keep_nan_wherever_it_stands() {
        for at in 0..70 {
            let mut x = vec![1.0f32; 70];
            x[at] = f32::NAN;
            assert!(f32::fold(ReduceOp::Max, &x).is_nan() && f32::fold(ReduceOp::Min, &x).is_nan());
        }
    }
}
