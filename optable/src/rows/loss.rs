//! Losses.

use serde_json::json;
use wgrad::{
    nn::functional::{self as f, CrossEntropy, Reduction},
    tensor::Tensor,
};

use crate::{Call, Row, Sample, floats, given, ints};

const SIGNS: [f64; 6] = [1.0, -1.0, 1.0, -1.0, -1.0, 1.0];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = classes();
    rows.extend(binary());
    rows.extend(regression());
    rows.extend(distances());
    rows
}

fn reduction(c: &Call) -> Reduction {
    match c.text("reduction", "mean").as_str() {
        "none" => Reduction::None,
        "sum" => Reduction::Sum,
        "batchmean" => Reduction::BatchMean,
        _ => Reduction::Mean,
    }
}

fn cross_entropy(c: &Call) -> Tensor {
    let weight = c.get("w");
    let options = CrossEntropy {
        weight: weight.as_ref(),
        ignore_index: Some(c.isize("ignore_index", -100) as i32),
        label_smoothing: c.f64("label_smoothing", 0.0),
        reduction: reduction(c),
        class_dim: 1,
    };
    f::cross_entropy_with(&c.named("x"), &c.named("t"), &options)
}

fn classes() -> Vec<Row> {
    let logits = |shape: &[usize]| floats("x", shape);
    vec![
        Row::new("cross_entropy", cross_entropy)
            .shapes("x [n, classes, ..], t [n, ..] or [n, classes, ..], w [classes] → [n, ..] or []")
            .entries(&[
                "cross_entropy_mean",
                "cross_entropy_sum",
                "cross_entropy_none",
                "cross_entropy_ignore",
                "cross_entropy_weight",
                "cross_entropy_smooth",
                "cross_entropy_smooth_ignore_weight",
                "cross_entropy_probs",
                "cross_entropy_2d",
            ])
            .sample([logits(&[4, 7]), ints("t", &[4], 0, 7)])
            .sample(
                Sample::of([logits(&[2, 3, 5]), ints("t", &[2, 5], 0, 3)])
                    .attrs(json!({"reduction": "none"})),
            )
            .sample(
                Sample::of([
                    logits(&[5, 3]),
                    ints("t", &[5], 0, 3),
                    floats("w", &[3]).within(0.3, 2.0).constant(),
                ])
                .attrs(json!({"label_smoothing": 0.2, "ignore_index": 1})),
            ),
        Row::new("linear_cross_entropy", |c| {
            f::linear_cross_entropy(&c.x(0), &c.x(1), &c.x(2), Some(-100), c.usize("chunk", 3))
        })
        .shapes("x [.., d], w [classes, d], t [..] → []")
        .sample([floats("x", &[7, 3]), floats("w", &[5, 3]), ints("t", &[7], 0, 5)]),
        Row::new("nll_loss", |c| f::nll_loss(&c.x(0), &c.x(1), &CrossEntropy::default()))
            .shapes("x [n, classes, ..], t [n, ..] → []")
            .entry_by("nll_loss", |c| f::nll_loss(&c.x(0).log_softmax(1), &c.x(1), &CrossEntropy::default()))
            .sample([logits(&[4, 7]), ints("t", &[4], 0, 7)]),
        Row::new("kl_div", |c| f::kl_div(&c.x(0), &c.x(1), c.bool("log_target", false), reduction(c)))
            .shapes("x [..], t [..] → [..] or []")
            .entry_by("kl_div_batchmean", kl_div)
            .entry_by("kl_div_mean", kl_div)
            .entry_by("kl_div_sum", kl_div)
            .entry_by("kl_div_log_target", |c| {
                let [x, t] = [0, 1].map(|i| c.x(i).log_softmax(1));
                f::kl_div(&x, &t, true, Reduction::BatchMean)
            })
            .sample([floats("x", &[3, 4]), floats("t", &[3, 4]).within(0.1, 0.9)])
            .sample(
                Sample::of([floats("x", &[3, 4]), floats("t", &[3, 4])]).attrs(json!({"log_target": true})),
            ),
        Row::new("multi_margin_loss", |c| {
            let weight = c.get("w");
            let p = c.usize("p", 1) as u32;
            f::multi_margin_loss(&c.x(0), &c.x(1), p, c.f64("margin", 1.0), weight.as_ref(), reduction(c))
        })
        .shapes("x [n, classes], t [n], w [classes] → [n] or []")
        .entries(&["multi_margin"])
        .sample([logits(&[4, 5]), ints("t", &[4], 0, 5)])
        .sample(Sample::of([logits(&[4, 5]), ints("t", &[4], 0, 5)]).attrs(json!({"p": 2}))),
    ]
}

fn kl_div(c: &Call) -> Tensor {
    f::kl_div(&c.x(0).log_softmax(1), &c.x(1), false, reduction(c))
}

fn binary() -> Vec<Row> {
    let truth = || given("t", &[2, 3], &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0]).constant();
    vec![
        Row::new("binary_cross_entropy", |c| {
            f::binary_cross_entropy(&c.x(0), &c.x(1), c.get("w").as_ref(), reduction(c))
        })
        .shapes("x [..], t [..], w [..] → [..] or []")
        .entry_by("bce", |c| f::binary_cross_entropy(&c.x(0).sigmoid(), &c.x(1), None, Reduction::Mean))
        .entry_by("bce_saturated", |c| f::binary_cross_entropy(&c.x(0), &c.x(1), None, Reduction::None))
        .sample([floats("x", &[2, 3]).within(0.1, 0.9), floats("t", &[2, 3]).within(0.0, 1.0)]),
        Row::new("binary_cross_entropy_with_logits", |c| {
            let (w, pos_weight) = (c.get("w"), c.get("pw"));
            f::binary_cross_entropy_with_logits(
                &c.x(0),
                &c.x(1),
                w.as_ref(),
                pos_weight.as_ref(),
                reduction(c),
            )
        })
        .shapes("x [..], t [..], w [..], pw [..] → [..] or []")
        .entries(&["bce_with_logits", "bce_with_logits_weighted"])
        .sample([floats("x", &[2, 3]).within(-9.0, 9.0), floats("t", &[2, 3]).within(0.0, 1.0)])
        .sample([floats("x", &[2, 3]), truth(), floats("w", &[2, 3]), floats("pw", &[3])]),
        Row::new("sigmoid_focal_loss", |c| {
            let alpha = Some(c.f64("alpha", 0.25));
            f::sigmoid_focal_loss(&c.x(0), &c.x(1), alpha, c.f64("gamma", 2.0), reduction(c))
        })
        .shapes("x [..], t [..] → [..] or []")
        .entries(&["sigmoid_focal_loss"])
        .sample([floats("x", &[2, 3]), truth()]),
        Row::new("dice_loss", |c| f::dice_loss(&c.x(0), &c.x(1), c.f64("smooth", 1.0)))
            .shapes("x [n, ..], t [n, ..] → []")
            .sample([floats("x", &[2, 3]).within(0.1, 0.9), truth()]),
        Row::new("hinge_loss", |c| f::hinge_loss(&c.x(0), &c.x(1), reduction(c)))
            .shapes("x [..], t [..] → [..] or []")
            .sample([floats("x", &[6]), given("t", &[6], &SIGNS).constant()]),
    ]
}

fn regression() -> Vec<Row> {
    let on = |name, f: fn(&Call) -> Tensor| {
        Row::new(name, f)
            .shapes("x [..], y [..] → [..] or []")
            .sample([floats("x", &[4, 7]), floats("y", &[4, 7])])
            .sample(Sample::of([floats("x", &[3]), floats("y", &[3])]).attrs(json!({"reduction": "none"})))
    };
    vec![
        on("mse_loss", |c| f::mse_loss(&c.x(0), &c.x(1), reduction(c))).entries(&["mse"]),
        on("l1_loss", |c| f::l1_loss(&c.x(0), &c.x(1), reduction(c))).entries(&["l1"]),
        on("smooth_l1_loss", |c| f::smooth_l1_loss(&c.x(0), &c.x(1), c.f64("beta", 1.0), reduction(c)))
            .entries(&["smooth_l1", "smooth_l1_beta"]),
        on("huber_loss", |c| f::huber_loss(&c.x(0), &c.x(1), c.f64("delta", 1.0), reduction(c)))
            .entries(&["huber"]),
        Row::new("poisson_nll_loss", |c| {
            let (log, full) = (c.bool("log_input", true), c.bool("full", false));
            f::poisson_nll_loss(&c.x(0), &c.x(1), log, full, c.f64("eps", 1e-8), reduction(c))
        })
        .shapes("x [..], t [..] → [..] or []")
        .entries(&["poisson_nll"])
        .sample([floats("x", &[2, 3]), floats("t", &[2, 3]).within(0.3, 4.0).constant()])
        .sample(
            Sample::of([floats("x", &[5]).within(0.2, 3.0), floats("t", &[5]).within(0.3, 4.0).constant()])
                .attrs(json!({"log_input": false, "full": true})),
        ),
        Row::new("gaussian_nll_loss", |c| {
            let (full, eps) = (c.bool("full", false), c.f64("eps", 1e-6));
            f::gaussian_nll_loss(&c.x(0), &c.x(1), &c.x(2), full, eps, reduction(c))
        })
        .shapes("x [..], t [..], var [..] → [..] or []")
        .entries(&["gaussian_nll"])
        .sample([floats("x", &[5]), floats("t", &[5]), floats("v", &[5]).within(0.2, 2.0)]),
    ]
}

fn distances() -> Vec<Row> {
    let signs = || given("t", &[6], &SIGNS).constant();
    vec![
        Row::new("pairwise_distance", |c| {
            f::pairwise_distance(&c.x(0), &c.x(1), c.f64("p", 2.0), c.f64("eps", 1e-6))
        })
        .shapes("x [.., d], y [.., d] → [..]")
        .sample([floats("x", &[3, 5]), floats("y", &[3, 5])])
        .sample(Sample::of([floats("x", &[3, 5]), floats("y", &[3, 5])]).attrs(json!({"p": 1.0})))
        .sample(Sample::of([floats("x", &[3, 5]), floats("y", &[3, 5])]).attrs(json!({"p": 3.0}))),
        Row::new("triplet_margin_loss", |c| {
            let operands = [c.x(0), c.x(1), c.x(2)];
            let (margin, p, eps) = (c.f64("margin", 1.0), c.f64("p", 2.0), c.f64("eps", 1e-6));
            f::triplet_margin_loss(operands.each_ref(), margin, p, eps, c.bool("swap", false), reduction(c))
        })
        .shapes("a [n, d], p [n, d], n [n, d] → [n] or []")
        .entries(&["triplet_margin"])
        .sample([floats("a", &[4, 3]), floats("p", &[4, 3]), floats("n", &[4, 3])]),
        Row::new("cosine_embedding_loss", |c| {
            f::cosine_embedding_loss([&c.x(0), &c.x(1)], &c.x(2), c.f64("margin", 0.0), reduction(c))
        })
        .shapes("x [n, d], y [n, d], t [n] → [n] or []")
        .entries(&["cosine_embedding"])
        .sample([floats("x", &[6, 3]), floats("y", &[6, 3]), signs()]),
        Row::new("margin_ranking_loss", |c| {
            f::margin_ranking_loss([&c.x(0), &c.x(1)], &c.x(2), c.f64("margin", 0.0), reduction(c))
        })
        .shapes("x [..], y [..], t [..] → [..] or []")
        .entries(&["margin_ranking"])
        .sample([floats("x", &[6]), floats("y", &[6]), signs()]),
        Row::new("hinge_embedding_loss", |c| {
            f::hinge_embedding_loss(&c.x(0), &c.x(1), c.f64("margin", 1.0), reduction(c))
        })
        .shapes("x [..], t [..] → [..] or []")
        .entries(&["hinge_embedding"])
        .sample([floats("x", &[6]), signs()]),
        Row::new("info_nce", |c| {
            f::info_nce(&c.x(0), &c.x(1), c.get("negatives").as_ref(), c.f64("temperature", 0.5))
        })
        .shapes("queries [n, d], keys [n, d], negatives [m, d] → []")
        .sample([floats("queries", &[4, 3]), floats("keys", &[4, 3])])
        .sample([floats("queries", &[2, 5]), floats("keys", &[2, 5]), floats("negatives", &[3, 5])]),
    ]
}
