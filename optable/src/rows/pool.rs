//! Pooling, windows, batch norm.

use serde_json::json;
use wgrad::nn::functional::{self as f, AvgPool, MaxPool, Statistics};

use crate::{Call, Outputs, Row, Sample, floats};

fn largest<const N: usize>(c: &Call) -> Outputs {
    let kernel: [usize; N] = c.each("kernel", 2);
    let stride = if c.attr("stride").is_some() { c.each("stride", 1) } else { kernel };
    let options = MaxPool {
        kernel,
        stride,
        padding: c.each("padding", 0),
        dilation: c.each("dilation", 1),
        ceil_mode: c.bool("ceil_mode", false),
    };
    f::max_pool(&c.x(0), &options).into()
}

fn mean<const N: usize>(c: &Call) -> Outputs {
    let kernel: [usize; N] = c.each("kernel", 2);
    let stride = if c.attr("stride").is_some() { c.each("stride", 1) } else { kernel };
    let options = AvgPool {
        kernel,
        stride,
        padding: c.each("padding", 0),
        ceil_mode: c.bool("ceil_mode", false),
        count_include_pad: c.bool("count_include_pad", true),
    };
    f::avg_pool(&c.x(0), &options).into()
}

/// The result, and the moving averages after it.
fn batch_norm(c: &Call) -> Outputs {
    let (x, w, b) = (c.x(0), c.get("w"), c.get("b"));
    let (mean, var) = (c.named("rm"), c.named("rv"));
    let (eps, momentum) = (c.f64("eps", 1e-5), c.f64("momentum", 0.1));
    if !c.bool("training", true) {
        let statistics = Statistics { mean: mean.clone(), var: var.clone() };
        return (f::batch_norm(&x, &statistics, w.as_ref(), b.as_ref(), eps), mean, var).into();
    }
    let (y, batch) = f::batch_norm_train(&x, w.as_ref(), b.as_ref(), eps);
    let moved = |old: wgrad::prelude::Tensor, new: wgrad::prelude::Tensor| {
        old.mul(1.0 - momentum).add(new.mul(momentum))
    };
    (y, moved(mean, batch.mean), moved(var, batch.var)).into()
}

/// The entries that also want the moving averages afterwards.
const BATCH_NORM: [&str; 6] = [
    "batch_norm1d_train",
    "batch_norm1d_eval",
    "batch_norm2d_train",
    "batch_norm2d_eval",
    "batch_norm1d_seq_train",
    "batch_norm1d_seq_eval",
];

pub(super) fn rows() -> Vec<Row> {
    let on = |x: &[usize], attrs| Sample::of([floats("x", x)]).attrs(attrs);
    let normed = |x: &[usize], attrs| {
        let c = [x[1]];
        let statistics = [floats("rm", &c).constant(), floats("rv", &c).within(0.5, 2.0).constant()];
        let [rm, rv] = statistics;
        Sample::of([floats("x", x), floats("w", &c), floats("b", &c), rm, rv]).attrs(attrs)
    };
    vec![
        Row::new("max_pool1d", largest::<1>)
            .shapes("x [.., t] → [.., t']")
            .entries(&["max_pool1d"])
            .sample(on(&[2, 3, 8], json!({"kernel": 3, "stride": 2, "padding": 1})))
            .sample(on(&[1, 5], json!({"kernel": 2, "dilation": 3}))),
        Row::new("max_pool2d", largest::<2>)
            .shapes("x [.., h, w] → [.., h', w']")
            .entries(&["max_pool2d", "max_pool2d_pad_ceil", "max_pool2d_dilation"])
            .sample(on(&[2, 2, 6, 5], json!({"kernel": 2})))
            .sample(on(&[1, 2, 6, 7], json!({"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": true})))
            .sample(on(&[2, 5, 5], json!({"kernel": [3, 2], "stride": 1}))),
        Row::new("max_pool3d", largest::<3>)
            .shapes("x [.., d, h, w] → [.., d', h', w']")
            .sample(on(&[1, 1, 4, 4, 5], json!({"kernel": [2, 3, 2], "stride": [2, 1, 2]}))),
        Row::new("avg_pool1d", mean::<1>)
            .shapes("x [.., t] → [.., t']")
            .entries(&["avg_pool1d"])
            .sample(on(&[2, 3, 8], json!({"kernel": 3, "stride": 2, "padding": 1}))),
        Row::new("avg_pool2d", mean::<2>)
            .shapes("x [.., h, w] → [.., h', w']")
            .entries(&["avg_pool2d_pad", "avg_pool2d_pad_exclude"])
            .sample(on(&[2, 2, 6, 5], json!({"kernel": 2})))
            .sample(on(&[1, 1, 6, 7], json!({"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": true})))
            .sample(on(
                &[1, 1, 6, 7],
                json!({"kernel": 3, "stride": 2, "padding": 1, "count_include_pad": false}),
            )),
        Row::new("avg_pool3d", mean::<3>)
            .shapes("x [.., d, h, w] → [.., d', h', w']")
            .sample(on(&[1, 1, 4, 4, 5], json!({"kernel": [2, 3, 2], "stride": [2, 1, 2]}))),
        Row::new("adaptive_avg_pool2d", |c| f::adaptive_avg_pool::<2>(&c.x(0), c.each("output", 1)))
            .shapes("x [.., h, w] → [.., output..]")
            .entries(&["adaptive_avg_pool2d", "adaptive_avg_pool2d_up"])
            .sample(on(&[2, 3, 6, 4], json!({"output": [3, 2]})))
            .sample(on(&[1, 2, 5, 3], json!({"output": [3, 4]}))),
        Row::new("adaptive_max_pool2d", |c| f::adaptive_max_pool::<2>(&c.x(0), c.each("output", 1)))
            .shapes("x [.., h, w] → [.., output..]")
            .entries(&["adaptive_max_pool2d"])
            .sample(on(&[2, 3, 6, 4], json!({"output": [3, 2]})))
            .sample(on(&[1, 2, 5, 3], json!({"output": [3, 2]}))),
        Row::new("unfold", |c| {
            let [stride, dilation] = [c.each("stride", 1), c.each("dilation", 1)];
            f::unfold(&c.x(0), c.each("kernel", 2), dilation, c.each("padding", 0), stride)
        })
        .shapes("x [n, c, h, w] → [n, c kh kw, windows]")
        .entries(&["unfold_im2col"])
        .sample(on(&[2, 2, 4, 5], json!({"kernel": [2, 3], "padding": 1, "stride": 2})))
        .sample(on(&[1, 1, 5, 5], json!({"kernel": 2, "dilation": 3}))),
        BATCH_NORM.into_iter().fold(
            // No gradient flows through the moving averages, so that finite differences go through the result alone.
            Row::new("batch_norm", |c| batch_norm(c).0.swap_remove(0))
                .shapes("x [n, c, ..], w [c], b [c] and moving averages [c] → [n, c, ..]")
                .sample(normed(&[4, 3], json!({"training": true})))
                .sample(normed(&[2, 3, 4, 2], json!({"training": true})))
                .sample(normed(&[2, 3, 5], json!({"training": false}))),
            |row, entry| row.entry_by(entry, batch_norm),
        ),
    ]
}
