//! Programs that are ready to run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Instant,
};

use wgpu::{CommandEncoder, CommandEncoderDescriptor, ComputePass, ComputePassDescriptor};
use wgrad_ir::{Arg, Kernel, Literal, Program};
use wgrad_kernels::{Choices, Dispatch, Resource};
use wgrad_runtime::{Buffer, DeviceError, Executable, RunOutput, StepTime, check_limits};

use crate::{
    device::Shared,
    kept::{Given, Kept},
    limits,
    pipelines::Pipeline,
    timers::Timers,
};

/// One dispatch of a program.
pub(crate) struct Launch {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) slots: Vec<Slot>,
    workgroups: [u32; 3],
    /// Which step of the program it belongs to.
    step: usize,
}

/// What stands behind one binding.
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    Buffer(Arg),
    Scalars,
    Status,
}

/// What changes from run to run.
#[derive(Default)]
struct State {
    kept: Option<Kept>,
    /// The times of the latest run, once somebody has asked for them.
    profile: Vec<StepTime>,
}

/// A program on one device.
pub(crate) struct GpuExecutable {
    shared: Arc<Shared>,
    program: Arc<Program>,
    launches: Vec<Launch>,
    state: Mutex<State>,
}

impl GpuExecutable {
    /// Checks every buffer and binding against the device's limits, then builds what is missing of pipelines.
    pub(crate) fn new(
        shared: Arc<Shared>,
        program: Arc<Program>,
        choices: &Choices,
    ) -> Result<Self, DeviceError> {
        check_limits(&shared.info.id, &shared.caps, &program)?;
        let mut dispatches = Vec::with_capacity(program.steps.len());
        // The iterations of a loop have one text.
        let mut known: HashMap<*const Kernel, Vec<Dispatch>> = HashMap::new();
        for (n, step) in program.steps.iter().enumerate() {
            if let Some(made) = known.get(&Arc::as_ptr(&step.kernel)) {
                dispatches.extend(made.iter().map(|dispatch| (n, dispatch.clone())));
                continue;
            }
            let choices = shared.tuner.choose(&shared, &program, step, choices);
            let made = wgrad_kernels::generate(&step.kernel, &shared.caps, &choices).map_err(|e| {
                DeviceError::Unsupported {
                    device: shared.info.id.clone(),
                    what: format!("kernel `{}` (step {n}): {e}", step.label),
                }
            })?;
            dispatches.extend(made.iter().map(|dispatch| (n, dispatch.clone())));
            known.insert(Arc::as_ptr(&step.kernel), made);
        }
        let wanted: Vec<_> = dispatches.iter().map(|(n, d)| (d, program.steps[*n].label.as_str())).collect();
        let pipelines = shared.pipelines.get_all(&shared.device, &shared.faults, &wanted)?;
        let mut launches = Vec::with_capacity(dispatches.len());
        for ((n, dispatch), pipeline) in dispatches.iter().zip(pipelines) {
            let args = &program.steps[*n].args;
            let slot = |resource| match resource {
                Resource::Arg(arg) => args
                    .get(arg as usize)
                    .map(|&b| Slot::Buffer(b))
                    .ok_or_else(|| shared.misuse(format!("step {n} has no argument {arg}"))),
                Resource::Scalars => Ok(Slot::Scalars),
                Resource::Status => Ok(Slot::Status),
            };
            let slots = dispatch.bindings.iter().map(|b| slot(b.resource)).collect::<Result<Vec<_>, _>>()?;
            launches.push(Launch { pipeline, slots, workgroups: dispatch.workgroups, step: *n });
        }
        Ok(GpuExecutable { shared, program, launches, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For each input that is updated, the buffer to update: the given one, or a new one and whether to copy.
    fn updated(&self, inputs: &[Buffer]) -> Result<Vec<(Buffer, bool)>, DeviceError> {
        let buffer = |&n: &u32| {
            let given = &inputs[n as usize];
            let spec = &self.program.inputs[n as usize];
            if given.is_unique() {
                return Ok((given.clone(), false));
            }
            let what = || format!("a copy of input {n}, {}{}, to update", spec.dtype, spec.shape);
            Ok((self.shared.allocate(spec.bytes, what)?, true))
        };
        self.program.updates.iter().map(buffer).collect()
    }

    fn dispatches(&self, kept: &Kept, encoder: &mut CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
        let mut current: Option<&Arc<Pipeline>> = None;
        for (launch, group) in self.launches.iter().zip(kept.bound()) {
            if !current.is_some_and(|p| Arc::ptr_eq(p, &launch.pipeline)) {
                pass.set_pipeline(&launch.pipeline.compute);
                current = Some(&launch.pipeline);
            }
            launch.go(group, &mut pass);
        }
    }

    /// As [`Self::dispatches`], each in a pass of its own between two timestamps: what every adapter with timestamps can do.
    fn timed_dispatches(&self, kept: &Kept, timers: &mut Timers, encoder: &mut CommandEncoder) {
        for (n, (launch, group)) in self.launches.iter().zip(kept.bound()).enumerate() {
            let descriptor = ComputePassDescriptor { label: None, timestamp_writes: Some(timers.around(n)) };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            pass.set_pipeline(&launch.pipeline.compute);
            launch.go(group, &mut pass);
        }
        timers.resolve(encoder);
    }
}

impl Launch {
    fn go(&self, group: &wgpu::BindGroup, pass: &mut ComputePass<'_>) {
        pass.set_bind_group(0, group, &[]);
        let [x, y, z] = self.workgroups;
        pass.dispatch_workgroups(x, y, z);
    }
}

impl Executable for GpuExecutable {
    fn program(&self) -> &Program {
        &self.program
    }

    fn run(&self, inputs: Vec<Buffer>, scalars: &[Literal]) -> Result<RunOutput, DeviceError> {
        let start = Instant::now();
        let (shared, program) = (&*self.shared, &*self.program);
        limits::check_inputs(shared, program, &inputs, scalars)?;
        let memories = |buffers: &[Buffer]| -> Result<Vec<_>, DeviceError> {
            buffers.iter().map(|b| shared.memory(b)).collect()
        };
        // Every failure comes before the first copy is queued: nothing has changed then.
        let updated = self.updated(&inputs)?;
        let mut bound = memories(&inputs)?;
        let mut copies = Vec::new();
        for (&n, (buffer, fresh)) in program.updates.iter().zip(&updated) {
            if *fresh {
                let copy = shared.memory(buffer)?;
                copies.push((std::mem::replace(&mut bound[n as usize], copy.clone()), copy));
            }
        }

        // Scratch and scalars belong to one run at a time, until it is in the queue; the queue keeps the order of runs.
        let mut guard = self.lock();
        let state = &mut *guard;
        let first = state.kept.is_none();
        let kept = match &mut state.kept {
            Some(kept) => kept,
            none => none.insert(Kept::new(shared, program, self.launches.len())?),
        };
        let made: Vec<_> = kept.take_results(shared, program)?.into_iter().map(Arc::new).collect();
        if first {
            kept.prepare_next(shared, program, &self.launches, &bound);
        }
        let given = Given { inputs: &bound, results: &made };
        kept.bind(shared, program, &self.launches, &given)?;
        state.profile.clear();
        let mut timers = kept.timers.take();
        let profiling = shared.profiling.load(Ordering::Relaxed);
        if profiling && timers.is_none() {
            timers = Some(Timers::new(shared, self.launches.len())?);
        }
        if let Some(buffer) = kept.scalars.buffer()
            && !scalars.is_empty()
        {
            let words: Vec<u8> = scalars.iter().flat_map(|s| (s.bits() as u32).to_ne_bytes()).collect();
            shared.queue.write_buffer(buffer, 0, &words);
        }
        let mut encoder =
            shared.device.create_command_encoder(&CommandEncoderDescriptor { label: Some("program") });
        for (from, to) in &copies {
            if let (Some(source), Some(target)) = (from.buffer(), to.buffer()) {
                encoder.copy_buffer_to_buffer(source, 0, target, 0, from.size().min(to.size()));
            }
        }
        kept.copy_in(program, &given, &mut encoder);
        match &mut timers {
            Some(timers) if profiling => self.timed_dispatches(kept, timers, &mut encoder),
            _ => self.dispatches(kept, &mut encoder),
        }
        kept.copy_out(program, &given, &mut encoder);
        kept.timers = timers.filter(|_| profiling);
        shared.queue.submit([encoder.finish()]);
        program.updates.iter().for_each(|&n| bound[n as usize].has_changed());
        drop(guard);
        shared.runs.fetch_add(1, Ordering::Relaxed);
        shared.run_nanos.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        shared.submissions.fetch_add(1, Ordering::Relaxed);
        shared.dispatches.fetch_add(self.launches.len() as u64, Ordering::Relaxed);
        shared.copied_inputs.fetch_add(copies.len() as u64, Ordering::Relaxed);
        shared.faults.check("a program")?;
        let results = made.into_iter().zip(&program.results);
        let results = results.map(|(memory, spec)| Buffer::new(memory, spec.bytes, shared.uid)).collect();
        Ok(RunOutput { results, updated: updated.into_iter().map(|(buffer, _)| buffer).collect() })
    }

    fn profile(&self) -> Result<Vec<StepTime>, DeviceError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(timers) = state.kept.as_mut().and_then(|kept| kept.timers.as_mut())
            && timers.waiting
        {
            state.profile = timers.read(&self.shared, self.launches.iter().map(|launch| launch.step))?;
        }
        Ok(state.profile.clone())
    }
}
