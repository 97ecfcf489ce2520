//! Runs wgrad programs through wgpu: Vulkan, Metal and DX12 adapters as [`wgrad_runtime::Device`]s.
//!
//! [`GpuBackend`] lists and opens adapters with their real limits. A [`GpuDevice`] owns a buffer pool, a cache of pipelines keyed
//! by shader text, and a status word by which kernels report indices out of range. A prepared program holds its pipelines, scratch buffers
//! and bind groups, so that a run which repeats only encodes dispatches: one encoder, one pass, one submission. No error of wgpu reaches its panicking default handler.

mod adapter;
mod backend;
mod cooperative;
mod device;
mod executable;
mod faults;
mod kept;
mod limits;
mod pipelines;
mod pool;
mod readback;
mod timers;
mod tune;

pub use backend::GpuBackend;
pub use device::GpuDevice;
pub use tune::Variant;
