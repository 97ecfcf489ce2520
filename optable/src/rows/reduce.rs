//! Reductions, and what is made of them.

use serde_json::json;
use wgrad::tensor::Tensor;

use crate::{Call, Dtypes, Row, Sample, floats, given};

pub(super) fn rows() -> Vec<Row> {
    let on = |name, f: fn(&Tensor, &[isize], bool) -> Tensor| {
        Row::new(name, move |c: &Call| f(&c.x(0), &c.isizes("dim", &[-1]), c.bool("keepdim", false)))
            .shapes("[.., n, ..] → [..]")
            .samples(axes())
    };
    vec![
        on("sum", |x, dims, keep| x.sum(dims, keep))
            .dtypes(Dtypes::Numbers)
            .entry_by("sum_mean", |c| {
                let x = c.x(0);
                [x.sum(&[0, 2], false), x.mean(&[1], true), x.mean_all()]
            })
            .sample([floats("x", &[3, 0])]),
        on("mean", |x, dims, keep| x.mean(dims, keep)).part_of(&["sum_mean"]),
        on("amax", |x, dims, keep| x.amax(dims, keep))
            .dtypes(Dtypes::Numbers)
            .entry_by("amax_ties", |c| c.x(0).amax(&[1], false)),
        on("amin", |x, dims, keep| x.amin(dims, keep)).dtypes(Dtypes::Numbers),
        Row::new("var", |c| {
            c.x(0).var(&c.isizes("dim", &[-1]), c.usize("correction", 1) == 1, c.bool("keepdim", false))
        })
        .shapes("[.., n, ..] → [..]")
        .sample([floats("x", &[3, 5])])
        .sample(
            Sample::of([floats("x", &[3, 2, 4])])
                .attrs(json!({"dim": [0, 2], "correction": 0, "keepdim": true})),
        ),
        on("logsumexp", |x, dims, keep| x.logsumexp(dims, keep))
            .entry_by("logsumexp", |c| c.x(0).logsumexp(&[c.isize("dim", -1)], false))
            .entry_by("logsumexp_large", |c| c.x(0).logsumexp(&[-1], false)),
        Row::new("softmax", |c| c.x(0).softmax(c.isize("dim", -1)))
            .entries(&["softmax", "softmax_large"])
            .samples(rows_of()),
        Row::new("log_softmax", |c| c.x(0).log_softmax(c.isize("dim", -1)))
            .entries(&["log_softmax"])
            .samples(rows_of()),
    ]
}

/// Axes in the middle, several, one long prime, of one element.
fn axes() -> Vec<Sample> {
    vec![
        Sample::of([floats("x", &[3, 5])]),
        Sample::of([floats("x", &[3, 5])]).attrs(json!({"dim": [0], "keepdim": true})),
        Sample::of([floats("x", &[3, 5, 2])]).attrs(json!({"dim": [2, 0]})),
        Sample::of([floats("x", &[2, 257])]),
        Sample::of([floats("x", &[1])]).attrs(json!({"dim": [0]})),
        Sample::of([floats("x", &[0, 3])]),
        Sample::of([floats("x", &[2, 1, 3, 1, 2, 2])]).attrs(json!({"dim": [1, 4, 5], "keepdim": true})),
    ]
}

fn rows_of() -> Vec<Sample> {
    vec![
        Sample::of([floats("x", &[3, 5])]),
        Sample::of([floats("x", &[3, 5, 2])]).attrs(json!({"dim": 1})),
        Sample::of([floats("x", &[7, 1])]),
        Sample::of([floats("x", &[2, 131]).within(-3.0, 3.0)]),
        Sample::of([given("x", &[3], &[60.0, -40.0, 59.0])]).attrs(json!({"dim": 0})),
    ]
}
