//! Graphs of single operations, compiled to the fused kernel and to the kernels of its definition: what the criterion
//! benches time against each other.
#![forbid(unsafe_code)]

mod attention;
mod builder;
mod cases;
mod prepared;

pub use cases::{Case, Work, cases};
pub use prepared::Prepared;

/// What can go wrong while a bench is set up or run.
pub type Error = Box<dyn std::error::Error>;
