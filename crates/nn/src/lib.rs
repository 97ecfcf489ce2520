//! wgrad-nn.
