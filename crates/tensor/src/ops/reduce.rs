//! Reductions along axes, and what is made of them. `dims` may count from the back (-1 is the last axis) and in any order; with
//! `keepdim`, reduced axes stay with extent 1. An empty `dims` stands for all axes, as in PyTorch, and 0 and -1 for the axis that a
//! scalar does not have. Of 16-bit floats all of it is computed in `f32`, and the result is rounded once.

use smallvec::SmallVec;
use wgrad_ir::{DType, Op, ReduceOp, Shape};

use crate::Tensor;

impl Tensor {
    #[track_caller]
    fn reduce(&self, name: &'static str, op: ReduceOp, dims: &[isize], keepdim: bool) -> Tensor {
        let axes = match self.reduced(dims) {
            Ok(axes) => axes,
            Err(message) => return self.fail(name, message),
        };
        if axes.is_empty() {
            return self.clone();
        }
        let reduced = Tensor::apply(name, Op::Reduce { op, axes: axes.clone() }, &[self]);
        if keepdim { reduced } else { reduced.without(&axes) }
    }

    /// The axes that a reduction over `dims` is over: all of them where it names none.
    pub(crate) fn reduced(&self, dims: &[isize]) -> Result<SmallVec<[usize; 6]>, String> {
        if dims.is_empty() { Ok((0..self.rank()).collect()) } else { self.axes(dims) }
    }

    /// Removes reduced axes.
    #[track_caller]
    fn without(&self, axes: &[usize]) -> Tensor {
        // A reduction that failed is a scalar and has no such axes; it goes through as it is.
        if self.error().is_some() {
            return self.clone();
        }
        let kept = self.shape().iter().enumerate().filter(|(i, _)| !axes.contains(i));
        self.reshape(kept.map(|(_, &d)| d).collect::<Shape>())
    }

    /// Numbers in which sums and products of this dtype's fit better than in itself: `i32` for `u8` and `bool`, else the same.
    #[track_caller]
    pub(crate) fn counted(&self) -> Tensor {
        if matches!(self.dtype(), DType::U8 | DType::Bool) { self.cast(DType::I32) } else { self.clone() }
    }

    fn all_dims(&self) -> Vec<isize> {
        (0..self.rank() as isize).collect()
    }

    /// Number of elements that a reduction over `dims` combines (0 where they are not axes; the reduction then fails).
    fn count(&self, dims: &[isize]) -> usize {
        self.reduced(dims).map_or(0, |axes| axes.iter().map(|&a| self.shape()[a]).product())
    }

    /// `Σ x`; 0 over an empty axis. Sums of `u8` and `bool` are `i32`; integers wrap.
    #[track_caller]
    pub fn sum(&self, dims: &[isize], keepdim: bool) -> Tensor {
        self.counted().reduce("sum", ReduceOp::Sum, dims, keepdim)
    }

    /// `Σ x / n` (float); NaN over an empty axis.
    #[track_caller]
    pub fn mean(&self, dims: &[isize], keepdim: bool) -> Tensor {
        if !self.dtype().is_float() {
            return self.fail("mean", format!("expects floats, got {}; `cast` first", self.describe()));
        }
        let x = self.widened();
        let sum = x.reduce("mean", ReduceOp::Sum, dims, keepdim);
        sum.over(self.count(dims) as f64).cast(self.dtype())
    }

    /// The largest element; NaN where one is. The gradient is split evenly among all that attain it.
    #[track_caller]
    pub fn amax(&self, dims: &[isize], keepdim: bool) -> Tensor {
        self.extreme("amax", ReduceOp::Max, dims, keepdim)
    }

    /// The smallest element; NaN where one is. The gradient is split evenly among all that attain it.
    #[track_caller]
    pub fn amin(&self, dims: &[isize], keepdim: bool) -> Tensor {
        self.extreme("amin", ReduceOp::Min, dims, keepdim)
    }

    #[track_caller]
    fn extreme(&self, name: &'static str, op: ReduceOp, dims: &[isize], keepdim: bool) -> Tensor {
        match self.dtype() {
            DType::Bool => self.counted().reduce(name, op, dims, keepdim).cast(DType::Bool),
            _ => self.reduce(name, op, dims, keepdim),
        }
    }

    /// `Σ (x - x̄)² / (n - 1)` if `unbiased`, else `/ n`; the mean is taken first, so that nothing cancels.
    #[track_caller]
    pub fn var(&self, dims: &[isize], unbiased: bool, keepdim: bool) -> Tensor {
        if !self.dtype().is_float() {
            return self.fail("var", format!("expects floats, got {}; `cast` first", self.describe()));
        }
        let n = self.count(dims) as f64 - f64::from(u8::from(unbiased));
        let x = self.widened();
        let deviation = x.sub(x.mean(dims, true));
        let sum = deviation.square().reduce("var", ReduceOp::Sum, dims, keepdim);
        sum.over(n).cast(self.dtype())
    }

    /// The elements divided by a count; NaN where there is nothing to divide by. (Devices may take 0 times anything for 0.)
    #[track_caller]
    fn over(&self, n: f64) -> Tensor {
        match n > 0.0 {
            true => self.mul(self.constant_like(1.0 / n)),
            false => self.mul(self.constant_like(f64::NAN)).add(self.constant_like(f64::NAN)),
        }
    }

    /// `ln Σ eˣ`, with the largest element taken out of the sum so that nothing overflows. `-inf` where all elements are, and over an
    /// empty axis; `inf` where one is.
    #[track_caller]
    pub fn logsumexp(&self, dims: &[isize], keepdim: bool) -> Tensor {
        const NAME: &str = "logsumexp";
        if self.error().is_none() && !self.dtype().is_float() {
            return self.fail(NAME, format!("expects floats, got {}; `cast` first", self.describe()));
        }
        if self.count(dims) == 0 {
            // The logarithm of a sum of nothing.
            return self.reduce(NAME, ReduceOp::Sum, dims, keepdim).log();
        }
        let x = self.widened();
        let max = x.reduce(NAME, ReduceOp::Max, dims, true).detach();
        // An infinity cannot be taken out; without it, the sum and its logarithm are what they should be.
        let max = max.isinf().where_(&max.constant_like(0.0), &max);
        let sum = x.sub(&max).exp().reduce(NAME, ReduceOp::Sum, dims, true);
        let result = sum.log().add(max).cast(self.dtype());
        match self.reduced(dims) {
            Ok(axes) if !keepdim => result.without(&axes),
            _ => result,
        }
    }

    /// `e^(x - max) / Σ e^(x - max)` along one axis. Where all elements are `-inf` the result is NaN, as in PyTorch: mask with a large
    /// negative number.
    #[track_caller]
    pub fn softmax(&self, dim: isize) -> Tensor {
        if self.is_empty_along(dim) {
            return self.clone();
        }
        let x = self.widened();
        let max = x.reduce("softmax", ReduceOp::Max, &[dim], true).detach();
        let e = x.sub(max).exp();
        e.div(e.reduce("softmax", ReduceOp::Sum, &[dim], true)).cast(self.dtype())
    }

    /// `x - max - ln Σ e^(x - max)` along one axis.
    #[track_caller]
    pub fn log_softmax(&self, dim: isize) -> Tensor {
        if self.is_empty_along(dim) {
            return self.clone();
        }
        let x = self.widened();
        let max = x.reduce("log_softmax", ReduceOp::Max, &[dim], true).detach();
        let shifted = x.sub(max);
        shifted.sub(shifted.exp().reduce("log_softmax", ReduceOp::Sum, &[dim], true).log()).cast(self.dtype())
    }

    /// Whether there is nothing to compute along a valid axis, of floats.
    fn is_empty_along(&self, dim: isize) -> bool {
        self.elements() == 0 && self.dtype().is_float() && self.axis(dim, 0).is_ok()
    }

    /// The sum of all elements, rank 0.
    #[track_caller]
    pub fn sum_all(&self) -> Tensor {
        self.sum(&self.all_dims(), false)
    }

    /// The mean of all elements (float), rank 0.
    #[track_caller]
    pub fn mean_all(&self) -> Tensor {
        self.mean(&self.all_dims(), false)
    }
}
