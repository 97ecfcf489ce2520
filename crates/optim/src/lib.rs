//! wgrad-optim.
