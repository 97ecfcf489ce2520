//! Indexing.

use serde_json::json;

use crate::{Row, Sample, floats, ints};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new("embedding", |c| c.named("w").index_select(&c.named("i")))
            .shapes("w [rows, d], i [..] → [.., d]")
            .entries(&["embedding"])
            .sample([floats("w", &[4, 3]), ints("i", &[2, 5], 0, 4)])
            .sample([floats("w", &[1, 1]), ints("i", &[], 0, 1)])
            .sample([floats("w", &[5, 2, 3]), ints("i", &[7], 0, 5)]),
        Row::new("scatter_add_rows", |c| c.named("x").scatter_add_rows(c.usize("rows", 5), &c.named("i")))
            .shapes("x [idx.., d..], i [idx..] → [rows, d..]")
            .sample([floats("x", &[3, 2, 2]), ints("i", &[3, 2], 0, 5)])
            .sample(Sample::of([floats("x", &[7]), ints("i", &[7], 0, 1)]).attrs(json!({"rows": 1}))),
    ]
}
