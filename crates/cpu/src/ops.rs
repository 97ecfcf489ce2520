//! The elementwise operations over slices of each dtype.

use bytemuck::Pod;
use wgrad_ir::{BinaryOp, CompareOp, UnaryOp};

use crate::{
    lanes::{Src, map, map_fun, zip},
    math,
};

/// An element as registers hold it: `bool` is a byte, 0 or 1; 16-bit floats are their bits, which are moved and converted alone.
pub(crate) trait Element: Pod + PartialEq + PartialOrd + Send + Sync {
    /// From the bits of a `Literal`.
    fn from_bits64(bits: u64) -> Self;
    /// To the bits of a `Literal`.
    fn to_bits64(self) -> u64;
    /// `out[i] = op(x[i])`
    fn unary(op: UnaryOp, x: &[Self], out: &mut [Self]);
    /// `out[i] = op(a[i], b[i])`
    fn binary(op: BinaryOp, a: Src<'_, Self>, b: Src<'_, Self>, out: &mut [Self]);
}

/// Runs `$body` with `$T` as the register type of a dtype.
macro_rules! by_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            wgrad_ir::DType::F64 => {
                type $T = f64;
                $body
            }
            wgrad_ir::DType::F32 => {
                type $T = f32;
                $body
            }
            wgrad_ir::DType::F16 | wgrad_ir::DType::BF16 => {
                type $T = u16;
                $body
            }
            wgrad_ir::DType::I32 => {
                type $T = i32;
                $body
            }
            wgrad_ir::DType::U32 => {
                type $T = u32;
                $body
            }
            wgrad_ir::DType::U8 | wgrad_ir::DType::Bool => {
                type $T = u8;
                $body
            }
        }
    };
}
pub(crate) use by_dtype;

/// The operations of a float type but its elementary functions.
macro_rules! float_binary {
    ($op:expr, $a:expr, $b:expr, $out:expr, $T:ty, $pow:expr) => {
        match $op {
            BinaryOp::Add => zip(
                $a,
                $b,
                $out,
                #[inline(always)]
                |a, b| a + b,
            ),
            BinaryOp::Sub => zip(
                $a,
                $b,
                $out,
                #[inline(always)]
                |a, b| a - b,
            ),
            BinaryOp::Mul => zip(
                $a,
                $b,
                $out,
                #[inline(always)]
                |a, b| a * b,
            ),
            BinaryOp::Div => zip(
                $a,
                $b,
                $out,
                #[inline(always)]
                |a, b| a / b,
            ),
            BinaryOp::Max => zip(
                $a,
                $b,
                $out,
                #[inline(always)]
                |a: $T, b: $T| if a > b || a.is_nan() { a } else { b },
            ),
            BinaryOp::Min => zip(
                $a,
                $b,
                $out,
                #[inline(always)]
                |a: $T, b: $T| if a < b || a.is_nan() { a } else { b },
            ),
            BinaryOp::Rem => zip($a, $b, $out, |a, b| a % b),
            BinaryOp::Pow => power($a, $b, $out, $pow),
            // Only defined for `bool`; `verify` lets nothing else through.
            BinaryOp::And | BinaryOp::Or => {}
        }
    };
}

/// Powers; the exponents that occur everywhere, the same for all elements, have short forms.
fn power<T: Pod + PartialEq + From<f32> + std::ops::Mul<Output = T>>(
    a: Src<'_, T>,
    b: Src<'_, T>,
    out: &mut [T],
    pow: impl Fn(T, T) -> T + Copy,
) {
    match (a, b) {
        (Src::Slice(a), Src::Splat(b)) if b == T::from(2.0) => map(
            a,
            out,
            #[inline(always)]
            |x| x * x,
        ),
        (Src::Slice(a), Src::Splat(b)) if b == T::from(3.0) => map(
            a,
            out,
            #[inline(always)]
            |x| x * x * x,
        ),
        (a, b) => zip(a, b, out, pow),
    }
}

impl Element for f32 {
    fn from_bits64(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
    fn to_bits64(self) -> u64 {
        self.to_bits().into()
    }
    fn unary(op: UnaryOp, x: &[f32], out: &mut [f32]) {
        match op {
            UnaryOp::Neg => map(
                x,
                out,
                #[inline(always)]
                |x| -x,
            ),
            UnaryOp::Abs => map(
                x,
                out,
                #[inline(always)]
                |x: f32| x.abs(),
            ),
            UnaryOp::Exp => map_fun(x, out, math::Exp),
            UnaryOp::Log => map_fun(x, out, math::Log),
            UnaryOp::Sqrt => map(
                x,
                out,
                #[inline(always)]
                |x: f32| x.sqrt(),
            ),
            UnaryOp::Rsqrt => map(
                x,
                out,
                #[inline(always)]
                |x: f32| 1.0 / x.sqrt(),
            ),
            UnaryOp::Recip => map(
                x,
                out,
                #[inline(always)]
                |x| 1.0 / x,
            ),
            UnaryOp::Tanh => map_fun(x, out, math::Tanh),
            UnaryOp::Erf => map_fun(x, out, math::Erf),
            UnaryOp::Sin | UnaryOp::Cos => {
                let sine = op == UnaryOp::Sin;
                if sine {
                    map_fun(x, out, math::Sin)
                } else {
                    map_fun(x, out, math::Cos)
                }
                for (out, &x) in out.iter_mut().zip(x) {
                    if x.is_nan() || x.abs() > math::TRIG_LIMIT {
                        *out = if sine { x.sin() } else { x.cos() };
                    }
                }
            }
            UnaryOp::Floor => map(
                x,
                out,
                #[inline(always)]
                |x: f32| x.floor(),
            ),
            UnaryOp::Not => {}
        }
    }
    fn binary(op: BinaryOp, a: Src<'_, f32>, b: Src<'_, f32>, out: &mut [f32]) {
        float_binary!(op, a, b, out, f32, |a: f32, b: f32| a.powf(b));
    }
}

impl Element for f64 {
    fn from_bits64(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    fn to_bits64(self) -> u64 {
        self.to_bits()
    }
    // The oracle of gradient checks: right before it is fast.
    fn unary(op: UnaryOp, x: &[f64], out: &mut [f64]) {
        match op {
            UnaryOp::Neg => map(
                x,
                out,
                #[inline(always)]
                |x| -x,
            ),
            UnaryOp::Abs => map(
                x,
                out,
                #[inline(always)]
                |x: f64| x.abs(),
            ),
            UnaryOp::Exp => map(x, out, f64::exp),
            UnaryOp::Log => map(x, out, f64::ln),
            UnaryOp::Sqrt => map(
                x,
                out,
                #[inline(always)]
                |x: f64| x.sqrt(),
            ),
            UnaryOp::Rsqrt => map(
                x,
                out,
                #[inline(always)]
                |x: f64| 1.0 / x.sqrt(),
            ),
            UnaryOp::Recip => map(
                x,
                out,
                #[inline(always)]
                |x| 1.0 / x,
            ),
            UnaryOp::Tanh => map(x, out, f64::tanh),
            UnaryOp::Erf => map(x, out, libm::erf),
            UnaryOp::Sin => map(x, out, f64::sin),
            UnaryOp::Cos => map(x, out, f64::cos),
            UnaryOp::Floor => map(
                x,
                out,
                #[inline(always)]
                |x: f64| x.floor(),
            ),
            UnaryOp::Not => {}
        }
    }
    fn binary(op: BinaryOp, a: Src<'_, f64>, b: Src<'_, f64>, out: &mut [f64]) {
        float_binary!(op, a, b, out, f64, |a: f64, b: f64| a.powf(b));
    }
}

macro_rules! int_element {
    ($T:ty, $neg:expr, $abs:expr) => {
        impl Element for $T {
            fn from_bits64(bits: u64) -> Self {
                bits as u32 as $T
            }
            fn to_bits64(self) -> u64 {
                u64::from(self as u32)
            }
            fn unary(op: UnaryOp, x: &[$T], out: &mut [$T]) {
                match op {
                    UnaryOp::Neg => map(x, out, $neg),
                    UnaryOp::Abs => map(x, out, $abs),
                    // The other functions are only defined for floats; `verify` lets nothing else through.
                    _ => {}
                }
            }
            fn binary(op: BinaryOp, a: Src<'_, $T>, b: Src<'_, $T>, out: &mut [$T]) {
                match op {
                    BinaryOp::Add => zip(
                        a,
                        b,
                        out,
                        #[inline(always)]
                        |a: $T, b| a.wrapping_add(b),
                    ),
                    BinaryOp::Sub => zip(
                        a,
                        b,
                        out,
                        #[inline(always)]
                        |a: $T, b| a.wrapping_sub(b),
                    ),
                    BinaryOp::Mul => zip(
                        a,
                        b,
                        out,
                        #[inline(always)]
                        |a: $T, b| a.wrapping_mul(b),
                    ),
                    BinaryOp::Div => zip(a, b, out, |a: $T, b| if b == 0 { 0 } else { a.wrapping_div(b) }),
                    BinaryOp::Rem => zip(a, b, out, |a: $T, b| if b == 0 { 0 } else { a.wrapping_rem(b) }),
                    BinaryOp::Max => zip(
                        a,
                        b,
                        out,
                        #[inline(always)]
                        |a: $T, b| a.max(b),
                    ),
                    BinaryOp::Min => zip(
                        a,
                        b,
                        out,
                        #[inline(always)]
                        |a: $T, b| a.min(b),
                    ),
                    BinaryOp::Pow | BinaryOp::And | BinaryOp::Or => {}
                }
            }
        }
    };
}

int_element!(
    i32,
    #[inline(always)]
    |x: i32| x.wrapping_neg(),
    #[inline(always)]
    |x: i32| x.wrapping_abs()
);
int_element!(
    u32,
    #[inline(always)]
    |x| x,
    #[inline(always)]
    |x| x
);

impl Element for u8 {
    fn from_bits64(bits: u64) -> Self {
        bits as u8
    }
    fn to_bits64(self) -> u64 {
        self.into()
    }
    fn unary(op: UnaryOp, x: &[u8], out: &mut [u8]) {
        if op == UnaryOp::Not {
            map(
                x,
                out,
                #[inline(always)]
                |x| u8::from(x == 0),
            );
        }
    }
    fn binary(op: BinaryOp, a: Src<'_, u8>, b: Src<'_, u8>, out: &mut [u8]) {
        match op {
            BinaryOp::And => zip(
                a,
                b,
                out,
                #[inline(always)]
                |a, b| a & b,
            ),
            BinaryOp::Or => zip(
                a,
                b,
                out,
                #[inline(always)]
                |a, b| a | b,
            ),
            _ => {}
        }
    }
}

/// 16-bit floats are not computed with: `verify` lets nothing through.
impl Element for u16 {
    fn from_bits64(bits: u64) -> Self {
        bits as u16
    }
    fn to_bits64(self) -> u64 {
        self.into()
    }
    fn unary(_: UnaryOp, _: &[u16], _: &mut [u16]) {}
    fn binary(_: BinaryOp, _: Src<'_, u16>, _: Src<'_, u16>, _: &mut [u16]) {}
}

/// `out[i] = a[i] ? b[i]` as 0 or 1.
pub(crate) fn compare<T: Element>(op: CompareOp, a: Src<'_, T>, b: Src<'_, T>, out: &mut [u8]) {
    match op {
        CompareOp::Eq => zip(
            a,
            b,
            out,
            #[inline(always)]
            |a, b| u8::from(a == b),
        ),
        CompareOp::Ne => zip(
            a,
            b,
            out,
            #[inline(always)]
            |a, b| u8::from(a != b),
        ),
        CompareOp::Lt => zip(
            a,
            b,
            out,
            #[inline(always)]
            |a, b| u8::from(a < b),
        ),
        CompareOp::Le => zip(
            a,
            b,
            out,
            #[inline(always)]
            |a, b| u8::from(a <= b),
        ),
        CompareOp::Gt => zip(
            a,
            b,
            out,
            #[inline(always)]
            |a, b| u8::from(a > b),
        ),
        CompareOp::Ge => zip(
            a,
            b,
            out,
            #[inline(always)]
            |a, b| u8::from(a >= b),
        ),
    }
}
