//! What a program keeps from run to run: scratch, stable homes for small inputs and results, and bind groups.
//!
//! A bind group names buffers, so a run makes new ones wherever it meets a buffer for the first time. Weights that are updated in
//! place stay where they are. A batch and a loss are new buffers in every step; being small, they are copied to and from
//! buffers that stay (an input only where its elements are others than last time). What is large is bound where it is. Large
//! results are asked of the pool by number, so that a step that repeats gets those that it knows; a caller may keep the results of
//! one run until it has those of the next, so the first run leaves a second set in the pool, with bind groups. From the second
//! run on nothing is made then.

use std::sync::{Arc, atomic::Ordering};

use wgpu::{BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, BufferBinding, CommandEncoder};
use wgrad_ir::{BufferRef, BufferSpec, Program};
use wgrad_runtime::{DeviceError, spare_inputs, spare_results};

use crate::{
    device::Shared,
    executable::{Launch, Slot},
    pool::{Memory, Use},
    timers::Timers,
};

/// Results up to this size have a home.
const SMALL: u64 = 64 << 10;

/// Bind groups of one launch that are kept, for as many sets of buffers.
const GENERATIONS: usize = 4;

/// A buffer of the program's own for a small input.
struct Home {
    memory: Memory,
    /// What was copied to it last.
    contents: Option<u64>,
}

/// A program's memory, in use by one run at a time.
pub(crate) struct Kept {
    temps: Vec<Memory>,
    pub(crate) scalars: Memory,
    inputs: Vec<Option<Home>>,
    results: Vec<Option<Memory>>,
    /// The numbers of the buffers that large results had, the first set first.
    sets: Vec<Vec<u64>>,
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
        let results = program
            .results
            .iter()
            .map(|spec| (spec.bytes <= SMALL).then(|| take(spec.bytes, "a result of a program")).transpose());
        let mut inputs: Vec<Option<Home>> = program.inputs.iter().map(|_| None).collect();
        for (n, spec) in spare_inputs(program) {
            let memory = take(spec.bytes, "an input of a program")?;
            inputs[n] = Some(Home { memory, contents: None });
        }
        Ok(Kept {
            temps: temps.collect::<Result<_, _>>()?,
            scalars: take(4 * program.scalars.len() as u64, "the scalars of a program")?,
            inputs,
            results: results.collect::<Result<_, DeviceError>>()?,
            sets: Vec::new(),
            groups: (0..launches).map(|_| Vec::new()).collect(),
            trims: shared.pool.trims(),
            timers: None,
        })
    }

    /// Buffers for the results of one run: where large ones are, those of an earlier run that nobody holds now.
    pub(crate) fn take_results(
        &mut self,
        shared: &Shared,
        program: &Program,
    ) -> Result<Vec<Memory>, DeviceError> {
        let take = |spec: &BufferSpec| {
            shared.pool.take(Use::Storage, spec.bytes, || format!("a result {}{}", spec.dtype, spec.shape))
        };
        let is_large = |n: &usize| self.results[*n].is_none();
        let large: Vec<usize> = (0..program.results.len()).filter(is_large).collect();
        let again = self.sets.iter().find_map(|set| {
            let wanted = large.iter().zip(set).map(|(&n, &id)| (program.results[n].bytes, id));
            shared.pool.take_again(&wanted.collect::<Vec<_>>())
        });
        let taken = match again {
            Some(taken) => taken,
            None => {
                let taken =
                    large.iter().map(|&n| take(&program.results[n])).collect::<Result<Vec<_>, _>>()?;
                if self.sets.len() == GENERATIONS {
                    self.sets.remove(0);
                }
                self.sets.push(taken.iter().map(Memory::id).collect());
                taken
            }
        };
        let mut taken = taken.into_iter();
        let home = |(spec, home): (&BufferSpec, &Option<Memory>)| match home {
            None => taken.next().map_or_else(|| take(spec), Ok),
            Some(_) => take(spec),
        };
        program.results.iter().zip(&self.results).map(home).collect()
    }

    /// Leaves in the pool what the next run takes if all of this run's buffers are still held then, and binds it. Whether that
    /// succeeds makes no difference to this run.
    pub(crate) fn prepare_next(
        &mut self,
        shared: &Shared,
        program: &Program,
        launches: &[Launch],
        inputs: &[Arc<Memory>],
    ) {
        let mut spare = Vec::new();
        if spare_results(program).len() == program.results.len()
            && let Ok(results) = self.take_results(shared, program)
        {
            let results: Vec<_> = results.into_iter().map(Arc::new).collect();
            let _ = self.bind(shared, program, launches, &Given { inputs, results: &results });
            spare = results;
        }
        let input = |(_, spec): (usize, &BufferSpec)| shared.pool.take(Use::Storage, spec.bytes, String::new);
        let batch: Vec<_> = spare_inputs(program).map(input).collect();
        drop((spare, batch));
    }

    /// Queues the copies of small inputs to their homes.
    pub(crate) fn copy_in(&mut self, program: &Program, given: &Given<'_>, encoder: &mut CommandEncoder) {
        for ((home, from), spec) in self.inputs.iter_mut().zip(given.inputs).zip(&program.inputs) {
            if let Some(home) = home
                && home.contents.replace(from.contents()) != Some(from.contents())
            {
                copy(from, &home.memory, spec.bytes, encoder);
            }
        }
    }

    /// Queues the copies of small results out of their homes.
    pub(crate) fn copy_out(&self, program: &Program, given: &Given<'_>, encoder: &mut CommandEncoder) {
        for ((home, to), spec) in self.results.iter().zip(given.results).zip(&program.results) {
            if let Some(home) = home {
                copy(home, to, spec.bytes, encoder);
            }
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
        match arg.buffer {
            BufferRef::Input(i) if self.inputs[i as usize].is_none() => Some(&given.inputs[i as usize]),
            BufferRef::Output(i) if self.results[i as usize].is_none() => Some(&given.results[i as usize]),
            _ => None,
        }
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
                        BufferRef::Input(i) => self.inputs[i as usize].as_ref().map(|home| &home.memory),
                        BufferRef::Output(i) => self.results[i as usize].as_ref(),
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

fn copy(from: &Memory, to: &Memory, bytes: u64, encoder: &mut CommandEncoder) {
    if let (Some(from), Some(to)) = (from.buffer(), to.buffer())
        && bytes > 0
    {
        // Elements are words, so this is whole words already; the round says so to wgpu.
        encoder.copy_buffer_to_buffer(from, 0, to, 0, bytes.next_multiple_of(4));
    }
}
