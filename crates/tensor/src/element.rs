//! Rust types that tensors hold.

use half::{bf16, f16};
use wgrad_ir::DType;

mod sealed {
    pub trait Sealed {}
}

/// A Rust type of tensor elements: `f64`, `f32`, [`struct@f16`], [`struct@bf16`], `i32`, `u32`, `u8`, `bool`.
pub trait Element: Copy + Send + Sync + PartialEq + std::fmt::Debug + sealed::Sealed + 'static {
    /// The dtype that holds it.
    const DTYPE: DType;

    /// The elements' bytes in native order (`bool` is one byte), as devices take them.
    fn bytes(elements: &[Self]) -> &[u8];

    /// Elements from such bytes.
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;

    /// The element as a number; `true` is 1.
    fn as_f64(self) -> f64;

    /// The element as an integer, for types of indices.
    fn as_index(self) -> Option<i64>;
}

macro_rules! element {
    ($($type:ty, $dtype:ident, $index:expr;)*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            fn bytes(elements: &[Self]) -> &[u8] {
                bytemuck::cast_slice(elements)
            }
            fn from_bytes(bytes: &[u8]) -> Vec<Self> {
                bytemuck::pod_collect_to_vec(bytes)
            }
            fn as_f64(self) -> f64 {
                f64::from(self)
            }
            fn as_index(self) -> Option<i64> {
                let index: fn(Self) -> Option<i64> = $index;
                index(self)
            }
        }
    )*};
}

element! {
    f64, F64, |_| None;
    f32, F32, |_| None;
    f16, F16, |_| None;
    bf16, BF16, |_| None;
    i32, I32, |x| Some(i64::from(x));
    u32, U32, |x| Some(i64::from(x));
    u8, U8, |x| Some(i64::from(x));
}

impl sealed::Sealed for bool {}

impl Element for bool {
    const DTYPE: DType = DType::Bool;

    fn bytes(elements: &[Self]) -> &[u8] {
        bytemuck::cast_slice(elements)
    }

    fn from_bytes(bytes: &[u8]) -> Vec<Self> {
        bytes.iter().map(|&b| b != 0).collect()
    }

    fn as_f64(self) -> f64 {
        f64::from(u8::from(self))
    }

    fn as_index(self) -> Option<i64> {
        None
    }
}
