//! Activation functions.

use serde_json::json;
use wgrad::{nn::functional as f, tensor::Tensor};

use super::any_shape;
use crate::{Row, Sample, floats};

pub(super) fn rows() -> Vec<Row> {
    let on =
        |name, f: fn(&Tensor) -> Tensor| Row::new(name, move |c| f(&c.x(0))).samples(any_shape(-4.1, 4.3));
    let mut rows = vec![
        on("relu", Tensor::relu).entries(&["relu"]),
        on("relu6", f::relu6),
        on("sigmoid", Tensor::sigmoid).entries(&["sigmoid"]),
        on("logsigmoid", f::logsigmoid).entries(&["logsigmoid"]),
        on("tanh", Tensor::tanh).entries(&["tanh"]),
        on("tanhshrink", f::tanhshrink),
        on("silu", Tensor::silu).entries(&["silu"]),
        on("gelu", Tensor::gelu).entries(&["gelu_erf"]),
        on("gelu_tanh", Tensor::gelu_tanh).entries(&["gelu_tanh"]),
        on("quick_gelu", f::quick_gelu).entries(&["quick_gelu"]),
        on("selu", f::selu).entries(&["selu"]),
        on("mish", f::mish).entries(&["mish"]),
        on("softsign", f::softsign).entries(&["softsign"]),
        on("hardswish", f::hardswish).entries(&["hardswish"]),
        on("hardsigmoid", f::hardsigmoid).entries(&["hardsigmoid"]),
    ];
    rows.extend(with_settings());
    rows.extend(gated());
    rows
}

fn with_settings() -> Vec<Row> {
    let samples = || any_shape(-4.1, 4.3);
    vec![
        Row::new("leaky_relu", |c| f::leaky_relu(&c.x(0), c.f64("slope", 0.01)))
            .entries(&["leaky_relu"])
            .samples(samples()),
        Row::new("elu", |c| f::elu(&c.x(0), c.f64("alpha", 1.0))).entries(&["elu"]).samples(samples()),
        Row::new("celu", |c| f::celu(&c.x(0), c.f64("alpha", 1.3))).samples(samples()),
        Row::new("softplus", |c| f::softplus(&c.x(0), c.f64("beta", 1.0), c.f64("threshold", 20.0)))
            .entries(&["softplus", "softplus_beta"])
            .samples(samples())
            .sample(Sample::of([floats("x", &[7])]).attrs(json!({"beta": 2.0, "threshold": 1.5}))),
        Row::new("hardtanh", |c| f::hardtanh(&c.x(0), c.f64("min", -1.0), c.f64("max", 1.0)))
            .entries(&["hardtanh"])
            .samples(samples()),
        Row::new("softshrink", |c| f::softshrink(&c.x(0), c.f64("lambda", 0.5))).samples(samples()),
        Row::new("hardshrink", |c| f::hardshrink(&c.x(0), c.f64("lambda", 0.5))).samples(samples()),
        Row::new("threshold", |c| f::threshold(&c.x(0), c.f64("threshold", 0.1), c.f64("value", 20.0)))
            .samples(samples()),
        Row::new("prelu", |c| f::prelu(&c.x(0), &c.x(1)))
            .shapes("x [n, channels, ..], weight [channels] or [1] → [n, channels, ..]")
            .entries(&["prelu"])
            .sample([floats("x", &[2, 3, 4]), floats("w", &[3])])
            .sample([floats("x", &[5]), floats("w", &[1])]),
    ]
}

fn gated() -> Vec<Row> {
    let on = |name, f: fn(&Tensor, isize) -> Tensor| {
        Row::new(name, move |c| f(&c.x(0), c.isize("dim", -1)))
            .shapes("[.., 2n, ..] → [.., n, ..]")
            .sample([floats("x", &[3, 6])])
            .sample(Sample::of([floats("x", &[4, 1, 3])]).attrs(json!({"dim": 0})))
    };
    vec![
        on("glu", f::glu).entries(&["glu"]),
        on("swiglu", f::swiglu).entry_by("swiglu", |c| c.x(1).silu().mul(c.x(0))),
        on("geglu", f::geglu),
    ]
}
