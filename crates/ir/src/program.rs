//! Programs: kernels in order over a planned memory.

use std::sync::Arc;

use crate::{DType, Kernel, Shape};

/// A buffer of a program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum BufferRef {
    /// Given by the caller, read-only.
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
    /// It is an input, untouched.
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

/// One kernel and the buffers it works on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// What is computed; equal kernels share code.
    pub kernel: Arc<Kernel>,
    /// The buffers, in the order in which the kernel numbers them.
    pub args: Vec<BufferRef>,
    /// The primitives it came from, for tables and messages (`mul+add+tanh`).
    pub label: String,
}

/// A compiled graph, neutral of the kind of device: kernels in order, and a plan of the memory they need.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Program {
    /// The buffers a caller gives.
    pub inputs: Vec<BufferSpec>,
    /// The scalars a caller gives.
    pub scalars: Vec<DType>,
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

    /// Bytes that the kernels of a run load and store, each element of each argument once per kernel: what a device with
    /// no cache between kernels and a perfect one within them would move.
    pub fn bytes_moved(&self) -> u64 {
        self.steps.iter().map(|step| step.args.iter().map(|a| self.bytes(*a)).sum::<u64>()).sum()
    }

    /// The part of [`Program::bytes_moved`] that no fusion can save: operands and results of contractions, gathers and
    /// scatters, and the program's own inputs and results where elementwise kernels touch them (optimizer state), once each.
    pub fn bytes_minimum(&self) -> u64 {
        let mut seen: Vec<BufferRef> = Vec::new();
        let mut bytes = 0;
        for step in &self.steps {
            if matches!(*step.kernel, Kernel::MatMul(_) | Kernel::ScatterAdd(_)) {
                bytes += step.args.iter().take(3).map(|a| self.bytes(*a)).sum::<u64>();
                continue;
            }
            for arg in step.args.iter().filter(|a| !matches!(a, BufferRef::Temp(_))) {
                if !seen.contains(arg) {
                    seen.push(*arg);
                    bytes += self.bytes(*arg);
                }
            }
        }
        bytes
    }

    /// Floating-point operations of all contractions of a run.
    pub fn flops(&self) -> u64 {
        self.steps.iter().map(|s| s.kernel.flops()).sum()
    }
}
