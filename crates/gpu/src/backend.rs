//! Listing and opening adapters.

use std::sync::{Arc, OnceLock};

use wgpu::{
    Adapter, Backends, DeviceDescriptor, ExperimentalFeatures, Features, Instance, InstanceDescriptor,
    InstanceFlags, MemoryHints,
};
use wgrad_runtime::{Backend, DeviceError, DeviceHandle, DeviceInfo, DeviceKind};

use crate::{GpuDevice, adapter, cooperative};

/// The adapters that wgpu finds, as `gpu:0`, `gpu:1`, ...: discrete GPUs first, then integrated, virtual and software ones.
/// Without any driver the list is empty.
#[derive(Debug, Default)]
pub struct GpuBackend {
    instance: OnceLock<Instance>,
}

impl GpuBackend {
    /// A backend that looks for drivers when it is first asked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens an adapter as the type that also offers what [`wgrad_runtime::Device`] does not.
    ///
    /// # Errors
    /// There is no adapter of that id, or its driver refuses.
    pub fn open_gpu(&self, id: &str) -> Result<Arc<GpuDevice>, DeviceError> {
        let refuse = |reason: String| DeviceError::NoDevice { requested: id.to_owned(), reason };
        let adapters = self.adapters();
        let found = id
            .strip_prefix("gpu:")
            .and_then(|n| n.parse::<usize>().ok())
            .and_then(|n| adapters.get(n))
            .ok_or_else(|| refuse(format!("{} adapters were found, from gpu:0", adapters.len())))?;
        let info = adapter::info(found, id.to_owned());
        let matrices = cooperative::variant(found);
        let (mut features, mut experimental) =
            (adapter::wanted_features(found), ExperimentalFeatures::disabled());
        if matrices.is_some() {
            features |= Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: what is experimental may have defects. Only products by cooperative matrices use it, and only once a trial of them
            // has given what the plain kernel gives.
            experimental = unsafe { ExperimentalFeatures::enabled() };
        }
        let descriptor = DeviceDescriptor {
            label: Some("wgrad"),
            required_features: features,
            required_limits: found.limits(),
            experimental_features: experimental,
            // Large blocks help where memory is the GPU's own; elsewhere they are taken from the host.
            memory_hints: match info.kind {
                DeviceKind::DiscreteGpu => MemoryHints::Performance,
                _ => MemoryHints::MemoryUsage,
            },
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(found.request_device(&descriptor))
            .map_err(|e| refuse(format!("the driver of {} does not open it: {e}", info.name)))?;
        GpuDevice::new(device, queue, info, adapter::caps(found), matrices)
    }

    /// One entry for each physical adapter, best first.
    fn adapters(&self) -> Vec<Adapter> {
        let instance = self.instance.get_or_init(|| {
            Instance::new(InstanceDescriptor {
                backends: Backends::VULKAN | Backends::METAL | Backends::DX12,
                // The drivers' own validation layers are for wgpu's authors; WGPU_VALIDATION=1 still asks for them.
                flags: InstanceFlags::empty().with_env(),
                ..InstanceDescriptor::new_without_display_handle()
            })
        });
        let all = pollster::block_on(instance.enumerate_adapters(Backends::all()));
        let known: Vec<_> = all.iter().map(Adapter::get_info).collect();
        let mut best: Vec<_> = all
            .into_iter()
            .zip(&known)
            .filter(|(_, info)| {
                !known.iter().any(|other| {
                    (other.vendor, other.device) == (info.vendor, info.device)
                        && adapter::preference(other.backend) < adapter::preference(info.backend)
                })
            })
            .collect();
        best.sort_by_key(|(adapter, info)| {
            let rank = match adapter::kind(adapter) {
                DeviceKind::DiscreteGpu => 0,
                DeviceKind::IntegratedGpu => 1,
                DeviceKind::VirtualGpu => 2,
                DeviceKind::SoftwareGpu | DeviceKind::Cpu => 3,
            };
            (rank, info.name.clone(), info.device_pci_bus_id.clone())
        });
        best.into_iter().map(|(adapter, _)| adapter).collect()
    }
}

impl Backend for GpuBackend {
    fn name(&self) -> &'static str {
        "gpu"
    }

    fn list(&self) -> Vec<DeviceInfo> {
        self.adapters().iter().enumerate().map(|(n, a)| adapter::info(a, format!("gpu:{n}"))).collect()
    }

    fn open(&self, id: &str) -> Result<DeviceHandle, DeviceError> {
        Ok(self.open_gpu(id)?)
    }
}
