//! What an adapter is and can do.

use wgpu::{Adapter, Backend, DeviceType, Features};
use wgrad_ir::DeviceCaps;
use wgrad_runtime::{DeviceInfo, DeviceKind, human_bytes};

/// Features that kernels use where they are there.
pub(crate) fn wanted_features(adapter: &Adapter) -> Features {
    let useful =
        Features::SUBGROUP | Features::SUBGROUP_BARRIER | Features::SHADER_F16 | Features::TIMESTAMP_QUERY;
    adapter.features() & useful
}

/// The kind of processor.
pub(crate) fn kind(adapter: &Adapter) -> DeviceKind {
    match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu,
        DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
        DeviceType::VirtualGpu | DeviceType::Other => DeviceKind::VirtualGpu,
        DeviceType::Cpu => DeviceKind::SoftwareGpu,
    }
}

/// What the compiler and the shader generator must know.
pub(crate) fn caps(adapter: &Adapter) -> DeviceCaps {
    let (limits, info) = (adapter.limits(), adapter.get_info());
    let subgroups =
        adapter.features().contains(Features::SUBGROUP) && info.subgroup_min_size == info.subgroup_max_size;
    DeviceCaps {
        f64: false,
        bool_bytes: 4,
        half_operands: true,
        max_buffer_bytes: limits.max_buffer_size,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        // Two bindings stay free for the scalars and the status word.
        max_bindings: limits
            .max_storage_buffers_per_shader_stage
            .min(limits.max_bindings_per_bind_group)
            .saturating_sub(2) as usize,
        subgroup_size: if subgroups { info.subgroup_min_size } else { 0 },
        max_workgroup_invocations: limits
            .max_compute_invocations_per_workgroup
            .min(limits.max_compute_workgroup_size_x),
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_workgroups_per_dim: limits.max_compute_workgroups_per_dimension,
        software: info.device_type == DeviceType::Cpu,
    }
}

/// The adapter as people see it, under the id it was listed with.
pub(crate) fn info(adapter: &Adapter, id: String) -> DeviceInfo {
    let (limits, info, features) = (adapter.limits(), adapter.get_info(), adapter.features());
    let yes = |feature| if features.contains(feature) { "yes" } else { "no" }.to_owned();
    let subgroups = if !features.contains(Features::SUBGROUP) {
        "no".to_owned()
    } else if info.subgroup_min_size == info.subgroup_max_size {
        format!("of {}", info.subgroup_min_size)
    } else {
        format!("of {} to {}", info.subgroup_min_size, info.subgroup_max_size)
    };
    let matrices = adapter.cooperative_matrix_properties();
    let matrices = match matrices.first() {
        None => "no".to_owned(),
        Some(m) => format!("{} kinds, {}x{}x{} first", matrices.len(), m.m_size, m.n_size, m.k_size),
    };
    let details = [
        ("storage binding", human_bytes(limits.max_storage_buffer_binding_size)),
        ("buffer", human_bytes(limits.max_buffer_size)),
        ("storage buffers per kernel", limits.max_storage_buffers_per_shader_stage.to_string()),
        ("workgroup memory", human_bytes(limits.max_compute_workgroup_storage_size.into())),
        ("workgroup invocations", limits.max_compute_invocations_per_workgroup.to_string()),
        ("subgroups", subgroups),
        ("f16", yes(Features::SHADER_F16)),
        ("timestamps", yes(Features::TIMESTAMP_QUERY)),
        ("cooperative matrices", matrices),
    ];
    let driver = [info.driver.as_str(), info.driver_info.as_str()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    DeviceInfo {
        id,
        name: info.name,
        kind: kind(adapter),
        driver: if driver.is_empty() {
            info.backend.to_string()
        } else {
            format!("{}, {driver}", info.backend)
        },
        details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

/// Which interface to take where one adapter is found through several.
pub(crate) fn preference(backend: Backend) -> u8 {
    match backend {
        Backend::Vulkan => 0,
        Backend::Metal => 1,
        Backend::Dx12 => 2,
        _ => 3,
    }
}
