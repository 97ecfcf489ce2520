//! Programs, prepared and run.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use wgrad_ir::{BufferRef, Kernel, Literal, Program, verify_program};
use wgrad_runtime::{
    Buffer, DeviceError, Executable, RunOutput, StepTime, human_bytes, spare_inputs, spare_results,
};

use crate::{
    args::{Args, RawBuffer},
    attention::AttentionPlan,
    attention_grad::AttentionGradPlan,
    conv::ConvPlan,
    cumulate,
    device::Shared,
    map::MapPlan,
    matmul::MatMulPlan,
    memory::Memory,
    reduce::ReducePlan,
    row::RowPlan,
    scatter, sort, threads,
};

/// A kernel, compiled for this processor.
#[derive(Debug)]
enum Plan {
    Attention(Box<AttentionPlan>),
    AttentionGrad(Box<AttentionGradPlan>),
    Map(MapPlan),
    Row(RowPlan),
    Reduce(ReducePlan),
    MatMul(MatMulPlan),
    Conv(Box<ConvPlan>),
    ScatterAdd(wgrad_ir::ScatterAddKernel),
    Sort(wgrad_ir::SortKernel),
    Cumulate(Box<wgrad_ir::CumulateKernel>),
}

impl Plan {
    fn new(kernel: &Kernel) -> Plan {
        match kernel {
            Kernel::Map(k) => Plan::Map(MapPlan::new(k)),
            Kernel::Row(k) => Plan::Row(RowPlan::new(k)),
            Kernel::Reduce(k) => Plan::Reduce(ReducePlan::new(k)),
            Kernel::MatMul(k) => Plan::MatMul(MatMulPlan::new(k)),
            Kernel::Conv(k) => Plan::Conv(Box::new(ConvPlan::new(k))),
            Kernel::ScatterAdd(k) => Plan::ScatterAdd(k.clone()),
            Kernel::Sort(k) => Plan::Sort(k.clone()),
            Kernel::Cumulate(k) => Plan::Cumulate(Box::new(k.clone())),
            Kernel::Attention(k) => Plan::Attention(Box::new(AttentionPlan::new(k))),
            Kernel::AttentionGrad(k) => Plan::AttentionGrad(Box::new(AttentionGradPlan::new(k))),
        }
    }

    fn cost(&self) -> f64 {
        match self {
            Plan::Attention(p) => p.cost(),
            Plan::AttentionGrad(p) => p.cost(),
            Plan::Map(p) => p.cost(),
            Plan::Row(p) => p.cost(),
            Plan::Reduce(p) => p.cost(),
            Plan::MatMul(p) => p.cost(),
            Plan::Conv(p) => p.cost(),
            Plan::ScatterAdd(k) => scatter::cost(k),
            Plan::Sort(k) => sort::cost(k),
            Plan::Cumulate(k) => cumulate::cost(k),
        }
    }

    fn run(&self, args: &Args<'_>) {
        match self {
            Plan::Attention(p) => p.run(args),
            Plan::AttentionGrad(p) => p.run(args),
            Plan::Map(p) => p.run(args),
            Plan::Row(p) => p.run(args),
            Plan::Reduce(p) => p.run(args),
            Plan::MatMul(p) => p.run(args),
            Plan::Conv(p) => p.run(args),
            Plan::ScatterAdd(k) => scatter::run(k, args),
            Plan::Sort(k) => sort::run(k, args),
            Plan::Cumulate(k) => cumulate::run(k, args),
        }
    }
}

/// A prepared program.
pub(crate) struct CpuExecutable {
    program: Arc<Program>,
    device: Arc<Shared>,
    /// One per step; steps of one kernel share a plan.
    plans: Vec<Arc<Plan>>,
    /// Whether some step is worth several threads.
    parallel: bool,
    /// For the message when memory is short.
    largest: String,
    /// What the steps of the latest run took, if that was measured.
    times: Mutex<Vec<StepTime>>,
    has_run: AtomicBool,
}

impl CpuExecutable {
    pub(crate) fn new(device: Arc<Shared>, program: Arc<Program>) -> Result<Self, DeviceError> {
        // The unsafe code below relies on what this checks, so it runs in release builds too.
        verify_program(&program)?;
        let mut known: HashMap<*const Kernel, Arc<Plan>> = HashMap::new();
        let mut plans = Vec::with_capacity(program.steps.len());
        for step in &program.steps {
            let plan =
                known.entry(Arc::as_ptr(&step.kernel)).or_insert_with(|| Arc::new(Plan::new(&step.kernel)));
            plans.push(plan.clone());
        }
        device.counters.pipelines.fetch_add(known.len() as u64, Ordering::Relaxed);
        let parallel = plans.iter().any(|p| p.cost() > threads::PARALLEL_NS);
        let largest = largest_buffer(&program);
        let (times, has_run) = (Mutex::default(), AtomicBool::new(false));
        Ok(CpuExecutable { program, device, plans, parallel, largest, times, has_run })
    }

    fn misuse(&self, message: String) -> DeviceError {
        DeviceError::Misuse { device: self.device.info.id.clone(), message }
    }

    fn check(&self, inputs: &[Buffer], scalars: &[Literal]) -> Result<Vec<Arc<Memory>>, DeviceError> {
        let program = &self.program;
        if inputs.len() != program.inputs.len() || scalars.len() != program.scalars.len() {
            return Err(self.misuse(format!(
                "the program takes {} buffers and {} scalars, got {} and {}",
                program.inputs.len(),
                program.scalars.len(),
                inputs.len(),
                scalars.len()
            )));
        }
        if let Some(i) = (0..scalars.len()).find(|&i| scalars[i].dtype() != program.scalars[i]) {
            return Err(self.misuse(format!(
                "scalar {i} should be {}, got {}",
                program.scalars[i],
                scalars[i].dtype()
            )));
        }
        let mut memories = Vec::with_capacity(inputs.len());
        for (i, (buffer, spec)) in inputs.iter().zip(&program.inputs).enumerate() {
            if buffer.device() != self.device.uid {
                return Err(
                    self.misuse(format!("input {i} lies on another device; move it with `to_device` first"))
                );
            }
            let Some(memory) = buffer.downcast::<Memory>() else {
                return Err(self.misuse(format!("input {i} is not memory of the CPU runtime")));
            };
            if buffer.bytes() < spec.bytes {
                return Err(self.misuse(format!(
                    "input {i} should be {}{} of {} bytes, got {} bytes",
                    spec.dtype,
                    spec.shape,
                    spec.bytes,
                    buffer.bytes()
                )));
            }
            memories.push(memory);
        }
        Ok(memories)
    }

    /// One memory per input for the kernels: the given ones, but copies of those that the program updates and that something
    /// else holds too.
    fn exclusive(
        &self,
        inputs: &mut [Buffer],
        given: &mut [Arc<Memory>],
        shared: &[u32],
        copies: Vec<Memory>,
    ) {
        for (&i, copy) in shared.iter().zip(copies) {
            let i = i as usize;
            let bytes = (inputs[i].bytes() as usize).min(given[i].capacity()).min(copy.capacity());
            // SAFETY: both are alive and have so many bytes; the copy is new, so that nothing else accesses it, and nothing
            // writes a buffer that others hold.
            unsafe { std::ptr::copy_nonoverlapping(given[i].ptr(), copy.ptr(), bytes) };
            given[i] = Arc::new(copy);
            inputs[i] = Buffer::new(given[i].clone(), inputs[i].bytes(), self.device.uid);
        }
        self.device.counters.copied_inputs.fetch_add(shared.len() as u64, Ordering::Relaxed);
    }

    fn steps(&self, buffer: impl Fn(BufferRef) -> RawBuffer, scalars: &[Literal]) {
        let run = |i: usize| {
            let part = |arg: &wgrad_ir::Arg| {
                let whole = buffer(arg.buffer);
                let offset = (arg.offset as usize).min(whole.bytes);
                // SAFETY: within the buffer's memory, or one past it.
                let ptr = unsafe { whole.ptr.add(offset) };
                RawBuffer { ptr, bytes: (arg.bytes as usize).min(whole.bytes - offset) }
            };
            let buffers = self.program.steps[i].args.iter().map(part).collect();
            self.plans[i].run(&Args { buffers, scalars, status: &self.device.out_of_range });
        };
        let mut times = Vec::new();
        if self.device.profiling.load(Ordering::Relaxed) {
            let begin = Instant::now();
            for i in 0..self.plans.len() {
                let start = begin.elapsed();
                run(i);
                let nanos = (begin.elapsed() - start).as_nanos() as u64;
                times.push(StepTime { step: i, start_nanos: start.as_nanos() as u64, nanos });
            }
        } else {
            (0..self.plans.len()).for_each(run);
        }
        *self.times() = times;
    }

    fn times(&self) -> MutexGuard<'_, Vec<StepTime>> {
        // Nothing under the lock unwinds half-way.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executable for CpuExecutable {
    fn program(&self) -> &Program {
        &self.program
    }

    fn run(&self, mut inputs: Vec<Buffer>, scalars: &[Literal]) -> Result<RunOutput, DeviceError> {
        let start = Instant::now();
        let program = &*self.program;
        // Before `check` takes handles of its own.
        let held = |&i: &u32| inputs.get(i as usize).is_some_and(|b| !b.is_unique());
        let shared: Vec<u32> = program.updates.iter().copied().filter(held).collect();
        let mut given = self.check(&inputs, scalars)?;
        let sizes = program.results.iter().map(|r| r.bytes).chain(program.temps.iter().copied());
        let sizes = sizes.chain(shared.iter().map(|&i| inputs[i as usize].bytes()));
        let mut results = self.device.pool.take(sizes, || self.largest.clone())?;
        let mut temps = results.split_off(program.results.len());
        let copies = temps.split_off(program.temps.len());
        self.exclusive(&mut inputs, &mut given, &shared, copies);
        if !self.has_run.swap(true, Ordering::Relaxed) {
            // While all else is in use, so that the pool has what the next run needs, too. Without it this run is none the worse.
            let spares = spare_inputs(program).map(|(_, spec)| spec).chain(spare_results(program));
            let sizes: Vec<u64> = spares.map(|spec| spec.bytes).collect();
            drop(self.device.pool.take(sizes.into_iter(), || self.largest.clone()));
        }
        let raw = |memory: &Memory, bytes: u64| RawBuffer {
            ptr: memory.ptr(),
            bytes: (bytes as usize).min(memory.capacity()),
        };
        let mut buffers: Vec<RawBuffer> = Vec::with_capacity(given.len() + results.len() + temps.len());
        buffers.extend(given.iter().zip(&program.inputs).map(|(m, s)| raw(m, s.bytes)));
        buffers.extend(results.iter().zip(&program.results).map(|(m, s)| raw(m, s.bytes)));
        buffers.extend(temps.iter().zip(&program.temps).map(|(m, &bytes)| raw(m, bytes)));
        let (first_result, first_temp) = (given.len(), given.len() + results.len());
        let buffer = |b: BufferRef| match b {
            BufferRef::Input(i) => buffers[i as usize],
            BufferRef::Output(i) => buffers[first_result + i as usize],
            BufferRef::Temp(i) => buffers[first_temp + i as usize],
        };
        if self.parallel && rayon::current_num_threads() > 1 {
            // Inside of the pool, handing work over costs less, and the other threads stay awake from step to step.
            threads::with_team(|| self.steps(buffer, scalars));
        } else {
            self.steps(buffer, scalars);
        }
        let counters = &self.device.counters;
        counters.runs.fetch_add(1, Ordering::Relaxed);
        counters.run_nanos.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        counters.dispatches.fetch_add(program.steps.len() as u64, Ordering::Relaxed);
        let results = results
            .into_iter()
            .zip(&program.results)
            .map(|(memory, spec)| Buffer::new(Arc::new(memory), spec.bytes, self.device.uid))
            .collect();
        let updated = program.updates.iter().map(|&i| inputs[i as usize].clone()).collect();
        Ok(RunOutput { results, updated })
    }

    fn profile(&self) -> Result<Vec<StepTime>, DeviceError> {
        Ok(self.times().clone())
    }
}

/// What a run allocates, with its largest buffer by name.
fn largest_buffer(program: &Program) -> String {
    let all = (0..program.results.len() as u32)
        .map(BufferRef::Output)
        .chain((0..program.temps.len() as u32).map(BufferRef::Temp));
    let largest = all.max_by_key(|&b| program.bytes(b));
    let count = program.steps.len();
    let Some(buffer) = largest else { return format!("a program of {count} steps") };
    let writer = program.steps.iter().position(|s| {
        s.kernel.writes().iter().any(|&a| s.args.get(a as usize).is_some_and(|a| a.buffer == buffer))
    });
    let step = match writer {
        Some(i) => format!("the result of step {i}, `{}`", program.steps[i].label),
        None => format!("{buffer:?}"),
    };
    format!(
        "a program of {count} steps (its largest tensor is {step}, with {})",
        human_bytes(program.bytes(buffer))
    )
}
