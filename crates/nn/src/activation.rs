//! Activation functions by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use crate::NnError;

/// An elementwise nonlinearity, named as in Hugging Face's configurations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Activation {
    /// `gelu`: `x Φ(x)`, exact (by erf).
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`: `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `relu`: `max(x, 0)`.
    Relu,
    /// `silu`, `swish`: `x σ(x)`.
    Silu,
    /// `sigmoid`: `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `tanh`.
    Tanh,
}

/// Every accepted name; the first one of each activation is the one that is written.
const NAMES: [(&str, Activation); 8] = [
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("sigmoid", Activation::Sigmoid),
    ("tanh", Activation::Tanh),
];

impl Activation {
    /// Applies it to every element; shape and dtype stay.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Activation::Gelu => x.gelu(),
            Activation::GeluTanh => x.gelu_tanh(),
            Activation::Relu => x.relu(),
            Activation::Silu => x.silu(),
            Activation::Sigmoid => x.sigmoid(),
            Activation::Tanh => x.tanh(),
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
