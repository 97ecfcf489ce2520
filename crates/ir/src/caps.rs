//! What the compiler must know of a device.

use crate::DType;

/// A device's capabilities as plain values, so that the compiler and the shader generator name no device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DeviceCaps {
    /// Whether `f64` is computed.
    pub f64: bool,
    /// Bytes that one stored `bool` or `u8` takes (1 on the CPU; a 32-bit word on a GPU). 16-bit floats take two everywhere.
    pub bool_bytes: usize,
    /// Whether matrix products convert 16-bit operands as they load them; else they are converted before.
    pub half_operands: bool,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Largest range of a buffer that one kernel can bind, in bytes.
    pub max_binding_bytes: u64,
    /// Most buffers that one kernel can bind.
    pub max_bindings: usize,
    /// Invocations that run in lockstep and can exchange registers; 0 without subgroup operations.
    pub subgroup_size: u32,
    /// Largest workgroup.
    pub max_workgroup_invocations: u32,
    /// Bytes of memory shared in a workgroup.
    pub max_workgroup_bytes: u32,
    /// Most workgroups along one grid dimension.
    pub max_workgroups_per_dim: u32,
    /// Whether the adapter is software running on the CPU: loads cost like gathers, barriers are dear.
    pub software: bool,
}

impl DeviceCaps {
    /// The native CPU runtime: everything, limited by memory alone.
    pub fn cpu() -> Self {
        DeviceCaps {
            f64: true,
            bool_bytes: 1,
            half_operands: false,
            max_buffer_bytes: u64::MAX,
            max_binding_bytes: u64::MAX,
            max_bindings: usize::MAX,
            subgroup_size: 0,
            max_workgroup_invocations: 1,
            max_workgroup_bytes: 0,
            max_workgroups_per_dim: u32::MAX,
            software: false,
        }
    }

    /// Bytes of one element in a device buffer.
    pub fn storage_bytes(&self, dtype: DType) -> usize {
        match dtype {
            DType::Bool | DType::U8 => self.bool_bytes,
            other => other.host_bytes(),
        }
    }
}
