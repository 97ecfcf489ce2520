//! The traits that a runtime implements.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use wgrad_ir::{DType, DeviceCaps, Literal, Program};

use crate::{Buffer, DeviceError, ProgramCache, Readback};

/// A shared device.
pub type DeviceHandle = Arc<dyn Device>;

/// Something that holds buffers and runs programs.
pub trait Device: Send + Sync + fmt::Debug {
    /// Unique among all devices opened by this process (`<dyn Device>::next_uid` gives it).
    fn uid(&self) -> u64;

    /// What it is.
    fn info(&self) -> &DeviceInfo;

    /// What the compiler must know of it.
    fn caps(&self) -> &DeviceCaps;

    /// Its compiled programs.
    fn cache(&self) -> &ProgramCache;

    /// Copies host elements (native byte order; `bool` as one byte each) to the device.
    ///
    /// # Errors
    /// Out of memory, larger than the device's buffers may be, or the device is lost.
    fn upload(&self, bytes: &[u8], dtype: DType) -> Result<Buffer, DeviceError>;

    /// Starts to copy elements back to the host, in the layout that [`Device::upload`] takes. The copy is in the device's queue
    /// when this returns; work queued later does not delay it.
    ///
    /// # Errors
    /// The device is lost, or the buffer belongs to another device. An index that a kernel found out of range since the last
    /// read ends the readback with [`DeviceError::IndexOutOfRange`].
    fn read(&self, buffer: &Buffer, dtype: DType) -> Result<Readback, DeviceError> {
        self.read_range(buffer, dtype, 0..buffer.bytes() as usize / self.caps().storage_bytes(dtype))
    }

    /// As [`Device::read`], of a range of the elements.
    ///
    /// # Errors
    /// As [`Device::read`]; the range does not lie in the buffer.
    fn read_range(
        &self,
        buffer: &Buffer,
        dtype: DType,
        elements: Range<usize>,
    ) -> Result<Readback, DeviceError>;

    /// Makes a program ready to run: checks limits, builds pipelines.
    ///
    /// # Errors
    /// A buffer exceeds a limit, or the device has no kernel for a dtype.
    fn prepare(&self, program: Arc<Program>) -> Result<Arc<dyn Executable>, DeviceError>;

    /// Waits until all queued work is done.
    ///
    /// # Errors
    /// The device is lost.
    fn synchronize(&self) -> Result<(), DeviceError>;

    /// Measures each step of later runs, or ceases to. Measuring costs time.
    ///
    /// # Errors
    /// The device cannot: it has no timestamps.
    fn set_profiling(&self, on: bool) -> Result<(), DeviceError>;

    /// Bytes that a buffer of `bytes` takes from the system: as many, unless the device rounds sizes so that buffers of
    /// neighbouring sizes can follow each other in the same memory.
    fn allocation_bytes(&self, bytes: u64) -> u64 {
        bytes
    }

    /// Counters since the device was opened.
    fn stats(&self) -> DeviceStats;
}

impl dyn Device {
    /// A number that no other device of this process has.
    pub fn next_uid() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

/// A program that a device is ready to run.
pub trait Executable: Send + Sync {
    /// The program.
    fn program(&self) -> &Program;

    /// Queues one run. `inputs` and `scalars` follow the program's lists.
    ///
    /// An input that the program updates is overwritten where `inputs` holds its only handle ([`Buffer::is_unique`]); where
    /// something else holds it too, the run updates a copy, and the given buffer stays as it is.
    ///
    /// # Errors
    /// Out of memory (nothing has been changed then), a buffer of another device or size, or the device is lost.
    fn run(&self, inputs: Vec<Buffer>, scalars: &[Literal]) -> Result<RunOutput, DeviceError>;

    /// How long each step of the latest run took, in order of execution; waits for it. Empty where that run was not profiled
    /// ([`Device::set_profiling`]).
    ///
    /// # Errors
    /// The device is lost.
    fn profile(&self) -> Result<Vec<StepTime>, DeviceError>;
}

/// What a run gives back.
#[derive(Clone, Debug, Default)]
pub struct RunOutput {
    /// One buffer per `program.results`.
    pub results: Vec<Buffer>,
    /// One buffer per `program.updates`: the given one, or a copy, with the new elements.
    pub updated: Vec<Buffer>,
}

/// How long one dispatch took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepTime {
    /// Which step of the program; a step of several dispatches occurs several times.
    pub step: usize,
    /// Nanoseconds from the start of the run's first dispatch to the start of this one.
    pub start_nanos: u64,
    /// Nanoseconds that it took.
    pub nanos: u64,
}

/// What kind of processor is behind a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeviceKind {
    /// The native CPU runtime.
    Cpu,
    /// A GPU with memory of its own.
    DiscreteGpu,
    /// A GPU that shares the CPU's memory.
    IntegratedGpu,
    /// A GPU seen through a hypervisor, or of unknown kind.
    VirtualGpu,
    /// A GPU driver that computes on the CPU (lavapipe, WARP): correct and slow.
    SoftwareGpu,
}

/// A device as people see it.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// What `--device` takes: `cpu`, `gpu:0`.
    pub id: String,
    /// The processor's or adapter's name.
    pub name: String,
    /// What kind of processor.
    pub kind: DeviceKind,
    /// Interface and driver (`Vulkan, llvmpipe Mesa 22.3.6`).
    pub driver: String,
    /// Limits and features, in the order in which to print them.
    pub details: Vec<(String, String)>,
}

/// Counters of a device, ever growing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DeviceStats {
    /// Programs run.
    pub runs: u64,
    /// Nanoseconds inside of [`Executable::run`]: computing on the CPU, encoding and submitting on a GPU.
    pub run_nanos: u64,
    /// Kernels dispatched.
    pub dispatches: u64,
    /// Buffers taken from the system (not from the pool).
    pub allocations: u64,
    /// Bytes of live buffers, pooled ones included.
    pub allocated_bytes: u64,
    /// Largest `allocated_bytes` so far.
    pub peak_bytes: u64,
    /// Pipelines or other compiled code made.
    pub pipelines: u64,
    /// Queue submissions.
    pub submissions: u64,
    /// Bind groups made.
    pub bind_groups: u64,
    /// Inputs that a run had to copy before it updated them, because something else held them too.
    pub copied_inputs: u64,
}
