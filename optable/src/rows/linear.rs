//! Products.

use wgrad::nn::functional;

use crate::{Row, floats};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new("linear", |c| functional::linear(&c.named("x"), &c.named("w"), c.get("b").as_ref()))
            .shapes("x [.., in], w [out, in], b [out] → [.., out]")
            .entries(&["linear"])
            .sample([floats("x", &[2, 3, 5]), floats("w", &[4, 5]), floats("b", &[4])])
            .sample([floats("x", &[1, 1]), floats("w", &[7, 1])]),
        Row::new("matmul", |c| c.x(0).matmul(&c.x(1)))
            .shapes("x [b.., m, k], y [b.., k, n] → [b.., m, n]")
            .entries(&["matmul", "matmul_broadcast"])
            .sample([floats("x", &[3, 4]), floats("y", &[4, 5])])
            .sample([floats("x", &[1, 1]), floats("y", &[1, 1])])
            .sample([floats("x", &[7, 13]), floats("y", &[13, 11])])
            .sample([floats("x", &[2, 1, 3, 4]), floats("y", &[3, 4, 2])])
            .sample([floats("x", &[3, 4]), floats("y", &[2, 4, 1])]),
    ]
}
