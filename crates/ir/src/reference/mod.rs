//! What graphs and programs mean, one element at a time in `f64`: the oracle that the tests of every layer compare with.
//!
//! Behind the feature `reference`, which no shipped crate turns on. Everything here is slow and plain on purpose, and shares
//! nothing with the passes, kernels and gradient rules it judges: movements of a graph are followed index by index and not
//! through [`View`](crate::View)s, programs are evaluated one index of a kernel at a time.
//!
//! Elements of every dtype are held as `f64`, which is exact for all of them; truth values are 0 and 1. Graphs and programs
//! are taken as [`verify_graph`](crate::verify_graph) and [`verify_program`](crate::verify_program) accept them, with inputs
//! and scalars that fit: anything else panics, as is right in a test.
//!
//! ```
//! use wgrad_ir::{DType, Graph, Op, UnaryOp, reference::run_graph};
//! let mut g = Graph::new();
//! let x = g.push(Op::Input { index: 0, shape: [2].into(), dtype: DType::F32 }, &[])?;
//! let y = g.push(Op::Unary(UnaryOp::Sqrt), &[x])?;
//! g.set_outputs(vec![y]);
//! assert_eq!(run_graph(&g, &[vec![4.0, 9.0]], &[]), [[2.0, 3.0]]);
//! # Ok::<(), wgrad_ir::IrError>(())
//! ```

mod bounds;
mod graph;
mod index;
mod program;
mod random;
mod random_attention;
mod random_loop;
mod scalar;

pub use bounds::run_graph_within;
pub use graph::{node_values, run_graph};
pub use index::{indices, order, ravel, row, unravel};
pub use program::{Rounding, run_program};
pub use random::{
    Choice, LARGE_EXTENTS, RANDOM_GRAPH_SCALARS, RandomGraph, random_graph, random_graph_inputs,
    random_movement, random_parts,
};
pub use scalar::{binary, cast, compare, random, reduce, round, unary};
