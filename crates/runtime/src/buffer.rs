//! Device memory, as the layers above hold it.

use std::{any::Any, fmt, sync::Arc};

/// A piece of one device's memory: shared, immutable once written, freed (to the device's pool) with the last handle.
///
/// Only the runtime that made a buffer looks inside ([`Buffer::downcast`]).
#[derive(Clone)]
pub struct Buffer {
    memory: Arc<dyn Any + Send + Sync>,
    /// Counts the handles.
    handle: Arc<()>,
    bytes: u64,
    device: u64,
}

impl Buffer {
    /// Wraps a runtime's memory. `device` is the [`Device::uid`](crate::Device::uid) of its owner.
    pub fn new<M: Any + Send + Sync>(memory: Arc<M>, bytes: u64, device: u64) -> Self {
        Buffer { memory, handle: Arc::new(()), bytes, device }
    }

    /// The runtime's memory, if this buffer is of that kind.
    pub fn downcast<M: Any + Send + Sync>(&self) -> Option<Arc<M>> {
        self.memory.clone().downcast().ok()
    }

    /// Bytes of the tensor that it holds, as the device stores it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether both are handles of one buffer's memory.
    pub fn is_same(&self, other: &Buffer) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    /// The device that owns it.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Whether nothing else holds this memory, so that a program may overwrite it.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.handle) == 1
    }

    /// Keeps the memory alive without being a handle to it: for whoever gives the buffer to a program that may overwrite it,
    /// and wants it back if the program does not run.
    pub fn keep(&self) -> KeptBuffer {
        KeptBuffer { memory: self.memory.clone(), bytes: self.bytes, device: self.device }
    }
}

/// See [`Buffer::keep`].
pub struct KeptBuffer {
    memory: Arc<dyn Any + Send + Sync>,
    bytes: u64,
    device: u64,
}

impl KeptBuffer {
    /// A handle to the memory, which must not have been overwritten, apart from those that there are.
    pub fn restore(self) -> Buffer {
        Buffer { memory: self.memory, handle: Arc::new(()), bytes: self.bytes, device: self.device }
    }
}

impl fmt::Debug for KeptBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptBuffer").field("bytes", &self.bytes).finish_non_exhaustive()
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
