//! Buffers, and the pool that they go back to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use wgpu::{Buffer, BufferDescriptor, BufferUsages, Device};
use wgrad_runtime::{DeviceError, check_available};

use crate::faults::Faults;

/// Unused bytes that the pool keeps at least, however little is in use.
const KEEP_AT_LEAST: u64 = 512 << 20;

/// So many staging buffers of up to so many bytes come from the system at once: a step's few numbers may still be on their way
/// when those of the next step set out.
const STAGED: (usize, u64) = (8, 4096);

/// What a buffer is for; buffers of different use are pooled apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Use {
    /// Bound by kernels, copied to and from.
    Storage,
    /// Copied to, and mapped by the host.
    Readback,
}

/// One device's buffers.
pub(crate) struct Pool {
    device: Device,
    faults: Faults,
    name: String,
    software: bool,
    max_buffer_bytes: u64,
    /// Unused buffers by number: the lowest is taken first, so that a program which repeats gets the same ones.
    free: Mutex<HashMap<(Use, u64), BTreeMap<u64, Buffer>>>,
    free_bytes: AtomicU64,
    allocated: AtomicU64,
    peak: AtomicU64,
    allocations: AtomicU64,
    trims: AtomicU64,
    /// The last number of [`Memory::contents`].
    contents: AtomicU64,
}

/// A buffer that goes back to its pool with its last owner. What is queued then still finds its contents: later work on the
/// buffer comes later in the queue.
pub(crate) struct Memory {
    buffer: Option<Buffer>,
    id: u64,
    key: (Use, u64),
    contents: AtomicU64,
    pool: Arc<Pool>,
}

impl Memory {
    /// The buffer; its size is a size class, at least what was asked for.
    pub(crate) fn buffer(&self) -> Option<&Buffer> {
        self.buffer.as_ref()
    }

    /// The buffer's number, which no other buffer of the pool ever has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// A number of what the buffer holds: equal numbers, equal elements.
    pub(crate) fn contents(&self) -> u64 {
        self.contents.load(Ordering::Relaxed)
    }

    /// To be called once work is queued that writes what is not new.
    pub(crate) fn has_changed(&self) {
        self.contents.store(self.pool.next_contents(), Ordering::Relaxed);
    }

    /// Bytes of the buffer: whole `vec4`s.
    pub(crate) fn size(&self) -> u64 {
        self.key.1
    }

    /// Gives the buffer back to the system, not to the pool (it is in a state that a next owner could not use).
    pub(crate) fn discard(mut self) {
        if self.buffer.take().is_some() {
            self.pool.allocated.fetch_sub(self.key.1, Ordering::Relaxed);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give_back(self.key, self.id, buffer);
        }
    }
}

impl Pool {
    pub(crate) fn new(
        device: Device,
        faults: Faults,
        name: String,
        software: bool,
        max_buffer_bytes: u64,
    ) -> Self {
        Pool {
            device,
            faults,
            name,
            software,
            max_buffer_bytes,
            free: Mutex::default(),
            free_bytes: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            trims: AtomicU64::new(0),
            contents: AtomicU64::new(0),
        }
    }

    /// A buffer of at least `bytes`, from the pool or the system. Its contents are undefined. `what` names it in errors.
    pub(crate) fn take(
        self: &Arc<Self>,
        usage: Use,
        bytes: u64,
        what: impl Fn() -> String,
    ) -> Result<Memory, DeviceError> {
        let size = class(bytes, self.max_buffer_bytes);
        let key = (usage, size);
        let pooled = self.lock().get_mut(&key).and_then(BTreeMap::pop_first);
        if let Some((id, buffer)) = pooled {
            self.free_bytes.fetch_sub(size, Ordering::Relaxed);
            return Ok(self.memory(id, key, buffer));
        }
        let (count, small) = STAGED;
        let batch = if usage == Use::Readback && size <= small { count } else { 1 };
        let mut fresh = (0..batch).map(|_| self.fresh(key, &what)).collect::<Result<Vec<_>, _>>()?;
        // The others go to the pool.
        fresh.pop().ok_or_else(|| self.faults.out_of_memory(&what(), size))
    }

    /// The unused buffers of these sizes and numbers, if all of them are there.
    pub(crate) fn take_again(self: &Arc<Self>, wanted: &[(u64, u64)]) -> Option<Vec<Memory>> {
        let mut free = self.lock();
        let key = |bytes: u64| (Use::Storage, class(bytes, self.max_buffer_bytes));
        let there =
            |&(bytes, id): &(u64, u64)| free.get(&key(bytes)).is_some_and(|list| list.contains_key(&id));
        if !wanted.iter().all(there) {
            return None;
        }
        let taken = wanted.iter().filter_map(|&(bytes, id)| {
            let buffer = free.get_mut(&key(bytes))?.remove(&id)?;
            self.free_bytes.fetch_sub(key(bytes).1, Ordering::Relaxed);
            Some(self.memory(id, key(bytes), buffer))
        });
        Some(taken.collect())
    }

    /// A buffer from the system.
    fn fresh(self: &Arc<Self>, key: (Use, u64), what: &impl Fn() -> String) -> Result<Memory, DeviceError> {
        let (usage, size) = key;
        let buffer = match self.allocate(usage, size, what) {
            Err(DeviceError::OutOfMemory { .. }) if self.free_bytes.load(Ordering::Relaxed) > 0 => {
                // What lies unused in the pool may be all that is missing.
                self.trim();
                self.allocate(usage, size, what)?
            }
            other => other?,
        };
        let id = self.allocations.fetch_add(1, Ordering::Relaxed);
        let now = self.allocated.fetch_add(size, Ordering::Relaxed) + size;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Ok(self.memory(id, key, buffer))
    }

    fn memory(self: &Arc<Self>, id: u64, key: (Use, u64), buffer: Buffer) -> Memory {
        let contents = AtomicU64::new(self.next_contents());
        Memory { buffer: Some(buffer), id, key, contents, pool: self.clone() }
    }

    fn next_contents(&self) -> u64 {
        self.contents.fetch_add(1, Ordering::Relaxed)
    }

    fn allocate(&self, usage: Use, size: u64, what: &impl Fn() -> String) -> Result<Buffer, DeviceError> {
        if self.software {
            check_available(&self.name, what, size)?;
        }
        let usage = match usage {
            Use::Storage => BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
            Use::Readback => BufferUsages::MAP_READ | BufferUsages::COPY_DST,
        };
        self.faults.scoped(&self.device, &what(), size, || {
            self.device.create_buffer(&BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: false,
            })
        })
    }

    /// Returns all unused buffers to the system.
    pub(crate) fn trim(&self) {
        let unused = std::mem::take(&mut *self.lock());
        let bytes: u64 = unused.iter().map(|((_, size), list)| size * list.len() as u64).sum();
        self.free_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.allocated.fetch_sub(bytes, Ordering::Relaxed);
        self.trims.fetch_add(1, Ordering::Relaxed);
        drop(unused);
        // The driver frees memory once it has seen that the queue is done with it.
        let _ = self.device.poll(wgpu::PollType::Poll);
    }

    /// How often [`Pool::trim`] was called: bind groups made before may hold buffers that it gave up.
    pub(crate) fn trims(&self) -> u64 {
        self.trims.load(Ordering::Relaxed)
    }

    fn give_back(&self, key: (Use, u64), id: u64, buffer: Buffer) {
        let used = self.allocated.load(Ordering::Relaxed) - self.free_bytes.load(Ordering::Relaxed);
        if self.free_bytes.load(Ordering::Relaxed) + key.1 > KEEP_AT_LEAST.max(used) {
            // Sizes that are no longer asked for must not pile up.
            self.trim();
        }
        self.lock().entry(key).or_default().insert(id, buffer);
        self.free_bytes.fetch_add(key.1, Ordering::Relaxed);
    }

    /// Buffers taken from the system, bytes held now, and the most ever held.
    pub(crate) fn counters(&self) -> (u64, u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.allocations), load(&self.allocated), load(&self.peak))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Use, u64), BTreeMap<u64, Buffer>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The size to allocate for `bytes`: at most an eighth more, so that neighbouring sizes share buffers; a multiple of 16, so that
/// the last `vec4` of an array is whole; within the device's limit where `bytes` is.
pub(crate) fn class(bytes: u64, limit: u64) -> u64 {
    let bytes = bytes.max(16).next_multiple_of(16);
    let step = if bytes <= 4096 { 256 } else { 1 << (bytes.ilog2() - 3) };
    let rounded = bytes.next_multiple_of(step);
    if rounded <= limit { rounded } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::class;

    #[test]
    fn size_classes_waste_at_most_an_eighth_and_keep_the_limit() {
        for bytes in [1u64, 16, 255, 4096, 4097, 5000, 1 << 20, (1 << 20) + 1, 123_456_789] {
            let size = class(bytes, 1 << 31);
            assert!(
                size >= bytes && size.is_multiple_of(16) && size <= (bytes + bytes / 8 + 16).max(bytes + 256),
                "{bytes}"
            );
        }
        assert_eq!(class((1 << 27) - 100, 1 << 27), 1 << 27);
        assert_eq!(class((1 << 27) + 1, (1 << 27) + 16), (1 << 27) + 16);
    }
}
