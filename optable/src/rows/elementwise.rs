//! Elementwise arithmetic, comparisons and choices.

use serde_json::json;
use wgrad::tensor::Tensor;

use super::{any_pair, any_shape};
use crate::{Dtypes, Row, Sample, bools, floats, given};

const AROUND_ZERO: (f64, f64) = (-1.9, 1.9);
const POSITIVE: (f64, f64) = (0.3, 2.7);

pub(super) fn rows() -> Vec<Row> {
    let mut rows = unary();
    rows.extend(binary());
    rows.extend(transcendental());
    rows.extend(rounding());
    rows.extend(choices());
    rows
}

/// Those made of several primitives.
fn transcendental() -> Vec<Row> {
    let on = |name, (low, high): (f64, f64), f: fn(&Tensor) -> Tensor| {
        Row::new(name, move |c| f(&c.x(0))).samples(any_shape(low, high))
    };
    // Where the textbook formulas cancel, relative to the small result.
    let tiny = |row: Row| {
        let near = [1e-7, -3e-6, 2e-5, -1e-4, 3e-3, -0.02, 0.24, -0.26];
        row.sample([given("x", &[8], &near)])
    };
    vec![
        tiny(on("log1p", (-0.7, 4.0), Tensor::log1p))
            .entry_by("exp_log_log1p", |c| [c.x(0).exp(), c.x(0).log(), c.x(0).log1p()]),
        tiny(on("expm1", AROUND_ZERO, Tensor::expm1)),
        on("log2", POSITIVE, Tensor::log2),
        on("log10", POSITIVE, Tensor::log10),
        on("exp2", AROUND_ZERO, Tensor::exp2),
        on("tan", (-1.2, 1.2), Tensor::tan),
        tiny(on("sinh", AROUND_ZERO, Tensor::sinh)),
        on("cosh", AROUND_ZERO, Tensor::cosh),
        on("asin", (-0.9, 0.9), Tensor::asin),
        on("acos", (-0.9, 0.9), Tensor::acos),
        on("atan", (-5.0, 5.0), Tensor::atan),
        tiny(on("asinh", (-5.0, 5.0), Tensor::asinh)),
        on("acosh", (1.1, 5.0), Tensor::acosh),
        tiny(on("atanh", (-0.9, 0.9), Tensor::atanh)),
        on("erfc", AROUND_ZERO, Tensor::erfc),
        Row::new("atan2", |c| c.x(0).atan2(&c.x(1)))
            .shapes("y [..], x [..] → broadcast [..]")
            .samples(any_pair(AROUND_ZERO, AROUND_ZERO)),
    ]
}

fn rounding() -> Vec<Row> {
    let on =
        |name, f: fn(&Tensor) -> Tensor| Row::new(name, move |c| f(&c.x(0))).samples(any_shape(-3.3, 3.4));
    let test = |name, f: fn(&Tensor) -> Tensor| on(name, f).no_gradient("truth values");
    vec![
        on("sign", Tensor::sign).dtypes(Dtypes::Signed),
        on("ceil", Tensor::ceil),
        on("trunc", Tensor::trunc),
        on("frac", Tensor::frac),
        // Ties go to the even integer; they have no difference quotient.
        on("round", Tensor::round).sample([given(
            "x",
            &[8],
            &[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, -0.51],
        )
        .constant()]),
        Row::new("clamp_min", |c| c.x(0).clamp_min(c.f64("min", -0.5))).samples(any_shape(-1.9, 1.9)),
        Row::new("clamp_max", |c| c.x(0).clamp_max(c.f64("max", 0.5))).samples(any_shape(-1.9, 1.9)),
        Row::new("remainder", |c| c.x(0).remainder(c.x(1)))
            .shapes("x [..], y [..] → broadcast [..]")
            .samples(any_pair((-3.1, 3.2), POSITIVE)),
        Row::new("lerp", |c| c.x(0).lerp(&c.x(1), c.x(2)))
            .shapes("x [..], end [..], weight [..] → broadcast [..]")
            .sample([floats("x", &[2, 3]), floats("end", &[3]), floats("weight", &[2, 1])]),
        test("isnan", Tensor::isnan),
        test("isinf", Tensor::isinf),
        test("isfinite", Tensor::isfinite),
    ]
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
            .samples(any_pair(y, y))
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
        logic("logical_xor", |x, y| x.logical_xor(y)),
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
