//! 16-bit floats to `f32` and back, to the nearest, ties to even.

use wgrad_ir::DType;

use crate::lanes::map;

/// `f32` from the bits of `from`, exact.
pub(crate) fn widen(from: DType, x: &[u16], out: &mut [f32]) {
    if from == DType::F16 {
        map(
            x,
            out,
            #[inline(always)]
            |x| {
                let (sign, size) = (u32::from(x & 0x8000) << 16, u32::from(x & 0x7fff));
                // The exponent has another bias; subnormal numbers count units of 2⁻²⁴.
                let (normal, special) = ((size << 13) + (112 << 23), (size << 13) + (224 << 23));
                let small = (size as i32 as f32 * 5.960_464_5e-8).to_bits();
                let finite = if size < 0x400 { small } else { normal };
                f32::from_bits(sign | if size < 0x7c00 { finite } else { special })
            },
        );
    } else {
        map(
            x,
            out,
            #[inline(always)]
            |x| f32::from_bits(u32::from(x) << 16),
        );
    }
}

/// The bits of `to`.
pub(crate) fn narrow(to: DType, x: &[f32], out: &mut [u16]) {
    if to == DType::F16 {
        map(
            x,
            out,
            #[inline(always)]
            |x: f32| {
                let (sign, size) = (x.to_bits() >> 16 & 0x8000, x.to_bits() & 0x7fff_ffff);
                let rebased = size.wrapping_sub(112 << 23);
                let normal = (rebased.wrapping_add(0xfff + (rebased >> 13 & 1)) >> 13).min(0x7c00);
                // Beside 1/2, units of f32 are those of subnormal numbers: the addition rounds to them.
                let small = (f32::from_bits(size) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
                let finite = if size < 113 << 23 { small } else { normal };
                (sign | if size > 0x7f80_0000 { 0x7e00 } else { finite }) as u16
            },
        );
    } else {
        map(
            x,
            out,
            #[inline(always)]
            |x: f32| {
                let bits = x.to_bits();
                // Half of the last kept bit, less one where that bit is even already.
                let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
                // The carry must not turn a NaN into something else.
                (if x.is_nan() { bits | 0x0040_0000 } else { rounded } >> 16) as u16
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate_for_every_sixteen_bits_and_around_ties() {
        let mut x: Vec<f32> = Vec::new();
        for bits in 0..=u16::MAX {
            for low in [0u32, 1, 0x1000, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff] {
                x.push(f32::from_bits(u32::from(bits) << 16 | low));
            }
        }
        let mut got = vec![0u16; x.len()];
        narrow(DType::BF16, &x, &mut got);
        for (x, got) in x.iter().zip(&got) {
            assert_eq!(*got, half::bf16::from_f32(*x).to_bits(), "{x:e}");
        }
        narrow(DType::F16, &x, &mut got);
        let mut back = vec![0f32; x.len()];
        widen(DType::F16, &got, &mut back);
        for ((x, got), back) in x.iter().zip(&got).zip(&back) {
            let want = half::f16::from_f32_const(*x);
            assert!(*got == want.to_bits() || x.is_nan(), "{x:e}");
            assert!(back.to_bits() == want.to_f32().to_bits() || x.is_nan(), "{x:e}");
        }
    }
}
