//! A device that plans and runs nothing: what a step will need, before anything is computed.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use wgrad_ir::{DType, DeviceCaps, Literal, Program};

use crate::{
    Buffer, Device, DeviceError, DeviceHandle, DeviceInfo, DeviceKind, DeviceStats, Executable, ProgramCache,
    Readback, RunOutput, StepTime, check_limits, spare_inputs, spare_results,
};

/// A device with the capabilities of another one that allocates and computes nothing. Buffers have a size and no memory, and
/// read as zeros; programs are compiled, checked against the limits and counted. What lives when, is known to the byte.
///
/// As real devices do, it keeps what is no longer used for buffers of the same size, and its [`DeviceStats`] count that too, though
/// without the bound that real pools have. [`PlanningDevice::peak_live_bytes`] leaves it out: idle memory goes back to the system
/// where there is no other.
pub struct PlanningDevice {
    shared: Arc<Shared>,
    caps: DeviceCaps,
    cache: ProgramCache,
}

/// One run of a program on a [`PlanningDevice`].
#[derive(Clone, Debug)]
pub struct PlannedRun {
    /// What would have run.
    pub program: Arc<Program>,
    /// Bytes that are allocated meanwhile, all tensors of the device included.
    pub live_bytes: u64,
    /// The part of them that is the program's scratch.
    pub scratch_bytes: u64,
}

struct Shared {
    uid: u64,
    info: DeviceInfo,
    /// The device that is planned for, which knows how allocations are rounded.
    model: Option<DeviceHandle>,
    memory: Arc<Memory>,
    runs: Mutex<Vec<PlannedRun>>,
    run_count: AtomicU64,
    dispatches: AtomicU64,
    copied_inputs: AtomicU64,
}

/// Memory that is not there.
#[derive(Default)]
struct Memory(Mutex<Counters>);

#[derive(Default)]
struct Counters {
    live: u64,
    peak_live: u64,
    /// Bytes taken from the system: what is alive, and what has been and waits to be used again.
    pooled: u64,
    peak_pooled: u64,
    /// Free allocations by size.
    free: HashMap<u64, u64>,
    allocations: u64,
}

impl Memory {
    fn take(&self, bytes: u64) {
        let mut c = lock(&self.0);
        match c.free.get_mut(&bytes) {
            Some(count) if *count > 0 => *count -= 1,
            _ => {
                c.pooled += bytes;
                c.allocations += 1;
            }
        }
        c.live += bytes;
        c.peak_live = c.peak_live.max(c.live);
        c.peak_pooled = c.peak_pooled.max(c.pooled);
    }

    /// Makes sure that so many buffers of these sizes are free.
    fn spare(&self, sizes: impl Iterator<Item = u64>) {
        let mut wanted: HashMap<u64, u64> = HashMap::new();
        sizes.for_each(|bytes| *wanted.entry(bytes).or_default() += 1);
        let mut c = lock(&self.0);
        for (bytes, count) in wanted {
            let missing = count.saturating_sub(c.free.get(&bytes).copied().unwrap_or(0));
            *c.free.entry(bytes).or_default() += missing;
            c.pooled += bytes * missing;
            c.allocations += missing;
        }
        c.peak_pooled = c.peak_pooled.max(c.pooled);
    }

    fn give_back(&self, bytes: u64) {
        let mut c = lock(&self.0);
        c.live -= bytes;
        *c.free.entry(bytes).or_default() += 1;
    }
}

/// An allocation that is counted until it is dropped.
struct Held {
    bytes: u64,
    memory: Arc<Memory>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

impl Shared {
    fn rounded(&self, bytes: u64) -> u64 {
        self.model.as_ref().map_or(bytes, |device| device.allocation_bytes(bytes))
    }

    fn hold(&self, bytes: u64) -> Held {
        let bytes = self.rounded(bytes);
        let memory = self.memory.clone();
        memory.take(bytes);
        Held { bytes, memory }
    }

    fn buffer(&self, bytes: u64) -> Buffer {
        Buffer::new(Arc::new(self.hold(bytes)), bytes, self.uid)
    }

    fn misuse(&self, message: String) -> DeviceError {
        DeviceError::Misuse { device: self.info.id.clone(), message }
    }
}

impl PlanningDevice {
    /// A device of these capabilities. Allocations take as many bytes as are asked for.
    pub fn new(info: DeviceInfo, caps: DeviceCaps) -> Self {
        Self::with_model(info, caps, None)
    }

    /// A device that plans for another one: with its name and capabilities, and allocations rounded as it rounds them.
    pub fn like(device: &DeviceHandle) -> Self {
        Self::with_model(device.info().clone(), device.caps().clone(), Some(device.clone()))
    }

    fn with_model(info: DeviceInfo, caps: DeviceCaps, model: Option<DeviceHandle>) -> Self {
        let shared = Shared {
            uid: <dyn Device>::next_uid(),
            info,
            model,
            memory: Arc::default(),
            runs: Mutex::default(),
            run_count: AtomicU64::new(0),
            dispatches: AtomicU64::new(0),
            copied_inputs: AtomicU64::new(0),
        };
        PlanningDevice { shared: Arc::new(shared), caps, cache: ProgramCache::default() }
    }

    /// The runs since the last call, in order.
    pub fn take_runs(&self) -> Vec<PlannedRun> {
        std::mem::take(&mut *lock(&self.shared.runs))
    }

    /// Bytes of what is alive.
    pub fn live_bytes(&self) -> u64 {
        lock(&self.shared.memory.0).live
    }

    /// Largest [`PlanningDevice::live_bytes`] so far: what must be there.
    pub fn peak_live_bytes(&self) -> u64 {
        lock(&self.shared.memory.0).peak_live
    }

    /// Gives back what nothing uses, and forgets the peaks so far: they count anew from what is alive now.
    pub fn reset_peaks(&self) {
        let mut c = lock(&self.shared.memory.0);
        c.free.clear();
        (c.pooled, c.peak_live, c.peak_pooled) = (c.live, c.live, c.live);
    }
}

impl fmt::Debug for PlanningDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanningDevice").field("id", &self.shared.info.id).finish_non_exhaustive()
    }
}

impl Device for PlanningDevice {
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
        let stored = (bytes.len() / dtype.host_bytes() * self.caps.storage_bytes(dtype)) as u64;
        if stored > self.caps.max_buffer_bytes {
            return Err(DeviceError::TooLarge {
                device: self.shared.info.id.clone(),
                tensor: "an uploaded tensor".to_owned(),
                buffer: None,
                kernel: "upload".to_owned(),
                bytes: stored,
                limit: self.caps.max_buffer_bytes,
                limit_name: "max_buffer_size",
            });
        }
        Ok(self.shared.buffer(stored))
    }

    fn read_range(&self, _: &Buffer, dtype: DType, elements: Range<usize>) -> Result<Readback, DeviceError> {
        Ok(Readback::ready(Ok(vec![0; elements.len() * dtype.host_bytes()])))
    }

    fn prepare(&self, program: Arc<Program>) -> Result<Arc<dyn Executable>, DeviceError> {
        check_limits(&self.shared.info.id, &self.caps, &program)?;
        let (shared, has_run) = (self.shared.clone(), AtomicBool::new(false));
        Ok(Arc::new(Planned { program, shared, kept: Mutex::default(), has_run }))
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn set_profiling(&self, _on: bool) -> Result<(), DeviceError> {
        let what = "measuring a plan, which runs nothing,".to_owned();
        Err(DeviceError::Unsupported { device: self.shared.info.id.clone(), what })
    }

    fn allocation_bytes(&self, bytes: u64) -> u64 {
        self.shared.rounded(bytes)
    }

    fn stats(&self) -> DeviceStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (shared, memory) = (&self.shared, lock(&self.shared.memory.0));
        DeviceStats {
            runs: load(&shared.run_count),
            dispatches: load(&shared.dispatches),
            allocations: memory.allocations,
            allocated_bytes: memory.pooled,
            peak_bytes: memory.peak_pooled,
            copied_inputs: load(&shared.copied_inputs),
            ..DeviceStats::default()
        }
    }
}

/// A program that is counted instead of run.
struct Planned {
    program: Arc<Program>,
    shared: Arc<Shared>,
    /// A GPU keeps a program's scratch from run to run; the CPU takes it for each run.
    kept: Mutex<Option<Vec<Held>>>,
    has_run: AtomicBool,
}

impl Executable for Planned {
    fn program(&self) -> &Program {
        &self.program
    }

    fn run(&self, inputs: Vec<Buffer>, scalars: &[Literal]) -> Result<RunOutput, DeviceError> {
        let (shared, program) = (&*self.shared, &*self.program);
        let fits = inputs.len() == program.inputs.len()
            && inputs.iter().zip(&program.inputs).all(|(b, spec)| b.bytes() == spec.bytes)
            && inputs.iter().all(|b| b.device() == shared.uid)
            && scalars.iter().map(|s| s.dtype()).eq(program.scalars.iter().copied());
        if !fits {
            return Err(shared.misuse("inputs and scalars are not those of the program".to_owned()));
        }
        let updated = program.updates.iter().map(|&n| match &inputs[n as usize] {
            buffer if buffer.is_unique() => buffer.clone(),
            buffer => {
                shared.copied_inputs.fetch_add(1, Ordering::Relaxed);
                shared.buffer(buffer.bytes())
            }
        });
        let updated = updated.collect();
        let results = program.results.iter().map(|spec| shared.buffer(spec.bytes)).collect();
        let mut kept = lock(&self.kept);
        let scratch = kept
            .take()
            .unwrap_or_else(|| program.temps.iter().map(|&bytes| shared.hold(bytes)).collect::<Vec<_>>());
        if !self.has_run.swap(true, Ordering::Relaxed) {
            let spares = spare_inputs(program).map(|(_, spec)| spec).chain(spare_results(program));
            shared.memory.spare(spares.map(|spec| shared.rounded(spec.bytes)));
        }
        lock(&shared.runs).push(PlannedRun {
            program: self.program.clone(),
            live_bytes: lock(&shared.memory.0).live,
            scratch_bytes: scratch.iter().map(|held| held.bytes).sum(),
        });
        if shared.info.kind != DeviceKind::Cpu {
            *kept = Some(scratch);
        }
        shared.run_count.fetch_add(1, Ordering::Relaxed);
        shared.dispatches.fetch_add(program.steps.len() as u64, Ordering::Relaxed);
        Ok(RunOutput { results, updated })
    }

    fn profile(&self) -> Result<Vec<StepTime>, DeviceError> {
        Ok(Vec::new())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks unwinds half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use wgrad_ir::{
        Arg, BufferRef, BufferSpec, Expr, ExprId, ExprNode, IndexMap, Kernel, MapKernel, Shape, Step, Store,
        View,
    };

    use super::*;

    fn device(kind: DeviceKind) -> PlanningDevice {
        let info = DeviceInfo {
            id: "plan".into(),
            name: "a plan".into(),
            kind,
            driver: String::new(),
            details: Vec::new(),
        };
        PlanningDevice::new(info, DeviceCaps { max_binding_bytes: 4096, ..DeviceCaps::cpu() })
    }

    /// Copies its input to the result, and leaves 64 bytes of scratch unused.
    fn copy(elements: usize, updates: bool) -> Arc<Program> {
        let shape = Shape::from([elements]);
        let bytes = 4 * elements as u64;
        let spec = BufferSpec { shape: shape.clone(), dtype: DType::F32, bytes };
        let load = Expr::Load {
            arg: 0,
            map: IndexMap::from(View::contiguous(shape.clone())),
            fill: Literal::from_f64(DType::F32, 0.0),
        };
        let kernel = Kernel::Map(MapKernel {
            space: shape.clone(),
            exprs: vec![ExprNode { expr: load, dtype: DType::F32 }],
            stores: vec![Store {
                arg: u32::from(!updates),
                value: ExprId(0),
                view: View::contiguous(shape.clone()),
            }],
        });
        let mut args = vec![Arg { buffer: BufferRef::Input(0), offset: 0, bytes }];
        let mut program = Program { inputs: vec![spec.clone()], temps: vec![64], ..Program::default() };
        if updates {
            program.updates = vec![0];
        } else {
            program.results = vec![spec];
            args.push(Arg { buffer: BufferRef::Output(0), offset: 0, bytes });
        }
        program.steps = vec![Step { kernel: Arc::new(kernel), args, label: "copy".into() }];
        Arc::new(program)
    }

    #[test]
    fn memory_is_counted_from_allocation_to_the_last_handle() {
        let device = device(DeviceKind::Cpu);
        let x = device.upload(&[0; 400], DType::F32).unwrap();
        let executable = device.prepare(copy(100, false)).unwrap();
        let out = executable.run(vec![x.clone()], &[]).unwrap();
        assert_eq!(device.live_bytes(), 800);
        assert_eq!(device.peak_live_bytes(), 864);
        drop((x, out));
        assert_eq!(device.live_bytes(), 0);
        // Input and result of a next run, for a caller who keeps this one's until then.
        assert_eq!(device.stats().allocated_bytes, 1664);
        let runs = device.take_runs();
        assert_eq!((runs.len(), runs[0].live_bytes, runs[0].scratch_bytes), (1, 864, 64));
    }

    #[test]
    fn a_gpu_keeps_the_scratch_of_a_program() {
        let device = device(DeviceKind::DiscreteGpu);
        let executable = device.prepare(copy(100, false)).unwrap();
        for _ in 0..2 {
            let x = device.upload(&[0; 400], DType::F32).unwrap();
            drop(executable.run(vec![x], &[]).unwrap());
            assert_eq!(device.live_bytes(), 64);
        }
        drop(executable);
        assert_eq!(device.live_bytes(), 0);
    }

    #[test]
    fn memory_that_is_free_is_used_again_by_buffers_of_its_size() {
        let device = device(DeviceKind::Cpu);
        drop(device.upload(&[0; 400], DType::F32).unwrap());
        let _again = device.upload(&[0; 400], DType::F32).unwrap();
        assert_eq!((device.stats().allocations, device.stats().peak_bytes), (1, 400));
        let _other = device.upload(&[0; 80], DType::F32).unwrap();
        assert_eq!((device.stats().allocations, device.stats().peak_bytes), (2, 480));
    }

    #[test]
    fn an_input_is_updated_in_place_only_where_nothing_else_holds_it() {
        let device = device(DeviceKind::Cpu);
        let executable = device.prepare(copy(100, true)).unwrap();
        let x = device.upload(&[0; 400], DType::F32).unwrap();
        let kept = x.clone();
        drop(executable.run(vec![x], &[]).unwrap());
        assert_eq!(device.stats().copied_inputs, 1);
        drop(executable.run(vec![kept], &[]).unwrap());
        assert_eq!(device.stats().copied_inputs, 1);
    }

    #[test]
    fn what_no_kernel_can_bind_is_refused_by_name() {
        let error = device(DeviceKind::DiscreteGpu).prepare(copy(2000, false)).err().unwrap().to_string();
        assert!(error.contains("max_storage_buffer_binding_size") && error.contains("`copy`"), "{error}");
    }
}
