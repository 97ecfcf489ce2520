//! Joining tensors.

use wgrad_ir::Op;

use crate::Tensor;

impl Tensor {
    /// Joins tensors along an existing axis; all other extents must agree.
    #[track_caller]
    pub fn cat(tensors: &[&Tensor], dim: isize) -> Tensor {
        let Some(first) = tensors.first() else {
            return Tensor::apply("cat", Op::Concat { axis: 0 }, &[]);
        };
        if let Some(faulty) = tensors.iter().find(|t| t.error().is_some()) {
            return (*faulty).clone();
        }
        match first.axis(dim, 0) {
            Ok(_) if tensors.len() == 1 => (*first).clone(),
            Ok(axis) => Tensor::apply("cat", Op::Concat { axis }, tensors),
            Err(message) => first.fail("cat", message),
        }
    }

    /// Joins tensors of one shape along a new axis at `dim` of the result.
    #[track_caller]
    pub fn stack(tensors: &[&Tensor], dim: isize) -> Tensor {
        let mut raised = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            raised.push(tensor.unsqueeze(dim));
        }
        Tensor::cat(&raised.iter().collect::<Vec<_>>(), dim)
    }
}
