//! Boxes, regions and matchings.

use serde_json::json;
use wgrad::{
    nn::functional::{
        Reduction,
        boxes::{self, BoxFormat, RoiAlign},
        linear_sum_assignment,
    },
    prelude::*,
};

use crate::{Call, Input, Row, Sample, floats, given, ints};

/// Overlapping, nested, touching and distant boxes.
const FIRST: [f64; 12] = [0.1, 0.2, 3.3, 4.1, 1.0, 1.5, 9.2, 2.7, 2.2, 2.9, 4.0, 8.8];
const SECOND: [f64; 8] = [0.7, 0.9, 2.5, 3.0, 2.1, 1.7, 8.1, 6.6];

pub(super) fn rows() -> Vec<Row> {
    let pairs = || [given("boxes1", &[3, 4], &FIRST), given("boxes2", &[2, 4], &SECOND)];
    let sides = || [given("x", &[2, 4], &FIRST[..8]), given("y", &[2, 4], &SECOND)];
    let all = |name, f: fn(&Tensor, &Tensor, f64) -> Tensor, samples: [Input; 2]| {
        Row::new(name, move |c| f(&c.x(0), &c.x(1), c.f64("eps", 1e-7)))
            .shapes("boxes1 [n, 4], boxes2 [m, 4] → [n, m]")
            .entries(&[name])
            .sample(samples)
    };
    let loss = |name, entry, f: fn(&Tensor, &Tensor, f64, Reduction) -> Tensor, samples: [Input; 2]| {
        Row::new(name, move |c| f(&c.x(0), &c.x(1), c.f64("eps", 1e-7), Reduction::None))
            .shapes("boxes1 [.., 4], boxes2 [.., 4] → [..]")
            .entries(&[entry])
            .sample(samples)
    };
    // The weight of the aspect ratios is held constant in the gradient of CIoU, as in torchvision, so that finite differences do not
    // apply: its samples are larger than those that are tried on them.
    let many = || [many("boxes1", 18), many("boxes2", 3)];
    let many_sides = || [many_of("x", 12, 0.0), many_of("y", 12, 0.4)];
    vec![
        all("box_iou", |a, b, _| boxes::box_iou(a, b), pairs()),
        all("generalized_box_iou", |a, b, _| boxes::generalized_box_iou(a, b), pairs()),
        all("distance_box_iou", boxes::distance_box_iou, pairs()),
        all("complete_box_iou", boxes::complete_box_iou, many()),
        loss("generalized_box_iou_loss", "giou_loss", boxes::generalized_box_iou_loss, sides()),
        loss("distance_box_iou_loss", "diou_loss", boxes::distance_box_iou_loss, sides()),
        loss("complete_box_iou_loss", "ciou_loss", boxes::complete_box_iou_loss, many_sides()),
        Row::new("box_convert", |c| {
            let x = c.x(0);
            let to = |format| boxes::box_convert(&x, BoxFormat::Xyxy, format);
            [to(BoxFormat::Cxcywh), to(BoxFormat::Xywh)]
        })
        .shapes("boxes [.., 4] → [.., 4]")
        .entries(&["box_convert"])
        .sample([given("x", &[3, 4], &FIRST)]),
        Row::new("box_area", |c| boxes::box_area(&c.x(0))).shapes("boxes [.., 4] → [..]").sample([given(
            "x",
            &[3, 4],
            &FIRST,
        )]),
        nms(),
        batched_nms(),
        roi_align(),
        assignment(),
    ]
}

fn many(name: &'static str, n: usize) -> Input {
    many_of(name, n, 0.0)
}

/// Boxes of all sorts, shifted.
fn many_of(name: &'static str, n: usize, shift: f64) -> Input {
    let share = |i: usize| ((i + 1) as f64 * 0.618_033_988_749_895).fract();
    let corners = (0..n).flat_map(|i| {
        let (x, y) = (4.0 * share(4 * i) + shift, 4.0 * share(4 * i + 1) - shift);
        [x, y, x + 1.0 + 5.0 * share(4 * i + 2), y + 1.0 + 5.0 * share(4 * i + 3)]
    });
    given(name, &[n, 4], &corners.collect::<Vec<_>>())
}

/// Numbers that the host found, as a result.
fn numbers(found: Result<Vec<usize>, wgrad::nn::NnError>, c: &Call) -> Tensor {
    match found {
        Ok(found) => {
            let n = found.len();
            Tensor::from_vec(found.into_iter().map(|i| i as i32).collect(), [n], c.device())
        }
        Err(error) => c.x(0).invalid("optable", error.to_string()),
    }
}

const SCORES: [f64; 3] = [0.3, 0.9, 0.5];

fn nms() -> Row {
    Row::new("nms", |c| numbers(boxes::nms(&c.x(0), &c.x(1), c.f64("iou", 0.1)), c))
        .shapes("boxes [n, 4], scores [n] → [kept]")
        .no_gradient("selects")
        .entries(&["nms"])
        .sample([given("b", &[3, 4], &FIRST), given("s", &[3], &SCORES)])
}

fn batched_nms() -> Row {
    Row::new("batched_nms", |c| numbers(boxes::batched_nms(&c.x(0), &c.x(1), &c.x(2), c.f64("iou", 0.1)), c))
        .shapes("boxes [n, 4], scores [n], classes [n] → [kept]")
        .no_gradient("selects")
        .entries(&["batched_nms"])
        .sample([given("b", &[3, 4], &FIRST), given("s", &[3], &SCORES), ints("k", &[3], 0, 2)])
}

fn roi_align() -> Row {
    Row::new("roi_align", |c| {
        let b = c.x(1);
        let k = b.shape().first().copied().unwrap_or(0);
        let options = RoiAlign {
            output: c.each("output", 2),
            spatial_scale: c.f64("scale", 1.0),
            sampling_ratio: c.usize("sampling", 2),
            aligned: c.bool("aligned", true),
        };
        boxes::roi_align(&c.x(0), &b, &Tensor::zeros([k], DType::I32, c.device()), &options)
    })
    .shapes("x [n, c, h, w], boxes [k, 4], images [k] → [k, c, rows, columns]")
    .entries(&["roi_align"])
    .sample([floats("x", &[1, 2, 5, 6]), given("b", &[2, 4], &SECOND).constant()])
    .sample(
        Sample::of([floats("x", &[1, 1, 4, 3]), given("b", &[3, 4], &FIRST).constant()])
            .attrs(json!({"output": [1, 3], "scale": 0.5, "sampling": 1, "aligned": false})),
    )
}

fn assignment() -> Row {
    Row::new("linear_sum_assignment", |c| match linear_sum_assignment(&c.x(0)) {
        Ok((rows, columns)) => [numbers(Ok(rows), c), numbers(Ok(columns), c)],
        Err(error) => [0, 1].map(|_| c.x(0).invalid("optable", error.to_string())),
    })
    .shapes("costs [n, m] → rows [k], columns [k]")
    .no_gradient("selects")
    .entries(&["linear_sum_assignment_5x5", "linear_sum_assignment_7x4", "linear_sum_assignment_3x6"])
    .sample([floats("c", &[5, 3])])
    .sample([floats("c", &[3, 7])])
    .sample([floats("c", &[1, 1])])
}
