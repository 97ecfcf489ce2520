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
        Row::new("var", |c| c.x(0).var(&c.isizes("dim", &[-1]), unbiased(c), c.bool("keepdim", false)))
            .shapes("[.., n, ..] → [..]")
            .part_of(&["var_std"])
            .samples(spreads()),
        Row::new("std", |c| c.x(0).std(&c.isizes("dim", &[-1]), unbiased(c), c.bool("keepdim", false)))
            .shapes("[.., n, ..] → [..]")
            .entry_by("var_std", |c| {
                let x = c.x(0);
                [
                    x.var(&[1], true, false),
                    x.var(&[1], false, false),
                    x.std(&[0, 2], true, false),
                    x.std(&[-1], false, true),
                ]
            })
            .samples(spreads()),
        on("logsumexp", |x, dims, keep| x.logsumexp(dims, keep))
            .entry_by("logsumexp", |c| c.x(0).logsumexp(&[c.isize("dim", -1)], false))
            .entry_by("logsumexp_large", |c| c.x(0).logsumexp(&[-1], false)),
        Row::new("softmax", |c| c.x(0).softmax(c.isize("dim", -1)))
            .entries(&["softmax", "softmax_large"])
            .samples(rows_of()),
        Row::new("log_softmax", |c| c.x(0).log_softmax(c.isize("dim", -1)))
            .entries(&["log_softmax"])
            .samples(rows_of()),
        Row::new("norm", |c| {
            let p = c
                .attr("p")
                .and_then(|p| p.as_str())
                .map(|p| if p == "-inf" { f64::NEG_INFINITY } else { f64::INFINITY });
            let p = p.unwrap_or_else(|| c.f64("p", 2.0));
            c.x(0).norm(p, &c.isizes("dim", &[-1]), c.bool("keepdim", false))
        })
        .shapes("[.., n, ..] → [..]")
        .entry_by("norm_l2_dim", |c| [c.x(0).norm(2.0, &[1], false), c.x(0).norm(1.0, &[0], false)])
        .sample([floats("x", &[3, 5])])
        .sample(Sample::of([floats("x", &[3, 5])]).attrs(json!({"p": 1, "dim": [0, 1]})))
        .sample(Sample::of([floats("x", &[3, 5])]).attrs(json!({"p": 3, "keepdim": true})))
        .sample(Sample::of([floats("x", &[2, 7])]).attrs(json!({"p": "inf"})))
        .sample(Sample::of([floats("x", &[2, 7])]).attrs(json!({"p": "-inf"}))),
        Row::new("normalize", |c| c.x(0).normalize(c.f64("p", 2.0), c.isize("dim", 1), c.f64("eps", 1e-12)))
            .entries(&["normalize"])
            .sample([floats("x", &[3, 5])])
            .sample(Sample::of([floats("x", &[2, 5])]).attrs(json!({"p": 1, "eps": 9}))),
        Row::new("cosine_similarity", |c| {
            c.x(0).cosine_similarity(&c.x(1), c.isize("dim", 1), c.f64("eps", 1e-8))
        })
        .shapes("x [.., n, ..], y [.., n, ..] → [..]")
        .entries(&["cosine_similarity"])
        .sample([floats("x", &[3, 5]), floats("y", &[3, 5])])
        .sample(Sample::of([floats("x", &[3, 1, 5]), floats("y", &[2, 5])]).attrs(json!({"dim": -1}))),
        Row::new("cdist", |c| c.x(0).cdist(&c.x(1), c.f64("p", 2.0)))
            .shapes("x [.., m, d], y [.., n, d] → [.., m, n]")
            .entries(&["cdist"])
            .sample([floats("x", &[3, 5]), floats("y", &[4, 5])])
            .sample(Sample::of([floats("x", &[2, 3, 2]), floats("y", &[1, 2])]).attrs(json!({"p": 1}))),
    ]
}

fn unbiased(c: &Call) -> bool {
    c.usize("correction", 1) == 1
}

fn spreads() -> Vec<Sample> {
    vec![
        Sample::of([floats("x", &[3, 5])]),
        Sample::of([floats("x", &[3, 2, 4])]).attrs(json!({"dim": [0, 2], "correction": 0, "keepdim": true})),
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
