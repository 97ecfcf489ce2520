//! Indexing, sorting, drawing.

use serde_json::json;
use wgrad::tensor::{DType, Tensor};

use crate::{Dtypes, Row, Sample, bools, floats, given, ints};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = along_axes();
    rows.extend(orders());
    rows
}

fn along_axes() -> Vec<Row> {
    vec![
        Row::new("embedding", |c| c.named("w").embedding(&c.named("i")))
            .shapes("w [rows, d], i [..] → [.., d]")
            .dtypes(Dtypes::Any)
            .entries(&["embedding"])
            .entry_by("embedding_padding_idx", |c| {
                // The padded row is read as it is, but gets no gradient.
                let (w, i) = (c.named("w"), c.named("i"));
                let padding = i.eq(Tensor::constant(c.f64("padding_idx", 0.0), DType::I32, c.device()));
                padding.unsqueeze(-1).where_(&w.detach().embedding(&i), &w.embedding(&i))
            })
            .sample([floats("w", &[4, 3]), ints("i", &[2, 5], 0, 4)])
            .sample([floats("w", &[1, 1]), ints("i", &[], 0, 1)])
            .sample([floats("w", &[5, 2, 3]), ints("i", &[7], 0, 5)]),
        Row::new("scatter_add_rows", |c| c.named("x").scatter_add_rows(c.usize("rows", 5), &c.named("i")))
            .shapes("x [idx.., d..], i [idx..] → [rows, d..]")
            .dtypes(Dtypes::Numbers)
            .sample([floats("x", &[3, 2, 2]), ints("i", &[3, 2], 0, 5)])
            .sample(Sample::of([floats("x", &[7]), ints("i", &[7], 0, 1)]).attrs(json!({"rows": 1}))),
        Row::new("index_select", |c| c.named("x").index_select(c.isize("dim", 0), &c.named("i")))
            .shapes("x [.., n, ..], i [k] → [.., k, ..]")
            .dtypes(Dtypes::Any)
            .entries(&["index_select"])
            .sample([floats("x", &[4, 3]), ints("i", &[7], 0, 4)])
            .sample(Sample::of([floats("x", &[2, 3, 5]), ints("i", &[4], 0, 3)]).attrs(json!({"dim": 1})))
            .sample(Sample::of([floats("x", &[2, 5]), ints("i", &[3], 0, 5)]).attrs(json!({"dim": -1}))),
        Row::new("index_add", |c| c.named("x").index_add(c.isize("dim", 0), &c.named("i"), &c.named("s")))
            .shapes("x [.., n, ..], i [k], s [.., k, ..] → [.., n, ..]")
            .dtypes(Dtypes::Numbers)
            .entries(&["index_add"])
            .sample([floats("x", &[4, 3]), ints("i", &[7], 0, 4), floats("s", &[7, 3])])
            .sample(
                Sample::of([floats("x", &[2, 5]), ints("i", &[3], 0, 5), floats("s", &[2, 3])])
                    .attrs(json!({"dim": 1})),
            ),
        Row::new("gather", |c| c.named("x").gather(c.isize("dim", 0), &c.named("i")))
            .shapes("x [.., n, ..], i [.., k, ..] → [.., k, ..]")
            .dtypes(Dtypes::Any)
            .entries(&["gather"])
            .sample([floats("x", &[4, 3]), ints("i", &[5, 2], 0, 4)])
            .sample(
                Sample::of([floats("x", &[2, 3, 5]), ints("i", &[2, 3, 1], 0, 5)]).attrs(json!({"dim": -1})),
            )
            .sample([floats("x", &[7]), ints("i", &[1], 0, 7)]),
        Row::new("take_along_dim", |c| c.named("x").take_along_dim(&c.named("i"), c.isize("dim", 0)))
            .shapes("x [.., n, ..], i [.., k, ..] → [.., k, ..]")
            .dtypes(Dtypes::Any)
            .sample([floats("x", &[4, 3]), ints("i", &[2, 1], 0, 4)]),
        Row::new("scatter_add", |c| {
            c.named("x").scatter_add(c.isize("dim", 0), &c.named("i"), &c.named("s"))
        })
        .shapes("x [.., n, ..], i [.., k, ..], s [.., k, ..] → [.., n, ..]")
        .dtypes(Dtypes::Numbers)
        .entries(&["scatter_add"])
        .sample([floats("x", &[4, 3]), ints("i", &[7, 3], 0, 4), floats("s", &[7, 3])])
        .sample(
            Sample::of([floats("x", &[3, 5]), ints("i", &[2, 4], 0, 5), floats("s", &[3, 4])])
                .attrs(json!({"dim": 1})),
        ),
        Row::new("scatter", |c| c.named("x").scatter(c.isize("dim", 0), &c.named("i"), &c.named("s")))
            .shapes("x [.., n, ..], i [.., k, ..], s [.., k, ..] → [.., n, ..]")
            .dtypes(Dtypes::Numbers)
            .sample([floats("x", &[4, 3]), ints("i", &[7, 3], 0, 4), floats("s", &[7, 3])])
            .sample(
                Sample::of([floats("x", &[3, 5]), ints("i", &[2, 2], 0, 5), floats("s", &[3, 4])])
                    .attrs(json!({"dim": 1})),
            ),
        Row::new("one_hot", |c| c.x(0).one_hot(c.usize("classes", 6)))
            .shapes("[..] → i32 [.., classes]")
            .dtypes(Dtypes::Ints)
            .no_gradient("integers")
            .entry_by("one_hot", |c| c.x(0).one_hot(c.usize("classes", 6)).cast(DType::F32))
            .sample([ints("i", &[7], 0, 6)])
            .sample([ints("i", &[2, 3], 0, 6)]),
    ]
}

fn orders() -> Vec<Row> {
    // Few values, so that many are equal.
    let repeated: Vec<f64> = (0..130).map(|i| f64::from(i * 7 % 12) - 5.5).collect();
    let lines = || {
        vec![
            Sample::of([floats("x", &[3, 5])]),
            Sample::of([floats("x", &[5, 3])]).attrs(json!({"dim": 0, "descending": true})),
            Sample::of([floats("x", &[2, 67, 2])]).attrs(json!({"dim": 1})),
            Sample::of([floats("x", &[1])]),
            Sample::of([floats("x", &[2, 300])]),
        ]
    };
    let stable = |row: Row| row.sample([given("x", &[130], &repeated).constant()]);
    let extremum = |name, f: fn(&Tensor, isize, bool) -> (Tensor, Tensor)| {
        Row::new(name, move |c| f(&c.x(0), c.isize("dim", -1), c.bool("keepdim", false)))
            .shapes("[.., n, ..] → values [..], indices i32 [..]")
            .dtypes(Dtypes::Numbers)
    };
    let place = |name, f: fn(&Tensor, isize, bool) -> Tensor| {
        Row::new(name, move |c| f(&c.x(0), c.isize("dim", -1), c.bool("keepdim", false)))
            .shapes("[.., n, ..] → i32 [..]")
            .dtypes(Dtypes::Numbers)
            .no_gradient("integers")
            .sample([given("x", &[2, 3], &[1.0, 3.0, 3.0, 2.0, 2.0, 2.0])])
            .sample(Sample::of([floats("x", &[5, 3, 2])]).attrs(json!({"dim": 0, "keepdim": true})))
    };
    let truth = |name, f: fn(&Tensor, &[isize], bool) -> Tensor| {
        Row::new(name, move |c| f(&c.x(0), &c.isizes("dim", &[-1]), c.bool("keepdim", false)))
            .shapes("bool [.., n, ..] → bool [..]")
            .dtypes(Dtypes::Bools)
            .no_gradient("truth values")
            .sample([bools("x", &[5, 3])])
            .sample(Sample::of([bools("x", &[3, 2, 2])]).attrs(json!({"dim": [0, 2], "keepdim": true})))
            .sample([bools("x", &[3, 0])])
    };
    vec![
        stable(
            Row::new("sort", |c| c.x(0).sort(c.isize("dim", -1), c.bool("descending", false)))
                .shapes("[.., n, ..] → values [.., n, ..], indices i32 [.., n, ..]")
                .dtypes(Dtypes::Any)
                .entry_by("sort_desc", |c| c.x(0).sort(1, true))
                .samples(lines()),
        ),
        stable(
            Row::new("argsort", |c| c.x(0).argsort(c.isize("dim", -1), c.bool("descending", false)))
                .shapes("[.., n, ..] → i32 [.., n, ..]")
                .dtypes(Dtypes::Any)
                .no_gradient("integers")
                .samples(lines()),
        ),
        Row::new("topk", |c| c.x(0).topk(c.usize("k", 2), c.isize("dim", -1), c.bool("largest", true)))
            .shapes("[.., n, ..] → values [.., k, ..], indices i32 [.., k, ..]")
            .dtypes(Dtypes::Numbers)
            .entries(&["topk"])
            .sample([floats("x", &[3, 5])])
            .sample(Sample::of([floats("x", &[7, 2])]).attrs(json!({"dim": 0, "k": 3, "largest": false}))),
        extremum("max", Tensor::max)
            .entry_by("max_min_dim", |c| {
                let (values, indices) = c.x(0).max(1, false);
                [values, indices, c.x(0).min(0, false).0]
            })
            .entry_by("max_ties", |c| c.x(0).max(1, false).0)
            .sample([floats("x", &[3, 5])])
            .sample(Sample::of([floats("x", &[3, 5, 2])]).attrs(json!({"dim": 1, "keepdim": true})))
            .sample([given("x", &[2, 3], &[1.0, 3.0, 3.0, 2.0, 2.0, 2.0]).constant()]),
        extremum("min", Tensor::min)
            .part_of(&["max_min_dim"])
            .sample([floats("x", &[3, 5])])
            .sample([given("x", &[2, 3], &[3.0, 1.0, 1.0, 2.0, 2.0, 2.0]).constant()]),
        place("argmax", Tensor::argmax),
        place("argmin", Tensor::argmin),
        truth("any", Tensor::any),
        truth("all", Tensor::all),
    ]
}
