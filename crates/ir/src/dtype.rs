//! Element types.

use std::fmt;

/// The type of a tensor's elements.
///
/// Devices say which of these they compute with ([`DeviceCaps`](crate::DeviceCaps)): the CPU runtime takes all,
/// the GPU runtime all but [`DType::F64`].
///
/// The narrow types ([`DType::is_narrow`]) are how elements are kept, not how they are computed with: an operation on them is
/// that of `f32` (or `u32`), whose result is then rounded (or wrapped), once per operation, as PyTorch does. Sums and products
/// of matrices accumulate in `f32` and are rounded when they are complete.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary64. CPU runtime only: the oracle of gradient checks.
    F64,
    /// IEEE 754 binary32, the default for parameters and activations.
    F32,
    /// IEEE 754 binary16: 11 significant bits, up to 65,504.
    F16,
    /// The upper half of an `F32`: 8 significant bits, and its whole range.
    BF16,
    /// Signed 32-bit integer: token ids, positions, targets.
    I32,
    /// Unsigned 32-bit integer: random words and keys.
    U32,
    /// Unsigned 8-bit integer: pixels, bytes of text.
    U8,
    /// Truth value, the result of comparisons.
    Bool,
}

impl DType {
    /// Every dtype, in declaration order; tables of tests iterate over it.
    pub const ALL: [DType; 8] =
        [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I32, DType::U32, DType::U8, DType::Bool];

    /// The name used in printed graphs and error messages (`f32`, `i32`, ...).
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }

    /// Bytes of one element as a host slice holds it (`bool` is one byte there). What a device stores may
    /// differ: see [`DeviceCaps::storage_bytes`](crate::DeviceCaps::storage_bytes).
    pub fn host_bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether values are floating-point; only such tensors have gradients.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    /// Whether values are 16-bit floating-point numbers.
    pub fn is_half(self) -> bool {
        matches!(self, DType::F16 | DType::BF16)
    }

    /// Whether values are integers (`bool` is not).
    pub fn is_int(self) -> bool {
        matches!(self, DType::I32 | DType::U32 | DType::U8)
    }

    /// Whether elements are only kept in this dtype, and computed with in [`DType::wide`].
    pub fn is_narrow(self) -> bool {
        self.wide() != self
    }

    /// The dtype that elements are computed in: `f32` for the 16-bit floats, `u32` for `u8`, itself for all others.
    pub fn wide(self) -> DType {
        match self {
            DType::F16 | DType::BF16 => DType::F32,
            DType::U8 => DType::U32,
            DType::F64 | DType::F32 | DType::I32 | DType::U32 | DType::Bool => self,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
