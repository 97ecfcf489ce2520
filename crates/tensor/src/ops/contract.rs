//! Matrix products.

use wgrad_ir::{Op, Shape};

use crate::Tensor;

impl Tensor {
    /// `[batch.., m, k] x [batch.., k, n] -> [batch.., m, n]`, batch axes broadcast. A matrix on the right is applied to all rows on the
    /// left in one product (a linear layer). A vector on the left counts as a row, on the right as a column; the result lacks
    /// that axis.
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        if let Some(faulty) = [self, other].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
        }
        // A vector that does not fit is named as it came, not as the row or column that it stands for.
        let rows = other.shape().iter().rev().nth(usize::from(other.rank() > 1));
        if self.rank().min(other.rank()) == 1 && self.shape().last() != rows {
            let message = format!(
                "expects a vector as long as the other operand's contracted axis, got {} x {}",
                self.describe(),
                other.describe()
            );
            return self.fail("matmul", message);
        }
        if other.rank() == 1 {
            let product = self.matmul(&other.unsqueeze(-1));
            return if product.error().is_some() { product } else { product.squeeze(-1) };
        }
        if self.rank() == 1 {
            let product = self.unsqueeze(0).matmul(other);
            return if product.error().is_some() { product } else { product.squeeze(-2) };
        }
        let (a, b) = (self.shape().dims(), other.shape().dims());
        let misfit = || {
            format!(
                "expects [batch.., m, k] x [batch.., k, n], got {} x {}",
                self.describe(),
                other.describe()
            )
        };
        let ([batch_a @ .., m, k], [batch_b @ .., rows, n]) = (a, b) else {
            return self.fail("matmul", misfit());
        };
        if k != rows || self.dtype() != other.dtype() {
            return self.fail("matmul", misfit());
        }
        if batch_b.is_empty() && !batch_a.is_empty() {
            let flat: usize = batch_a.iter().product::<usize>() * m;
            let result: Shape = batch_a.iter().chain([m, n]).copied().collect();
            return Tensor::apply("matmul", Op::Dot, &[&self.reshape([flat, *k]), other]).reshape(result);
        }
        let Some(batch) = Shape::from(batch_a).broadcast(&Shape::from(batch_b)) else {
            return self.fail("matmul", misfit());
        };
        let left: Shape = batch.iter().chain([m, k]).copied().collect();
        let right: Shape = batch.iter().chain([k, n]).copied().collect();
        Tensor::apply("matmul", Op::Dot, &[&self.stretch("matmul", &left), &other.stretch("matmul", &right)])
    }

    /// [`Tensor::matmul`] of equally many matrices: `[batch, m, k] x [batch, k, n]`.
    #[track_caller]
    pub fn bmm(&self, other: &Tensor) -> Tensor {
        if let Some(faulty) = [self, other].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
        }
        if self.rank() != 3 || other.rank() != 3 || self.shape()[0] != other.shape()[0] {
            let message = format!(
                "expects [batch, m, k] x [batch, k, n], got {} x {}",
                self.describe(),
                other.describe()
            );
            return self.fail("bmm", message);
        }
        self.matmul(other)
    }

    /// `x yᵀ` of two vectors: `[m]` and `[n]` give `[m, n]`.
    #[track_caller]
    pub fn outer(&self, other: &Tensor) -> Tensor {
        if let Some(faulty) = [self, other].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
        }
        if self.rank() != 1 || other.rank() != 1 {
            let message = format!("expects vectors, got {} and {}", self.describe(), other.describe());
            return self.fail("outer", message);
        }
        self.unsqueeze(1).mul(other.unsqueeze(0))
    }

    /// `Σ x y` of two vectors, rank 0.
    #[track_caller]
    pub fn dot(&self, other: &Tensor) -> Tensor {
        if let Some(faulty) = [self, other].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
        }
        if self.rank() != 1 || self.shape() != other.shape() {
            let message =
                format!("expects vectors of one length, got {} and {}", self.describe(), other.describe());
            return self.fail("dot", message);
        }
        self.mul(other).sum(&[0], false)
    }
}
