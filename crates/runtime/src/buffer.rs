//! Device memory, as the layers above hold it.

use std::{any::Any, fmt, sync::Arc};

/// A piece of one device's memory: shared, immutable once written, freed (to the device's pool) with the last handle.
///
/// Only the runtime that made a buffer looks inside ([`Buffer::downcast`]).
#[derive(Clone)]
pub struct Buffer {
    memory: Arc<dyn Any + Send + Sync>,
    bytes: u64,
    device: u64,
}

impl Buffer {
    /// Wraps a runtime's memory. `device` is the [`Device::uid`](crate::Device::uid) of its owner.
    pub fn new<M: Any + Send + Sync>(memory: Arc<M>, bytes: u64, device: u64) -> Self {
        Buffer { memory, bytes, device }
    }

    /// The runtime's memory, if this buffer is of that kind.
    pub fn downcast<M: Any + Send + Sync>(&self) -> Option<Arc<M>> {
        self.memory.clone().downcast().ok()
    }

    /// Bytes of the tensor that it holds, as the device stores it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The device that owns it.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Whether nothing else holds this memory, so that a program may overwrite it.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.memory) == 1
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("bytes", &self.bytes)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}
