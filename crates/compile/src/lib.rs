//! The compiler: a graph of primitives becomes a short list of fused kernels over a planned memory, for a device
//! of which it knows nothing but [`DeviceCaps`].
//!
//! Passes, in order, each leaving something that `wgrad_ir` can verify and print:
//! 1. [`simplify`](mod@simplify): fold constants, collapse movements, merge equal nodes, drop dead ones;
//! 2. [`split`](mod@split): long reductions in two passes, on devices that run many invocations at once;
//! 3. [`fuse`](mod@fuse): decide which nodes get memory of their own; all others are computed inside of kernels;
//! 4. [`lower`](mod@lower): one kernel per such node, views folded into index arithmetic;
//! 5. [`merge`](mod@merge): elementwise kernels over one space become one with several results;
//! 6. [`plan`](mod@plan): assign intermediates to a few reused buffers.
//!
//! ```
//! use wgrad_compile::{Options, compile};
//! use wgrad_ir::{BinaryOp, DType, DeviceCaps, Graph, Op, UnaryOp};
//! let mut g = Graph::new();
//! let x = g.push(Op::Input { index: 0, shape: [4].into(), dtype: DType::F32 }, &[])?;
//! let y = g.push(Op::Unary(UnaryOp::Exp), &[x])?;
//! let z = g.push(Op::Binary(BinaryOp::Mul), &[y, x])?;
//! g.set_outputs(vec![z]);
//! let program = compile(&g, &DeviceCaps::cpu(), &Options::default())?;
//! assert_eq!(program.steps.len(), 1); // exp and mul run as one kernel
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

use thiserror::Error;
use wgrad_ir::{DType, DeviceCaps, Graph, IrError, Program, verify_graph, verify_program};

pub mod fuse;
pub mod inline;
pub mod lower;
pub mod merge;
pub mod plan;
pub mod simplify;
pub mod split;

/// Which passes run. All do by default; tests turn them off one by one, and the results must agree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Options {
    /// Rewrite the graph ([`simplify`](mod@simplify)); without it, only dead nodes are dropped.
    pub simplify: bool,
    /// Compute elementwise nodes inside of the kernels that use them; without it every one is a kernel of its own.
    pub fuse: bool,
    /// Merge kernels over one space ([`merge`](mod@merge)).
    pub merge: bool,
    /// Let intermediates whose lives do not overlap share a buffer.
    pub reuse_memory: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { simplify: true, fuse: true, merge: true, reuse_memory: true }
    }
}

impl Options {
    /// A number that tells option sets apart, for the program cache.
    pub fn fingerprint(&self) -> u64 {
        let bits = [self.simplify, self.fuse, self.merge, self.reuse_memory];
        bits.iter().fold(0, |n, &b| n << 1 | u64::from(b))
    }
}

/// Why a graph did not compile.
#[derive(Clone, Debug, Error)]
pub enum CompileError {
    /// The graph is invalid, or a pass broke it.
    #[error(transparent)]
    Ir(#[from] IrError),
    /// The device does not compute with this dtype.
    #[error("{op} yields {dtype}, which this device does not compute with; cast to f32, or use the CPU")]
    Dtype {
        /// The operation.
        op: &'static str,
        /// Its dtype.
        dtype: DType,
    },
    /// A tensor has more bytes than can be counted.
    #[error(
        "{op} yields a tensor of shape {shape}, which has more bytes than any machine; check its extents"
    )]
    Overflow {
        /// The operation.
        op: &'static str,
        /// Its shape.
        shape: String,
    },
}

/// Compiles `graph` for a device.
///
/// # Errors
/// The graph is invalid, or holds a dtype that the device does not compute with.
pub fn compile(graph: &Graph, caps: &DeviceCaps, options: &Options) -> Result<Program, CompileError> {
    verify_graph(graph)?;
    for node in graph.nodes() {
        if node.dtype == DType::F64 && !caps.f64 {
            return Err(CompileError::Dtype { op: node.op.name(), dtype: node.dtype });
        }
        if node.shape.elements() > isize::MAX as usize / 8 {
            return Err(CompileError::Overflow { op: node.op.name(), shape: node.shape.to_string() });
        }
    }
    let inlined = inline::inline(graph, caps, false)?;
    debug_verify(&inlined)?;
    let simple = simplify::simplify(&inlined, options.simplify)?;
    let simple = simplify::drop_barriers(&simple)?;
    debug_verify(&simple)?;
    let split = split::split_reductions(&simple, caps)?;
    debug_verify(&split)?;
    let realized = fuse::realized(&split, caps, options.fuse);
    let mut kernels = lower::lower(&split, &realized)?;
    if options.merge {
        kernels = merge::merge(kernels, caps);
    }
    let program = plan::plan(graph, &split, kernels, caps, options.reuse_memory);
    if cfg!(debug_assertions) {
        verify_program(&program)?;
    }
    Ok(program)
}

fn debug_verify(graph: &Graph) -> Result<(), IrError> {
    if cfg!(debug_assertions) { verify_graph(graph) } else { Ok(()) }
}
