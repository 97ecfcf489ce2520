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

    /// Remainder with the sign of `b`, `a - b ⌊a / b⌋` (float), as Python's `%`; [`Tensor::fmod`] has the sign of `a`.
    #[track_caller]
    pub fn remainder(&self, other: impl IntoOperand) -> Tensor {
        let other = other.into_operand(self);
        if self.dtype().is_half() && other.dtype() == self.dtype() {
            return self.widened().remainder(other.widened()).cast(self.dtype());
        }
        self.sub(self.div(&other).floor().mul(&other))
    }

    /// Not below `min`; the gradient is that of the identity from `min` on, `min` included, else 0.
    #[track_caller]
    pub fn clamp_min(&self, min: f64) -> Tensor {
        let min = Tensor::scalar(min, self.dtype(), self.device());
        self.lt(&min).where_(&min, self)
    }

    /// Not above `max`; the gradient is that of the identity up to `max`, `max` included, else 0.
    #[track_caller]
    pub fn clamp_max(&self, max: f64) -> Tensor {
        let max = Tensor::scalar(max, self.dtype(), self.device());
        self.gt(&max).where_(&max, self)
    }

    /// `a + weight (b - a)`.
    #[track_caller]
    pub fn lerp(&self, end: &Tensor, weight: impl IntoOperand) -> Tensor {
        let weight = weight.into_operand(self);
        self.add(end.sub(self).mul(&weight))
    }

    /// Whether an element is not a number (float). GPUs need not keep such elements apart.
    #[track_caller]
    pub fn isnan(&self) -> Tensor {
        self.ne(self)
    }

    /// Whether an element is infinite (float). GPUs need not keep such elements apart.
    #[track_caller]
    pub fn isinf(&self) -> Tensor {
        self.abs().gt(self.largest())
    }

    /// Whether an element is neither infinite nor NaN (float). GPUs need not keep such elements apart.
    #[track_caller]
    pub fn isfinite(&self) -> Tensor {
        self.abs().le(self.largest())
    }

    fn largest(&self) -> Tensor {
        self.constant_like(match self.dtype() {
            DType::F64 => f64::MAX,
            DType::F16 => 65504.0,
            // Eight bits of the exponent, the last of them 0, and seven of the fraction.
            DType::BF16 => f64::from(f32::from_bits(0x7f7f_0000)),
            _ => f64::from(f32::MAX),
        })
    }

    /// Whether exactly one of the two holds (bool).
    #[track_caller]
    pub fn logical_xor(&self, other: &Tensor) -> Tensor {
        self.logical_or(other).logical_and(self.logical_and(other).logical_not())
    }
}
