//! A wgpu device as wgrad sees it.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use wgpu::{CommandEncoderDescriptor, Features, PollType, Queue};
use wgrad_ir::{DType, DeviceCaps, Program};
use wgrad_kernels::{Choices, MatMulVariant};
use wgrad_runtime::{
    Buffer, Device, DeviceError, DeviceInfo, DeviceStats, Executable, ProgramCache, Readback,
};

use crate::{
    cooperative,
    executable::GpuExecutable,
    faults::Faults,
    pipelines::Pipelines,
    pool::{Memory, Pool, Use, class},
    readback::GpuRead,
    tune::{Tuner, Variant},
};

/// What a device, its programs and its readbacks share.
pub(crate) struct Shared {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: Queue,
    pub(crate) info: DeviceInfo,
    pub(crate) caps: DeviceCaps,
    pub(crate) uid: u64,
    pub(crate) faults: Faults,
    pub(crate) pool: Arc<Pool>,
    pub(crate) pipelines: Pipelines,
    pub(crate) tuner: Tuner,
    /// The word to which kernels add 1 when an index was out of range.
    pub(crate) status: Memory,
    pub(crate) runs: AtomicU64,
    pub(crate) run_nanos: AtomicU64,
    pub(crate) dispatches: AtomicU64,
    pub(crate) submissions: AtomicU64,
    pub(crate) bind_groups: AtomicU64,
    pub(crate) copied_inputs: AtomicU64,
    /// Whether runs measure their steps.
    pub(crate) profiling: AtomicBool,
}

impl Shared {
    pub(crate) fn driver_error(&self, what: &str, message: String) -> DeviceError {
        DeviceError::Driver { device: self.info.id.clone(), what: what.to_owned(), message }
    }

    pub(crate) fn misuse(&self, message: String) -> DeviceError {
        DeviceError::Misuse { device: self.info.id.clone(), message }
    }

    /// The memory behind a handle of this device.
    pub(crate) fn memory(&self, buffer: &Buffer) -> Result<Arc<Memory>, DeviceError> {
        let mine = buffer.device() == self.uid;
        mine.then(|| buffer.downcast::<Memory>()).flatten().ok_or_else(|| {
            self.misuse("expected a buffer of this device, got one of another; use `to_device`".to_owned())
        })
    }

    /// Memory for a tensor, as a handle to give out.
    pub(crate) fn allocate(&self, bytes: u64, what: impl Fn() -> String) -> Result<Buffer, DeviceError> {
        let memory = self.pool.take(Use::Storage, bytes, what)?;
        Ok(Buffer::new(Arc::new(memory), bytes, self.uid))
    }
}

/// One opened adapter.
pub struct GpuDevice {
    shared: Arc<Shared>,
    cache: ProgramCache,
}

impl GpuDevice {
    pub(crate) fn new(
        device: wgpu::Device,
        queue: Queue,
        info: DeviceInfo,
        caps: DeviceCaps,
        matrices: Option<MatMulVariant>,
    ) -> Result<Arc<Self>, DeviceError> {
        let faults = Faults::install(&device, info.id.clone());
        let pool = Arc::new(Pool::new(
            device.clone(),
            faults.clone(),
            info.id.clone(),
            caps.software,
            caps.max_buffer_bytes,
        ));
        let status = pool.take(Use::Storage, 4, || "the status word".to_owned())?;
        if let Some(buffer) = status.buffer() {
            queue.write_buffer(buffer, 0, &[0; 4]);
        }
        let tuner = Tuner::new(&caps, &info);
        let shared = Shared {
            device,
            queue,
            info,
            caps,
            uid: <dyn Device>::next_uid(),
            faults,
            pool,
            pipelines: Pipelines::default(),
            tuner,
            status,
            runs: AtomicU64::new(0),
            run_nanos: AtomicU64::new(0),
            dispatches: AtomicU64::new(0),
            submissions: AtomicU64::new(0),
            bind_groups: AtomicU64::new(0),
            copied_inputs: AtomicU64::new(0),
            profiling: AtomicBool::new(false),
        };
        let device = Arc::new(GpuDevice { shared: Arc::new(shared), cache: ProgramCache::default() });
        if let Some(variant) = matrices
            && cooperative::agrees(&device, variant)?
        {
            device.shared.tuner.allow(variant);
        }
        Ok(device)
    }

    /// [`Device::prepare`] with given kernel variants; for tests and benchmarks.
    ///
    /// # Errors
    /// As [`Device::prepare`].
    pub fn prepare_with(
        &self,
        program: Arc<Program>,
        choices: &Choices,
    ) -> Result<Arc<dyn Executable>, DeviceError> {
        Ok(Arc::new(GpuExecutable::new(self.shared.clone(), program, choices)?))
    }

    /// The variants of matrix products and attention that were found by trying, by class of kernel: what a checkpoint keeps, so that a run
    /// which continues computes the same bits.
    pub fn tuning(&self) -> BTreeMap<String, String> {
        self.shared.tuner.choices()
    }

    /// Uses these variants ([`GpuDevice::tuning`] of an earlier run) for programs prepared from now on.
    ///
    /// # Errors
    /// One of them is none that this version knows; nothing has changed then.
    pub fn set_tuning(&self, choices: &BTreeMap<String, String>) -> Result<(), DeviceError> {
        let unknown = |what| {
            self.shared
                .misuse(format!("expected a variant of a matrix product or of attention, got `{what}`"))
        };
        self.shared.tuner.restore(choices).map_err(unknown)
    }

    /// Tries `candidates` for each new class of the kernels that they are variants of, and remembers the fastest in `file`. Without candidates nothing is tried.
    /// A device begins with the candidates that suit it, and a file in the user's cache folder; software adapters with none.
    pub fn autotune<V: Copy + Into<Variant>>(&self, candidates: &[V], file: Option<PathBuf>) {
        self.shared.tuner.set(candidates.iter().map(|&candidate| candidate.into()).collect(), file);
    }

    fn too_large(&self, bytes: u64) -> Option<DeviceError> {
        (bytes > self.shared.caps.max_buffer_bytes).then(|| DeviceError::TooLarge {
            device: self.shared.info.id.clone(),
            tensor: "an uploaded tensor".to_owned(),
            buffer: None,
            kernel: "upload".to_owned(),
            bytes,
            limit: self.shared.caps.max_buffer_bytes,
            limit_name: "max_buffer_size",
        })
    }
}

impl Device for GpuDevice {
    fn uid(&self) -> u64 {
        self.shared.uid
    }

    fn info(&self) -> &DeviceInfo {
        &self.shared.info
    }

    fn caps(&self) -> &DeviceCaps {
        &self.shared.caps
    }

    fn cache(&self) -> &ProgramCache {
        &self.cache
    }

    fn upload(&self, bytes: &[u8], dtype: DType) -> Result<Buffer, DeviceError> {
        let shared = &self.shared;
        if dtype == DType::F64 {
            return Err(DeviceError::Unsupported {
                device: shared.info.id.clone(),
                what: "f64 (cast to f32, or use `--device cpu`)".to_owned(),
            });
        }
        if !bytes.len().is_multiple_of(dtype.host_bytes()) {
            return Err(
                shared.misuse(format!("{} bytes are no whole number of {dtype} elements", bytes.len()))
            );
        }
        let words: Vec<u8>;
        // Bytes as kernels see them: `bool` and `u8` take a word, and an odd 16-bit float at the end its own.
        let stored = match dtype {
            DType::Bool => {
                words = bytes.iter().flat_map(|&b| u32::from(b != 0).to_ne_bytes()).collect();
                &words
            }
            DType::U8 => {
                words = bytes.iter().flat_map(|&b| u32::from(b).to_ne_bytes()).collect();
                &words
            }
            _ if !bytes.len().is_multiple_of(4) => {
                words = bytes.iter().copied().chain([0; 2]).collect();
                &words
            }
            _ => bytes,
        };
        if let Some(error) = self.too_large(stored.len() as u64) {
            return Err(error);
        }
        let size = (bytes.len() / dtype.host_bytes() * shared.caps.storage_bytes(dtype)) as u64;
        let buffer = shared.allocate(size, || "an uploaded tensor".to_owned())?;
        let memory = shared.memory(&buffer)?;
        if let Some(target) = memory.buffer()
            && !stored.is_empty()
        {
            shared.faults.scoped(&shared.device, "an upload", stored.len() as u64, || {
                shared.queue.write_buffer(target, 0, stored);
            })?;
        }
        shared.faults.check("an upload")?;
        Ok(buffer)
    }

    fn read_range(
        &self,
        buffer: &Buffer,
        dtype: DType,
        elements: Range<usize>,
    ) -> Result<Readback, DeviceError> {
        let shared = &self.shared;
        let memory = shared.memory(buffer)?;
        let size = shared.caps.storage_bytes(dtype) as u64;
        let (start, end) = (elements.start as u64 * size, elements.end as u64 * size);
        if start > end || end > buffer.bytes() {
            let message = format!(
                "elements {elements:?} to read do not lie in a {dtype} buffer of {} bytes",
                buffer.bytes()
            );
            return Err(shared.misuse(message));
        }
        // Whole words are copied; the first 16-bit float that is wanted may be the second of one.
        let skipped = start % 4;
        let (start, wanted) = (start - skipped, end - start);
        let bytes = (skipped + wanted).next_multiple_of(4);
        let staging = shared.pool.take(Use::Readback, bytes + 4, || "a staging buffer".to_owned())?;
        let submission = if let (Some(from), Some(to), Some(status)) =
            (memory.buffer(), staging.buffer(), shared.status.buffer())
        {
            shared.faults.scoped(&shared.device, "a read back", bytes, || {
                let mut encoder =
                    shared.device.create_command_encoder(&CommandEncoderDescriptor { label: Some("read") });
                if bytes > 0 {
                    encoder.copy_buffer_to_buffer(from, start, to, 0, bytes);
                }
                encoder.copy_buffer_to_buffer(status, 0, to, bytes, 4);
                encoder.clear_buffer(status, 0, Some(4));
                shared.queue.submit([encoder.finish()])
            })?
        } else {
            return Err(shared.misuse("the buffer has been given back".to_owned()));
        };
        shared.submissions.fetch_add(1, Ordering::Relaxed);
        shared.faults.check("a read back")?;
        Ok(Readback::pending(GpuRead::start(
            shared.clone(),
            staging,
            submission,
            bytes,
            skipped..skipped + wanted,
            dtype,
        )))
    }

    fn prepare(&self, program: Arc<Program>) -> Result<Arc<dyn Executable>, DeviceError> {
        self.prepare_with(program, &Choices::default())
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        // Uploads wait in wgpu for the next submission.
        self.shared.queue.submit([]);
        let waited = self.shared.device.poll(PollType::wait_indefinitely());
        self.shared.faults.check("waiting for the queue")?;
        waited.map(|_| ()).map_err(|e| self.shared.driver_error("to wait for its queue", e.to_string()))
    }

    fn set_profiling(&self, on: bool) -> Result<(), DeviceError> {
        if on && !self.shared.device.features().contains(Features::TIMESTAMP_QUERY) {
            return Err(DeviceError::Unsupported {
                device: self.shared.info.id.clone(),
                what: "profiling (the adapter has no timestamps)".to_owned(),
            });
        }
        self.shared.profiling.store(on, Ordering::Relaxed);
        Ok(())
    }

    fn allocation_bytes(&self, bytes: u64) -> u64 {
        class(bytes, self.shared.caps.max_buffer_bytes)
    }

    fn stats(&self) -> DeviceStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (allocations, allocated_bytes, peak_bytes) = self.shared.pool.counters();
        DeviceStats {
            runs: load(&self.shared.runs),
            run_nanos: load(&self.shared.run_nanos),
            dispatches: load(&self.shared.dispatches),
            allocations,
            allocated_bytes,
            peak_bytes,
            pipelines: self.shared.pipelines.made(),
            submissions: load(&self.shared.submissions),
            bind_groups: load(&self.shared.bind_groups),
            copied_inputs: load(&self.shared.copied_inputs),
        }
    }
}

impl fmt::Debug for GpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuDevice")
            .field("id", &self.shared.info.id)
            .field("name", &self.shared.info.name)
            .finish_non_exhaustive()
    }
}
