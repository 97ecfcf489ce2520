//! Trainable tensors, and the others that a module keeps.

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use wgrad_tensor::Tensor;

/// A shared cell that holds a trainable tensor.
///
/// Clones are the same parameter: two modules that hold clones are *tied*. A parameter has no name of its own; its name is
/// the path by which [`Module::visit`](crate::Module::visit) first reaches it.
#[derive(Clone)]
pub struct Param(Arc<Cell>);

struct Cell {
    tensor: RwLock<Tensor>,
    frozen: AtomicBool,
    buffer: bool,
}

impl Param {
    /// A trainable parameter with this value.
    pub fn new(tensor: Tensor) -> Self {
        Param::cell(tensor, false)
    }

    /// A tensor of a module that is saved and loaded as parameters are, and changed by forward passes instead of optimizers (the
    /// statistics of a batch norm): PyTorch's *buffer*. [`Module::named_parameters`](crate::Module::named_parameters) leaves it
    /// out.
    pub fn buffer(tensor: Tensor) -> Self {
        Param::cell(tensor, true)
    }

    fn cell(tensor: Tensor, buffer: bool) -> Self {
        Param(Arc::new(Cell { tensor: RwLock::new(tensor), frozen: AtomicBool::new(buffer), buffer }))
    }

    /// Whether this is a buffer.
    pub fn is_buffer(&self) -> bool {
        self.0.buffer
    }

    /// The value now, without the history of a value that has been computed: so that what a buffer becomes in one step does not hold
    /// on to all steps before.
    pub fn settled(&self) -> Tensor {
        let tensor = self.tensor();
        if !tensor.is_realized() {
            return tensor;
        }
        let leaf = tensor.detach_realized();
        self.set(leaf.clone());
        leaf
    }

    /// The value now. A handle that was taken before [`Param::set`] keeps the value of its time.
    pub fn tensor(&self) -> Tensor {
        let tensor = self.0.tensor.read().unwrap_or_else(PoisonError::into_inner).clone();
        // A checkpointed layer set it to what is known inside of the checkpoint only.
        tensor.outside().unwrap_or(tensor)
    }

    /// Replaces the value; every clone of this parameter sees it. Neither shape nor dtype are compared with the old value's:
    /// optimizers and loading, which call this, have done so.
    pub fn set(&self, tensor: Tensor) {
        *self.0.tensor.write().unwrap_or_else(PoisonError::into_inner) = tensor;
    }

    /// Excludes the parameter from training: optimizers neither ask for its gradient nor decay it.
    pub fn freeze(&self) {
        self.0.frozen.store(true, Ordering::Relaxed);
    }

    /// Undoes [`Param::freeze`]. A buffer stays frozen.
    pub fn unfreeze(&self) {
        self.0.frozen.store(self.0.buffer, Ordering::Relaxed);
    }

    /// Whether optimizers leave it alone.
    pub fn is_frozen(&self) -> bool {
        self.0.frozen.load(Ordering::Relaxed)
    }

    /// Whether both are the same parameter (not merely equal in value).
    pub fn is_same(&self, other: &Param) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number that only clones of this parameter share, for as long as one of them lives.
    pub(crate) fn identity(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }
}

impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tensor = self.tensor();
        let frozen = if self.is_frozen() { ", frozen" } else { "" };
        write!(f, "Param({}{}{frozen})", tensor.dtype(), tensor.shape())
    }
}
