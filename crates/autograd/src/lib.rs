//! wgrad-autograd.
