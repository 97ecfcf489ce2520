//! Elementwise arithmetic, comparisons and choices.

use serde_json::json;
use wgrad::tensor::Tensor;

use super::{any_pair, any_shape};
use crate::{Dtypes, Row, Sample, bools, floats};

const AROUND_ZERO: (f64, f64) = (-1.9, 1.9);
const POSITIVE: (f64, f64) = (0.3, 2.7);

pub(super) fn rows() -> Vec<Row> {
    let mut rows = unary();
    rows.extend(binary());
    rows.extend(choices());
    rows
}

fn unary() -> Vec<Row> {
    let on = |name, (low, high): (f64, f64), f: fn(&Tensor) -> Tensor| {
        Row::new(name, move |c| f(&c.x(0))).samples(any_shape(low, high))
    };
    vec![
        on("neg", AROUND_ZERO, Tensor::neg).dtypes(Dtypes::Signed),
        on("abs", AROUND_ZERO, Tensor::abs).dtypes(Dtypes::Signed),
        on("exp", AROUND_ZERO, Tensor::exp),
        on("log", POSITIVE, Tensor::log),
        on("sqrt", POSITIVE, Tensor::sqrt).part_of(&["pow_sqrt_rsqrt"]),
        on("rsqrt", POSITIVE, Tensor::rsqrt).part_of(&["pow_sqrt_rsqrt"]),
        on("reciprocal", POSITIVE, Tensor::reciprocal),
        on("square", AROUND_ZERO, Tensor::square),
        on("sin", (-9.0, 9.0), Tensor::sin).entry_by("sin_cos", |c| [c.x(0).sin(), c.x(0).cos()]),
        on("cos", (-9.0, 9.0), Tensor::cos).part_of(&["sin_cos"]),
        on("erf", AROUND_ZERO, Tensor::erf).entries(&["erf"]),
        on("floor", AROUND_ZERO, Tensor::floor),
        on("atan", (-9.0, 9.0), Tensor::atan),
        Row::new("clamp", |c| c.x(0).clamp(c.f64("min", -0.5), c.f64("max", 1.0)))
            .entries(&["clamp"])
            .samples(any_shape(-1.9, 1.9))
            .sample(Sample::of([floats("x", &[3, 7])]).attrs(json!({"min": 0.1, "max": 0.4}))),
    ]
}

fn binary() -> Vec<Row> {
    let on = |name, y: (f64, f64), f: fn(&Tensor, &Tensor) -> Tensor| {
        Row::new(name, move |c| f(&c.x(0), &c.x(1)))
            .shapes("x [..], y [..] → broadcast [..]")
            .dtypes(Dtypes::Numbers)
            .samples(any_pair(if y == POSITIVE { POSITIVE } else { AROUND_ZERO }, y))
    };
    vec![
        on("add", AROUND_ZERO, |x, y| x.add(y)).entries(&["broadcast_add"]),
        on("sub", AROUND_ZERO, |x, y| x.sub(y)).entries(&["broadcast_sub"]),
        on("mul", AROUND_ZERO, |x, y| x.mul(y)).entries(&["broadcast_mul", "broadcast_scalar0d"]),
        on("div", POSITIVE, |x, y| x.div(y)).entries(&["broadcast_div"]),
        on("fmod", POSITIVE, |x, y| x.fmod(y)),
        on("pow", POSITIVE, |x, y| x.pow(y))
            .dtypes(Dtypes::Floats)
            .entry_by("pow_sqrt_rsqrt", |c| [c.x(0).pow(3.0), c.x(0).sqrt(), c.x(0).rsqrt()]),
        on("maximum", AROUND_ZERO, |x, y| x.maximum(y)).entries(&["maximum"]),
        on("minimum", AROUND_ZERO, |x, y| x.minimum(y)),
    ]
}

fn choices() -> Vec<Row> {
    let compare = |name, f: fn(&Tensor, &Tensor) -> Tensor| {
        Row::new(name, move |c| f(&c.x(0), &c.x(1)))
            .shapes("x [..], y [..] → bool [..]")
            .dtypes(Dtypes::Numbers)
            .no_gradient("truth values")
            .samples(any_pair(AROUND_ZERO, AROUND_ZERO))
    };
    let logic = |name, f: fn(&Tensor, &Tensor) -> Tensor| {
        Row::new(name, move |c| f(&c.x(0), &c.x(1)))
            .shapes("x [..], y [..] → [..]")
            .dtypes(Dtypes::Bools)
            .no_gradient("truth values")
            .sample([bools("x", &[3, 5]), bools("y", &[5])])
            .sample([bools("x", &[]), bools("y", &[1])])
    };
    vec![
        compare("eq", |x, y| x.eq(y)),
        compare("ne", |x, y| x.ne(y)),
        compare("lt", |x, y| x.lt(y)),
        compare("le", |x, y| x.le(y)),
        compare("gt", |x, y| x.gt(y)),
        compare("ge", |x, y| x.ge(y)),
        logic("logical_and", |x, y| x.logical_and(y)),
        logic("logical_or", |x, y| x.logical_or(y)),
        Row::new("logical_not", |c| c.x(0).logical_not())
            .dtypes(Dtypes::Bools)
            .no_gradient("truth values")
            .sample([bools("x", &[3, 5])]),
        Row::new("where", |c| c.named("m").where_(&c.named("x"), &c.named("y")))
            .shapes("m bool [..], x [..], y [..] → broadcast [..]")
            .dtypes(Dtypes::Any)
            .entries(&["where"])
            .sample([bools("m", &[2, 5]), floats("x", &[2, 5]), floats("y", &[5])])
            .sample([bools("m", &[]), floats("x", &[3, 1]), floats("y", &[2])]),
        Row::new("masked_fill", |c| c.named("x").masked_fill(&c.named("m"), c.f64("value", -2.0)))
            .shapes("x [..], m bool [..] → [..]")
            .dtypes(Dtypes::Numbers)
            .entry_by("masked_fill_softmax", |c| {
                c.named("x").masked_fill(&c.named("m"), f64::NEG_INFINITY).softmax(-1)
            })
            .sample([floats("x", &[2, 5]), bools("m", &[5])])
            .sample(Sample::of([floats("x", &[7]), bools("m", &[7])]).attrs(json!({"value": 3}))),
    ]
}
