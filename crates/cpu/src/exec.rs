//! Programs, prepared and run.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use wgrad_ir::{BufferRef, Kernel, Literal, Program, verify_program};
use wgrad_runtime::{Buffer, DeviceError, Executable, human_bytes};

use crate::{
    args::{Args, RawBuffer},
    device::Shared,
    map::MapPlan,
    matmul::MatMulPlan,
    memory::Memory,
    reduce::ReducePlan,
    scatter, threads,
};

/// A kernel, compiled for this processor.
#[derive(Debug)]
enum Plan {
    Map(MapPlan),
    Reduce(ReducePlan),
    MatMul(MatMulPlan),
    ScatterAdd(wgrad_ir::ScatterAddKernel),
}

impl Plan {
    fn new(kernel: &Kernel) -> Plan {
        match kernel {
            Kernel::Map(k) => Plan::Map(MapPlan::new(k)),
            Kernel::Reduce(k) => Plan::Reduce(ReducePlan::new(k)),
            Kernel::MatMul(k) => Plan::MatMul(MatMulPlan::new(k)),
            Kernel::ScatterAdd(k) => Plan::ScatterAdd(k.clone()),
        }
    }

    fn cost(&self) -> f64 {
        match self {
            Plan::Map(p) => p.cost(),
            Plan::Reduce(p) => p.cost(),
            Plan::MatMul(p) => p.cost(),
            Plan::ScatterAdd(k) => scatter::cost(k),
        }
    }

    fn run(&self, args: &Args<'_>) {
        match self {
            Plan::Map(p) => p.run(args),
            Plan::Reduce(p) => p.run(args),
            Plan::MatMul(p) => p.run(args),
            Plan::ScatterAdd(k) => scatter::run(k, args),
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
    /// Nanoseconds spent in each step so far, if they are measured.
    timings: Option<Vec<AtomicU64>>,
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
        let timings = std::env::var_os("WGRAD_CPU_PROFILE")
            .map(|_| program.steps.iter().map(|_| AtomicU64::new(0)).collect());
        Ok(CpuExecutable { program, device, plans, parallel, largest, timings })
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

    fn steps(&self, buffer: impl Fn(BufferRef) -> RawBuffer, scalars: &[Literal]) {
        for (i, (step, plan)) in self.program.steps.iter().zip(&self.plans).enumerate() {
            let args = Args {
                buffers: step.args.iter().map(|&b| buffer(b)).collect(),
                scalars,
                status: &self.device.out_of_range,
            };
            match &self.timings {
                None => plan.run(&args),
                Some(timings) => {
                    let start = Instant::now();
                    plan.run(&args);
                    timings[i].fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Executable for CpuExecutable {
    fn program(&self) -> &Program {
        &self.program
    }

    fn run(&self, inputs: Vec<Buffer>, scalars: &[Literal]) -> Result<Vec<Buffer>, DeviceError> {
        let start = Instant::now();
        let given = self.check(&inputs, scalars)?;
        let program = &*self.program;
        let sizes = program.results.iter().map(|r| r.bytes).chain(program.temps.iter().copied());
        let mut results = self.device.pool.take(sizes, || self.largest.clone())?;
        let temps = results.split_off(program.results.len());
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
            rayon::scope(|_| self.steps(buffer, scalars));
        } else {
            self.steps(buffer, scalars);
        }
        let counters = &self.device.counters;
        counters.runs.fetch_add(1, Ordering::Relaxed);
        counters.run_nanos.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        counters.dispatches.fetch_add(program.steps.len() as u64, Ordering::Relaxed);
        Ok(results
            .into_iter()
            .zip(&program.results)
            .map(|(memory, spec)| Buffer::new(Arc::new(memory), spec.bytes, self.device.uid))
            .collect())
    }
}

impl Drop for CpuExecutable {
    /// With `WGRAD_CPU_PROFILE` set, prints where the time went.
    fn drop(&mut self) {
        let Some(timings) = &self.timings else { return };
        let mut rows: Vec<(u64, usize)> =
            timings.iter().enumerate().map(|(i, t)| (t.load(Ordering::Relaxed), i)).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        let total: u64 = rows.iter().map(|r| r.0).sum();
        eprintln!("program of {} steps: {:.3} ms in kernels", rows.len(), total as f64 / 1e6);
        for (ns, i) in rows.iter().take(40) {
            let step = &self.program.steps[*i];
            eprintln!(
                "{:9.3} ms  {:9.3} ms expected a run  {:11} {}",
                *ns as f64 / 1e6,
                self.plans[*i].cost() / 1e6,
                step.kernel.name(),
                step.label
            );
        }
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
    let writer = program
        .steps
        .iter()
        .position(|s| s.kernel.writes().iter().any(|&a| s.args.get(a as usize) == Some(&buffer)));
    let step = match writer {
        Some(i) => format!("the result of step {i}, `{}`", program.steps[i].label),
        None => format!("{buffer:?}"),
    };
    format!(
        "a program of {count} steps (its largest tensor is {step}, with {})",
        human_bytes(program.bytes(buffer))
    )
}
