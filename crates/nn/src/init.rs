//! Initial values of parameters.
//!
//! They are drawn on the host from Philox, by seed and order of creation, so that they are the same on every device.

use std::{
    f64::consts::TAU,
    sync::atomic::{AtomicU32, Ordering},
};

use wgrad_ir::{DType, Shape, philox};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::Param;

/// How to fill a new parameter. `fan_in` and `fan_out` are those of a weight `[out, in, receptive field..]`, as PyTorch
/// counts them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Initializer {
    /// 0.
    Zeros,
    /// 1.
    Ones,
    /// Always this value.
    Constant(f64),
    /// Normal, mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform on `[low, high)`.
    Uniform {
        /// Smallest value.
        low: f64,
        /// Bound that is not reached.
        high: f64,
    },
    /// Uniform on `±√(6 / (fan_in + fan_out))` (Glorot and Bengio, 2010).
    XavierUniform,
    /// Normal with standard deviation `√(2 / (fan_in + fan_out))` (Glorot and Bengio, 2010).
    XavierNormal,
    /// Uniform on `±√(6 / fan_in)`, for layers before a ReLU (He et al., 2015).
    KaimingUniform,
    /// Normal with standard deviation `√(2 / fan_in)`, for layers before a ReLU (He et al., 2015).
    KaimingNormal,
}

impl Initializer {
    /// Uniform on `±1/√fan_in`, the default of PyTorch's `Linear` for weight and bias.
    pub fn linear_default(fan_in: usize) -> Self {
        let bound = (fan_in.max(1) as f64).sqrt().recip();
        Initializer::Uniform { low: -bound, high: bound }
    }

    /// The distribution for a shape: `(mean, scale, normal?)`, with values `mean + scale * z`, where `z` is standard normal, or
    /// uniform on `[-1, 1)`.
    fn distribution(self, shape: &[usize]) -> (f64, f64, bool) {
        let (fan_in, fan_out) = fans(shape);
        match self {
            Initializer::Zeros => (0.0, 0.0, false),
            Initializer::Ones => (1.0, 0.0, false),
            Initializer::Constant(value) => (value, 0.0, false),
            Initializer::Normal { std } => (0.0, std, true),
            Initializer::Uniform { low, high } => ((low + high) / 2.0, (high - low) / 2.0, false),
            Initializer::XavierUniform => (0.0, (6.0 / (fan_in + fan_out)).sqrt(), false),
            Initializer::XavierNormal => (0.0, (2.0 / (fan_in + fan_out)).sqrt(), true),
            Initializer::KaimingUniform => (0.0, (6.0 / fan_in).sqrt(), false),
            Initializer::KaimingNormal => (0.0, (2.0 / fan_in).sqrt(), true),
        }
    }

    /// The values of a parameter of this shape, row-major, for a seed and a stream.
    pub fn draw(self, shape: &[usize], seed: u64, stream: u32) -> Vec<f64> {
        self.values(shape, seed, stream).collect()
    }

    /// As [`Initializer::draw`], one after the other: a table of a large vocabulary is not held in f64 on its way to f32.
    fn values(self, shape: &[usize], seed: u64, stream: u32) -> impl Iterator<Item = f64> {
        let (mean, scale, normal) = self.distribution(shape);
        let elements = shape.iter().product::<usize>();
        let block = move |block| {
            if scale == 0.0 { [mean; 4] } else { four(block, seed, stream, normal).map(|z| mean + scale * z) }
        };
        (0..elements.div_ceil(4) as u64).flat_map(block).take(elements)
    }
}

/// `(fan_in, fan_out)`, at least 1, of a weight `[out, in, receptive field..]`; a vector is taken as `[1, n]`.
fn fans(shape: &[usize]) -> (f64, f64) {
    let (out, rest) = match shape {
        [] => (1, &[][..]),
        [_] => (1, shape),
        [out, rest @ ..] => (*out, rest),
    };
    let field: usize = rest.iter().skip(1).product();
    ((rest.iter().product::<usize>()).max(1) as f64, (out * field).max(1) as f64)
}

/// Four numbers from one Philox block: uniform on `[-1, 1)`, or standard normal (Box and Muller, 1958).
fn four(block: u64, seed: u64, stream: u32, normal: bool) -> [f64; 4] {
    // The third word of the counter is the step of a run in the draws on devices; no run takes this many ("init").
    const STEP: u32 = 0x696e_6974;
    let counter = [block as u32, stream, STEP, (block >> 32) as u32];
    let words = philox::philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
    let uniform = words.map(|w| f64::from(w) / (f64::from(u32::MAX) + 1.0));
    if !normal {
        return uniform.map(|u| 2.0 * u - 1.0);
    }
    let pair = |a: f64, b: f64| {
        let (radius, angle) = ((-2.0 * (1.0 - a).ln()).sqrt(), TAU * b);
        [radius * angle.cos(), radius * angle.sin()]
    };
    let ([a, b], [c, d]) = (pair(uniform[0], uniform[1]), pair(uniform[2], uniform[3]));
    [a, b, c, d]
}

/// Makes the parameters of a model: where they live, of which dtype, and from which seed they are drawn.
#[derive(Debug)]
pub struct Init {
    device: DeviceHandle,
    dtype: DType,
    seed: u64,
    stream: AtomicU32,
}

impl Init {
    /// Parameters in f32 on `device`.
    pub fn new(device: &DeviceHandle, seed: u64) -> Self {
        Init { device: device.clone(), dtype: DType::F32, seed, stream: AtomicU32::new(0) }
    }

    /// The same with another dtype; the values are drawn in f64 and rounded to it.
    #[must_use]
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Where the parameters live.
    pub fn device(&self) -> &DeviceHandle {
        &self.device
    }

    /// Element type of the parameters.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// A new parameter. A failure (out of memory, say) is carried by its tensor.
    pub fn param(&self, shape: impl Into<Shape>, initializer: Initializer) -> Param {
        let shape = shape.into();
        let stream = self.stream.fetch_add(1, Ordering::Relaxed);
        let values = initializer.values(&shape, self.seed, stream);
        let device = &self.device;
        Param::new(match self.dtype {
            DType::F64 => Tensor::from_vec(values.collect::<Vec<f64>>(), &shape, device),
            DType::F16 => {
                Tensor::from_vec(values.map(half::f16::from_f64).collect::<Vec<_>>(), &shape, device)
            }
            DType::BF16 => {
                Tensor::from_vec(values.map(half::bf16::from_f64).collect::<Vec<_>>(), &shape, device)
            }
            DType::F32 => Tensor::from_vec(values.map(|v| v as f32).collect::<Vec<f32>>(), &shape, device),
            other => Tensor::from_vec(values.collect::<Vec<f64>>(), &shape, device).cast(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt())
    }

    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        let shape = [400, 250];
        for (initializer, std) in [
            (Initializer::Normal { std: 0.02 }, 0.02),
            (Initializer::Uniform { low: -0.3, high: 0.3 }, 0.3 / 3f64.sqrt()),
            (Initializer::XavierUniform, (2.0 / 650.0f64).sqrt()),
            (Initializer::XavierNormal, (2.0 / 650.0f64).sqrt()),
            (Initializer::KaimingUniform, (2.0 / 250.0f64).sqrt()),
            (Initializer::KaimingNormal, (2.0 / 250.0f64).sqrt()),
        ] {
            let (mean, found) = moments(&initializer.draw(&shape, 7, 3));
            assert!(mean.abs() < 0.02 * std, "{initializer:?}: mean {mean}");
            assert!((found / std - 1.0).abs() < 0.01, "{initializer:?}: {found} instead of {std}");
        }
    }

    #[test]
    fn draws_differ_between_seeds_and_streams_and_repeat_otherwise() {
        let normal = Initializer::Normal { std: 1.0 };
        assert_eq!(normal.draw(&[5, 3], 1, 2), normal.draw(&[15], 1, 2));
        assert_ne!(normal.draw(&[15], 1, 2), normal.draw(&[15], 1, 3));
        assert_ne!(normal.draw(&[15], 1, 2), normal.draw(&[15], 2, 2));
    }

    #[test]
    fn fans_are_counted_as_pytorch_counts_them() {
        assert_eq!(fans(&[8, 3, 5, 5]), (75.0, 200.0));
        assert_eq!(fans(&[8, 3]), (3.0, 8.0));
    }
}
