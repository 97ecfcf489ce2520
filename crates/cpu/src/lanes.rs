//! Loops over slices, compiled for each SIMD level and chosen at run time.

use bytemuck::Pod;
use pulp::{Arch, Simd, WithSimd};

/// One operand of a loop: a value for each element, or one for all.
#[derive(Clone, Copy)]
pub(crate) enum Src<'a, T> {
    /// The same for all elements.
    Splat(T),
    /// One for each.
    Slice(&'a [T]),
}

/// A function of one element. `FMA` says whether fused multiply-add is an instruction, not a library call.
pub(crate) trait Fun<T, R>: Copy {
    fn call<const FMA: bool>(self, x: T) -> R;
}

/// Fused multiply-add where that is an instruction.
pub(crate) const fn has_fma<S: Simd>() -> bool {
    // Every SIMD level above the scalar one has it, and so has every aarch64 processor.
    !S::IS_SCALAR || cfg!(target_arch = "aarch64")
}

struct Unary<'a, T, R, F> {
    x: &'a [T],
    out: &'a mut [R],
    f: F,
}

impl<T: Pod, R: Pod, F: Fun<T, R>> WithSimd for Unary<'_, T, R, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        if has_fma::<S>() {
            for (out, &x) in self.out.iter_mut().zip(self.x) {
                *out = self.f.call::<true>(x);
            }
        } else {
            for (out, &x) in self.out.iter_mut().zip(self.x) {
                *out = self.f.call::<false>(x);
            }
        }
    }
}

/// `out[i] = f(x[i])`
pub(crate) fn map_fun<T: Pod, R: Pod>(x: &[T], out: &mut [R], f: impl Fun<T, R>) {
    Arch::new().dispatch(Unary { x, out, f });
}

#[derive(Clone, Copy)]
struct Plain<F>(F);

impl<T, R, F: Fn(T) -> R + Copy> Fun<T, R> for Plain<F> {
    #[inline(always)]
    fn call<const FMA: bool>(self, x: T) -> R {
        (self.0)(x)
    }
}

/// `out[i] = f(x[i])`
#[inline]
pub(crate) fn map<T: Pod, R: Pod>(x: &[T], out: &mut [R], f: impl Fn(T) -> R + Copy) {
    map_fun(x, out, Plain(f));
}

struct Zip<'a, T, R, F> {
    a: &'a [T],
    b: &'a [T],
    out: &'a mut [R],
    f: F,
}

impl<T: Pod, R: Pod, F: Fn(T, T) -> R> WithSimd for Zip<'_, T, R, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for ((out, &a), &b) in self.out.iter_mut().zip(self.a).zip(self.b) {
            *out = (self.f)(a, b);
        }
    }
}

/// `out[i] = f(a[i], b[i])`
#[inline]
pub(crate) fn zip<T: Pod, R: Pod>(a: Src<'_, T>, b: Src<'_, T>, out: &mut [R], f: impl Fn(T, T) -> R + Copy) {
    match (a, b) {
        (Src::Slice(a), Src::Slice(b)) => Arch::new().dispatch(Zip { a, b, out, f }),
        (Src::Slice(a), Src::Splat(b)) => map(
            a,
            out,
            #[inline(always)]
            move |x| f(x, b),
        ),
        (Src::Splat(a), Src::Slice(b)) => map(
            b,
            out,
            #[inline(always)]
            move |x| f(a, x),
        ),
        (Src::Splat(a), Src::Splat(b)) => out.fill(f(a, b)),
    }
}

struct Pick<'a, T> {
    c: &'a [u8],
    a: &'a [T],
    b: &'a [T],
    out: &'a mut [T],
}

impl<T: Pod> WithSimd for Pick<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (((out, &c), &a), &b) in self.out.iter_mut().zip(self.c).zip(self.a).zip(self.b) {
            *out = if c != 0 { a } else { b };
        }
    }
}

struct PickOne<'a, T, F> {
    c: &'a [u8],
    x: &'a [T],
    out: &'a mut [T],
    f: F,
}

impl<T: Pod, F: Fn(bool, T) -> T> WithSimd for PickOne<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for ((out, &c), &x) in self.out.iter_mut().zip(self.c).zip(self.x) {
            *out = (self.f)(c != 0, x);
        }
    }
}

/// `out[i] = if c[i] != 0 { a[i] } else { b[i] }`
pub(crate) fn select<T: Pod>(c: Src<'_, u8>, a: Src<'_, T>, b: Src<'_, T>, out: &mut [T]) {
    let arch = Arch::new();
    match (c, a, b) {
        (Src::Splat(c), a, b) => match if c != 0 { a } else { b } {
            Src::Splat(x) => out.fill(x),
            Src::Slice(x) => out.copy_from_slice(&x[..out.len()]),
        },
        (Src::Slice(c), Src::Slice(a), Src::Slice(b)) => arch.dispatch(Pick { c, a, b, out }),
        (Src::Slice(c), Src::Slice(x), Src::Splat(b)) => {
            arch.dispatch(PickOne { c, x, out, f: move |c, x| if c { x } else { b } });
        }
        (Src::Slice(c), Src::Splat(a), Src::Slice(x)) => {
            arch.dispatch(PickOne { c, x, out, f: move |c, x| if c { a } else { x } });
        }
        (Src::Slice(c), Src::Splat(a), Src::Splat(b)) => {
            map(
                c,
                out,
                #[inline(always)]
                move |c| if c != 0 { a } else { b },
            );
        }
    }
}

struct Spread<'a, T> {
    x: &'a [T],
    row: usize,
    out: &'a mut [T],
}

impl<T: Pod> WithSimd for Spread<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        if self.row == 4 {
            self.out.as_chunks_mut::<4>().0.iter_mut().zip(self.x).for_each(|(out, &x)| *out = [x; 4]);
            return;
        }
        for (out, &x) in self.out.chunks_exact_mut(self.row).zip(self.x) {
            let (chunks, rest) = out.as_chunks_mut::<16>();
            chunks.iter_mut().for_each(|chunk| *chunk = [x; 16]);
            rest.iter_mut().for_each(|out| *out = x);
        }
    }
}

/// `out[i, j] = x[i]` for rows of `row` elements.
pub(crate) fn spread<T: Pod>(x: &[T], row: usize, out: &mut [T]) {
    Arch::new().dispatch(Spread { x, row, out });
}
