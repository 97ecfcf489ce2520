//! Runs wgrad programs natively on the CPU: the default device where there is no GPU, and the oracle that GPU results are
//! compared with.
//!
//! A kernel is compiled once, when its program is prepared: maps become loops over runs of addresses (`walk`), expressions
//! become instructions over cache-sized blocks (`tape`), whose loops are compiled for each SIMD level and chosen at run time
//! (`lanes`). Running a program plans nothing and, once its memory is in the pool, allocates next to nothing.

mod after;
mod ahead;
mod args;
mod attention;
mod attention_grad;
mod backend;
mod casts;
mod column_sums;
mod conv;
mod cost;
mod cumulate;
mod device;
mod direct;
mod dots;
mod exec;
mod few_rows;
mod filters;
mod fold;
mod frame;
mod halves;
mod lanes;
mod large;
mod load;
mod long_row;
mod map;
mod math;
mod matmul;
mod memory;
mod ops;
mod outer;
mod padded;
mod pairs;
mod panels;
mod product;
mod random;
mod reduce;
mod row;
mod scatter;
mod scratch;
mod shifted;
mod softmax;
mod sort;
mod square;
mod store;
mod tape;
mod threads;
mod tile;
mod unfold;
mod unfolded;
mod walk;

pub use backend::CpuBackend;
pub use device::CpuDevice;
