//! wgrad-derive.
