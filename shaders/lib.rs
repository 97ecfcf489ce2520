//! wgrad-kernels.
