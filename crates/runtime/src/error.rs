//! What can go wrong on a device.

use thiserror::Error;
use wgrad_ir::{BufferRef, IrError};

use crate::human_bytes;

/// A failure for reasons outside of a model: memory, limits, drivers.
#[derive(Clone, Debug, Error)]
pub enum DeviceError {
    /// Memory is short.
    #[error("{device}: {what} needs {}, but {} available; use a smaller batch, a shorter context or a smaller model",
        human_bytes(*.needed), there_is(*.available))]
    OutOfMemory {
        /// The device.
        device: String,
        /// What was to be allocated.
        what: String,
        /// Bytes wanted.
        needed: u64,
        /// Bytes there are (0 where the driver does not tell).
        available: u64,
    },
    /// A tensor exceeds what the device can allocate or bind.
    #[error("{device}: {tensor} in kernel `{kernel}` takes {}, more than the {} that {limit_name} allows; \
        split the tensor (a smaller vocabulary, width or batch), or use `--device cpu`, which has no such limit",
        human_bytes(*.bytes), human_bytes(*.limit))]
    TooLarge {
        /// The device.
        device: String,
        /// The tensor's name where it has one, else its place in the program.
        tensor: String,
        /// Its place in the program, so that upper layers can put its name into `tensor`.
        buffer: Option<BufferRef>,
        /// Label of the kernel.
        kernel: String,
        /// Bytes of the tensor.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
        /// The limit's name (`max_storage_buffer_binding_size`).
        limit_name: &'static str,
    },
    /// A kernel met an index outside of its table.
    #[error(
        "{device}: an index or value computed on the device was out of range; check token ids against the vocabulary size, \
        positions against the context length, targets against the classes, lengths against the steps, probabilities against 0..1"
    )]
    IndexOutOfRange {
        /// The device.
        device: String,
    },
    /// The device is gone.
    #[error("{device} was lost: {reason}; restart the process, and resume from the last checkpoint")]
    Lost {
        /// The device.
        device: String,
        /// What the driver said.
        reason: String,
    },
    /// No device of that name, or none that can be opened.
    #[error("no device `{requested}`: {reason}")]
    NoDevice {
        /// What was asked for.
        requested: String,
        /// What there is, or why it failed.
        reason: String,
    },
    /// A dtype or kernel that this device does not have.
    #[error("{device}: {what} is not supported on this device")]
    Unsupported {
        /// The device.
        device: String,
        /// What was asked for.
        what: String,
    },
    /// The caller mixed things up (a buffer of another device, a wrong number of inputs).
    #[error("{device}: {message}")]
    Misuse {
        /// The device.
        device: String,
        /// What was expected and what came.
        message: String,
    },
    /// The driver refused something that should have been valid.
    #[error("{device}: the driver refused {what}: {message}")]
    Driver {
        /// The device.
        device: String,
        /// What was asked of it.
        what: String,
        /// What it said.
        message: String,
    },
    /// The program itself is inconsistent.
    #[error(transparent)]
    Ir(#[from] IrError),
}

/// What a message says of available memory, which drivers of GPUs do not tell.
fn there_is(available: u64) -> String {
    match available {
        0 => "the driver says that it is not".to_owned(),
        bytes => format!("only {} are", human_bytes(bytes)),
    }
}

impl DeviceError {
    /// Replaces the place of a program's input by its name, where the caller knows one.
    #[must_use]
    pub fn with_input_names(mut self, name: impl Fn(usize) -> Option<String>) -> Self {
        if let DeviceError::TooLarge { tensor, buffer: Some(BufferRef::Input(i)), .. } = &mut self
            && let Some(known) = name(*i as usize)
        {
            *tensor = format!("`{known}`");
        }
        self
    }
}
