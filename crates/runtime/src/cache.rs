//! Compiled programs by graph: least recently used, bounded by bytes.

use std::{
    fmt,
    hash::{BuildHasher, Hash},
    sync::{Arc, Mutex, PoisonError},
};

use lru::LruCache;
use rustc_hash::FxBuildHasher;
use wgrad_ir::Graph;

use crate::{DeviceError, Executable};

/// What the cache has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CacheStats {
    /// Programs found.
    pub hits: u64,
    /// Programs compiled.
    pub misses: u64,
    /// Programs dropped to stay within the bound.
    pub evictions: u64,
    /// Programs held.
    pub programs: u64,
    /// Bytes that the held programs account for: their graphs and scratch buffers.
    pub bytes: u64,
}

struct Entry {
    graph: Graph,
    options: u64,
    executable: Arc<dyn Executable>,
    bytes: u64,
}

struct State {
    entries: LruCache<u64, Vec<Entry>, FxBuildHasher>,
    stats: CacheStats,
}

/// The programs of one device, keyed by graph and compile options. A hit compares the graphs, so that equal hashes of
/// different graphs do no harm.
pub struct ProgramCache {
    state: Mutex<State>,
    capacity: u64,
}

impl ProgramCache {
    /// Bytes that a cache holds unless told otherwise.
    pub const DEFAULT_CAPACITY: u64 = 2 << 30;

    /// A cache that drops the least recently used programs beyond `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let state =
            State { entries: LruCache::unbounded_with_hasher(FxBuildHasher), stats: CacheStats::default() };
        ProgramCache { state: Mutex::new(state), capacity }
    }

    /// The program for `graph` under `options` (any number that tells option sets apart), made by `compile` if it is not there.
    /// The cache is not locked while compiling, so that two threads may both compile; the first to finish is kept.
    ///
    /// # Errors
    /// Those of `compile`; nothing is cached then.
    pub fn get_or_compile<E: From<DeviceError>>(
        &self,
        graph: &Graph,
        options: u64,
        compile: impl FnOnce() -> Result<Arc<dyn Executable>, E>,
    ) -> Result<Arc<dyn Executable>, E> {
        let key = FxBuildHasher.hash_one(HashOf(graph, options));
        if let Some(found) = self.find(key, graph, options) {
            return Ok(found);
        }
        let executable = compile()?;
        let mut guard = self.lock();
        let state = &mut *guard;
        state.stats.misses += 1;
        let bytes = executable.program().temps.iter().sum::<u64>() + size_of_val(graph.nodes()) as u64;
        state.stats.bytes += bytes;
        state.stats.programs += 1;
        let entry = Entry { graph: graph.clone(), options, executable: executable.clone(), bytes };
        state.entries.get_or_insert_mut(key, Vec::new).push(entry);
        while state.stats.bytes > self.capacity && state.entries.len() > 1 {
            let Some((_, dropped)) = state.entries.pop_lru() else { break };
            for entry in dropped {
                state.stats.bytes -= entry.bytes;
                state.stats.programs -= 1;
                state.stats.evictions += 1;
            }
        }
        Ok(executable)
    }

    /// Every program held, in no particular order: for reports on what a step runs.
    pub fn executables(&self) -> Vec<Arc<dyn Executable>> {
        self.lock().entries.iter().flat_map(|(_, list)| list.iter().map(|e| e.executable.clone())).collect()
    }

    /// Drops every program, and with them their scratch memory; they are compiled anew when they are needed again.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.entries.clear();
        state.stats.bytes = 0;
        state.stats.programs = 0;
    }

    /// What the cache has done so far.
    pub fn stats(&self) -> CacheStats {
        self.lock().stats
    }

    fn find(&self, key: u64, graph: &Graph, options: u64) -> Option<Arc<dyn Executable>> {
        let mut state = self.lock();
        let entries = state.entries.get(&key)?;
        let found = entries.iter().find(|e| e.options == options && e.graph == *graph)?.executable.clone();
        state.stats.hits += 1;
        Some(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that runs under the lock can leave the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Hash)]
struct HashOf<'a>(&'a Graph, u64);

impl Default for ProgramCache {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CAPACITY)
    }
}

impl fmt::Debug for ProgramCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramCache")
            .field("stats", &self.stats())
            .field("capacity", &self.capacity)
            .finish()
    }
}
