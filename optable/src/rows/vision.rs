//! Images at other sizes and places.

use serde_json::json;
use wgrad::tensor::{GridMode, GridPadding, Interpolation, Tensor};

use crate::{Call, Row, Sample, floats};

pub(super) fn rows() -> Vec<Row> {
    let sized = |shape: &[usize], size: &[usize], mode: &str, corners: bool| {
        Sample::of([floats("x", shape)]).attrs(json!({"size": size, "mode": mode, "align_corners": corners}))
    };
    let seen = |mode: &str, padding: &str, corners: bool| {
        Sample::of([floats("x", &[2, 1, 3, 3]), floats("g", &[2, 2, 3, 2]).within(-2.4, 2.3)])
            .attrs(json!({"mode": mode, "padding": padding, "align_corners": corners}))
    };
    vec![
        Row::new("interpolate", |c| {
            let align_corners = c.bool("align_corners", false);
            interpolate(
                c,
                match c.text("mode", "nearest").as_str() {
                    "bilinear" => Interpolation::Linear { align_corners },
                    "bicubic" => Interpolation::Cubic { align_corners },
                    "nearest-exact" => Interpolation::NearestExact,
                    _ => Interpolation::Nearest,
                },
            )
        })
        .shapes("[n, c, in..] → [n, c, size..]")
        .entries(&["interpolate_nearest", "interpolate_nearest_x2"])
        .entry_by("interpolate_bilinear", |c| linear(c, false))
        .entry_by("interpolate_bilinear_corners", |c| linear(c, true))
        .entry_by("interpolate_bicubic", |c| {
            interpolate(c, Interpolation::Cubic { align_corners: c.bool("align_corners", false) })
        })
        .samples([
            sized(&[1, 2, 3, 4], &[5, 3], "nearest", false),
            sized(&[1, 1, 3, 2], &[6, 2], "nearest", false),
            sized(&[1, 2, 3, 5], &[5, 3], "nearest-exact", false),
            sized(&[2, 1, 3, 4], &[5, 3], "bilinear", false),
            sized(&[1, 2, 3, 4], &[5, 1], "bilinear", true),
            sized(&[1, 1, 3, 5], &[7, 2], "bicubic", false),
            sized(&[1, 1, 3, 5], &[7, 2], "bicubic", true),
            sized(&[1, 2, 7], &[3], "bilinear", false),
        ]),
        Row::new("grid_sample", |c| {
            let mode = match c.text("mode", "bilinear").as_str() {
                "nearest" => GridMode::Nearest,
                "bicubic" => GridMode::Cubic,
                _ => GridMode::Linear,
            };
            let padding = match c.text("padding", "zeros").as_str() {
                "border" => GridPadding::Border,
                "reflection" => GridPadding::Reflection,
                _ => GridPadding::Zeros,
            };
            c.x(0).grid_sample(&c.x(1), mode, padding, c.bool("align_corners", false))
        })
        .shapes("x [n, c, h, w], grid [n, oh, ow, 2] → [n, c, oh, ow]")
        .entries(&["grid_sample_zeros"])
        .sample([floats("x", &[1, 2, 4, 5]), floats("g", &[1, 3, 2, 2]).within(-1.2, 1.2)])
        .samples([
            seen("bilinear", "border", true),
            seen("bilinear", "reflection", false),
            seen("bicubic", "reflection", true),
            seen("bicubic", "zeros", false),
            seen("bicubic", "border", false),
        ])
        // The nearest element does not change with the place.
        .sample(
            Sample::of([floats("x", &[1, 2, 3, 4]), floats("g", &[1, 3, 2, 2]).within(-1.3, 1.2).constant()])
                .attrs(json!({"mode": "nearest", "padding": "reflection"})),
        ),
    ]
}

fn linear(c: &Call, corners: bool) -> Tensor {
    interpolate(c, Interpolation::Linear { align_corners: c.bool("align_corners", corners) })
}

/// To the size that is given, or by the factor.
fn interpolate(c: &Call, mode: Interpolation) -> Tensor {
    let x = c.x(0);
    let factor = c.usize("scale", 1);
    let scaled: Vec<usize> = x.shape().iter().skip(2).map(|n| n * factor).collect();
    x.interpolate(&c.usizes("size", &scaled), mode)
}
