//! What a program keeps from run to run: scratch, stable homes for small inputs and results, and bind groups.
//!
//! A bind group names buffers, so a run makes new ones wherever it meets a buffer for the first time. Weights that are updated in
//! place stay where they are. A batch and a loss are new buffers in every step; being small, they are copied to and from
//! buffers that stay. What is large is bound where it is: the pool hands out the same buffers in a step that repeats.

use std::sync::{Arc, atomic::Ordering};

use wgpu::{BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, BufferBinding, CommandEncoder};
use wgrad_ir::{BufferRef, DType, Program};
use wgrad_runtime::DeviceError;

use crate::{
    device::Shared,
    executable::{Launch, Slot},
    pool::{Memory, Use},
    timers::Timers,
};

/// Inputs and results up to this size have a home.
const SMALL: u64 = 64 << 10;

/// Bind groups of one launch that are kept, for as many sets of buffers.
const GENERATIONS: usize = 4;

/// One input or result of a program.
#[derive(Default)]
struct Home {
    memory: Option<Memory>,
    /// The buffer of the latest run, in an input without a home.
    seen: Option<u64>,
}

/// A program's memory, in use by one run at a time.
pub(crate) struct Kept {
    temps: Vec<Memory>,
    pub(crate) scalars: Memory,
    inputs: Vec<Home>,
    results: Vec<Home>,
    /// For each launch its bind groups, the latest first, each with the numbers of the buffers that may change.
    groups: Vec<Vec<(Vec<u64>, BindGroup)>>,
    trims: u64,
    pub(crate) timers: Option<Timers>,
}

/// The buffers of one run.
pub(crate) struct Given<'a> {
    pub(crate) inputs: &'a [Arc<Memory>],
    pub(crate) results: &'a [Arc<Memory>],
}

impl Kept {
    /// Allocates scratch and the homes that are needed in any case.
    pub(crate) fn new(shared: &Shared, program: &Program, launches: usize) -> Result<Self, DeviceError> {
        let take = |bytes, what: &str| shared.pool.take(Use::Storage, bytes, || what.to_owned());
        let temps = program.temps.iter().map(|&bytes| take(bytes, "scratch memory of a program"));
        let results = program.results.iter().map(|spec| {
            let memory = (spec.bytes <= SMALL).then(|| take(spec.bytes, "a result of a program"));
            Ok(Home { memory: memory.transpose()?, seen: None })
        });
        // Ids and masks come with the batch; small numbers may be weights, which show by staying the same.
        let inputs = program.inputs.iter().enumerate().map(|(n, spec)| {
            let changes = spec.dtype != DType::F32 && can_move(program, n);
            let memory = changes.then(|| take(spec.bytes, "an input of a program"));
            Ok(Home { memory: memory.transpose()?, seen: None })
        });
        Ok(Kept {
            temps: temps.collect::<Result<_, _>>()?,
            scalars: take(4 * program.scalars.len() as u64, "the scalars of a program")?,
            inputs: inputs.collect::<Result<_, DeviceError>>()?,
            results: results.collect::<Result<_, DeviceError>>()?,
            groups: (0..launches).map(|_| Vec::new()).collect(),
            trims: shared.pool.trims(),
            timers: None,
        })
    }

    /// Gives a home to each small input that comes in another buffer than last time.
    pub(crate) fn settle(
        &mut self,
        shared: &Shared,
        program: &Program,
        given: &Given<'_>,
    ) -> Result<(), DeviceError> {
        for (n, (home, memory)) in self.inputs.iter_mut().zip(given.inputs).enumerate() {
            let moved = home.seen.replace(memory.id()).is_some_and(|seen| seen != memory.id());
            if moved && home.memory.is_none() && can_move(program, n) {
                let bytes = program.inputs[n].bytes;
                let taken = shared.pool.take(Use::Storage, bytes, || "an input of a program".to_owned())?;
                home.memory = Some(taken);
            }
        }
        Ok(())
    }

    /// Queues the copies of small inputs to their homes.
    pub(crate) fn copy_in(&self, program: &Program, given: &Given<'_>, encoder: &mut CommandEncoder) {
        for ((home, from), spec) in self.inputs.iter().zip(given.inputs).zip(&program.inputs) {
            copy(Some(from), home.memory.as_ref(), spec.bytes, encoder);
        }
    }

    /// Queues the copies of small results out of their homes.
    pub(crate) fn copy_out(&self, program: &Program, given: &Given<'_>, encoder: &mut CommandEncoder) {
        for ((home, to), spec) in self.results.iter().zip(given.results).zip(&program.results) {
            copy(home.memory.as_ref(), Some(to), spec.bytes, encoder);
        }
    }

    /// Makes the bind groups that this run needs and no run before it left.
    pub(crate) fn bind(
        &mut self,
        shared: &Shared,
        program: &Program,
        launches: &[Launch],
        given: &Given<'_>,
    ) -> Result<(), DeviceError> {
        let mut groups = std::mem::take(&mut self.groups);
        if self.trims != shared.pool.trims() {
            // The pool has given buffers up: let go of them, too.
            self.trims = shared.pool.trims();
            groups.iter_mut().for_each(|recent| recent.retain(|(key, _)| key.is_empty()));
        }
        let mut key = Vec::new();
        let mut bound = Ok(());
        for (launch, recent) in launches.iter().zip(&mut groups) {
            key.clear();
            let moving = launch.slots.iter().filter_map(|slot| self.moving(slot, given)).map(Memory::id);
            key.extend(moving);
            match recent.iter().position(|(known, _)| *known == key) {
                Some(n) => recent[..=n].rotate_right(1),
                None => match self.group(shared, program, launch, given) {
                    Ok(group) => {
                        recent.truncate(GENERATIONS - 1);
                        recent.insert(0, (key.clone(), group));
                    }
                    Err(error) => {
                        bound = Err(error);
                        break;
                    }
                },
            }
        }
        self.groups = groups;
        bound
    }

    /// The bind group of each launch in the latest [`Kept::bind`].
    pub(crate) fn bound(&self) -> impl Iterator<Item = &BindGroup> {
        self.groups.iter().filter_map(|recent| recent.first()).map(|(_, group)| group)
    }

    /// The caller's buffer behind a slot, if the kernel works on that itself.
    fn moving<'a>(&self, slot: &Slot, given: &Given<'a>) -> Option<&'a Memory> {
        let Slot::Buffer(arg) = slot else { return None };
        let (home, memory) = match arg.buffer {
            BufferRef::Input(i) => (&self.inputs[i as usize], &given.inputs[i as usize]),
            BufferRef::Output(i) => (&self.results[i as usize], &given.results[i as usize]),
            BufferRef::Temp(_) => return None,
        };
        if home.memory.is_some() { None } else { Some(memory) }
    }

    fn group(
        &self,
        shared: &Shared,
        program: &Program,
        launch: &Launch,
        given: &Given<'_>,
    ) -> Result<BindGroup, DeviceError> {
        let mut entries = Vec::with_capacity(launch.slots.len());
        for (n, slot) in launch.slots.iter().enumerate() {
            let (memory, offset, bytes) = match slot {
                Slot::Scalars => (Some(&self.scalars), 0, 4 * program.scalars.len() as u64),
                Slot::Status => (Some(&shared.status), 0, 4),
                Slot::Buffer(arg) => {
                    let kept = match arg.buffer {
                        BufferRef::Input(i) => self.inputs[i as usize].memory.as_ref(),
                        BufferRef::Output(i) => self.results[i as usize].memory.as_ref(),
                        BufferRef::Temp(i) => self.temps.get(i as usize),
                    };
                    (kept.or_else(|| self.moving(slot, given)), arg.offset, arg.bytes)
                }
            };
            let found = memory.and_then(|m| Some((m.buffer()?, m.size())));
            let (buffer, size) = found.ok_or_else(|| shared.misuse(format!("binding {n} has no buffer")))?;
            // Whole `vec4`s, as buffers are; an empty part at the buffer's end still binds something.
            let bytes = bytes.max(16).next_multiple_of(16);
            let offset = if offset + bytes <= size { offset } else { 0 };
            entries.push(BindGroupEntry {
                binding: n as u32,
                resource: BindingResource::Buffer(BufferBinding {
                    buffer,
                    offset,
                    size: std::num::NonZeroU64::new(bytes),
                }),
            });
        }
        shared.bind_groups.fetch_add(1, Ordering::Relaxed);
        Ok(shared.device.create_bind_group(&BindGroupDescriptor {
            label: None,
            layout: &launch.pipeline.layout,
            entries: &entries,
        }))
    }
}

/// Whether an input may be copied to a home: it is small, and read only.
fn can_move(program: &Program, input: usize) -> bool {
    program.inputs[input].bytes <= SMALL && !program.updates.contains(&(input as u32))
}

fn copy(from: Option<&Memory>, to: Option<&Memory>, bytes: u64, encoder: &mut CommandEncoder) {
    if let (Some(from), Some(to)) = (from.and_then(Memory::buffer), to.and_then(Memory::buffer))
        && bytes > 0
    {
        // Elements are words, so this is whole words already; the round says so to wgpu.
        encoder.copy_buffer_to_buffer(from, 0, to, 0, bytes.next_multiple_of(4));
    }
}
