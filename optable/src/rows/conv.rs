//! Convolutions.

use serde_json::json;
use wgrad::nn::functional::{self as f, Conv, ConvTranspose, Padding};

use crate::{Call, Outputs, Row, Sample, floats};

fn convolved<const N: usize>(c: &Call) -> Outputs {
    let padding = match c.attr("padding").and_then(|p| p.as_str()) {
        Some("same") => Padding::Same,
        _ => Padding::Both(c.each("padding", 0)),
    };
    let options = Conv::<N> {
        stride: c.each("stride", 1),
        padding,
        dilation: c.each("dilation", 1),
        groups: c.usize("groups", 1),
    };
    f::conv(&c.named("x"), &c.named("w"), c.get("b").as_ref(), &options).into()
}

fn transposed<const N: usize>(c: &Call) -> Outputs {
    let options = ConvTranspose::<N> {
        stride: c.each("stride", 1),
        padding: c.each("padding", 0),
        output_padding: c.each("output_padding", 0),
        dilation: c.each("dilation", 1),
        groups: c.usize("groups", 1),
    };
    f::conv_transpose(&c.named("x"), &c.named("w"), c.get("b").as_ref(), &options).into()
}

pub(super) fn rows() -> Vec<Row> {
    let with = |x: &[usize], w: &[usize], b: usize, attrs| {
        Sample::of([floats("x", x), floats("w", w), floats("b", &[b])]).attrs(attrs)
    };
    vec![
        Row::new("conv1d", convolved::<1>)
            .shapes("x [n, c, t], w [out, c / groups, k], b [out] → [n, out, t']")
            .entries(&["conv1d", "conv1d_full"])
            .sample(with(&[2, 3, 7], &[4, 3, 3], 4, json!({"padding": 1})))
            .sample(with(
                &[1, 4, 9],
                &[2, 2, 2],
                2,
                json!({"stride": 2, "dilation": 3, "groups": 2, "padding": 2}),
            ))
            // One image without an axis of its own, and a filter wider than the operand.
            .sample([floats("x", &[2, 5]), floats("w", &[3, 2, 5])])
            .sample(
                Sample::of([floats("x", &[1, 1, 2]), floats("w", &[1, 1, 5])]).attrs(json!({"padding": 2})),
            ),
        Row::new("conv2d", convolved::<2>)
            .shapes("x [n, c, h, w], w [out, c / groups, kh, kw], b [out] → [n, out, h', w']")
            .entries(&[
                "conv2d",
                "conv2d_stride_pad",
                "conv2d_dilation",
                "conv2d_groups",
                "conv2d_depthwise",
                "conv2d_1x1",
                "conv2d_same_even",
            ])
            .sample(with(&[2, 3, 5, 4], &[4, 3, 3, 3], 4, json!({"padding": 1})))
            .sample(with(&[1, 2, 7, 6], &[3, 2, 3, 2], 3, json!({"stride": [2, 3], "padding": [1, 0]})))
            .sample(with(&[1, 4, 5, 5], &[4, 1, 3, 3], 4, json!({"groups": 4, "padding": 1, "stride": 2})))
            .sample(
                Sample::of([floats("x", &[1, 1, 5, 3]), floats("w", &[2, 1, 4, 2])])
                    .attrs(json!({"padding": "same"})),
            )
            .sample([floats("x", &[3, 2, 1, 1]), floats("w", &[5, 2, 1, 1])]),
        Row::new("conv3d", convolved::<3>)
            .shapes("x [n, c, d, h, w], w [out, c / groups, kd, kh, kw], b [out] → [n, out, d', h', w']")
            .entries(&["conv3d"])
            .sample(with(&[1, 2, 3, 4, 3], &[2, 2, 2, 3, 2], 2, json!({"padding": 1, "stride": [1, 2, 2]}))),
        Row::new("conv_transpose1d", transposed::<1>)
            .shapes("x [n, c, t], w [c, out / groups, k], b [out] → [n, out, t']")
            .entries(&["conv_transpose1d"])
            .sample(with(&[2, 2, 4], &[2, 3, 3], 3, json!({"stride": 2, "padding": 1, "output_padding": 1})))
            .sample(with(&[1, 4, 3], &[4, 1, 2], 2, json!({"groups": 2, "stride": 3, "dilation": 2}))),
        Row::new("conv_transpose2d", transposed::<2>)
            .shapes("x [n, c, h, w], w [c, out / groups, kh, kw], b [out] → [n, out, h', w']")
            .entries(&["conv_transpose2d", "conv_transpose2d_full"])
            .sample(with(&[1, 2, 3, 2], &[2, 2, 3, 3], 2, json!({"stride": [2, 1], "padding": 1})))
            .sample([floats("x", &[1, 2, 2, 3]), floats("w", &[2, 1, 2, 2])]),
        Row::new("conv_transpose3d", transposed::<3>)
            .shapes("x [n, c, d, h, w], w [c, out / groups, kd, kh, kw], b [out] → [n, out, d', h', w']")
            .sample(with(&[1, 2, 2, 2, 2], &[2, 1, 2, 2, 1], 1, json!({"stride": 2}))),
    ]
}
