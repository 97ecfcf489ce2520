//! Reductions along axes, and what is made of them. `dims` may count from the back (-1 is the last axis) and in any order; with
//! `keepdim`, reduced axes stay with extent 1. An empty `dims` reduces nothing. Of 16-bit floats all of it is computed in `f32`, and
//! the result is rounded once.

use wgrad_ir::{Op, ReduceOp, Shape};

use crate::Tensor;

impl Tensor {
    #[track_caller]
    fn reduce(&self, name: &'static str, op: ReduceOp, dims: &[isize], keepdim: bool) -> Tensor {
        let axes = match self.axes(dims) {
            Ok(axes) => axes,
            Err(message) => return self.fail(name, message),
        };
        if axes.is_empty() {
            return self.clone();
        }
        let reduced = Tensor::apply(name, Op::Reduce { op, axes }, &[self]);
        if keepdim { reduced } else { reduced.drop_dims(dims) }
    }

    /// Removes reduced axes.
    #[track_caller]
    fn drop_dims(&self, dims: &[isize]) -> Tensor {
        match self.axes(dims) {
            // A reduction that failed is a scalar and has no such axes; it goes through as it is.
            Err(_) => self.clone(),
            Ok(axes) => {
                let kept = self.shape().iter().enumerate().filter(|(i, _)| !axes.contains(i));
                self.reshape(kept.map(|(_, &d)| d).collect::<Shape>())
            }
        }
    }

    fn all_dims(&self) -> Vec<isize> {
        (0..self.rank() as isize).collect()
    }

    /// Number of elements that a reduction over `dims` combines (0 where they are not axes; the reduction then fails).
    fn count(&self, dims: &[isize]) -> usize {
        self.axes(dims).map_or(0, |axes| axes.iter().map(|&a| self.shape()[a]).product())
    }

    /// `Σ x`; 0 over an empty axis.
    #[track_caller]
    pub fn sum(&self, dims: &[isize], keepdim: bool) -> Tensor {
        self.reduce("sum", ReduceOp::Sum, dims, keepdim)
    }

    /// `Σ x / n` (float); NaN over an empty axis.
    #[track_caller]
    pub fn mean(&self, dims: &[isize], keepdim: bool) -> Tensor {
        if !self.dtype().is_float() {
            return self.fail("mean", format!("expects floats, got {}; `cast` first", self.describe()));
        }
        let n = self.count(dims) as f64;
        let x = self.widened();
        x.reduce("mean", ReduceOp::Sum, dims, keepdim).mul(x.constant_like(1.0 / n)).cast(self.dtype())
    }

    /// The largest element. The gradient is split evenly among all that attain it.
    #[track_caller]
    pub fn amax(&self, dims: &[isize], keepdim: bool) -> Tensor {
        self.reduce("amax", ReduceOp::Max, dims, keepdim)
    }

    /// The smallest element. The gradient is split evenly among all that attain it.
    #[track_caller]
    pub fn amin(&self, dims: &[isize], keepdim: bool) -> Tensor {
        self.reduce("amin", ReduceOp::Min, dims, keepdim)
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
        sum.mul(x.constant_like(1.0 / n.max(0.0))).cast(self.dtype())
    }

    /// `ln Σ eˣ`, with the largest element taken out of the sum so that nothing overflows. Elements must be finite.
    #[track_caller]
    pub fn logsumexp(&self, dims: &[isize], keepdim: bool) -> Tensor {
        let x = self.widened();
        let max = x.reduce("logsumexp", ReduceOp::Max, dims, true).detach();
        let sum = x.sub(&max).exp().reduce("logsumexp", ReduceOp::Sum, dims, true);
        let result = sum.log().add(max).cast(self.dtype());
        if keepdim { result } else { result.drop_dims(dims) }
    }

    /// `e^(x - max) / Σ e^(x - max)` along one axis. Elements must be finite: mask with a large negative number.
    #[track_caller]
    pub fn softmax(&self, dim: isize) -> Tensor {
        let x = self.widened();
        let max = x.reduce("softmax", ReduceOp::Max, &[dim], true).detach();
        let e = x.sub(max).exp();
        e.div(e.reduce("softmax", ReduceOp::Sum, &[dim], true)).cast(self.dtype())
    }

    /// `x - max - ln Σ e^(x - max)` along one axis.
    #[track_caller]
    pub fn log_softmax(&self, dim: isize) -> Tensor {
        let x = self.widened();
        let max = x.reduce("log_softmax", ReduceOp::Max, &[dim], true).detach();
        let shifted = x.sub(max);
        shifted.sub(shifted.exp().reduce("log_softmax", ReduceOp::Sum, &[dim], true).log()).cast(self.dtype())
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
