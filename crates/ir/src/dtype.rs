//! Element types.

use std::fmt;

/// The type of a tensor's elements.
///
/// Devices say which of these they compute with ([`DeviceCaps`](crate::DeviceCaps)): the CPU runtime takes all,
/// the GPU runtime all but [`DType::F64`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary64. CPU runtime only: the oracle of gradient checks.
    F64,
    /// IEEE 754 binary32, the default for parameters and activations.
    F32,
    /// Signed 32-bit integer: token ids, positions, targets.
    I32,
    /// Unsigned 32-bit integer: random words and keys.
    U32,
    /// Truth value, the result of comparisons.
    Bool,
}

impl DType {
    /// Every dtype, in declaration order; tables of tests iterate over it.
    pub const ALL: [DType; 5] = [DType::F64, DType::F32, DType::I32, DType::U32, DType::Bool];

    /// The name used in printed graphs and error messages (`f32`, `i32`, ...).
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::Bool => "bool",
        }
    }

    /// Bytes of one element as a host slice holds it (`bool` is one byte there). What a device stores may
    /// differ: see [`DeviceCaps::storage_bytes`](crate::DeviceCaps::storage_bytes).
    pub fn host_bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::Bool => 1,
        }
    }

    /// Whether values are floating-point; only such tensors have gradients.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32)
    }

    /// Whether values are integers (`bool` is not).
    pub fn is_int(self) -> bool {
        matches!(self, DType::I32 | DType::U32)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
