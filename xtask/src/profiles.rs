//! Kinds of devices as plain capabilities, to plan and generate for without having them.

use std::sync::Arc;

use wgrad::runtime::{DeviceInfo, DeviceKind, PlanningDevice};
use wgrad_ir::DeviceCaps;

/// The profiles of GPUs: software, a desktop GPU, and the least that WebGPU promises.
pub(crate) const GPUS: [&str; 3] = ["software", "desktop", "portable"];

/// A planning device of a profile: `cpu`, or one of [`GPUS`].
pub(crate) fn device(profile: &'static str) -> Arc<PlanningDevice> {
    let (kind, caps) = match profile {
        "cpu" => (DeviceKind::Cpu, DeviceCaps::cpu()),
        "software" => (
            DeviceKind::SoftwareGpu,
            DeviceCaps { subgroup_size: 8, max_binding_bytes: 128 << 20, software: true, ..desktop() },
        ),
        "portable" => (
            DeviceKind::IntegratedGpu,
            DeviceCaps {
                subgroup_size: 0,
                max_buffer_bytes: 256 << 20,
                max_binding_bytes: 128 << 20,
                // Eight storage buffers, of which two are for scalars and the status word.
                max_bindings: 6,
                max_workgroup_invocations: 256,
                max_workgroup_bytes: 16 << 10,
                ..desktop()
            },
        ),
        _ => (DeviceKind::DiscreteGpu, desktop()),
    };
    let info = DeviceInfo {
        id: profile.to_owned(),
        name: format!("the profile `{profile}`"),
        kind,
        driver: "none".to_owned(),
        details: Vec::new(),
    };
    Arc::new(PlanningDevice::new(info, caps))
}

fn desktop() -> DeviceCaps {
    DeviceCaps {
        f64: false,
        bool_bytes: 4,
        half_operands: true,
        max_buffer_bytes: 2 << 30,
        max_binding_bytes: 2 << 30,
        max_bindings: 32,
        subgroup_size: 32,
        max_workgroup_invocations: 1024,
        max_workgroup_bytes: 32 << 10,
        max_workgroups_per_dim: 65_535,
        software: false,
    }
}
