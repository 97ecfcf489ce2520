//! wgrad-runtime.
