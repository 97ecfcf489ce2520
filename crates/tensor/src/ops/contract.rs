//! Matrix products.

use wgrad_ir::{Op, Shape};

use crate::Tensor;

impl Tensor {
    /// `[batch.., m, k] x [batch.., k, n] -> [batch.., m, n]`, batch axes broadcast; both operands have rank 2 or more. A matrix on
    /// the right is applied to all rows on the left in one product (a linear layer).
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        if let Some(faulty) = [self, other].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
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
}
