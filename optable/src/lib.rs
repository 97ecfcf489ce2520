//! One table of all operations. A [`Row`] says how an operation is run from named tensors and attributes, which entries of the
//! reference data it answers for, and on what inputs it is tried.
//!
//! Three things go through the table: `cargo xtask parity` (the case `ops`), this package's tests (one device against the other,
//! finite differences, layouts and dtypes), and the list of operations in the documentation. An operation is added by one
//! expression in a file of `rows`; a new file is named in `rows/mod.rs`.
//!
//! ```
//! let table = wgrad_optable::table();
//! let relu = table.iter().find(|row| row.name == "relu").unwrap();
//! assert_eq!(relu.entries[0].name, "relu");
//! ```
#![forbid(unsafe_code)]

mod call;
mod list;
mod row;
mod rows;
mod sample;

pub use call::{Call, Outputs};
pub use list::operations_md;
pub use row::{Dtypes, Entry, Row, Run};
pub use rows::table;
pub use sample::{Input, Layout, Sample, Values, bools, floats, given, ints};
