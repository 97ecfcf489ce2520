//! Rounding, signs, remainders, and which numbers are numbers.

use wgrad_ir::DType;

use crate::{IntoOperand, Tensor, function_with_gradient};

impl Tensor {
    /// 1, 0 or -1 by the sign; its gradient is 0.
    #[track_caller]
    pub fn sign(&self) -> Tensor {
        let signs = |x: &Tensor| {
            let c = |value: f64| x.constant_like(value);
            x.gt(c(0.0)).where_(&c(1.0), &x.lt(c(0.0)).where_(&c(-1.0), &c(0.0)))
        };
        if !self.dtype().is_float() {
            return signs(self);
        }
        let flat = |x: &Tensor| Tensor::zeros(x.shape(), x.dtype(), x.device());
        function_with_gradient("sign", &[self], 1, |x| vec![signs(&x[0])], |b| vec![flat(&b.operands[0])])[0]
            .clone()
    }

    /// Smallest integer not below `x` (float); its gradient is 0.
    #[track_caller]
    pub fn ceil(&self) -> Tensor {
        self.neg().floor().neg()
    }

    /// `x` without what follows the point (float); its gradient is 0.
    #[track_caller]
    pub fn trunc(&self) -> Tensor {
        self.lt(self.constant_like(0.0)).where_(&self.ceil(), &self.floor())
    }

    /// What [`Tensor::trunc`] takes away: `x - trunc(x)`.
    #[track_caller]
    pub fn frac(&self) -> Tensor {
        self.sub(self.trunc())
    }

    /// The nearest integer, of two equally near ones the even one (float); its gradient is 0.
    #[track_caller]
    pub fn round(&self) -> Tensor {
        let c = |value: f64| self.constant_like(value);
        let below = self.floor();
        let rest = self.detach().sub(below.detach());
        let half = below.detach().mul(c(0.5));
        let odd = half.ne(half.floor());
        let up = rest.gt(c(0.5)).logical_or(rest.eq(c(0.5)).logical_and(&odd));
        up.where_(&below.add(c(1.0)), &below)
    }

    /// Remainder with the sign of `b`, `a - b ⌊a / b⌋`, as Python's `%`; [`Tensor::fmod`] has the sign of `a`. Integers give 0
    /// where `b` is 0.
    #[track_caller]
    pub fn remainder(&self, other: impl IntoOperand) -> Tensor {
        let (a, b) = other.beside(self);
        let rest = a.fmod(&b);
        if matches!(rest.dtype(), DType::U8 | DType::U32) {
            return rest;
        }
        let zero = rest.constant_like(0.0);
        let other_side = rest.lt(&zero).ne(b.lt(b.constant_like(0.0)));
        rest.ne(&zero).logical_and(other_side).where_(&rest.add(&b), &rest)
    }

    /// Not below `min`; the gradient is that of the identity from `min` on, `min` included, else 0.
    #[track_caller]
    pub fn clamp_min(&self, min: f64) -> Tensor {
        let (x, min) = self.with_limit(min);
        x.lt(&min).where_(&min, &x)
    }

    /// Not above `max`; the gradient is that of the identity up to `max`, `max` included, else 0.
    #[track_caller]
    pub fn clamp_max(&self, max: f64) -> Tensor {
        let (x, max) = self.with_limit(max);
        x.gt(&max).where_(&max, &x)
    }

    /// The elements and a limit of them, which is the dtype's own where it holds no number so large or small.
    fn with_limit(&self, limit: f64) -> (Tensor, Tensor) {
        if self.dtype().is_int() && limit.fract() == 0.0 {
            (self.clone(), limit.into_operand(self))
        } else {
            limit.beside(self)
        }
    }

    /// `a + weight (b - a)`.
    #[track_caller]
    pub fn lerp(&self, end: &Tensor, weight: impl IntoOperand) -> Tensor {
        self.add(end.sub(self).mul(weight))
    }

    /// Whether an element is not a number.
    #[track_caller]
    pub fn isnan(&self) -> Tensor {
        self.ne(self)
    }

    /// Whether an element is infinite.
    #[track_caller]
    pub fn isinf(&self) -> Tensor {
        if self.error().is_none() && !self.dtype().is_float() {
            return Tensor::zeros(self.shape(), DType::Bool, self.device());
        }
        let x = self.widened();
        x.abs().gt(x.largest())
    }

    /// Whether an element is neither infinite nor NaN.
    #[track_caller]
    pub fn isfinite(&self) -> Tensor {
        if self.error().is_none() && !self.dtype().is_float() {
            return Tensor::ones(self.shape(), DType::Bool, self.device());
        }
        let x = self.widened();
        x.abs().le(x.largest())
    }

    /// The largest number of the dtype. Shaders know comparisons with it, and ask for the bits.
    fn largest(&self) -> Tensor {
        self.constant_like(if self.dtype() == DType::F64 { f64::MAX } else { f64::from(f32::MAX) })
    }

    /// Whether exactly one of the two holds (bool).
    #[track_caller]
    pub fn logical_xor(&self, other: &Tensor) -> Tensor {
        self.logical_or(other).logical_and(self.logical_and(other).logical_not())
    }
}
