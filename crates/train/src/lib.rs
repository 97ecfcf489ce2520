//! wgrad-train.
