//! Positions: added to embeddings, or to attention's scores.

use std::f64::consts::PI;

use wgrad_ir::DType;
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

/// Sinusoidal positions `[length, width]`: `sin(p / base^(2i/width))` at column `2i`, the cosine at `2i + 1` (Vaswani et al., 2017,
/// where `base` is 10,000). An odd width ends with a sine.
pub fn sinusoidal_positions(length: usize, width: usize, base: f64) -> Vec<f32> {
    let mut rows = Vec::with_capacity(length * width);
    for position in 0..length {
        for column in 0..width {
            let rate = base.powf(-((column / 2 * 2) as f64) / width.max(1) as f64);
            let phase = if column % 2 == 0 { 0.0 } else { PI / 2.0 };
            rows.push((position as f64 * rate + phase).sin() as f32);
        }
    }
    rows
}

/// How fast each head's scores fall with distance (ALiBi; Press, Smith and Lewis, 2022): `2^(-8 (h + 1) / heads)` where `heads` is a power
/// of two; else those of the next lower power, and then every other one of twice that many.
pub fn alibi_slopes(heads: usize) -> Vec<f64> {
    let geometric = |count: usize, h: usize| (-8.0 * (h + 1) as f64 / count as f64).exp2();
    let whole = (heads / 2 + 1).next_power_of_two().min(heads);
    let more = (0..heads - whole).map(|h| geometric(2 * whole, 2 * h));
    (0..whole).map(|h| geometric(whole, h)).chain(more).collect()
}

/// The mask `[1, heads, queries, keys]` that ALiBi adds to scores: minus the head's slope times the distance, where the last query
/// stands at the last key. For [`Attention::mask`](super::Attention::mask).
#[track_caller]
pub fn alibi(heads: usize, queries: usize, keys: usize, dtype: DType, device: &DeviceHandle) -> Tensor {
    let slopes: Vec<f32> = alibi_slopes(heads).into_iter().map(|slope| slope as f32).collect();
    let slopes = Tensor::from_vec(slopes, [1, heads, 1, 1], device);
    let place = |count: usize| Tensor::arange(count, device).cast(DType::F32);
    let ahead = Tensor::constant(keys as f64 - queries as f64, DType::F32, device);
    let distance = place(queries).add(ahead).unsqueeze(1).sub(place(keys).unsqueeze(0)).abs();
    slopes.mul(distance).neg().cast(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        let near = |got: Vec<f64>, want: &[f64]| {
            got.len() == want.len() && got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-9)
        };
        assert!(near(alibi_slopes(8), &[0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]));
        // Of 4, and then the first and third of 8.
        assert!(near(alibi_slopes(6), &[0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]));
        assert!(near(alibi_slopes(1), &[0.00390625]) && alibi_slopes(0).is_empty());
    }
}
