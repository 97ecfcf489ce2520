//! Attention.

use serde_json::json;
use wgrad::{
    nn::functional::{Attention, attention_weights, linear, scaled_dot_product_attention},
    prelude::*,
};

use crate::{Call, Row, Sample, bools, floats};

pub(super) fn rows() -> Vec<Row> {
    let [q, k, v] = ["q", "k", "v"];
    vec![
        Row::new("scaled_dot_product_attention", attention)
            .shapes("q [b, h, i, d], k [b, g, j, d], v [b, g, j, d], m [b, h, i, j] → [b, h, i, d]")
            .entries(&[
                "sdpa",
                "sdpa_causal",
                "sdpa_causal_longer_k",
                "sdpa_scale",
                "sdpa_gqa",
                "sdpa_bool_mask",
                "sdpa_float_mask",
            ])
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
            )
            .sample(
                Sample::of([
                    floats(q, &[1, 2, 3, 2]),
                    floats(k, &[1, 1, 4, 2]),
                    floats(v, &[1, 1, 4, 2]),
                    bools("m", &[2, 3, 4]),
                ])
                .attrs(json!({"is_causal": true})),
            )
            .sample([
                floats(q, &[2, 2, 3, 2]),
                floats(k, &[2, 2, 3, 2]),
                floats(v, &[2, 2, 3, 2]),
                floats("m", &[2, 1, 3, 3]),
            ]),
        Row::new("multi_head_attention", multi_head)
            .shapes("x [t, b, c], iw [3c, c], ib [3c], ow [c, c], ob [c], pad [b, t] → [t, b, c], [b, t, t]")
            .entries(&["multi_head_attention"])
            .sample(
                Sample::from(vec![
                    floats("x", &[3, 2, 4]),
                    floats("iw", &[12, 4]),
                    floats("ib", &[12]),
                    floats("ow", &[4, 4]),
                    floats("ob", &[4]),
                    bools("pad", &[2, 3]),
                ])
                .attrs(json!({"heads": 2})),
            ),
    ]
}

fn attention(c: &Call) -> Tensor {
    let (key_mask, mask) = (c.get("key_mask"), c.get("m"));
    let options = Attention {
        causal: c.bool("is_causal", false),
        window: c.attr("window").map(|_| c.usize("window", 1)),
        key_mask: key_mask.as_ref(),
        mask: mask.as_ref(),
        scale: c.attr("scale").map(|_| c.f64("scale", 1.0)),
        dropout: 0.0,
    };
    scaled_dot_product_attention(&c.named("q"), &c.named("k"), &c.named("v"), &options, &Context::eval())
}

/// PyTorch's `multi_head_attention_forward` of one sequence, time first; `pad` is true where a position is padding.
fn multi_head(c: &Call) -> [Tensor; 2] {
    let x = c.named("x").transpose(0, 1);
    let [b, t, width] = x.dims::<3>();
    let h = c.usize("heads", 1);
    let qkv = linear(&x, &c.named("iw"), Some(&c.named("ib")));
    let [q, k, v] = [0, 1, 2]
        .map(|n| qkv.narrow(-1, n * width, width).reshape([b, t, h, width / h]).permute(&[0, 2, 1, 3]));
    let there = c.named("pad").logical_not();
    let options = Attention { key_mask: Some(&there), ..Attention::default() };
    let y = scaled_dot_product_attention(&q, &k, &v, &options, &Context::eval());
    let y = linear(&y.permute(&[0, 2, 1, 3]).reshape([b, t, width]), &c.named("ow"), Some(&c.named("ob")));
    [y.transpose(0, 1), attention_weights(&q, &k, &options).mean(&[1], false)]
}
