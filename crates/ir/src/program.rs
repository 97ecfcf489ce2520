//! Programs: kernels in order over a planned memory.

use std::sync::Arc;

use crate::{DType, Kernel, Shape};

/// A buffer of a program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum BufferRef {
    /// Given by the caller; read-only unless it is one of [`Program::updates`].
    Input(u32),
    /// Allocated for the caller: `Program::results[i]`.
    Output(u32),
    /// Planned scratch: `Program::temps[i]`, reused by tensors whose lives do not overlap.
    Temp(u32),
}

/// A tensor in a buffer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BufferSpec {
    /// Extents.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
    /// Bytes on the device the program was compiled for.
    pub bytes: u64,
}

/// Where a wanted tensor is found after a run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OutputSource {
    /// In a buffer that the run allocated.
    Result(u32),
    /// It is an input: untouched, or updated in place.
    Input(u32),
}

/// One wanted tensor.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OutputSpec {
    /// Where it is.
    pub source: OutputSource,
    /// Its extents.
    pub shape: Shape,
    /// Its element type.
    pub dtype: DType,
}

/// What a kernel binds: a range of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Arg {
    /// The buffer.
    pub buffer: BufferRef,
    /// First byte, a multiple of [`Arg::ALIGNMENT`].
    pub offset: u64,
    /// Length in bytes: what the kernel may touch, and no more.
    pub bytes: u64,
}

impl Arg {
    /// What offsets are multiples of: every device can bind from there.
    pub const ALIGNMENT: u64 = 256;

    /// Whether the two share a byte.
    pub fn overlaps(&self, other: &Arg) -> bool {
        self.buffer == other.buffer
            && self.offset < other.offset + other.bytes
            && other.offset < self.offset + self.bytes
    }
}

/// One kernel and the buffers it works on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// What is computed; equal kernels share code.
    pub kernel: Arc<Kernel>,
    /// The buffers, in the order in which the kernel numbers them.
    pub args: Vec<Arg>,
    /// The primitives it came from, for tables and messages (`mul+add+tanh`).
    pub label: String,
}

impl Step {
    /// The step's part of [`Program::bytes_moved`].
    pub fn bytes_moved(&self) -> u64 {
        self.args.iter().enumerate().map(|(a, arg)| traffic(self, a, arg)).sum()
    }
}

/// A compiled graph, neutral of the kind of device: kernels in order, and a plan of the memory they need.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Program {
    /// The buffers a caller gives.
    pub inputs: Vec<BufferSpec>,
    /// The scalars a caller gives.
    pub scalars: Vec<DType>,
    /// The inputs that a run updates in place, ascending: whoever runs the program gives them up. Kernels see them as inputs that
    /// they also write, and an output that is such an input has the new elements.
    pub updates: Vec<u32>,
    /// Buffers allocated for the caller at each run.
    pub results: Vec<BufferSpec>,
    /// Bytes of each reused scratch buffer.
    pub temps: Vec<u64>,
    /// The wanted tensors, in the graph's order.
    pub outputs: Vec<OutputSpec>,
    /// The kernels, in order.
    pub steps: Vec<Step>,
}

impl Program {
    /// Bytes of one buffer.
    pub fn bytes(&self, buffer: BufferRef) -> u64 {
        match buffer {
            BufferRef::Input(i) => self.inputs[i as usize].bytes,
            BufferRef::Output(i) => self.results[i as usize].bytes,
            BufferRef::Temp(i) => self.temps[i as usize],
        }
    }

    /// Bytes that a run allocates beyond its inputs: results and scratch.
    pub fn allocated_bytes(&self) -> u64 {
        self.results.iter().map(|r| r.bytes).sum::<u64>() + self.temps.iter().sum::<u64>()
    }

    /// Bytes of all buffers of a run, inputs included: what the device must hold at once.
    pub fn peak_bytes(&self) -> u64 {
        self.inputs.iter().map(|r| r.bytes).sum::<u64>() + self.allocated_bytes()
    }

    /// Bytes that the kernels of a run load and store, each element of each argument once per kernel (twice where it is both
    /// read and written): what a device with no cache between kernels and a perfect one within them would move.
    pub fn bytes_moved(&self) -> u64 {
        self.steps.iter().map(Step::bytes_moved).sum()
    }

    /// The part of [`Program::bytes_moved`] that no fusion can save: operands and results of contractions, attention, gathers
    /// and scatters once each (of a product's fused results, one), all of what an optimizer's update reads and writes, and the
    /// program's own inputs and results where elementwise kernels touch them.
    pub fn bytes_minimum(&self) -> u64 {
        let mut seen: Vec<Arg> = Vec::new();
        let mut bytes = 0;
        for step in &self.steps {
            let arg = |a: u32| step.args[a as usize].bytes;
            match &*step.kernel {
                Kernel::MatMul(k) => {
                    let product = k.stores.iter().map(|s| arg(s.arg)).max().unwrap_or(0);
                    bytes += arg(k.a.arg) + arg(k.b.arg) + product;
                }
                Kernel::Conv(k) => {
                    let product = k.stores.iter().map(|s| arg(s.arg)).max().unwrap_or(0);
                    bytes += arg(k.x.arg) + arg(k.w.arg) + product;
                }
                Kernel::ScatterAdd(_) => bytes += arg(0) + arg(1) + arg(2),
                Kernel::Sort(_) => bytes += arg(0) + arg(1),
                Kernel::Attention(_) => bytes += step.args.iter().map(|a| a.bytes).sum::<u64>(),
                Kernel::AttentionGrad(k) => {
                    bytes += step.args.iter().map(|a| a.bytes).sum::<u64>() - arg(k.delta);
                }
                Kernel::Map(_) | Kernel::Row(_) | Kernel::Reduce(_) | Kernel::Cumulate(_) => {
                    let updates = step
                        .kernel
                        .writes()
                        .iter()
                        .any(|&a| matches!(step.args[a as usize].buffer, BufferRef::Input(_)));
                    for (a, arg) in step.args.iter().enumerate() {
                        if updates {
                            bytes += traffic(step, a, arg);
                        } else if !matches!(arg.buffer, BufferRef::Temp(_)) && !seen.contains(arg) {
                            seen.push(*arg);
                            bytes += arg.bytes;
                        }
                    }
                }
            }
        }
        bytes
    }

    /// Bytes that the kernels of a run write: the sum of all tensors that the program makes, updated inputs left out.
    pub fn bytes_written(&self) -> u64 {
        let written = |step: &Step| -> u64 {
            let args = step.kernel.writes().into_iter().map(|a| step.args[a as usize]);
            args.filter(|a| !matches!(a.buffer, BufferRef::Input(_))).map(|a| a.bytes).sum()
        };
        self.steps.iter().map(written).sum()
    }

    /// Floating-point operations of all contractions of a run.
    pub fn flops(&self) -> u64 {
        self.steps.iter().map(|s| s.kernel.flops()).sum()
    }
}

/// Bytes that a step moves through one argument.
fn traffic(step: &Step, a: usize, arg: &Arg) -> u64 {
    let a = a as u32;
    if let Kernel::MatMul(k) = &*step.kernel
        && k.split.is_some_and(|split| split.scratch().any(|scratch| scratch == a))
    {
        // Written by the parts and read by their sum.
        return 2 * arg.bytes;
    }
    if step.kernel.reads(a) && step.kernel.writes().contains(&a) { 2 * arg.bytes } else { arg.bytes }
}
