//! What a device is to the rest of wgrad: the [`Device`] and [`Executable`] traits, buffers, errors, the registry that picks
//! a device by name, and the cache of compiled programs that each device carries.
//!
//! Runtimes (`wgrad-cpu`, `wgrad-gpu`) implement the traits; tensors use them and name no runtime.
#![forbid(unsafe_code)]

mod buffer;
mod cache;
mod device;
mod error;
mod limits;
mod memory;
mod planning;
mod readback;
mod registry;

pub use buffer::{Buffer, KeptBuffer};
pub use cache::{CacheStats, ProgramCache};
pub use device::{
    Device, DeviceHandle, DeviceInfo, DeviceKind, DeviceStats, Executable, RunOutput, StepTime,
};
pub use error::DeviceError;
pub use limits::check_limits;
pub use memory::{
    MemoryEstimate, available_memory, check_available, human_bytes, spare_inputs, spare_results,
};
pub use planning::{PlannedRun, PlanningDevice};
pub use readback::{PendingRead, Readback};
pub use registry::{Backend, Opened, Registry};
