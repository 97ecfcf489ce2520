//! Conversions between the dtypes of slices.

use bytemuck::Pod;
use wgrad_ir::DType;

use crate::{halves, lanes::map};

/// Conversion between register types: `as`, which truncates and saturates; to `bool`, `x != 0`.
macro_rules! cast_from {
    ($name:ident, $T:ty, $zero:expr) => {
        fn $name(x: &[$T], to: DType, out: &mut CastOut<'_>) {
            match to {
                DType::F64 => map(
                    x,
                    out.typed::<f64>(),
                    #[inline(always)]
                    |x| x as f64,
                ),
                DType::F32 => map(
                    x,
                    out.typed::<f32>(),
                    #[inline(always)]
                    |x| x as f32,
                ),
                DType::I32 => map(
                    x,
                    out.typed::<i32>(),
                    #[inline(always)]
                    |x| x as i32,
                ),
                DType::U32 => map(
                    x,
                    out.typed::<u32>(),
                    #[inline(always)]
                    |x| x as u32,
                ),
                DType::U8 => map(
                    x,
                    out.typed::<u8>(),
                    #[inline(always)]
                    |x| x as u8,
                ),
                DType::Bool => map(
                    x,
                    out.typed::<u8>(),
                    #[inline(always)]
                    |x| u8::from(x != $zero),
                ),
                // `verify` lets only `f32` through.
                DType::F16 | DType::BF16 => {}
            }
        }
    };
}

cast_from!(cast_f64, f64, 0.0);
cast_from!(cast_f32, f32, 0.0);
cast_from!(cast_i32, i32, 0);
cast_from!(cast_u32, u32, 0);
cast_from!(cast_u8, u8, 0);

/// Bytes that receive elements of a dtype known at run time.
pub(crate) struct CastOut<'a>(pub(crate) &'a mut [u8]);

impl CastOut<'_> {
    fn typed<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.0)
    }
}

/// Converts the elements in `x` from one dtype to another; both slices are aligned for their dtypes.
pub(crate) fn cast(from: DType, x: &[u8], to: DType, out: &mut CastOut<'_>) {
    match from {
        DType::F64 => cast_f64(bytemuck::cast_slice(x), to, out),
        DType::F32 if to.is_half() => halves::narrow(to, bytemuck::cast_slice(x), out.typed()),
        DType::F32 => cast_f32(bytemuck::cast_slice(x), to, out),
        DType::F16 | DType::BF16 if to == DType::F32 => {
            halves::widen(from, bytemuck::cast_slice(x), out.typed())
        }
        DType::F16 | DType::BF16 => out.0.copy_from_slice(x),
        DType::I32 => cast_i32(bytemuck::cast_slice(x), to, out),
        DType::U32 => cast_u32(bytemuck::cast_slice(x), to, out),
        DType::U8 | DType::Bool => cast_u8(x, to, out),
    }
}
