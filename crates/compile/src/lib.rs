//! wgrad-compile.
