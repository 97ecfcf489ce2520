//! Activation functions by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use crate::{NnError, functional};

/// An elementwise nonlinearity, named as in Hugging Face's configurations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Activation {
    /// `gelu`: `x Φ(x)`, exact (by erf).
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`: `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `quick_gelu`: `x σ(1.702 x)`.
    QuickGelu,
    /// `relu`: `max(x, 0)`.
    Relu,
    /// `silu`, `swish`: `x σ(x)`.
    Silu,
    /// `sigmoid`: `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `tanh`.
    Tanh,
    /// `relu6`: `min(max(x, 0), 6)`.
    Relu6,
    /// `leaky_relu`: `x` where `x > 0`, else `0.01 x`.
    LeakyRelu,
    /// `elu`: `x` where `x > 0`, else `eˣ - 1`.
    Elu,
    /// `selu`: the scaled ELU.
    Selu,
    /// `mish`: `x tanh(ln(1 + eˣ))`.
    Mish,
    /// `softplus`: `ln(1 + eˣ)`.
    Softplus,
    /// `hardswish`: `x min(max(x + 3, 0), 6) / 6`.
    Hardswish,
    /// `hardsigmoid`: `min(max(x + 3, 0), 6) / 6`.
    Hardsigmoid,
    /// `linear`: `x`.
    Linear,
}

/// Every accepted name; the first one of each activation is the one that is written.
const NAMES: [(&str, Activation); 18] = [
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("sigmoid", Activation::Sigmoid),
    ("tanh", Activation::Tanh),
    ("quick_gelu", Activation::QuickGelu),
    ("relu6", Activation::Relu6),
    ("leaky_relu", Activation::LeakyRelu),
    ("elu", Activation::Elu),
    ("selu", Activation::Selu),
    ("mish", Activation::Mish),
    ("softplus", Activation::Softplus),
    ("hardswish", Activation::Hardswish),
    ("hardsigmoid", Activation::Hardsigmoid),
    ("linear", Activation::Linear),
];

impl Activation {
    /// Applies it to every element; shape and dtype stay.
    #[track_caller]
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Activation::Gelu => x.gelu(),
            Activation::GeluTanh => x.gelu_tanh(),
            Activation::Relu => x.relu(),
            Activation::Silu => x.silu(),
            Activation::Sigmoid => x.sigmoid(),
            Activation::Tanh => x.tanh(),
            Activation::QuickGelu => functional::quick_gelu(x),
            Activation::Relu6 => functional::relu6(x),
            Activation::LeakyRelu => functional::leaky_relu(x, 0.01),
            Activation::Elu => functional::elu(x, 1.0),
            Activation::Selu => functional::selu(x),
            Activation::Mish => functional::mish(x),
            Activation::Softplus => functional::softplus(x, 1.0, 20.0),
            Activation::Hardswish => functional::hardswish(x),
            Activation::Hardsigmoid => functional::hardsigmoid(x),
            Activation::Linear => x.clone(),
        }
    }

    /// Hugging Face's name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, activation)| *activation == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Activation {
    type Err = NnError;

    fn from_str(name: &str) -> Result<Self, NnError> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation).ok_or_else(|| {
            NnError::Unknown {
                what: "activation",
                name: name.to_owned(),
                known: NAMES.map(|(n, _)| n).join(", "),
            }
        })
    }
}

impl TryFrom<String> for Activation {
    type Error = NnError;
    fn try_from(name: String) -> Result<Self, NnError> {
        name.parse()
    }
}

impl From<Activation> for String {
    fn from(activation: Activation) -> String {
        activation.name().to_owned()
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
