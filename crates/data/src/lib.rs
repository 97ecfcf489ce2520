//! wgrad-data.
