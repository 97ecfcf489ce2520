//! Clipping of gradients.

use serde_json::json;
use wgrad::{
    optim::{clip_adaptive, clip_coefficient, clip_value, global_norm},
    tensor::Tensor,
};

use crate::{Call, Row, Sample, floats};

pub(super) fn rows() -> Vec<Row> {
    let pair = || [floats("x", &[2, 3]), floats("y", &[3])];
    vec![
        Row::new("clip_grad_norm_", clip_grad_norm)
            .shapes("gradients [..].. → norm [], clipped [..]..")
            .entries(&["clip_grad_norm", "clip_grad_norm_small"])
            .sample(pair())
            .sample(Sample::of(pair()).attrs(json!({"max_norm": 100.0}))),
        Row::new("clip_grad_value_", |c| clip_value(&c.x(0), c.f64("clip_value", 0.7)))
            .sample([floats("x", &[3, 5])]),
        Row::new("adaptive_clip_grad", |c| clip_adaptive(&c.x(0), &c.x(1), c.f64("clip_factor", 0.3), 1e-3))
            .shapes("parameter [..], gradient [..] → [..]")
            .sample([floats("x", &[3, 5]), floats("y", &[3, 5])])
            .sample([floats("x", &[7]), floats("y", &[7])]),
    ]
}

/// The norm of all inputs together, then each of them clipped.
fn clip_grad_norm(c: &Call) -> Vec<Tensor> {
    let gradients: Vec<Tensor> = c.inputs().iter().map(|(_, x)| x.clone()).collect();
    let Some(norm) = global_norm(&gradients) else { return Vec::new() };
    let factor = clip_coefficient(&norm, c.f64("max_norm", 1.0));
    [norm].into_iter().chain(gradients.iter().map(|g| g.mul(&factor))).collect()
}
