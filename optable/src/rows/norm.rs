//! Normalisation.

use serde_json::json;
use wgrad::nn::functional as f;

use crate::{Row, Sample, floats};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new("layer_norm", |c| {
            f::layer_norm(&c.named("x"), &c.named("w"), c.get("b").as_ref(), c.f64("eps", 1e-5))
        })
        .shapes("x [.., d..], w [d..], b [d..] → [.., d..]")
        .entries(&["layer_norm", "layer_norm_2dims"])
        .entry_by("layer_norm_plain", |c| {
            let x = c.x(0);
            let width = x.shape().last().copied().unwrap_or(1);
            let one = wgrad::prelude::Tensor::ones([width], x.dtype(), x.device());
            f::layer_norm(&x, &one, None, c.f64("eps", 1e-5))
        })
        .sample([floats("x", &[2, 3, 8]), floats("w", &[8]), floats("b", &[8])])
        .sample([floats("x", &[2, 3, 5]), floats("w", &[3, 5]), floats("b", &[3, 5])])
        .sample([floats("x", &[5, 13]), floats("w", &[13])]),
        Row::new("rms_norm", |c| f::rms_norm(&c.x(0), &c.x(1), c.f64("eps", 1e-6)))
            .shapes("x [.., d..], w [d..] → [.., d..]")
            .entries(&["rms_norm"])
            .sample([floats("x", &[2, 3, 7]), floats("w", &[7])])
            .sample([floats("x", &[2, 3, 2]), floats("w", &[3, 2])]),
        Row::new("group_norm", |c| {
            let (w, b) = (c.get("w"), c.get("b"));
            f::group_norm(&c.x(0), c.usize("groups", 1), w.as_ref(), b.as_ref(), c.f64("eps", 1e-5))
        })
        .shapes("x [n, channels, ..], w [channels], b [channels] → [n, channels, ..]")
        .entries(&["group_norm"])
        .sample([floats("x", &[2, 3, 5]), floats("w", &[3]), floats("b", &[3])])
        .sample(Sample::of([floats("x", &[2, 4, 1, 3])]).attrs(json!({"groups": 2})))
        // Without axes of space: one number per channel.
        .sample(Sample::of([floats("x", &[3, 6])]).attrs(json!({"groups": 2}))),
        Row::new("instance_norm", |c| {
            f::instance_norm(&c.x(0), c.get("w").as_ref(), c.get("b").as_ref(), c.f64("eps", 1e-5))
        })
        .shapes("x [n, channels, ..], w [channels], b [channels] → [n, channels, ..]")
        .entries(&["instance_norm"])
        .sample([floats("x", &[2, 3, 5]), floats("w", &[3]), floats("b", &[3])])
        .sample([floats("x", &[1, 2, 3, 2])]),
        Row::new("local_response_norm", |c| {
            let (alpha, beta) = (c.f64("alpha", 1e-2), c.f64("beta", 0.75));
            f::local_response_norm(&c.x(0), c.usize("size", 2), alpha, beta, c.f64("k", 1.0))
        })
        .shapes("x [n, channels, ..] → [n, channels, ..]")
        .entries(&["local_response_norm"])
        .sample([floats("x", &[2, 5, 3])])
        .sample(Sample::of([floats("x", &[1, 3, 2, 2])]).attrs(json!({"size": 5}))),
        Row::new("weight_norm", |c| f::weight_norm(&c.x(0), &c.x(1), c.isize("dim", 0)))
            .shapes("v [n, ..], g [n, 1..] → [n, ..]")
            .entries(&["weight_norm"])
            .sample([floats("v", &[4, 3, 2]), floats("g", &[4, 1, 1])])
            .sample(Sample::of([floats("v", &[3, 5]), floats("g", &[1, 5])]).attrs(json!({"dim": -1}))),
    ]
}
