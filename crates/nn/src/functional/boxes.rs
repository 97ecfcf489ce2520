//! Boxes of images, as torchvision has them: `[.., 4]` with corners `x1, y1, x2, y2`, `x1 <= x2` and `y1 <= y2`.
//!
//! Legend: n and m boxes, k regions, c channels.

use std::{cmp::Ordering, f64::consts::PI};

use wgrad_tensor::{DType, Tensor};

use super::{Reduction, like};
use crate::NnError;

/// How a box is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BoxFormat {
    /// Corners `x1, y1, x2, y2`.
    Xyxy,
    /// A corner and the size: `x1, y1, width, height`.
    Xywh,
    /// The centre and the size: `cx, cy, width, height`.
    Cxcywh,
}

/// Four columns of `[.., 4]`, each `[.., 1]`.
#[track_caller]
fn columns(boxes: &Tensor) -> [Tensor; 4] {
    [0, 1, 2, 3].map(|i| boxes.narrow(-1, i, 1))
}

/// `None`, or why these are not boxes.
fn misfit(boxes: &Tensor) -> Option<String> {
    let fits = boxes.error().is_some() || boxes.dtype().is_float() && boxes.shape().last() == Some(&4);
    (!fits).then(|| format!("expects boxes [.., 4] of floats, got {}{}", boxes.dtype(), boxes.shape()))
}

macro_rules! check {
    ($name:literal, $($boxes:expr),+) => {$(
        if let Some(message) = misfit($boxes) {
            return $boxes.invalid($name, message);
        }
    )+};
}

/// Boxes `[.., 4]` in another format.
#[track_caller]
pub fn box_convert(boxes: &Tensor, from: BoxFormat, to: BoxFormat) -> Tensor {
    check!("box_convert", boxes);
    let [a, b, c, d] = columns(boxes);
    let half = like(0.5, boxes);
    let [x1, y1, x2, y2] = match from {
        BoxFormat::Xyxy => [a, b, c, d],
        BoxFormat::Xywh => [a.clone(), b.clone(), a.add(c), b.add(d)],
        BoxFormat::Cxcywh => {
            let (w, h) = (c.mul(&half), d.mul(&half));
            [a.sub(&w), b.sub(&h), a.add(&w), b.add(&h)]
        }
    };
    let parts = match to {
        BoxFormat::Xyxy => [x1, y1, x2, y2],
        BoxFormat::Xywh => [x1.clone(), y1.clone(), x2.sub(&x1), y2.sub(&y1)],
        BoxFormat::Cxcywh => [x1.add(&x2).mul(&half), y1.add(&y2).mul(&half), x2.sub(&x1), y2.sub(&y1)],
    };
    Tensor::cat(&parts.each_ref(), -1)
}

/// `(x2 - x1) (y2 - y1)`: `[.., 4]` to `[..]`.
#[track_caller]
pub fn box_area(boxes: &Tensor) -> Tensor {
    check!("box_area", boxes);
    let [x1, y1, x2, y2] = columns(boxes);
    x2.sub(x1).mul(y2.sub(y1)).squeeze(-1)
}

/// What the measures of two lists of boxes have in common; every part broadcasts to one shape.
struct Pair {
    inter: Tensor,
    union: Tensor,
    /// Sides of the smallest box around both.
    around: [Tensor; 2],
    /// The square of the distance of the centres.
    centres: Tensor,
    /// Sides of both.
    sides: [[Tensor; 2]; 2],
}

impl Pair {
    fn new(a: &Tensor, b: &Tensor) -> Pair {
        let [ax1, ay1, ax2, ay2] = columns(a).map(|t| t.squeeze(-1));
        let [bx1, by1, bx2, by2] = columns(b).map(|t| t.squeeze(-1));
        let (zero, half) = (like(0.0, a), like(0.5, a));
        // A side of the intersection: nothing where the boxes are apart.
        let within = |a1: &Tensor, a2: &Tensor, b1: &Tensor, b2: &Tensor| {
            let side = a2.minimum(b2).sub(a1.maximum(b1));
            side.gt(&zero).where_(&side, &zero)
        };
        let inter = within(&ax1, &ax2, &bx1, &bx2).mul(within(&ay1, &ay2, &by1, &by2));
        let sides = [[ax2.sub(&ax1), ay2.sub(&ay1)], [bx2.sub(&bx1), by2.sub(&by1)]];
        let area = |[w, h]: &[Tensor; 2]| w.mul(h);
        let union = area(&sides[0]).add(area(&sides[1])).sub(&inter);
        let around = [ax2.maximum(&bx2).sub(ax1.minimum(&bx1)), ay2.maximum(&by2).sub(ay1.minimum(&by1))];
        let apart = |a1: &Tensor, a2: &Tensor, b1: &Tensor, b2: &Tensor| {
            a1.add(a2).sub(b1).sub(b2).mul(&half).square()
        };
        let centres = apart(&ax1, &ax2, &bx1, &bx2).add(apart(&ay1, &ay2, &by1, &by2));
        Pair { inter, union, around, centres, sides }
    }

    /// Of each of `a [n, 4]` with each of `b [m, 4]`.
    fn all(a: &Tensor, b: &Tensor) -> Pair {
        Pair::new(&a.unsqueeze(-2), &b.unsqueeze(-3))
    }

    #[track_caller]
    fn iou(&self, eps: f64) -> Tensor {
        if eps == 0.0 {
            self.inter.div(&self.union)
        } else {
            self.inter.div(self.union.add(like(eps, &self.union)))
        }
    }

    /// What the smallest box around both has beyond their union, as a part of it.
    #[track_caller]
    fn slack(&self, eps: f64) -> Tensor {
        let area = self.around[0].mul(&self.around[1]);
        let divisor = if eps == 0.0 { area.clone() } else { area.add(like(eps, &area)) };
        area.sub(&self.union).div(divisor)
    }

    /// The distance of the centres, as a part of the diagonal of the smallest box around both, squared.
    #[track_caller]
    fn distance(&self, eps: f64) -> Tensor {
        let diagonal = self.around[0].square().add(self.around[1].square());
        self.centres.div(diagonal.add(like(eps, &diagonal)))
    }

    /// The difference of the aspect ratios, and its weight.
    #[track_caller]
    fn aspect(&self, iou: &Tensor, eps: f64) -> Tensor {
        let angle = |[w, h]: &[Tensor; 2]| w.div(h).atan();
        let difference = angle(&self.sides[1]).sub(angle(&self.sides[0]));
        let v = difference.square().mul(like(4.0 / (PI * PI), iou));
        // Equal ratios weigh nothing; of equal boxes the quotient would be 0/0 where `eps` is below the dtype's precision.
        let differ = v.gt(like(0.0, iou));
        let divisor = differ.where_(&like(1.0 + eps, iou).sub(iou).add(&v), &like(1.0, iou));
        let weight = v.div(divisor).detach();
        weight.mul(v)
    }
}

/// Intersection over union of each pair: `[n, 4]` and `[m, 4]` give `[n, m]`.
#[track_caller]
pub fn box_iou(boxes1: &Tensor, boxes2: &Tensor) -> Tensor {
    check!("box_iou", boxes1, boxes2);
    Pair::all(boxes1, boxes2).iou(0.0)
}

/// GIoU of each pair (Rezatofighi et al., 2019): IoU minus the part of the smallest box around both that neither covers.
#[track_caller]
pub fn generalized_box_iou(boxes1: &Tensor, boxes2: &Tensor) -> Tensor {
    check!("generalized_box_iou", boxes1, boxes2);
    let pair = Pair::all(boxes1, boxes2);
    pair.iou(0.0).sub(pair.slack(0.0))
}

/// DIoU of each pair (Zheng et al., 2020): IoU minus the squared distance of the centres over the squared diagonal around both.
#[track_caller]
pub fn distance_box_iou(boxes1: &Tensor, boxes2: &Tensor, eps: f64) -> Tensor {
    check!("distance_box_iou", boxes1, boxes2);
    let pair = Pair::all(boxes1, boxes2);
    pair.iou(0.0).sub(pair.distance(eps))
}

/// CIoU of each pair (Zheng et al., 2020): DIoU minus the weighted difference of the aspect ratios; no gradient flows through the
/// weight.
#[track_caller]
pub fn complete_box_iou(boxes1: &Tensor, boxes2: &Tensor, eps: f64) -> Tensor {
    check!("complete_box_iou", boxes1, boxes2);
    // In 16 bits `eps` is nothing beside 1, and the weight of the aspect ratios of equal boxes 0/0.
    if boxes1.dtype().is_half() {
        let wide = |boxes: &Tensor| boxes.cast(DType::F32);
        return complete_box_iou(&wide(boxes1), &wide(boxes2), eps).cast(boxes1.dtype());
    }
    let pair = Pair::all(boxes1, boxes2);
    let iou = pair.iou(0.0);
    iou.sub(pair.distance(eps)).sub(pair.aspect(&iou, eps))
}

/// `1 - GIoU` of boxes side by side: `[.., 4]` and `[.., 4]` give `[..]`.
#[track_caller]
pub fn generalized_box_iou_loss(boxes1: &Tensor, boxes2: &Tensor, eps: f64, reduction: Reduction) -> Tensor {
    check!("generalized_box_iou_loss", boxes1, boxes2);
    let pair = Pair::new(boxes1, boxes2);
    reduction.apply(&like(1.0, boxes1).sub(pair.iou(eps)).add(pair.slack(eps)))
}

/// `1 - DIoU` of boxes side by side.
#[track_caller]
pub fn distance_box_iou_loss(boxes1: &Tensor, boxes2: &Tensor, eps: f64, reduction: Reduction) -> Tensor {
    check!("distance_box_iou_loss", boxes1, boxes2);
    let pair = Pair::new(boxes1, boxes2);
    reduction.apply(&like(1.0, boxes1).sub(pair.iou(eps)).add(pair.distance(eps)))
}

/// `1 - CIoU` of boxes side by side.
#[track_caller]
pub fn complete_box_iou_loss(boxes1: &Tensor, boxes2: &Tensor, eps: f64, reduction: Reduction) -> Tensor {
    check!("complete_box_iou_loss", boxes1, boxes2);
    let pair = Pair::new(boxes1, boxes2);
    let iou = pair.iou(eps);
    let loss = like(1.0, boxes1).sub(&iou).add(pair.distance(eps)).add(pair.aspect(&iou, eps));
    reduction.apply(&loss)
}

/// Non-maximum suppression: the numbers of the boxes `[n, 4]` that stay, by falling score; a box goes where its IoU with one that
/// stays is above `iou_threshold`. Computed on the host, for how many stay is known only then.
///
/// # Errors
/// Boxes and scores do not fit, or reading them fails.
pub fn nms(boxes: &Tensor, scores: &Tensor, iou_threshold: f64) -> Result<Vec<usize>, NnError> {
    suppress(boxes, scores, |_, _| true, iou_threshold)
}

/// [`nms`] among boxes of one class; `classes [n]` (i32).
///
/// # Errors
/// As [`nms`].
pub fn batched_nms(
    boxes: &Tensor,
    scores: &Tensor,
    classes: &Tensor,
    iou_threshold: f64,
) -> Result<Vec<usize>, NnError> {
    let classes = classes.cast(DType::I32).to_vec::<i32>()?;
    let n = boxes.shape().first().copied().unwrap_or(0);
    if classes.len() != n {
        let message = format!("expects a class for each of the {n} boxes, got {}", classes.len());
        return Err(NnError::Invalid { op: "batched_nms", message });
    }
    suppress(boxes, scores, |i, j| classes[i] == classes[j], iou_threshold)
}

fn suppress(
    boxes: &Tensor,
    scores: &Tensor,
    rivals: impl Fn(usize, usize) -> bool,
    iou_threshold: f64,
) -> Result<Vec<usize>, NnError> {
    let &[n, 4] = boxes.shape().dims() else {
        boxes.check()?;
        let message = format!("expects boxes [n, 4], got {}", boxes.shape());
        return Err(NnError::Invalid { op: "nms", message });
    };
    if scores.shape().dims() != [n] {
        scores.check()?;
        let message = format!("expects a score for each of the {n} boxes, got {}", scores.shape());
        return Err(NnError::Invalid { op: "nms", message });
    }
    let corners = boxes.cast(DType::F32).to_vec::<f32>()?;
    let scores = scores.cast(DType::F32).to_vec::<f32>()?;
    let corner = |i: usize| [0, 1, 2, 3].map(|c| corners[4 * i + c]);
    let area = |[x1, y1, x2, y2]: [f32; 4]| (x2 - x1) * (y2 - y1);
    let iou = |a: [f32; 4], b: [f32; 4]| {
        let side = |d: usize| (a[d + 2].min(b[d + 2]) - a[d].max(b[d])).max(0.0);
        let inter = side(0) * side(1);
        f64::from(inter) / f64::from(area(a) + area(b) - inter)
    };
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| scores[j].partial_cmp(&scores[i]).unwrap_or(Ordering::Equal));
    let mut kept: Vec<usize> = Vec::new();
    for i in order {
        if !kept.iter().any(|&k| rivals(i, k) && iou(corner(i), corner(k)) > iou_threshold) {
            kept.push(i);
        }
    }
    Ok(kept)
}

/// Where [`roi_align`] takes its samples.
#[derive(Clone, Copy, Debug)]
pub struct RoiAlign {
    /// Rows and columns of the result.
    pub output: [usize; 2],
    /// Factor from the coordinates of boxes to those of the feature map.
    pub spatial_scale: f64,
    /// Samples along each side of each bin.
    pub sampling_ratio: usize,
    /// Whether pixels lie at half coordinates, so that boxes are shifted by -1/2.
    pub aligned: bool,
}

/// Means of bilinear samples on a regular grid in each region (He et al., *Mask R-CNN*, 2017): `x [n, c, h, w]`, `boxes [k, 4]` and the
/// image of each box, `images [k]` (i32), give `[k, c, rows, columns]`. Samples more than a pixel outside are 0.
#[track_caller]
pub fn roi_align(x: &Tensor, boxes: &Tensor, images: &Tensor, options: &RoiAlign) -> Tensor {
    const NAME: &str = "roi_align";
    if let Some(faulty) = [x, boxes, images].into_iter().find(|t| t.error().is_some()) {
        return faulty.clone();
    }
    let (&[n, c, h, w], &[k, 4]) = (x.shape().dims(), boxes.shape().dims()) else {
        let message =
            format!("expects x [n, c, h, w] and boxes [k, 4], got {} and {}", x.shape(), boxes.shape());
        return x.invalid(NAME, message);
    };
    if images.shape().dims() != [k] || !images.dtype().is_int() {
        let message =
            format!("expects the image of each box, i32[{k}], got {}{}", images.dtype(), images.shape());
        return x.invalid(NAME, message);
    }
    let RoiAlign { output: [rows, columns], spatial_scale, sampling_ratio: samples, aligned } = *options;
    let count = rows.checked_mul(columns).and_then(|n| n.checked_mul(samples)?.checked_mul(samples));
    if !count.is_some_and(|n| (1..=i32::MAX as usize).contains(&n)) {
        let message = format!(
            "expects {rows} x {columns} bins of {samples} x {samples} samples to be some, and fewer than 2³¹"
        );
        return x.invalid(NAME, message);
    }
    let [x1, y1, x2, y2] = columns4(boxes, spatial_scale, aligned);
    let along_y = Axis::new(&y1, &y2, rows, samples, h, aligned);
    let along_x = Axis::new(&x1, &x2, columns, samples, w, aligned);
    // Rows of pixels `[n h w, c]`, looked up at the four corners of each sample `[k, y samples, x samples]`.
    let pixels = x.permute(&[0, 2, 3, 1]).reshape([n * h * w, c]);
    let images = images.cast(DType::I32).reshape([k, 1, 1]);
    let extent = |v: usize| Tensor::constant(v as f64, DType::I32, x.device());
    let mut sum: Option<Tensor> = None;
    for (y, y_weight) in along_y.corners() {
        for (x, x_weight) in along_x.corners() {
            let line = images.mul(extent(h)).add(y.unsqueeze(2)).mul(extent(w));
            let ids = line.add(x.unsqueeze(1));
            let weight = y_weight.unsqueeze(2).mul(x_weight.unsqueeze(1)).unsqueeze(-1);
            let part = pixels.embedding(&ids).mul(weight);
            sum = Some(sum.map_or_else(|| part.clone(), |s| s.add(&part)));
        }
    }
    let Some(sum) = sum else { return x.clone() };
    sum.reshape([k, rows, samples, columns, samples, c]).mean(&[2, 4], false).permute(&[0, 3, 1, 2])
}

/// The corners on the feature map, each `[k, 1]`.
#[track_caller]
fn columns4(boxes: &Tensor, scale: f64, aligned: bool) -> [Tensor; 4] {
    let shift = if aligned { 0.5 } else { 0.0 };
    columns(boxes).map(|t| t.mul(like(scale, boxes)).sub(like(shift, boxes)))
}

/// The samples of all regions along one axis, `[k, bins samples]`.
struct Axis {
    low: Tensor,
    high: Tensor,
    /// Weight of the higher pixel.
    share: Tensor,
    /// 1, and 0 for samples outside.
    inside: Tensor,
}

impl Axis {
    fn new(from: &Tensor, to: &Tensor, bins: usize, samples: usize, extent: usize, aligned: bool) -> Axis {
        let (zero, one) = (like(0.0, from), like(1.0, from));
        let length = to.sub(from);
        let length = if aligned { length } else { length.maximum(&one) };
        let step = length.mul(like(1.0 / (bins * samples) as f64, from));
        let places = Tensor::arange(bins * samples, from.device()).cast(from.dtype()).add(like(0.5, from));
        let at = from.add(step.mul(places.unsqueeze(0))).detach();
        let outside = at.lt(like(-1.0, from)).logical_or(at.gt(like(extent as f64, from)));
        let last = like(extent as f64 - 1.0, from);
        let at = at.maximum(&zero).minimum(&last);
        let low = at.floor();
        let high = low.add(&one).minimum(&last);
        let share = at.sub(&low);
        let id = |t: &Tensor| t.cast(DType::I32);
        Axis { low: id(&low), high: id(&high), share, inside: outside.where_(&zero, &one) }
    }

    #[track_caller]
    fn corners(&self) -> [(Tensor, Tensor); 2] {
        let rest = like(1.0, &self.share).sub(&self.share);
        [(self.low.clone(), rest.mul(&self.inside)), (self.high.clone(), self.share.mul(&self.inside))]
    }
}
