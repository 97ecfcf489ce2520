//! The CPU with limits, and with failures on demand.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use wgrad_cpu::CpuDevice;
use wgrad_ir::{DType, DeviceCaps, Literal, Program};
use wgrad_runtime::{
    Buffer, Device, DeviceError, DeviceInfo, DeviceStats, Executable, ProgramCache, Readback, RunOutput,
    StepTime,
};

/// Runs programs on the CPU, unless told to fail.
#[derive(Debug)]
pub(crate) struct Fragile {
    cpu: CpuDevice,
    caps: DeviceCaps,
    pub(crate) broken: Arc<AtomicBool>,
}

impl Fragile {
    /// A device that binds at most `bytes` at once.
    pub(crate) fn new(bytes: u64) -> Self {
        let caps = DeviceCaps { max_binding_bytes: bytes, ..DeviceCaps::cpu() };
        Fragile { cpu: CpuDevice::new(), caps, broken: Arc::default() }
    }
}

struct Fallible {
    inner: Arc<dyn Executable>,
    broken: Arc<AtomicBool>,
}

impl Executable for Fallible {
    fn program(&self) -> &Program {
        self.inner.program()
    }

    fn run(&self, inputs: Vec<Buffer>, scalars: &[Literal]) -> Result<RunOutput, DeviceError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(DeviceError::Lost { device: "fragile".into(), reason: "it was told to fail".into() });
        }
        self.inner.run(inputs, scalars)
    }

    fn profile(&self) -> Result<Vec<StepTime>, DeviceError> {
        self.inner.profile()
    }
}

impl Device for Fragile {
    fn uid(&self) -> u64 {
        self.cpu.uid()
    }

    fn info(&self) -> &DeviceInfo {
        self.cpu.info()
    }

    fn caps(&self) -> &DeviceCaps {
        &self.caps
    }

    fn cache(&self) -> &ProgramCache {
        self.cpu.cache()
    }

    fn upload(&self, bytes: &[u8], dtype: DType) -> Result<Buffer, DeviceError> {
        self.cpu.upload(bytes, dtype)
    }

    fn read_range(
        &self,
        buffer: &Buffer,
        dtype: DType,
        elements: Range<usize>,
    ) -> Result<Readback, DeviceError> {
        self.cpu.read_range(buffer, dtype, elements)
    }

    fn prepare(&self, program: Arc<Program>) -> Result<Arc<dyn Executable>, DeviceError> {
        Ok(Arc::new(Fallible { inner: self.cpu.prepare(program)?, broken: self.broken.clone() }))
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.cpu.synchronize()
    }

    fn set_profiling(&self, on: bool) -> Result<(), DeviceError> {
        self.cpu.set_profiling(on)
    }

    fn stats(&self) -> DeviceStats {
        self.cpu.stats()
    }
}
