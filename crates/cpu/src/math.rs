//! Elementary functions without branches, so that loops over them vectorise.
//!
//! Each reduces its argument and evaluates a polynomial. The polynomials are minimax fits made for this crate (weighted
//! least squares at Chebyshev nodes, reweighted until the relative error is level); the tests measure the errors against `f64`.

// Coefficients are the nearest `f32` values, written with the digits that the fit gave.
#![allow(clippy::excessive_precision)]

use crate::lanes::Fun;

#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `Σ c[i] xⁱ` by Horner's rule.
#[inline(always)]
fn poly<const FMA: bool, const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = fma::<FMA>(sum, x, c[i]);
    }
    sum
}

/// `1.5 · 2²³`: adding it rounds to an integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;
/// `ln 2` in two parts; products of the first with integers below 2¹⁰ are exact.
const LN2_HIGH: f32 = 0.693_359_375;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `eˣ` for f32, within 1 ulp or so; underflows gradually to 0, overflows to infinity.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Comparisons in this form let NaN through.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let rounded = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fma::<FMA>(n, -LN2_LOW, fma::<FMA>(n, -LN2_HIGH, x));
    let p = poly::<FMA, 5>(
        r,
        [4.999_999_341e-1, 1.666_652_010e-1, 4.166_839_447e-2, 8.368_781_596e-3, 1.381_445_476e-3],
    );
    let y = fma::<FMA>(p * r, r, r) + 1.0;
    // 2ⁿ in two factors, each of which is a normal number.
    let n = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    y * power(half) * power(n.wrapping_sub(half))
}

/// `ln x` for f32, within 1 ulp or so.
#[inline(always)]
pub(crate) fn log<const FMA: bool>(x: f32) -> f32 {
    // Subnormal numbers are scaled into the normal range first.
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bias = if tiny { -23.0 } else { 0.0 };
    // x = 2ᵉ·m with m in [√½, √2).
    let shifted = scaled.to_bits().wrapping_sub(0x3F35_04F3);
    let e = (shifted as i32 >> 23) as f32 + bias;
    let m = f32::from_bits((shifted & 0x007F_FFFF).wrapping_add(0x3F35_04F3));
    let f = m - 1.0;
    let p = poly::<FMA, 9>(
        f,
        [
            3.333_331_192e-1,
            -2.500_000_604e-1,
            2.000_216_605e-1,
            -1.666_824_408e-1,
            1.421_874_733e-1,
            -1.240_040_356e-1,
            1.188_904_792e-1,
            -1.170_899_074e-1,
            6.786_411_178e-2,
        ],
    );
    let square = f * f;
    let tail = fma::<FMA>(e, LN2_LOW, fma::<FMA>(square * f, p, -0.5 * square));
    let y = fma::<FMA>(e, LN2_HIGH, f + tail);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x >= 0.0 { y } else { f32::NAN }
}

/// `tanh x` for f32, within 2 ulp.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let s = x * x;
    let p = poly::<FMA, 6>(
        s,
        [
            -3.333_333_091e-1,
            1.333_320_975e-1,
            -5.394_720_271e-2,
            2.170_295_946e-2,
            -8.182_656_576e-3,
            2.147_522_215e-3,
        ],
    );
    let small = fma::<FMA>(p * s, x, x);
    let large = (1.0 - 2.0 / (exp::<FMA>(2.0 * a) + 1.0)).copysign(x);
    // NaN takes the polynomial, which keeps it.
    if a >= 0.625 { large } else { small }
}

/// The error function for f32, within 2 ulp.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let p = poly::<FMA, 6>(
        x * x,
        [
            1.283_791_661e-1,
            -3.761_262_894e-1,
            1.128_354_743e-1,
            -2.684_484_608e-2,
            5.139_059_387e-3,
            -6.956_799_771e-4,
        ],
    );
    let small = fma::<FMA>(p, x, x);
    // 1 - erf t = 2^(t q(t)); beyond 4 that is less than half an ulp of 1.
    let t = if a > 4.0 { 4.0 } else { a };
    let q = poly::<FMA, 7>(
        t,
        [
            -1.628_125_668e0,
            -9.170_743_823e-1,
            -1.519_424_766e-1,
            3.305_808_082e-2,
            -4.637_371_283e-3,
            3.041_936_434e-4,
            8.837_837_981e-7,
        ],
    );
    // The power lies between 2^-27 and 1, so that no case of `exp` is special.
    let z = t * q;
    let rounded = z + ROUND;
    let power = poly::<FMA, 6>(
        z - (rounded - ROUND),
        [
            1.000_000_119e0,
            6.931_469_440e-1,
            2.402_212_024e-1,
            5.550_713_092e-2,
            9.675_540_961e-3,
            1.327_647_129e-3,
        ],
    );
    let rest = f32::from_bits(power.to_bits().wrapping_add(rounded.to_bits() << 23));
    let large = (1.0 - rest).copysign(x);
    // NaN takes the first polynomial, which keeps it.
    if a >= 0.7 { large } else { small }
}

/// Sine or cosine for f32: `quarter` is 0 or 1 quarter turns ahead. The argument is reduced in f64, which is exact enough up to
/// [`TRIG_LIMIT`].
#[inline(always)]
fn trig<const FMA: bool>(x: f32, quarter: i32) -> f32 {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let wide = f64::from(x);
    let rounded = wide * std::f64::consts::FRAC_2_PI + ROUND;
    let n = rounded - ROUND;
    // π/2 in two parts; the first has 33 bits.
    let r = (wide - n * 1.570_796_326_734_125_6) - n * 6.077_100_506_506_192e-11;
    let r = r as f32;
    let turn = (rounded.to_bits() as i32).wrapping_add(quarter);
    let s = r * r;
    let sine = fma::<FMA>(
        poly::<FMA, 4>(s, [-1.666_666_664e-1, 8.333_329_386e-3, -1.983_933_479e-4, 2.718_311_153e-6]) * s,
        r,
        r,
    );
    let cosine = fma::<FMA>(
        poly::<FMA, 3>(s, [4.166_664_686e-2, -1.388_736_741e-3, 2.443_844_090e-5]) * s,
        s,
        fma::<FMA>(s, -0.5, 1.0),
    );
    let y = if turn & 1 == 0 { sine } else { cosine };
    f32::from_bits(y.to_bits() ^ (((turn & 2) as u32) << 30))
}

/// Beyond this, sines and cosines are left to the standard library.
pub(crate) const TRIG_LIMIT: f32 = 1_048_576.0;

macro_rules! functions {
    ($($name:ident = |$x:ident, $fma:ident| $body:expr;)*) => { $(
        #[derive(Clone, Copy)]
        pub(crate) struct $name;
        impl Fun<f32, f32> for $name {
            #[inline(always)]
            fn call<const $fma: bool>(self, $x: f32) -> f32 { $body }
        }
    )* };
}

functions! {
    Exp = |x, F| exp::<F>(x);
    Log = |x, F| log::<F>(x);
    Tanh = |x, F| tanh::<F>(x);
    Erf = |x, F| erf::<F>(x);
    Sin = |x, F| trig::<F>(x, 0);
    Cos = |x, F| trig::<F>(x, 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::map_fun;

    /// Distance in units of the last place of the correctly rounded result.
    fn ulps(got: f32, want: f64) -> f64 {
        if f64::from(got) == want || got.is_nan() && want.is_nan() || got == want as f32 {
            return 0.0;
        }
        let near = (want as f32).abs().max(f32::MIN_POSITIVE);
        let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        (f64::from(got) - want).abs() / ulp
    }

    fn worst(f: impl Fun<f32, f32>, want: fn(f64) -> f64, low: f32, high: f32) -> (f64, f32) {
        const N: usize = 400_000;
        let x: Vec<f32> = (0..=N).map(|i| low + (high - low) * (i as f32 / N as f32)).collect();
        let mut y = vec![0.0; x.len()];
        map_fun(&x, &mut y, f);
        let mut worst = (0.0, 0.0);
        for (&x, &y) in x.iter().zip(&y) {
            let error = ulps(y, want(f64::from(x)));
            if error > worst.0 {
                worst = (error, x);
            }
        }
        worst
    }

    fn check(name: &str, f: impl Fun<f32, f32>, want: fn(f64) -> f64, ranges: &[(f32, f32)], limit: f64) {
        for &(low, high) in ranges {
            let (error, at) = worst(f, want, low, high);
            println!("{name} on [{low}, {high}]: {error:.3} ulp at {at}");
            assert!(error <= limit, "{name}: {error} ulp at {at}");
        }
    }

    #[test]
    fn exp_and_log_are_within_two_ulp() {
        check("exp", Exp, f64::exp, &[(-103.0, 88.7), (-1.0, 1.0), (-20.0, 0.0)], 2.0);
        check(
            "log",
            Log,
            f64::ln,
            &[(1e-40, 1e-37), (0.5, 2.0), (0.99, 1.01), (1.0, 1e6), (1e30, 3e38)],
            2.0,
        );
    }

    #[test]
    fn tanh_and_erf_are_within_three_ulp() {
        check("tanh", Tanh, f64::tanh, &[(-10.0, 10.0), (-1.0, 1.0), (-1e-3, 1e-3)], 3.0);
        check("erf", Erf, libm::erf, &[(-6.0, 6.0), (-1.5, 1.5), (-1e-3, 1e-3)], 3.0);
    }

    #[test]
    fn sin_and_cos_are_within_two_ulp() {
        check("sin", Sin, f64::sin, &[(-4.0, 4.0), (-1000.0, 1000.0), (0.0, TRIG_LIMIT)], 2.0);
        check("cos", Cos, f64::cos, &[(-4.0, 4.0), (-1000.0, 1000.0), (0.0, TRIG_LIMIT)], 2.0);
    }

    #[test]
    fn special_values_follow_the_standard() {
        let call = |f: &dyn Fn(&[f32], &mut [f32]), x: f32| {
            let mut y = [0.0];
            f(&[x], &mut y);
            y[0]
        };
        let e = |x| call(&|x, y| map_fun(x, y, Exp), x);
        assert_eq!((e(f32::NEG_INFINITY), e(-1e30), e(0.0), e(-0.0)), (0.0, 0.0, 1.0, 1.0));
        assert_eq!((e(f32::INFINITY), e(1e30), e(88.8)), (f32::INFINITY, f32::INFINITY, f32::INFINITY));
        let l = |x| call(&|x, y| map_fun(x, y, Log), x);
        assert_eq!((l(0.0), l(1.0), l(f32::INFINITY)), (f32::NEG_INFINITY, 0.0, f32::INFINITY));
        assert!(l(-1.0).is_nan() && l(f32::NAN).is_nan() && e(f32::NAN).is_nan());
        let t = |x| call(&|x, y| map_fun(x, y, Tanh), x);
        assert_eq!((t(f32::INFINITY), t(f32::NEG_INFINITY), t(0.0)), (1.0, -1.0, 0.0));
        let r = |x| call(&|x, y| map_fun(x, y, Erf), x);
        assert_eq!((r(f32::INFINITY), r(f32::NEG_INFINITY), r(0.0)), (1.0, -1.0, 0.0));
        assert!(t(f32::NAN).is_nan() && r(f32::NAN).is_nan());
    }
}
