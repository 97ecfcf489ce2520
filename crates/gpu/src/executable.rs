//! Programs that are ready to run: pipelines, scratch, and the bind groups that never change.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Instant,
};

use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, BufferBinding, CommandEncoderDescriptor,
    ComputePassDescriptor,
};
use wgrad_ir::{BufferRef, DType, Literal, Program, Step};
use wgrad_kernels::{Choices, Resource};
use wgrad_runtime::{Buffer, DeviceError, Executable};

use crate::{
    device::Shared,
    pipelines::Pipeline,
    pool::{Memory, Use},
};

/// One dispatch of a program.
struct Launch {
    pipeline: Arc<Pipeline>,
    slots: Vec<Slot>,
    workgroups: [u32; 3],
}

/// What stands behind one binding.
#[derive(Clone, Copy)]
enum Slot {
    Buffer(BufferRef),
    Scalars,
    Status,
}

/// What exists from the first run on.
struct Kept {
    temps: Vec<Memory>,
    scalars: Memory,
    /// The bind groups of launches that touch neither inputs nor results.
    groups: Vec<Option<BindGroup>>,
}

/// A program on one device.
pub(crate) struct GpuExecutable {
    shared: Arc<Shared>,
    program: Arc<Program>,
    launches: Vec<Launch>,
    kept: Mutex<Option<Kept>>,
}

impl GpuExecutable {
    /// Checks every buffer and binding against the device's limits, then builds what is missing of pipelines.
    pub(crate) fn new(
        shared: Arc<Shared>,
        program: Arc<Program>,
        choices: &Choices,
    ) -> Result<Self, DeviceError> {
        let mut launches = Vec::with_capacity(program.steps.len());
        for (n, step) in program.steps.iter().enumerate() {
            check_limits(&shared, &program, step)?;
            let dispatches = wgrad_kernels::generate(&step.kernel, &shared.caps, choices).map_err(|e| {
                DeviceError::Unsupported {
                    device: shared.info.id.clone(),
                    what: format!("kernel `{}` (step {n}): {e}", step.label),
                }
            })?;
            for dispatch in dispatches {
                let pipeline =
                    shared.pipelines.get(&shared.device, &shared.faults, &dispatch, &step.label)?;
                let slots = dispatch
                    .bindings
                    .iter()
                    .map(|binding| match binding.resource {
                        Resource::Arg(arg) => step
                            .args
                            .get(arg as usize)
                            .map(|&b| Slot::Buffer(b))
                            .ok_or_else(|| shared.misuse(format!("step {n} has no argument {arg}"))),
                        Resource::Scalars => Ok(Slot::Scalars),
                        Resource::Status => Ok(Slot::Status),
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                launches.push(Launch { pipeline, slots, workgroups: dispatch.workgroups });
            }
        }
        Ok(GpuExecutable { shared, program, launches, kept: Mutex::new(None) })
    }

    /// Allocates scratch and makes the bind groups that stay.
    fn keep(&self) -> Result<Kept, DeviceError> {
        let pool = &self.shared.pool;
        let temps = self
            .program
            .temps
            .iter()
            .map(|&bytes| pool.take(Use::Storage, bytes, || "scratch memory of a program".to_owned()))
            .collect::<Result<Vec<_>, _>>()?;
        let scalars = pool.take(Use::Storage, 4 * self.program.scalars.len() as u64, || {
            "the scalars of a program".to_owned()
        })?;
        let mut kept = Kept { temps, scalars, groups: Vec::new() };
        let mut groups = Vec::with_capacity(self.launches.len());
        for launch in &self.launches {
            let stays = launch.slots.iter().all(|slot| {
                !matches!(slot, Slot::Buffer(BufferRef::Input(_)) | Slot::Buffer(BufferRef::Output(_)))
            });
            groups.push(if stays { Some(self.bind(launch, &kept, &[], &[])?) } else { None });
        }
        kept.groups = groups;
        Ok(kept)
    }

    fn bind(
        &self,
        launch: &Launch,
        kept: &Kept,
        inputs: &[Arc<Memory>],
        results: &[Arc<Memory>],
    ) -> Result<BindGroup, DeviceError> {
        let mut entries = Vec::with_capacity(launch.slots.len());
        for (n, slot) in launch.slots.iter().enumerate() {
            let (memory, bytes) = match *slot {
                Slot::Scalars => (Some(&kept.scalars), 4 * self.program.scalars.len() as u64),
                Slot::Status => (Some(&self.shared.status), 4),
                Slot::Buffer(reference) => {
                    let memory = match reference {
                        BufferRef::Input(i) => inputs.get(i as usize).map(|m| &**m),
                        BufferRef::Output(i) => results.get(i as usize).map(|m| &**m),
                        BufferRef::Temp(i) => kept.temps.get(i as usize),
                    };
                    (memory, self.program.bytes(reference))
                }
            };
            let buffer = memory
                .and_then(Memory::buffer)
                .ok_or_else(|| self.shared.misuse(format!("binding {n} has no buffer")))?;
            entries.push(BindGroupEntry {
                binding: n as u32,
                resource: BindingResource::Buffer(BufferBinding {
                    buffer,
                    offset: 0,
                    // Whole `vec4`s; buffers are allocated in such steps.
                    size: NonZeroU64::new(bytes.max(16).next_multiple_of(16)),
                }),
            });
        }
        Ok(self.shared.device.create_bind_group(&BindGroupDescriptor {
            label: None,
            layout: &launch.pipeline.layout,
            entries: &entries,
        }))
    }

    fn check_inputs(&self, inputs: &[Buffer], scalars: &[Literal]) -> Result<(), DeviceError> {
        let program = &self.program;
        if inputs.len() != program.inputs.len() || scalars.len() != program.scalars.len() {
            return Err(self.shared.misuse(format!(
                "expected {} buffers and {} scalars, got {} and {}",
                program.inputs.len(),
                program.scalars.len(),
                inputs.len(),
                scalars.len()
            )));
        }
        for (n, (buffer, spec)) in inputs.iter().zip(&program.inputs).enumerate() {
            if buffer.bytes() != spec.bytes {
                return Err(self.shared.misuse(format!(
                    "input {n} should be {}{} of {} bytes, got {} bytes",
                    spec.dtype,
                    spec.shape,
                    spec.bytes,
                    buffer.bytes()
                )));
            }
        }
        match scalars.iter().zip(&program.scalars).position(|(s, &d)| s.dtype() != d) {
            Some(n) => Err(self.shared.misuse(format!(
                "scalar {n} should be {}, got {}",
                program.scalars[n],
                scalars[n].dtype()
            ))),
            None => Ok(()),
        }
    }
}

impl Executable for GpuExecutable {
    fn program(&self) -> &Program {
        &self.program
    }

    fn run(&self, inputs: Vec<Buffer>, scalars: &[Literal]) -> Result<Vec<Buffer>, DeviceError> {
        let start = Instant::now();
        self.check_inputs(&inputs, scalars)?;
        let shared = &self.shared;
        let given = inputs.iter().map(|b| shared.memory(b)).collect::<Result<Vec<_>, _>>()?;
        let results = self
            .program
            .results
            .iter()
            .map(|spec| shared.allocate(spec.bytes, || format!("a result {}{}", spec.dtype, spec.shape)))
            .collect::<Result<Vec<_>, _>>()?;
        let made = results.iter().map(|b| shared.memory(b)).collect::<Result<Vec<_>, _>>()?;

        // Scratch and scalars belong to one run at a time, until it is in the queue; the queue keeps the order of runs.
        let mut guard = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match &mut *guard {
            Some(kept) => kept,
            none => none.insert(self.keep()?),
        };
        if let Some(buffer) = kept.scalars.buffer()
            && !scalars.is_empty()
        {
            let words: Vec<u8> = scalars.iter().flat_map(|s| (s.bits() as u32).to_ne_bytes()).collect();
            shared.queue.write_buffer(buffer, 0, &words);
        }
        let groups = self
            .launches
            .iter()
            .zip(&kept.groups)
            .map(|(launch, group)| match group {
                Some(group) => Ok(group.clone()),
                None => self.bind(launch, kept, &given, &made),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut encoder =
            shared.device.create_command_encoder(&CommandEncoderDescriptor { label: Some("program") });
        {
            let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
            let mut current: Option<&Arc<Pipeline>> = None;
            for (launch, group) in self.launches.iter().zip(&groups) {
                if !current.is_some_and(|p| Arc::ptr_eq(p, &launch.pipeline)) {
                    pass.set_pipeline(&launch.pipeline.compute);
                    current = Some(&launch.pipeline);
                }
                pass.set_bind_group(0, group, &[]);
                let [x, y, z] = launch.workgroups;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        shared.queue.submit([encoder.finish()]);
        drop(guard);
        shared.runs.fetch_add(1, Ordering::Relaxed);
        shared.run_nanos.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        shared.submissions.fetch_add(1, Ordering::Relaxed);
        shared.dispatches.fetch_add(self.launches.len() as u64, Ordering::Relaxed);
        shared.faults.check("a program")?;
        Ok(results)
    }
}

/// Refuses a step whose buffers the device cannot hold or bind.
fn check_limits(shared: &Shared, program: &Program, step: &Step) -> Result<(), DeviceError> {
    let caps = &shared.caps;
    if step.args.len() > caps.max_bindings {
        return Err(DeviceError::Unsupported {
            device: shared.info.id.clone(),
            what: format!(
                "kernel `{}`: it binds {} buffers where {} are allowed (max_storage_buffers_per_shader_stage)",
                step.label,
                step.args.len(),
                caps.max_bindings
            ),
        });
    }
    for &arg in &step.args {
        let bytes = program.bytes(arg);
        let (limit, limit_name) = if caps.max_binding_bytes <= caps.max_buffer_bytes {
            (caps.max_binding_bytes, "max_storage_buffer_binding_size")
        } else {
            (caps.max_buffer_bytes, "max_buffer_size")
        };
        if bytes > limit {
            let spec = match arg {
                BufferRef::Input(i) => program.inputs.get(i as usize),
                BufferRef::Output(i) => program.results.get(i as usize),
                BufferRef::Temp(_) => None,
            };
            let place = match arg {
                BufferRef::Input(i) => format!("input {i}"),
                BufferRef::Output(i) => format!("result {i}"),
                BufferRef::Temp(i) => format!("intermediate {i}"),
            };
            let tensor = match spec {
                Some(spec) => format!("{place}, {}{},", spec.dtype, spec.shape),
                None => place,
            };
            return Err(DeviceError::TooLarge {
                device: shared.info.id.clone(),
                tensor,
                buffer: Some(arg),
                kernel: step.label.clone(),
                bytes,
                limit,
                limit_name,
            });
        }
    }
    if program.scalars.contains(&DType::F64) {
        return Err(DeviceError::Unsupported {
            device: shared.info.id.clone(),
            what: "an f64 scalar (cast to f32, or use `--device cpu`)".to_owned(),
        });
    }
    Ok(())
}
