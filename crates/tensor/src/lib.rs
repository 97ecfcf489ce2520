//! wgrad-tensor.
