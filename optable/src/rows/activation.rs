//! Activation functions.

use wgrad::tensor::Tensor;

use super::any_shape;
use crate::Row;

pub(super) fn rows() -> Vec<Row> {
    let on =
        |name, f: fn(&Tensor) -> Tensor| Row::new(name, move |c| f(&c.x(0))).samples(any_shape(-4.1, 4.3));
    vec![
        on("relu", Tensor::relu).entries(&["relu"]),
        on("sigmoid", Tensor::sigmoid).entries(&["sigmoid"]),
        on("tanh", Tensor::tanh).entries(&["tanh"]),
        on("silu", Tensor::silu).entries(&["silu"]),
        on("gelu", Tensor::gelu).entries(&["gelu_erf"]),
        on("gelu_tanh", Tensor::gelu_tanh).entries(&["gelu_tanh"]),
    ]
}
