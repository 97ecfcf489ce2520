//! Sort kernels: the positions that put rows in order, equal elements in theirs.

use wgrad_ir::{DType, SortKernel};

use crate::{
    args::{Args, Out},
    threads,
};

/// Nanoseconds on one core, roughly.
pub(crate) fn cost(kernel: &SortKernel) -> f64 {
    let depth = (kernel.len.max(2) as f64).log2();
    (kernel.rows * kernel.len) as f64 * (2.0 + 2.0 * depth)
}

pub(crate) fn run(kernel: &SortKernel, args: &Args<'_>) {
    match kernel.dtype {
        DType::F64 => rows::<f64, u64>(kernel, args, |x| float_key(x.to_bits())),
        DType::F32 => rows::<f32, u32>(kernel, args, |x| float_key(x.to_bits())),
        DType::I32 => rows::<i32, u32>(kernel, args, |x| x as u32 ^ 1 << 31),
        DType::U32 => rows::<u32, u32>(kernel, args, |x| x),
        DType::U8 | DType::Bool => rows::<u8, u8>(kernel, args, |x| x),
        // No verified program sorts them.
        DType::F16 | DType::BF16 => {}
    }
}

/// An integer that orders as elements do.
trait Key: Ord + Copy + std::ops::Not<Output = Self> {}

impl Key for u8 {}
impl Key for u32 {}
impl Key for u64 {}

/// Bits of a float as an integer that orders as the float does: both zeros alike, NaN above all.
fn float_key<B: Bits>(bits: B) -> B {
    if bits & B::MAGNITUDE > B::INFINITY {
        B::LARGEST
    } else if bits & B::MAGNITUDE == bits || bits & B::MAGNITUDE == B::ZERO {
        bits & B::MAGNITUDE | !B::MAGNITUDE
    } else {
        !bits
    }
}

/// The bits of a floating-point format.
trait Bits:
    Key + std::ops::BitAnd<Output = Self> + std::ops::BitOr<Output = Self> + std::ops::Not<Output = Self>
{
    const MAGNITUDE: Self;
    const INFINITY: Self;
    const LARGEST: Self;
    const ZERO: Self;
}

impl Bits for u32 {
    const MAGNITUDE: u32 = u32::MAX >> 1;
    const INFINITY: u32 = f32::INFINITY.to_bits();
    const LARGEST: u32 = u32::MAX;
    const ZERO: u32 = 0;
}

impl Bits for u64 {
    const MAGNITUDE: u64 = u64::MAX >> 1;
    const INFINITY: u64 = f64::INFINITY.to_bits();
    const LARGEST: u64 = u64::MAX;
    const ZERO: u64 = 0;
}

/// Each task owns a range of rows.
fn rows<T: bytemuck::Pod + Sync, K: Key>(kernel: &SortKernel, args: &Args<'_>, key: impl Fn(T) -> K + Sync) {
    let (source, out): (&[T], Out<i32>) = (args.read::<T>(1), args.out::<i32>(0));
    let len = kernel.len;
    let tasks = threads::tasks_for(cost(kernel)).min(kernel.rows);
    threads::for_each(tasks, &|task| {
        let mut order: Vec<(K, u32)> = Vec::with_capacity(len);
        for row in kernel.rows * task / tasks..kernel.rows * (task + 1) / tasks {
            let elements = source[row * len..(row + 1) * len].iter().zip(0..);
            order.clear();
            order.extend(elements.map(|(&x, i)| {
                let key = key(x);
                (if kernel.descending { !key } else { key }, i)
            }));
            // Positions make all pairs different, so that the order is the stable one.
            order.sort_unstable();
            // SAFETY: one task per row.
            let positions = unsafe { out.slice(row * len, len) };
            positions.iter_mut().zip(&order).for_each(|(to, &(_, i))| *to = i as i32);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_floats_do() {
        let ascending =
            [f32::NEG_INFINITY, -1.5, -f32::MIN_POSITIVE, -1e-45, 0.0, 1e-45, 2.0, f32::INFINITY, f32::NAN];
        let keys: Vec<u32> = ascending.iter().map(|x| float_key(x.to_bits())).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        assert_eq!(float_key((-0.0f32).to_bits()), float_key(0.0f32.to_bits()));
        assert_eq!(float_key((-f64::NAN).to_bits()), u64::MAX);
    }
}
