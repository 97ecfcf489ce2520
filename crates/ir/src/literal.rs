//! A constant of any dtype, comparable and hashable by its bits.

use std::fmt;

use half::{bf16, f16};

use crate::DType;

/// One element, stored as bits so that graphs that hold it can be hashed and compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Literal {
    dtype: DType,
    bits: u64,
}

impl Literal {
    /// `value` rounded or truncated to `dtype`; integers saturate, `bool` is `value != 0`.
    pub fn from_f64(dtype: DType, value: f64) -> Self {
        let bits = match dtype {
            DType::F64 => value.to_bits(),
            DType::F32 => u64::from((value as f32).to_bits()),
            DType::F16 => u64::from(f16::from_f64(value).to_bits()),
            DType::BF16 => u64::from(bf16::from_f64(value).to_bits()),
            DType::I32 => u64::from((value as i32) as u32),
            DType::U32 => u64::from(value as u32),
            DType::U8 => u64::from(value as u8),
            DType::Bool => u64::from(value != 0.0),
        };
        Literal { dtype, bits }
    }

    /// An unsigned integer, exact over the whole range (random keys).
    pub fn u32(value: u32) -> Self {
        Literal { dtype: DType::U32, bits: u64::from(value) }
    }

    /// The element that a device stores as these bits; those beyond the dtype's width are ignored.
    pub fn from_bits(dtype: DType, bits: u64) -> Self {
        let bits = match dtype {
            DType::Bool => u64::from(bits != 0),
            _ => bits & (u64::MAX >> (64 - 8 * dtype.host_bytes())),
        };
        Literal { dtype, bits }
    }

    /// The zero of a dtype (`false` for `bool`).
    pub fn zero(dtype: DType) -> Self {
        Literal { dtype, bits: 0 }
    }

    /// The dtype.
    pub fn dtype(self) -> DType {
        self.dtype
    }

    /// The element's bits, zero-extended; exactly what a device stores.
    pub fn bits(self) -> u64 {
        self.bits
    }

    /// The value, exact for every dtype.
    pub fn as_f64(self) -> f64 {
        match self.dtype {
            DType::F64 => f64::from_bits(self.bits),
            DType::F32 => f64::from(f32::from_bits(self.bits as u32)),
            DType::F16 => f16::from_bits(self.bits as u16).to_f64(),
            DType::BF16 => bf16::from_bits(self.bits as u16).to_f64(),
            DType::I32 => f64::from(self.bits as u32 as i32),
            DType::U32 => f64::from(self.bits as u32),
            DType::U8 | DType::Bool => self.bits as f64,
        }
    }

    /// Whether this is exactly `value` (and not, say, the other zero).
    pub fn is(self, value: f64) -> bool {
        self == Literal::from_f64(self.dtype, value)
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            DType::Bool => write!(f, "{}", self.bits != 0),
            DType::F32 => write!(f, "{:?}", f32::from_bits(self.bits as u32)),
            DType::F64 => write!(f, "{:?}", f64::from_bits(self.bits)),
            DType::F16 | DType::BF16 => write!(f, "{:?}", self.as_f64() as f32),
            DType::I32 | DType::U32 | DType::U8 => write!(f, "{}", self.as_f64()),
        }
    }
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self, self.dtype)
    }
}
