//! Timestamps around the dispatches of one program.

use std::sync::Arc;

use wgpu::{
    Buffer, BufferDescriptor, BufferUsages, CommandEncoder, ComputePassTimestampWrites, MapMode, PollType,
    QuerySet, QuerySetDescriptor, QueryType,
};
use wgrad_runtime::{DeviceError, StepTime};

use crate::device::Shared;

/// Dispatches that one query set times, by two queries each.
const PER_SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

/// The queries of a program's dispatches, and the buffers by which the host reads them.
pub(crate) struct Timers {
    sets: Vec<QuerySet>,
    resolved: Buffer,
    staging: Buffer,
    count: usize,
    /// Whether a run has filled the staging buffer, and nobody has read it yet.
    pub(crate) waiting: bool,
}

impl Timers {
    /// Timers for `count` dispatches.
    pub(crate) fn new(shared: &Shared, count: usize) -> Result<Self, DeviceError> {
        let device = &shared.device;
        let size = 16 * count.max(1) as u64;
        shared.faults.scoped(device, "timers of a program", 2 * size, || {
            let sets = (0..count)
                .step_by(PER_SET)
                .map(|first| {
                    device.create_query_set(&QuerySetDescriptor {
                        label: Some("steps"),
                        ty: QueryType::Timestamp,
                        count: 2 * PER_SET.min(count - first) as u32,
                    })
                })
                .collect();
            let buffer = |usage| {
                device.create_buffer(&BufferDescriptor {
                    label: Some("timestamps"),
                    size,
                    usage,
                    mapped_at_creation: false,
                })
            };
            let resolved = buffer(BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC);
            let staging = buffer(BufferUsages::MAP_READ | BufferUsages::COPY_DST);
            Timers { sets, resolved, staging, count, waiting: false }
        })
    }

    /// What dispatch `n` writes, in a pass of its own.
    pub(crate) fn around(&self, n: usize) -> ComputePassTimestampWrites<'_> {
        let first = 2 * (n % PER_SET) as u32;
        ComputePassTimestampWrites {
            query_set: &self.sets[n / PER_SET],
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }
    }

    /// Queues the copy that [`Timers::read`] waits for.
    pub(crate) fn resolve(&mut self, encoder: &mut CommandEncoder) {
        for (n, set) in self.sets.iter().enumerate() {
            let queries = 2 * PER_SET.min(self.count - n * PER_SET) as u32;
            encoder.resolve_query_set(set, 0..queries, &self.resolved, (16 * n * PER_SET) as u64);
        }
        if self.count > 0 {
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, 16 * self.count as u64);
        }
        self.waiting = true;
    }

    /// Waits for the latest run. `steps` says which step of the program each dispatch belongs to.
    pub(crate) fn read(
        &mut self,
        shared: &Shared,
        steps: impl Iterator<Item = usize>,
    ) -> Result<Vec<StepTime>, DeviceError> {
        let failed = |message: String| shared.driver_error("to read timestamps back", message);
        let mapped: Arc<std::sync::Mutex<Option<Result<(), wgpu::BufferAsyncError>>>> = Arc::default();
        let sink = mapped.clone();
        self.staging.map_async(MapMode::Read, .., move |result| {
            *sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
        });
        self.waiting = false;
        loop {
            shared.device.poll(PollType::wait_indefinitely()).map_err(|e| failed(e.to_string()))?;
            match mapped.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
                Some(Ok(())) => break,
                Some(Err(e)) => return Err(failed(e.to_string())),
                // Another thread is about to run the callback.
                None => shared.faults.check("reading timestamps back")?,
            }
        }
        let period = f64::from(shared.queue.get_timestamp_period());
        let view = self.staging.get_mapped_range(..).map_err(|e| failed(e.to_string()))?;
        let word = |n: usize| {
            let bytes: [u8; 8] = view[8 * n..8 * n + 8].try_into().unwrap_or_default();
            u64::from_ne_bytes(bytes)
        };
        let first = word(0);
        let nanos = |ticks: u64| (ticks as f64 * period) as u64;
        let times = steps
            .enumerate()
            .take(self.count)
            .map(|(n, step)| StepTime {
                step,
                start_nanos: nanos(word(2 * n).saturating_sub(first)),
                nanos: nanos(word(2 * n + 1).saturating_sub(word(2 * n))),
            })
            .collect();
        drop(view);
        self.staging.unmap();
        Ok(times)
    }
}
