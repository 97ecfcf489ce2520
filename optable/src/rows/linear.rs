//! Products.

use serde_json::json;
use wgrad::{nn::functional, tensor::Tensor};

use crate::{Call, Dtypes, Row, Sample, floats};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new("linear", |c| functional::linear(&c.named("x"), &c.named("w"), c.get("b").as_ref()))
            .shapes("x [.., in], w [out, in], b [out] → [.., out]")
            .entries(&["linear"])
            .sample([floats("x", &[2, 3, 5]), floats("w", &[4, 5]), floats("b", &[4])])
            .sample([floats("x", &[1, 1]), floats("w", &[7, 1])]),
        Row::new("matmul", |c| c.x(0).matmul(&c.x(1)))
            .shapes("x [b.., m, k], y [b.., k, n] → [b.., m, n]")
            .entries(&["matmul", "matmul_broadcast", "matmul_vec"])
            .sample([floats("x", &[3, 4]), floats("y", &[4, 5])])
            .sample([floats("x", &[1, 1]), floats("y", &[1, 1])])
            .sample([floats("x", &[7, 13]), floats("y", &[13, 11])])
            .sample([floats("x", &[2, 1, 3, 4]), floats("y", &[3, 4, 2])])
            .sample([floats("x", &[3, 4]), floats("y", &[2, 4, 1])])
            .sample([floats("x", &[2, 3, 4]), floats("y", &[4])])
            .sample([floats("x", &[4]), floats("y", &[2, 4, 3])])
            .sample([floats("x", &[4]), floats("y", &[4])]),
        Row::new("bmm", |c| c.x(0).bmm(&c.x(1)))
            .shapes("x [b, m, k], y [b, k, n] → [b, m, n]")
            .entries(&["bmm"])
            .sample([floats("x", &[2, 3, 4]), floats("y", &[2, 4, 5])]),
        Row::new("outer", |c| c.x(0).outer(&c.x(1)))
            .shapes("x [m], y [n] → [m, n]")
            .dtypes(Dtypes::Numbers)
            .sample([floats("x", &[3]), floats("y", &[5])]),
        Row::new("dot", |c| c.x(0).dot(&c.x(1)))
            .shapes("x [n], y [n] → []")
            .dtypes(Dtypes::Numbers)
            .sample([floats("x", &[7]), floats("y", &[7])]),
        einsum(),
    ]
}

fn einsum() -> Row {
    let by = |c: &Call, equation: &str| {
        let operands: Vec<&Tensor> = c.inputs().iter().map(|(_, x)| x).collect();
        Tensor::einsum(equation, &operands)
    };
    let pair = |equation: &str, x: &[usize], y: &[usize]| {
        Sample::of([floats("x", x), floats("y", y)]).attrs(json!({"equation": equation}))
    };
    let single =
        |equation: &str, x: &[usize]| Sample::of([floats("x", x)]).attrs(json!({"equation": equation}));
    Row::new("einsum", move |c| by(c, &c.text("equation", "ij,jk->ik")))
        .shapes("several [..] → [..] by subscripts")
        .dtypes(Dtypes::Numbers)
        .entry_by("einsum_bhqk", move |c| by(c, "bhqd,bhkd->bhqk"))
        .entry_by("einsum_outer_trace", move |c| by(c, "bij,jk->bk"))
        .samples([
            pair("ij,jk->ik", &[2, 3], &[3, 4]),
            pair("bhqd,bhkd->bhqk", &[2, 1, 3, 2], &[2, 1, 4, 2]),
            pair("i,j->ji", &[3], &[2]),
            pair("ij,ij->", &[3, 2], &[3, 2]),
            pair("...ij,...jk", &[2, 1, 2, 3], &[3, 3, 2]),
            pair("bi,bi->b", &[3, 5], &[3, 5]),
            single("ii", &[3, 3]),
            single("ii->i", &[3, 3]),
            single("bij->ji", &[2, 3, 4]),
            single("ij->", &[3, 4]),
        ])
        .sample(
            Sample::of([floats("x", &[2, 3]), floats("y", &[3, 4]), floats("z", &[4, 2])])
                .attrs(json!({"equation": "ij,jk,kl->il"})),
        )
}
