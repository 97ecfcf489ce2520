//! What the generator hands to a runtime.

use std::sync::Arc;

use thiserror::Error;

/// What stands behind one binding of a dispatch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Resource {
    /// A buffer of the [`Step`](wgrad_ir::Step) that runs the kernel, by its position in `args`.
    Arg(u32),
    /// The program's scalars: one 32-bit word each, in the program's order.
    Scalars,
    /// The device's status: one word, to which kernels add bit 0 when an index was out of range.
    Status,
}

/// One storage buffer that a dispatch binds; its number is its position in [`Dispatch::bindings`], its group 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Binding {
    /// What is bound.
    pub resource: Resource,
    /// Whether the shader writes it (`read_write`, else `read`).
    pub writable: bool,
}

/// A complete shader and how to launch it. Dispatches with equal `source` can share a pipeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dispatch {
    /// WGSL text with one compute entry point, `main`.
    pub source: Arc<str>,
    /// Storage buffers in binding order.
    pub bindings: Vec<Binding>,
    /// The grid, in workgroups.
    pub workgroups: [u32; 3],
    /// Invocations of one workgroup.
    pub workgroup_size: u32,
    /// Whether the text needs subgroup operations.
    pub subgroups: bool,
}

impl Dispatch {
    /// The entry point's name.
    pub const ENTRY: &str = "main";
}

/// Why a kernel has no WGSL.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KernelError {
    /// WGSL has no such type.
    #[error("{what} in f64; WGSL has no f64: cast to f32, or use `--device cpu`")]
    F64 {
        /// The kind of kernel.
        what: &'static str,
    },
    /// Addresses are 32-bit.
    #[error("{what} spans {elements} elements; kernels count to 2^31 - 1: split the tensor")]
    TooManyElements {
        /// What is too large.
        what: &'static str,
        /// Its size.
        elements: usize,
    },
    /// The grid does not fit.
    #[error("{needed} workgroups are needed, and the device takes {limit} in each of three dimensions")]
    GridTooLarge {
        /// Workgroups wanted.
        needed: u64,
        /// Most per dimension.
        limit: u32,
    },
    /// Mesa's llvmpipe ends all loops of an invocation after 65,535 iterations in total, silently.
    #[error(
        "{what} needs {iterations} loop iterations of one invocation, and software adapters stop after 65535: \
        use `--device cpu`, or split the tensor"
    )]
    TooManyIterations {
        /// The kind of kernel.
        what: &'static str,
        /// Iterations wanted.
        iterations: usize,
    },
    /// The compiler broke a rule of the IR; a defect of wgrad.
    #[error("inconsistent kernel: {0} (this is a defect in wgrad; please report it)")]
    Inconsistent(String),
}
