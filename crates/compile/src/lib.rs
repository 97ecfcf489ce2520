//! The compiler: a graph of primitives becomes a short list of fused kernels over a planned memory, for a device
//! of which it knows nothing but [`DeviceCaps`].
//!
//! Passes, in order, each leaving something that `wgrad_ir` can verify and print:
//! 0. [`inline`](mod@inline): functions without a kernel become their bodies;
//!    [`loops`](mod@loops): loops without what is not needed or does not change, on aligned slices;
//!    [`phases`](mod@phases): convolutions of operands without holes;
//!    [`widen`](mod@widen): 16-bit floats and bytes are computed with in 32 bits;
//! 1. [`simplify`](mod@simplify): fold constants, collapse movements, merge equal nodes, drop dead ones;
//!    [`remat`](mod@remat): compute activations again;
//!    [`schedule`](mod@schedule): run early what shrinks memory;
//!    [`concat`](mod@concat): sums of padded pieces become concatenations;
//! 2. [`split`](mod@split): reductions in two passes, where rows or many invocations gain from it (and, after 5., long contractions);
//! 3. [`fuse`](mod@fuse): decide which nodes get memory of their own; all others are computed inside of kernels;
//! 4. [`lower`](mod@lower): one kernel per such node, views folded into index arithmetic;
//! 5. [`merge`](mod@merge): maps over one space, reductions with the work around them, products with the work after them;
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
use wgrad_ir::{DType, DeviceCaps, Graph, IrError, NodeId, Program, verify_graph, verify_program};

pub mod concat;
pub mod fuse;
pub mod inline;
pub mod layout;
pub mod loops;
pub mod lower;
pub mod merge;
pub mod phases;
pub mod plan;
pub mod remat;
pub mod schedule;
pub mod simplify;
pub mod split;
pub mod widen;

/// Which passes run. All do by default; tests turn them off one by one, and the results must agree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Options {
    /// Rewrite the graph ([`simplify`](mod@simplify)); without it, only dead nodes are dropped.
    pub simplify: bool,
    /// Compute elementwise nodes inside of the kernels that use them; without it every one is a kernel of its own.
    pub fuse: bool,
    /// Merge maps over one space ([`merge`](mod@merge)).
    pub merge: bool,
    /// Merge reductions along rows with each other and with the work around them.
    pub rows: bool,
    /// Merge elementwise work into the products before it.
    pub epilogues: bool,
    /// Compute functions by the device's kernels; without it, by their bodies.
    pub kernels: bool,
    /// Read slices and write the parts of concatenations in place, and update donated inputs in place.
    pub in_place: bool,
    /// Let intermediates whose lives do not overlap share a buffer.
    pub reuse_memory: bool,
    /// Run early what shrinks memory ([`schedule`](mod@schedule)).
    pub schedule: bool,
    /// Compute activations again for the backward pass where that is cheap ([`remat`](mod@remat)).
    pub rematerialize: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options::from_bits(u16::MAX)
    }
}

impl Options {
    /// The options as bits, in the order of the fields, the first one lowest: all that tests need to go through the matrix.
    pub fn from_bits(bits: u16) -> Self {
        let bit = |n: u16| bits >> n & 1 == 1;
        Options {
            simplify: bit(0),
            fuse: bit(1),
            merge: bit(2),
            rows: bit(3),
            epilogues: bit(4),
            kernels: bit(5),
            in_place: bit(6),
            reuse_memory: bit(7),
            schedule: bit(8),
            rematerialize: bit(9),
        }
    }

    /// What the fields are called on a command line, in their order.
    pub const NAMES: [&str; 10] = [
        "simplify",
        "fuse",
        "merge",
        "rows",
        "epilogues",
        "kernels",
        "in-place",
        "reuse-memory",
        "schedule",
        "rematerialize",
    ];

    /// All passes but those that are named, each as in [`Options::NAMES`]; `all` are all of them. `None` if a name is not known.
    ///
    /// ```
    /// use wgrad_compile::Options;
    /// let plain = Options::without(&["rows", "epilogues"]).unwrap();
    /// assert!(plain.fuse && !plain.rows && !plain.epilogues);
    /// assert_eq!(Options::without(&["fusion"]), None);
    /// ```
    pub fn without(names: &[impl AsRef<str>]) -> Option<Self> {
        let mut bits = u16::MAX;
        for name in names.iter().map(AsRef::as_ref) {
            bits &= match name {
                "all" => 0,
                _ => !(1 << Self::NAMES.iter().position(|known| *known == name)?),
            };
        }
        Some(Self::from_bits(bits))
    }

    /// A number that tells option sets apart, for the program cache.
    pub fn fingerprint(&self) -> u64 {
        let Options {
            simplify,
            fuse,
            merge,
            rows,
            epilogues,
            kernels,
            in_place,
            reuse_memory,
            schedule,
            rematerialize,
        } = *self;
        let bits = [
            simplify,
            fuse,
            merge,
            rows,
            epilogues,
            kernels,
            in_place,
            reuse_memory,
            schedule,
            rematerialize,
        ];
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
    let inlined = inline::inline(graph, caps, options.kernels)?;
    debug_verify(&inlined)?;
    let inlined = phases::split_phases(&inlined)?;
    debug_verify(&inlined)?;
    let prepared = loops::prepare(&inlined, caps)?;
    debug_verify(&prepared)?;
    let widened = widen::widen(&prepared)?;
    debug_verify(&widened)?;
    let simple = simplify::simplify(&widened, options.simplify)?;
    let simple = if options.rematerialize {
        remat::rematerialize(&simple, &made(&simple, caps, options))?
    } else {
        simple
    };
    debug_verify(&simple)?;
    let simple =
        if options.schedule { schedule::schedule(&simple, &made(&simple, caps, options))? } else { simple };
    debug_verify(&simple)?;
    let simple = simplify::drop_barriers(&simple)?;
    let simple = if options.simplify { concat::concat_pieces(&simple)? } else { simple };
    let simple = simplify::prune(&simple)?;
    debug_verify(&simple)?;
    let split = split::split_reductions(&simple, caps)?;
    debug_verify(&split)?;
    let loops = lower::LoopPrograms::compile(&split, caps, options)?;
    // A kernel that would read one part of a buffer and write another cannot write in place: such parts get buffers of their own.
    let mut blocked: Vec<NodeId> = Vec::new();
    let program = loop {
        let layout = fuse::realized(&split, caps, options, &blocked);
        let mut kernels = lower::lower(&layout, &loops)?;
        if options.merge || options.rows || options.epilogues {
            kernels = merge::merge(kernels, &layout, caps, options, graph.donated());
        }
        let conflicts = plan::conflicts(&layout, &kernels);
        if conflicts.is_empty() {
            split::split_products(&mut kernels, caps);
            break plan::plan(graph, &layout, kernels, caps, options);
        }
        blocked.extend(conflicts);
    };
    if cfg!(debug_assertions) {
        verify_program(&program)?;
    }
    Ok(program)
}

/// Which nodes kernels will write, as far as fusion decides it.
fn made(graph: &Graph, caps: &DeviceCaps, options: &Options) -> Vec<bool> {
    fuse::realized(graph, caps, options, &[]).realized
}

fn debug_verify(graph: &Graph) -> Result<(), IrError> {
    if cfg!(debug_assertions) { verify_graph(graph) } else { Ok(()) }
}
