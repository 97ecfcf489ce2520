//! Losses.

use wgrad::nn::functional;

use crate::{Row, floats, ints};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new("cross_entropy", |c| {
            let ignored = c.attr("ignore_index").map(|_| c.isize("ignore_index", 0) as i32);
            functional::cross_entropy(&c.x(0), &c.x(1), ignored)
        })
        .shapes("x [.., classes], t [..] → []")
        .entries(&["cross_entropy_mean", "cross_entropy_ignore"])
        .sample([floats("x", &[4, 7]), ints("t", &[4], 0, 7)])
        .sample([floats("x", &[2, 3, 1]), ints("t", &[2, 3], 0, 1)]),
        Row::new("mse_loss", |c| functional::mse_loss(&c.x(0), &c.x(1)))
            .shapes("x [..], y [..] → []")
            .entries(&["mse"])
            .sample([floats("x", &[4, 7]), floats("y", &[4, 7])]),
    ]
}
