//! Normalisation.

use wgrad::nn::functional;

use crate::{Row, floats};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new("layer_norm", |c| {
            functional::layer_norm(&c.named("x"), &c.named("w"), c.get("b").as_ref(), c.f64("eps", 1e-5))
        })
        .shapes("x [.., d], w [d], b [d] → [.., d]")
        .entries(&["layer_norm"])
        .sample([floats("x", &[2, 3, 8]), floats("w", &[8]), floats("b", &[8])])
        .sample([floats("x", &[5, 13]), floats("w", &[13])]),
    ]
}
