//! Clipping of gradients by their global norm (Pascanu, Mikolov and Bengio, 2013).

use wgrad_tensor::Tensor;

/// `√(Σ g²)` over all elements of all gradients, rank 0; `None` for no gradients.
pub fn global_norm<'a>(gradients: impl IntoIterator<Item = &'a Tensor>) -> Option<Tensor> {
    gradients.into_iter().map(|g| g.square().sum_all()).reduce(|a, b| a.add(&b)).map(|sum| sum.sqrt())
}

/// `min(1, max_norm / (norm + 1e-6))`, what PyTorch's `clip_grad_norm_` multiplies each gradient by.
pub fn clip_coefficient(norm: &Tensor, max_norm: f64) -> Tensor {
    let constant = |value| Tensor::constant(value, norm.dtype(), norm.device());
    let max_norm = Tensor::scalar(max_norm, norm.dtype(), norm.device());
    max_norm.div(norm.add(constant(1e-6))).minimum(constant(1.0))
}
