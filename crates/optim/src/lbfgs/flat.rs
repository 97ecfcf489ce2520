//! Parameters as one vector.

use wgrad_nn::Param;
use wgrad_tensor::{Shape, Tensor, TensorError};

use crate::arena::{STRIDE, join};

/// Parameters end to end, with gaps of zeros as in arenas.
#[derive(Debug)]
pub(super) struct Flat {
    pub(super) params: Vec<(String, Param)>,
    places: Vec<(Shape, usize)>,
}

impl Flat {
    pub(super) fn new(params: Vec<(String, Param)>) -> Self {
        let mut end = 0_usize;
        let place = |(_, param): &(String, Param)| {
            let shape = param.tensor().shape().clone();
            let offset = end.next_multiple_of(STRIDE);
            end = offset + shape.elements();
            (shape, offset)
        };
        let places = params.iter().map(place).collect();
        Flat { params, places }
    }

    /// Elements of the vector, gaps included.
    pub(super) fn len(&self) -> usize {
        self.places.last().map_or(0, |(shape, offset)| offset + shape.elements())
    }

    /// The values.
    pub(super) fn values(&self) -> Vec<Tensor> {
        self.params.iter().map(|(_, param)| param.tensor()).collect()
    }

    /// Tensors of the parameters' shapes as one vector, lazy.
    pub(super) fn gather(&self, tensors: &[Tensor]) -> Tensor {
        join(tensors.iter().map(|t| t.reshape([t.elements()])))
    }

    /// Lets the parameters be slices of a computed vector.
    pub(super) fn install(&self, flat: &Tensor) {
        for ((name, param), (shape, offset)) in self.params.iter().zip(&self.places) {
            param.set(flat.narrow(0, *offset, shape.elements()).reshape(shape).named(name));
        }
    }

    /// Whether a parameter has another shape than it had.
    pub(super) fn changed(&self) -> Option<&str> {
        let all = self.params.iter().zip(&self.places);
        all.into_iter()
            .find(|((_, p), (shape, _))| p.tensor().shape() != shape)
            .map(|((name, _), _)| name.as_str())
    }
}

/// `Σ a b`, rank 0.
pub(super) fn dot(a: &Tensor, b: &Tensor) -> Tensor {
    a.mul(b).sum_all()
}

/// The largest `|x|`, on the host.
pub(super) fn largest(x: &Tensor) -> Tensor {
    x.abs().amax(&[0], false)
}

/// Computes tensors in one program and returns them as leaves.
pub(super) fn leaves<const N: usize>(tensors: [Tensor; N]) -> Result<[Tensor; N], TensorError> {
    wgrad_tensor::eval(&tensors.iter().collect::<Vec<_>>())?;
    let mut leaves = tensors.clone();
    for (leaf, tensor) in leaves.iter_mut().zip(&tensors) {
        *leaf = tensor.to_leaf()?;
    }
    Ok(leaves)
}
