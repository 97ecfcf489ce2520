//! The device: memory, programs, counters.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use wgrad_ir::{DType, DeviceCaps, Program};
use wgrad_runtime::{
    Buffer, Device, DeviceError, DeviceInfo, DeviceStats, Executable, ProgramCache, Readback,
    available_memory,
};

use crate::{
    backend,
    exec::CpuExecutable,
    memory::{Memory, Pool, class_of},
};

/// What the device shares with its programs.
pub(crate) struct Shared {
    pub(crate) uid: u64,
    pub(crate) info: DeviceInfo,
    pub(crate) pool: Arc<Pool>,
    pub(crate) counters: Counters,
    /// Whether runs measure their steps.
    pub(crate) profiling: AtomicBool,
    /// A kernel met an index out of range since the last read.
    pub(crate) out_of_range: AtomicBool,
}

/// Counters of work.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) runs: AtomicU64,
    pub(crate) run_nanos: AtomicU64,
    pub(crate) dispatches: AtomicU64,
    pub(crate) pipelines: AtomicU64,
    pub(crate) copied_inputs: AtomicU64,
}

/// The native CPU as a device. Runs are synchronous: what [`Executable::run`] returns is computed. Threads are rayon's, so
/// `RAYON_NUM_THREADS` or an enclosing pool limits them; results do not depend on their number.
pub struct CpuDevice {
    shared: Arc<Shared>,
    caps: DeviceCaps,
    cache: ProgramCache,
}

impl CpuDevice {
    /// Opens the device. Its pool keeps up to a quarter of the memory that is available now for reuse.
    pub fn new() -> Self {
        let info = backend::info();
        let pool = Pool::new(&info.id, (available_memory() / 4).max(64 << 20));
        CpuDevice {
            shared: Arc::new(Shared {
                uid: <dyn Device>::next_uid(),
                info,
                pool,
                counters: Counters::default(),
                profiling: AtomicBool::new(false),
                out_of_range: AtomicBool::new(false),
            }),
            caps: DeviceCaps::cpu(),
            cache: ProgramCache::default(),
        }
    }
}

impl Default for CpuDevice {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuDevice")
            .field("uid", &self.shared.uid)
            .field("name", &self.shared.info.name)
            .finish_non_exhaustive()
    }
}

impl Device for CpuDevice {
    fn uid(&self) -> u64 {
        self.shared.uid
    }

    fn info(&self) -> &DeviceInfo {
        &self.shared.info
    }

    fn caps(&self) -> &DeviceCaps {
        &self.caps
    }

    fn cache(&self) -> &ProgramCache {
        &self.cache
    }

    fn upload(&self, bytes: &[u8], dtype: DType) -> Result<Buffer, DeviceError> {
        let size = bytes.len() as u64;
        let mut taken =
            self.shared.pool.take([size].into_iter(), || format!("an upload of {dtype} elements"))?;
        let Some(memory) = taken.pop() else {
            return Err(DeviceError::Driver {
                device: self.shared.info.id.clone(),
                what: "an upload".into(),
                message: "the pool gave no memory".into(),
            });
        };
        // SAFETY: the memory is new, so nothing else accesses it, and it has at least as many bytes.
        let to = unsafe { std::slice::from_raw_parts_mut(memory.ptr(), bytes.len()) };
        to.copy_from_slice(bytes);
        Ok(Buffer::new(Arc::new(memory), size, self.shared.uid))
    }

    fn read_range(
        &self,
        buffer: &Buffer,
        dtype: DType,
        elements: Range<usize>,
    ) -> Result<Readback, DeviceError> {
        let device = self.shared.info.id.clone();
        let memory = match buffer.downcast::<Memory>() {
            Some(memory) if buffer.device() == self.shared.uid => memory,
            _ => {
                let message = format!("a {dtype} buffer to read lies on another device; read it there");
                return Err(DeviceError::Misuse { device, message });
            }
        };
        if self.shared.out_of_range.swap(false, Ordering::Relaxed) {
            return Ok(Readback::ready(Err(DeviceError::IndexOutOfRange { device })));
        }
        let mut host = Vec::new();
        let held = (buffer.bytes() as usize).min(memory.capacity());
        let size = dtype.host_bytes();
        let range = elements.start.checked_mul(size).zip(elements.end.checked_mul(size));
        let Some((start, end)) = range.filter(|&(start, end)| start <= end && end <= held) else {
            let message =
                format!("elements {elements:?} to read do not lie in a {dtype} buffer of {held} bytes");
            return Err(DeviceError::Misuse { device, message });
        };
        let bytes = end - start;
        if host.try_reserve_exact(bytes).is_err() {
            let (needed, available) = (bytes as u64, available_memory());
            let what = format!("the host's copy of {dtype} elements");
            return Err(DeviceError::OutOfMemory { device, what, needed, available });
        }
        // SAFETY: alive and initialised; nothing writes a buffer that a handle has been given out for.
        let all = unsafe { std::slice::from_raw_parts(memory.ptr(), held) };
        host.extend_from_slice(&all[start..end]);
        Ok(Readback::ready(Ok(host)))
    }

    fn prepare(&self, program: Arc<Program>) -> Result<Arc<dyn Executable>, DeviceError> {
        Ok(Arc::new(CpuExecutable::new(self.shared.clone(), program)?))
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn set_profiling(&self, on: bool) -> Result<(), DeviceError> {
        self.shared.profiling.store(on, Ordering::Relaxed);
        Ok(())
    }

    fn allocation_bytes(&self, bytes: u64) -> u64 {
        class_of(bytes) as u64
    }

    fn stats(&self) -> DeviceStats {
        let pool = self.shared.pool.stats();
        let counters = &self.shared.counters;
        let runs = counters.runs.load(Ordering::Relaxed);
        DeviceStats {
            runs,
            run_nanos: counters.run_nanos.load(Ordering::Relaxed),
            dispatches: counters.dispatches.load(Ordering::Relaxed),
            allocations: pool.allocations,
            allocated_bytes: pool.bytes,
            peak_bytes: pool.peak,
            pipelines: counters.pipelines.load(Ordering::Relaxed),
            submissions: runs,
            bind_groups: 0,
            copied_inputs: counters.copied_inputs.load(Ordering::Relaxed),
        }
    }
}
