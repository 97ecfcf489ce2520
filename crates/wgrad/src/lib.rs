//! wgrad-wgrad.
