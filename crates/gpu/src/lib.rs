//! wgrad-gpu.
