//! The rows, one file per family.

use crate::{Row, Sample, floats};

mod activation;
mod attention;
mod boxes;
mod clip;
mod conv;
mod elementwise;
mod index;
mod linear;
mod loss;
mod movement;
mod norm;
mod pool;
mod recurrent;
mod reduce;
mod vision;

/// Every family with its rows, in the order of the documentation.
pub(crate) fn families() -> Vec<(&'static str, Vec<Row>)> {
    vec![
        ("Elementwise", elementwise::rows()),
        ("Activations", activation::rows()),
        ("Views and joining", movement::rows()),
        ("Indexing", index::rows()),
        ("Reductions", reduce::rows()),
        ("Products", linear::rows()),
        ("Convolutions", conv::rows()),
        ("Windows and batch norm", pool::rows()),
        ("Normalisation", norm::rows()),
        ("Attention", attention::rows()),
        ("Recurrences", recurrent::rows()),
        ("Losses", loss::rows()),
        ("Boxes and matchings", boxes::rows()),
        ("Images", vision::rows()),
        ("Clipping", clip::rows()),
    ]
}

/// Every row.
pub fn table() -> Vec<Row> {
    families().into_iter().flat_map(|(_, rows)| rows).collect()
}

/// One operand `x` in all sorts of shapes: ranks 0 to 6, extents of one, primes, nothing.
fn any_shape(low: f64, high: f64) -> Vec<Sample> {
    let shapes: [&[usize]; 8] = [&[2, 3], &[], &[1], &[7], &[5, 1], &[0], &[3, 0, 2], &[2, 1, 3, 1, 2, 1]];
    shapes.iter().map(|shape| Sample::of([floats("x", shape).within(low, high)])).collect()
}

/// Two operands `x` and `y` that are broadcast in all sorts of ways; `y` within other bounds.
fn any_pair(x: (f64, f64), y: (f64, f64)) -> Vec<Sample> {
    let shapes: [(&[usize], &[usize]); 8] = [
        (&[2, 3], &[2, 3]),
        (&[2, 3], &[3]),
        (&[2, 1], &[1, 3]),
        (&[], &[]),
        (&[7], &[]),
        (&[0, 3], &[1, 3]),
        (&[4, 1, 3], &[2, 1]),
        (&[1, 2, 1, 1, 3, 1], &[2, 1, 1, 2, 1, 2]),
    ];
    let sample =
        |(a, b): &(&[usize], &[usize])| [floats("x", a).within(x.0, x.1), floats("y", b).within(y.0, y.1)];
    shapes.iter().map(|pair| Sample::of(sample(pair))).collect()
}
