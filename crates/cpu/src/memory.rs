//! Aligned memory and the pool it comes from.
//!
//! A fresh page costs a fault and a clearing by the system, several times what a kernel takes to fill it; so what a
//! buffer leaves behind is kept, by size class, for the next.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::BTreeMap,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wgrad_runtime::{DeviceError, check_available};

/// Alignment of every buffer: a cache line, and the widest SIMD register.
const ALIGN: usize = 64;

/// One allocation, zeroed when it was made, so that every byte is always initialised.
struct Chunk {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a chunk owns its memory; it is only reached through `Memory`, whose users keep writers exclusive.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(class: usize) -> Option<Chunk> {
        let layout = Layout::from_size_align(class, ALIGN).ok()?;
        // SAFETY: classes are at least `ALIGN` bytes, so the layout is not empty.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Chunk { ptr, layout })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed once.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

/// Memory of one buffer; goes back to the pool with its last handle.
pub(crate) struct Memory {
    chunk: Option<Chunk>,
    pool: Arc<Pool>,
}

impl Memory {
    /// The first byte. Valid, aligned and initialised for `capacity` bytes while `self` lives.
    pub(crate) fn ptr(&self) -> *mut u8 {
        self.chunk.as_ref().map_or(std::ptr::null_mut(), |c| c.ptr.as_ptr())
    }

    /// Bytes there are, at least as many as were asked for.
    pub(crate) fn capacity(&self) -> usize {
        self.chunk.as_ref().map_or(0, |c| c.layout.size())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            self.pool.give_back(chunk);
        }
    }
}

/// Counters of a pool.
#[derive(Clone, Copy, Default)]
pub(crate) struct PoolStats {
    /// Allocations from the system.
    pub(crate) allocations: u64,
    /// Bytes held, free ones included.
    pub(crate) bytes: u64,
    /// Largest `bytes` so far.
    pub(crate) peak: u64,
}

#[derive(Default)]
struct State {
    /// Free chunks by class, each with the time it was given back; newest last.
    free: BTreeMap<usize, Vec<(u64, Chunk)>>,
    free_bytes: u64,
    clock: u64,
    stats: PoolStats,
}

/// Free memory by size class, bounded.
pub(crate) struct Pool {
    device: String,
    limit: u64,
    state: Mutex<State>,
}

impl Pool {
    /// A pool that keeps at most `limit` free bytes.
    pub(crate) fn new(device: &str, limit: u64) -> Arc<Self> {
        Arc::new(Pool { device: device.to_owned(), limit, state: Mutex::default() })
    }

    /// One memory for each size, or none at all. `what` names them in the error.
    pub(crate) fn take(
        self: &Arc<Self>,
        sizes: impl Iterator<Item = u64> + Clone,
        what: impl Fn() -> String,
    ) -> Result<Vec<Memory>, DeviceError> {
        let mut state = self.lock();
        let mut taken: Vec<Option<Chunk>> = Vec::with_capacity(sizes.size_hint().0);
        let mut missing = 0u64;
        for size in sizes.clone() {
            let class = class_of(size);
            let found = state.free.get_mut(&class).and_then(Vec::pop).map(|(_, chunk)| chunk);
            match &found {
                Some(_) => state.free_bytes -= class as u64,
                None => missing = missing.saturating_add(class as u64),
            }
            taken.push(found);
        }
        if let Err(first) = check_available(&self.device, &what, missing) {
            // What lies idle in other classes may make up for it.
            let idle = std::mem::take(&mut state.free);
            state.stats.bytes -= state.free_bytes;
            state.free_bytes = 0;
            drop(idle);
            let enough =
                matches!(&first, DeviceError::OutOfMemory { needed, available, .. } if needed <= available);
            if !enough && check_available(&self.device, &what, missing).is_err() {
                for chunk in taken.into_iter().flatten() {
                    state.stats.bytes -= chunk.layout.size() as u64;
                }
                return Err(first);
            }
        }
        let mut memories = Vec::with_capacity(taken.len());
        for (found, size) in taken.into_iter().zip(sizes) {
            let chunk = match found {
                Some(chunk) => chunk,
                None => {
                    let class = class_of(size);
                    let Some(chunk) = Chunk::new(class) else {
                        // Dropping `memories` gives them back, which needs the lock.
                        drop(state);
                        return Err(DeviceError::OutOfMemory {
                            device: self.device.clone(),
                            what: what(),
                            needed: missing,
                            available: wgrad_runtime::available_memory(),
                        });
                    };
                    state.stats.allocations += 1;
                    state.stats.bytes += class as u64;
                    state.stats.peak = state.stats.peak.max(state.stats.bytes);
                    chunk
                }
            };
            memories.push(Memory { chunk: Some(chunk), pool: self.clone() });
        }
        Ok(memories)
    }

    pub(crate) fn stats(&self) -> PoolStats {
        self.lock().stats
    }

    fn give_back(&self, chunk: Chunk) {
        let mut dropped = Vec::new();
        let mut state = self.lock();
        state.clock += 1;
        state.free_bytes += chunk.layout.size() as u64;
        let clock = state.clock;
        state.free.entry(chunk.layout.size()).or_default().push((clock, chunk));
        while state.free_bytes > self.limit {
            let oldest = state.free.iter().filter_map(|(c, list)| Some((list.first()?.0, *c))).min();
            let Some((_, class)) = oldest else { break };
            if let Some(list) = state.free.get_mut(&class) {
                dropped.push(list.remove(0));
            }
            state.free_bytes -= class as u64;
            state.stats.bytes -= class as u64;
        }
        drop(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock unwinds half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The size class that holds `bytes`: four steps per power of two, so at most a fifth is wasted.
pub(crate) fn class_of(bytes: u64) -> usize {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).max(ALIGN);
    let step = (bytes.checked_next_power_of_two().unwrap_or(1 << 63) / 8).max(ALIGN);
    // Where this saturates, the class is one that no allocator grants.
    bytes.checked_next_multiple_of(step).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_its_bytes_and_wastes_at_most_a_fifth() {
        for bytes in [0, 1, 63, 64, 65, 1000, 1 << 20, (1 << 20) + 1, 123_456_789] {
            let class = class_of(bytes) as u64;
            assert!(class >= bytes && class.is_multiple_of(64));
            assert!(bytes < 512 || class - bytes <= bytes / 4, "{bytes} -> {class}");
        }
    }

    #[test]
    fn dropped_memory_is_used_again() {
        let pool = Pool::new("cpu", 1 << 20);
        let first = pool.take([1000, 5000].into_iter(), || "test".into()).unwrap();
        let ptr = first[1].ptr();
        drop(first);
        let second = pool.take([5000].into_iter(), || "test".into()).unwrap();
        assert_eq!(second[0].ptr(), ptr);
        assert_eq!(pool.stats().allocations, 2);
    }

    #[test]
    fn the_pool_keeps_no_more_than_its_limit() {
        let pool = Pool::new("cpu", 10_000);
        drop(pool.take([8192, 4096, 2048].into_iter(), || "test".into()).unwrap());
        assert!(pool.stats().bytes <= 10_000);
        assert_eq!(pool.stats().peak, 8192 + 4096 + 2048);
    }

    #[test]
    fn absurd_sizes_are_errors() {
        let pool = Pool::new("cpu", 0);
        for bytes in [1 << 50, u64::MAX] {
            let error = pool.take([bytes].into_iter(), || "the logits".into()).err().unwrap();
            assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
        }
    }
}
