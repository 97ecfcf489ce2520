//! wgrad-ir.
