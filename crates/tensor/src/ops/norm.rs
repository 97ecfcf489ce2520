//! Norms, and distances by them.

use crate::Tensor;

impl Tensor {
    /// `√(Σ (x - x̄)² / (n - 1))` if `unbiased`, else with `/ n` (float).
    #[track_caller]
    pub fn std(&self, dims: &[isize], unbiased: bool, keepdim: bool) -> Tensor {
        self.widened().var(dims, unbiased, keepdim).sqrt().cast(self.dtype())
    }

    /// `(Σ |x|ᵖ)^(1/p)` over axes (float): 2 is Euclid's, 1 the sum of sizes, infinity the largest and minus infinity the smallest size, 0
    /// the number of elements that are not 0 (no gradient). Where the norm is 0, so is its gradient.
    #[track_caller]
    pub fn norm(&self, p: f64, dims: &[isize], keepdim: bool) -> Tensor {
        if self.error().is_none() && !self.dtype().is_float() {
            return self.fail("norm", format!("expects floats, got {}; `cast` first", self.describe()));
        }
        if self.dtype().is_half() {
            return self.widened().norm(p, dims, keepdim).cast(self.dtype());
        }
        if p == 1.0 {
            return self.abs().sum(dims, keepdim);
        }
        if p == f64::INFINITY {
            return self.abs().amax(dims, keepdim);
        }
        if p == f64::NEG_INFINITY {
            return self.abs().amin(dims, keepdim);
        }
        let zero = self.constant_like(0.0);
        if p == 0.0 {
            return self.ne(&zero).cast(self.dtype()).sum(dims, keepdim);
        }
        let power = if p == 2.0 { self.square() } else { self.abs().pow(self.constant_like(p)) };
        let sum = power.sum(dims, keepdim);
        // The root has no slope at 0; there the result is constant.
        let none = sum.eq(&zero);
        let safe = none.where_(&self.constant_like(1.0), &sum);
        let root = if p == 2.0 { safe.sqrt() } else { safe.pow(self.constant_like(p.recip())) };
        none.where_(&zero, &root)
    }

    /// `x / max(‖x‖ₚ, eps)` along an axis (float).
    #[track_caller]
    pub fn normalize(&self, p: f64, dim: isize, eps: f64) -> Tensor {
        let x = self.widened();
        x.div(x.norm(p, &[dim], true).clamp_min(eps)).cast(self.dtype())
    }

    /// `x·y / (max(‖x‖, eps) max(‖y‖, eps))` along an axis, broadcast along the others (float).
    #[track_caller]
    pub fn cosine_similarity(&self, other: &Tensor, dim: isize, eps: f64) -> Tensor {
        if let Some(faulty) = [self, other].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
        }
        if let (Some(x), Some(y)) = (self.lone(dim), other.lone(dim)) {
            return x.cosine_similarity(&y, dim, eps);
        }
        // Counted from the back, an axis stays where it is when axes are added in front.
        let rank = self.rank().max(other.rank()) as isize;
        let dim = if dim < 0 { dim } else { dim - rank };
        let (x, y) = (self.widened(), other.widened());
        x.normalize(2.0, dim, eps).mul(y.normalize(2.0, dim, eps)).sum(&[dim], false).cast(self.dtype())
    }

    /// Distances of all rows of two matrices, `‖xᵢ - yⱼ‖ₚ`: `[b.., m, d]` and `[b.., n, d]` give `[b.., m, n]` (float).
    #[track_caller]
    pub fn cdist(&self, other: &Tensor, p: f64) -> Tensor {
        let ([.., _, d], [.., _, e]) = (self.shape().dims(), other.shape().dims()) else {
            if let Some(faulty) = [self, other].into_iter().find(|t| t.error().is_some()) {
                return faulty.clone();
            }
            let message = format!(
                "expects [.., m, d] and [.., n, d], got {} and {}",
                self.describe(),
                other.describe()
            );
            return self.fail("cdist", message);
        };
        if d != e {
            let message =
                format!("expects rows of one length, got {} and {}", self.describe(), other.describe());
            return self.fail("cdist", message);
        }
        let (x, y) = (self.widened(), other.widened());
        x.unsqueeze(-2).sub(y.unsqueeze(-3)).norm(p, &[-1], false).cast(self.dtype())
    }
}
