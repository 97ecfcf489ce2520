//! wgrad-models.
