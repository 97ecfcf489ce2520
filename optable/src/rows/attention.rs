//! Attention.

use serde_json::json;
use wgrad::{
    nn::functional::{Attention, scaled_dot_product_attention},
    prelude::*,
};

use crate::{Row, Sample, bools, floats};

pub(super) fn rows() -> Vec<Row> {
    let [q, k, v] = ["q", "k", "v"];
    vec![
        Row::new("scaled_dot_product_attention", |c| {
            let mask = c.get("key_mask");
            let options = Attention {
                causal: c.bool("is_causal", false),
                window: c.attr("window").map(|_| c.usize("window", 1)),
                key_mask: mask.as_ref(),
                scale: c.attr("scale").map(|_| c.f64("scale", 1.0)),
                dropout: 0.0,
            };
            scaled_dot_product_attention(
                &c.named("q"),
                &c.named("k"),
                &c.named("v"),
                &options,
                &Context::eval(),
            )
        })
        .shapes("q [b, h, i, d], k [b, g, j, d], v [b, g, j, d] → [b, h, i, d]")
        .entries(&["sdpa", "sdpa_causal", "sdpa_causal_longer_k", "sdpa_scale", "sdpa_gqa"])
        .sample([floats(q, &[2, 3, 4, 2]), floats(k, &[2, 3, 5, 2]), floats(v, &[2, 3, 5, 2])])
        .sample(
            Sample::of([floats(q, &[1, 4, 3, 5]), floats(k, &[1, 2, 3, 5]), floats(v, &[1, 2, 3, 5])])
                .attrs(json!({"is_causal": true})),
        )
        .sample(
            Sample::of([
                floats(q, &[2, 1, 3, 2]),
                floats(k, &[2, 1, 7, 2]),
                floats(v, &[2, 1, 7, 2]),
                bools("key_mask", &[2, 7]),
            ])
            .attrs(json!({"scale": 0.3, "window": 4})),
        ),
    ]
}
