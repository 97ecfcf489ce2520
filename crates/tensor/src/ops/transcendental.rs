//! Functions made of the primitive ones, each accurate where the textbook formula cancels, each with its own derivative.

use std::f64::consts::{FRAC_PI_2, PI};

use wgrad_ir::DType;

use crate::{Tensor, function_with_gradient};

/// A function of one operand, and its derivative as a function of the operand.
#[track_caller]
fn curve(
    name: &'static str,
    x: &Tensor,
    body: fn(&Tensor) -> Tensor,
    slope: fn(&Tensor) -> Tensor,
) -> Tensor {
    if x.error().is_none() && !x.dtype().is_float() {
        return x.fail(name, format!("expects floats, got {}; `cast` first", x.describe()));
    }
    if x.dtype().is_half() {
        return curve(name, &x.widened(), body, slope).cast(x.dtype());
    }
    let gradient = |b: &crate::Backward<'_>| vec![b.cotangents[0].mul(slope(&b.operands[0]))];
    function_with_gradient(name, &[x], 1, |x| vec![body(&x[0])], gradient)[0].clone()
}

/// `Σ cₙ zⁿ`, by Horner's rule.
#[track_caller]
fn polynomial(z: &Tensor, coefficients: impl DoubleEndedIterator<Item = f64>) -> Tensor {
    let mut sum = z.constant_like(0.0);
    for (n, c) in coefficients.rev().enumerate() {
        let c = z.constant_like(c);
        sum = if n == 0 { c } else { sum.mul(z).add(c) };
    }
    sum
}

/// `x`, or `f64` or `f32` terms of a series where few are enough.
fn terms(x: &Tensor, double: usize, single: usize) -> usize {
    if x.dtype() == DType::F64 { double } else { single }
}

impl Tensor {
    /// `ln(1 + x)`, accurate near 0: there by `2 artanh(x / (2 + x))` (float).
    #[track_caller]
    pub fn log1p(&self) -> Tensor {
        let body = |x: &Tensor| {
            let c = |value: f64| x.constant_like(value);
            let s = x.div(x.add(c(2.0)));
            // |s| < 1/7 where |x| < 1/4.
            let n = terms(x, 11, 6);
            let near = s.mul(polynomial(&s.square(), (0..n).map(|n| 2.0 / (2 * n + 1) as f64)));
            x.abs().lt(c(0.25)).where_(&near, &x.add(c(1.0)).log())
        };
        curve("log1p", self, body, |x| x.add(x.constant_like(1.0)).reciprocal())
    }

    /// `eˣ - 1`, accurate near 0, by `tanh(x/2) (eˣ + 1)` (float).
    #[track_caller]
    pub fn expm1(&self) -> Tensor {
        let body = |x: &Tensor| {
            let c = |value: f64| x.constant_like(value);
            x.mul(c(0.5)).tanh().mul(x.exp().add(c(1.0)))
        };
        curve("expm1", self, body, Tensor::exp)
    }

    /// Logarithm to base 2 (float).
    #[track_caller]
    pub fn log2(&self) -> Tensor {
        self.log().mul(self.constant_like(std::f64::consts::LOG2_E))
    }

    /// Logarithm to base 10 (float).
    #[track_caller]
    pub fn log10(&self) -> Tensor {
        self.log().mul(self.constant_like(std::f64::consts::LOG10_E))
    }

    /// `2ˣ` (float).
    #[track_caller]
    pub fn exp2(&self) -> Tensor {
        self.mul(self.constant_like(std::f64::consts::LN_2)).exp()
    }

    /// Tangent of radians (float).
    #[track_caller]
    pub fn tan(&self) -> Tensor {
        let x = self.widened();
        x.sin().div(x.cos()).cast(self.dtype())
    }

    /// Hyperbolic sine, accurate near 0: `(t + t / (t + 1)) / 2` with `t = eˣ - 1` of `|x|` (float).
    #[track_caller]
    pub fn sinh(&self) -> Tensor {
        let body = |x: &Tensor| {
            let t = x.abs().expm1();
            let half = t.add(t.div(t.add(t.constant_like(1.0)))).mul(t.constant_like(0.5));
            x.lt(x.constant_like(0.0)).where_(&half.neg(), &half)
        };
        curve("sinh", self, body, Tensor::cosh)
    }

    /// Hyperbolic cosine `(eˣ + e⁻ˣ) / 2` (float).
    #[track_caller]
    pub fn cosh(&self) -> Tensor {
        self.exp().add(self.neg().exp()).mul(self.constant_like(0.5))
    }

    /// Arc tangent, in `[-π/2, π/2]` (float): twice halved, then by its series.
    #[track_caller]
    pub fn atan(&self) -> Tensor {
        let body = |x: &Tensor| {
            let c = |value: f64| x.constant_like(value);
            let size = x.abs();
            let steep = size.gt(c(1.0));
            let mut z = steep.where_(&size.clamp_from(1.0).reciprocal(), &size);
            for _ in 0..2 {
                // tan(a/2) = tan a / (1 + √(1 + tan² a))
                z = z.div(z.square().add(c(1.0)).sqrt().add(c(1.0)));
            }
            // z < tan(π/16) < 0.2.
            let n = terms(x, 13, 6);
            let sign = |n: usize| if n.is_multiple_of(2) { 4.0 } else { -4.0 };
            let angle = z.mul(polynomial(&z.square(), (0..n).map(|n| sign(n) / (2 * n + 1) as f64)));
            let angle = steep.where_(&c(FRAC_PI_2).sub(&angle), &angle);
            x.lt(c(0.0)).where_(&angle.neg(), &angle)
        };
        curve("atan", self, body, |x| x.square().add(x.constant_like(1.0)).reciprocal())
    }

    /// At least `value`, within a formula whose other branch takes over below.
    #[track_caller]
    fn clamp_from(&self, value: f64) -> Tensor {
        self.maximum(self.constant_like(value))
    }

    /// Angle of the point `(x, self)`, in `[-π, π]` (float); 0 at the origin.
    #[track_caller]
    pub fn atan2(&self, x: &Tensor) -> Tensor {
        if self.dtype().is_half() && x.dtype() == self.dtype() {
            return self.widened().atan2(&x.widened()).cast(self.dtype());
        }
        let y = self;
        let c = |value: f64| y.constant_like(value);
        let zero = c(0.0);
        // The quotient is at most 1 in size, and its gradient that of the angle, whichever is the divisor.
        let flat = y.abs().le(x.abs());
        let one = c(1.0);
        let origin = y.eq(&zero).logical_and(x.eq(&zero));
        let divisor = origin.where_(&one, &flat.where_(x, y));
        let quotient = flat.where_(y, &x.neg()).div(divisor).atan();
        let back = flat.logical_and(x.lt(&zero));
        let low = y.lt(&zero);
        let turn = low.where_(&c(-PI), &c(PI));
        let quarter = low.where_(&c(-FRAC_PI_2), &c(FRAC_PI_2));
        quotient.add(back.where_(&turn, &flat.where_(&zero, &quarter)))
    }

    /// Arc sine of `[-1, 1]` (float): `2 atan(x / (1 + √(1 - x²)))`.
    #[track_caller]
    pub fn asin(&self) -> Tensor {
        let body = |x: &Tensor| {
            let c = |value: f64| x.constant_like(value);
            let cos = c(1.0).sub(x).mul(c(1.0).add(x)).sqrt();
            x.div(cos.add(c(1.0))).atan().mul(c(2.0))
        };
        curve("asin", self, body, |x| x.constant_like(1.0).sub(x.square()).rsqrt())
    }

    /// Arc cosine of `[-1, 1]` (float): `2 atan2(√(1 - x), √(1 + x))`, accurate near 1.
    #[track_caller]
    pub fn acos(&self) -> Tensor {
        let body = |x: &Tensor| {
            let c = |value: f64| x.constant_like(value);
            c(1.0).sub(x).sqrt().atan2(&c(1.0).add(x).sqrt()).mul(c(2.0))
        };
        curve("acos", self, body, |x| x.constant_like(1.0).sub(x.square()).rsqrt().neg())
    }

    /// Inverse hyperbolic sine (float): `ln(1 + |x| + x² / (1 + √(1 + x²)))` with the sign of `x`.
    #[track_caller]
    pub fn asinh(&self) -> Tensor {
        let body = |x: &Tensor| {
            let one = x.constant_like(1.0);
            let square = x.square();
            let size = x.abs().add(square.div(square.add(&one).sqrt().add(&one))).log1p();
            x.lt(x.constant_like(0.0)).where_(&size.neg(), &size)
        };
        curve("asinh", self, body, |x| x.square().add(x.constant_like(1.0)).rsqrt())
    }

    /// Inverse hyperbolic cosine of `[1, ∞)` (float): `ln(1 + t + √(2t + t²))` with `t = x - 1`.
    #[track_caller]
    pub fn acosh(&self) -> Tensor {
        let body = |x: &Tensor| {
            let t = x.sub(x.constant_like(1.0));
            t.add(t.mul(x.constant_like(2.0)).add(t.square()).sqrt()).log1p()
        };
        curve("acosh", self, body, |x| x.square().sub(x.constant_like(1.0)).rsqrt())
    }

    /// Inverse hyperbolic tangent of `(-1, 1)` (float): `(ln(1 + x) - ln(1 - x)) / 2`.
    #[track_caller]
    pub fn atanh(&self) -> Tensor {
        let body = |x: &Tensor| x.log1p().sub(x.neg().log1p()).mul(x.constant_like(0.5));
        curve("atanh", self, body, |x| x.constant_like(1.0).sub(x.square()).reciprocal())
    }

    /// `1 - erf(x)` (float).
    #[track_caller]
    pub fn erfc(&self) -> Tensor {
        self.constant_like(1.0).sub(self.erf())
    }
}
