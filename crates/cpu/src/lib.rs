//! wgrad-cpu.
