//! The operations on single elements.
//!
//! Integers are computed at their dtype; floats, of either dtype, as real numbers in `f64`. [`round`] says what a device keeps.

use crate::{BinaryOp, CompareOp, DType, RandomKind, ReduceOp, UnaryOp, philox};

/// `op(x)` for an operand of `dtype`; see [`UnaryOp`] for the formulas. Integers wrap.
pub fn unary(op: UnaryOp, dtype: DType, x: f64) -> f64 {
    match op {
        UnaryOp::Neg if dtype.is_int() => wrap(dtype, -(x as i64)),
        UnaryOp::Abs if dtype.is_int() => wrap(dtype, (x as i64).abs()),
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Recip => 1.0 / x,
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Erf => libm::erf(x),
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Not => f64::from(x == 0.0),
    }
}

/// `op(a, b)` for operands of `dtype`; see [`BinaryOp`] for the formulas. Integers wrap, and divided by zero give 0; the
/// maximum and minimum with a NaN are NaN.
pub fn binary(op: BinaryOp, dtype: DType, a: f64, b: f64) -> f64 {
    if dtype.is_int()
        && let Some(value) = integer(op, a as i64, b as i64)
    {
        return wrap(dtype, value);
    }
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Max | BinaryOp::Min if a.is_nan() || b.is_nan() => f64::NAN,
        BinaryOp::Max => a.max(b),
        BinaryOp::Min => a.min(b),
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Rem => a % b,
        BinaryOp::And => f64::from(a != 0.0 && b != 0.0),
        BinaryOp::Or => f64::from(a != 0.0 || b != 0.0),
    }
}

/// Whether `a op b` holds.
pub fn compare(op: CompareOp, a: f64, b: f64) -> bool {
    match op {
        CompareOp::Eq => a == b,
        CompareOp::Ne => a != b,
        CompareOp::Lt => a < b,
        CompareOp::Le => a <= b,
        CompareOp::Gt => a > b,
        CompareOp::Ge => a >= b,
    }
}

/// The conversion of `x` from one dtype to another: floats truncate and saturate, integers keep their bits, and `bool` is
/// `x != 0`. A conversion to another float does not round.
pub fn cast(from: DType, to: DType, x: f64) -> f64 {
    match to {
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => x,
        DType::Bool => f64::from(x != 0.0),
        DType::I32 | DType::U32 | DType::U8 if from.is_int() => wrap(to, x as i64),
        DType::I32 => f64::from(x as i32),
        DType::U32 => f64::from(x as u32),
        DType::U8 => f64::from(x as u8),
    }
}

/// Combines elements of `dtype` in order. Of none it is 0, also where a program asks for a maximum (a graph cannot).
pub fn reduce(op: ReduceOp, dtype: DType, values: impl IntoIterator<Item = f64>) -> f64 {
    let combine = match op {
        ReduceOp::Sum => BinaryOp::Add,
        ReduceOp::Max => BinaryOp::Max,
        ReduceOp::Min => BinaryOp::Min,
    };
    values.into_iter().reduce(|a, b| binary(combine, dtype, a, b)).unwrap_or(0.0)
}

/// Element `address` of a random stream; `key` is key low, key high, step (see [`Op::Random`](crate::Op::Random)).
pub fn random(kind: RandomKind, address: usize, stream: u32, key: [f64; 3]) -> f64 {
    let [low, high, step] = key.map(|word| word as u32);
    let word = philox::word(address as u32, stream, step, [low, high]);
    match kind {
        RandomKind::Bits => word.into(),
        RandomKind::Uniform => philox::uniform(word).into(),
    }
}

/// `x` as a device keeps it: rounded to the nearest float of the dtype where that is narrower than `f64`, the same otherwise.
pub fn round(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        // Computed in f32, then rounded.
        DType::F16 => half::f16::from_f32(x as f32).to_f64(),
        DType::BF16 => half::bf16::from_f32(x as f32).to_f64(),
        DType::F64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => x,
    }
}

/// The operations that integers have of their own. No result leaves `i64` but a product, whose low 32 bits stay right.
fn integer(op: BinaryOp, a: i64, b: i64) -> Option<i64> {
    match op {
        BinaryOp::Add => Some(a + b),
        BinaryOp::Sub => Some(a - b),
        BinaryOp::Mul => Some(a.wrapping_mul(b)),
        BinaryOp::Div => Some(a.checked_div(b).unwrap_or(0)),
        BinaryOp::Rem => Some(a.checked_rem(b).unwrap_or(0)),
        BinaryOp::Max | BinaryOp::Min | BinaryOp::Pow | BinaryOp::And | BinaryOp::Or => None,
    }
}

/// The low bits of an integer, as a value of `dtype`.
fn wrap(dtype: DType, value: i64) -> f64 {
    match dtype {
        DType::I32 => f64::from(value as i32),
        DType::U8 => f64::from(value as u8),
        _ => f64::from(value as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap_like_rusts_wrapping_operations() {
        let edges = [0, 1, -1, 7, -7, 65_537, i32::MAX, i32::MIN];
        for (a, b) in edges.iter().flat_map(|&a| edges.map(|b| (a, b))) {
            let signed = |op| binary(op, DType::I32, a.into(), b.into());
            assert_eq!(signed(BinaryOp::Add), a.wrapping_add(b).into());
            assert_eq!(signed(BinaryOp::Mul), a.wrapping_mul(b).into());
            assert_eq!(signed(BinaryOp::Div), if b == 0 { 0 } else { a.wrapping_div(b) }.into());
            assert_eq!(signed(BinaryOp::Rem), if b == 0 { 0 } else { a.wrapping_rem(b) }.into());
            let (x, y) = (a as u32, b as u32);
            let unsigned = |op| binary(op, DType::U32, x.into(), y.into());
            assert_eq!(unsigned(BinaryOp::Sub), x.wrapping_sub(y).into());
            assert_eq!(unsigned(BinaryOp::Mul), x.wrapping_mul(y).into());
            assert_eq!(unsigned(BinaryOp::Div), x.checked_div(y).unwrap_or(0).into());
            assert_eq!(unary(UnaryOp::Abs, DType::I32, a.into()), a.wrapping_abs().into());
        }
    }

    #[test]
    fn casts_saturate_from_floats_and_keep_bits_between_integers() {
        assert_eq!(cast(DType::F32, DType::U32, -2.5), 0.0);
        assert_eq!(cast(DType::F32, DType::I32, -2.5), -2.0);
        assert_eq!(cast(DType::F64, DType::I32, 3e9), 2_147_483_647.0);
        assert_eq!(cast(DType::I32, DType::U32, -1.0), 4_294_967_295.0);
        assert_eq!(cast(DType::U32, DType::I32, 4_294_967_295.0), -1.0);
        assert_eq!(cast(DType::F32, DType::U8, 300.0), 255.0);
        assert_eq!(cast(DType::I32, DType::U8, -1.0), 255.0);
        assert_eq!(cast(DType::U8, DType::I32, 255.0), 255.0);
        assert_eq!(cast(DType::F32, DType::Bool, f64::NAN), 1.0);
        assert_eq!(cast(DType::F64, DType::F32, 0.1), 0.1);
    }

    #[test]
    fn a_nan_comes_out_of_maximum_and_minimum() {
        for op in [BinaryOp::Max, BinaryOp::Min] {
            assert!(binary(op, DType::F32, f64::NAN, 1.0).is_nan());
            assert!(binary(op, DType::F32, 1.0, f64::NAN).is_nan());
        }
        assert!(reduce(ReduceOp::Max, DType::F64, [1.0, f64::NAN, 2.0]).is_nan());
    }

    #[test]
    fn the_error_function_equals_its_maclaurin_series() {
        for n in -20..=20 {
            let x = f64::from(n) / 10.0;
            let (mut term, mut sum) = (x, x);
            for n in 1..60 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            let series = sum * std::f64::consts::FRAC_2_SQRT_PI;
            assert!((unary(UnaryOp::Erf, DType::F64, x) - series).abs() < 1e-14, "erf({x})");
        }
    }
}
