//! The first text classifier of Keras' guides: word embeddings, their mean, and one probability.
//!
//! Legend of shapes: b batch, t time, c width, v vocabulary.

use serde::{Deserialize, Serialize};
use wgrad_nn::{
    Context, Embedding, Init, Initializer, Linear, Module,
    functional::{Reduction, binary_cross_entropy},
};
use wgrad_tensor::{DType, Tensor};

use crate::{
    ModelError,
    folders::folders,
    pretrained::{Weights, check_parameters, check_room},
};

/// The configuration of [`TextClassifier`].
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct TextClassifierConfig {
    /// Number of words, with 0 for padding.
    pub num_words: usize,
    /// Width of an embedding.
    pub dim: usize,
}

/// `Embedding`, `GlobalAveragePooling1D`, `Dense(1, activation="sigmoid")`.
#[derive(Clone, Debug, Module)]
pub struct TextClassifier {
    /// `[v, c]`.
    pub embedding: Embedding,
    /// `[1, c]`.
    pub dense: Linear,
    #[module(skip)]
    config: TextClassifierConfig,
}

impl TextClassifier {
    /// A new model with Keras' initial values: embeddings uniform on ±0.05, Xavier-uniform weights, a bias of 0.
    ///
    /// # Errors
    /// An extent is 0 or too large, or a parameter does not fit on the device.
    pub fn new(config: &TextClassifierConfig, init: &Init) -> Result<Self, ModelError> {
        let TextClassifierConfig { num_words, dim } = *config;
        let sizes = [("num_words", num_words), ("dim", dim)];
        if let Some((key, size)) = sizes.iter().find(|(_, size)| *size == 0 || *size > i32::MAX as usize) {
            let message = format!("`{key}` is {size}, expected 1 to {}", i32::MAX);
            return Err(ModelError::Config { model: "text classifier", message });
        }
        check_room("text classifier", num_words.saturating_mul(dim), init)?;
        let uniform = Initializer::Uniform { low: -0.05, high: 0.05 };
        let model = TextClassifier {
            embedding: Embedding::with(init, num_words, dim, uniform),
            dense: Linear::with(init, dim, 1, Initializer::XavierUniform, Some(Initializer::Zeros)),
            config: *config,
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Padded ids `[b, t]` (i32) to probabilities `[b, 1]`. Padding counts in the mean, as in Keras without a mask.
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, _: &Context) -> Tensor {
        self.dense.forward(&self.embedding.forward(ids_bt).mean(&[1], false)).sigmoid()
    }

    /// Keras' `binary_crossentropy` of probabilities `[b, 1]` with labels of the same shape: the mean, with probabilities kept within
    /// `[1e-7, 1 - 1e-7]`.
    #[track_caller]
    pub fn loss(probabilities: &Tensor, labels: &Tensor) -> Tensor {
        let limit = |value: f64| Tensor::constant(value, probabilities.dtype(), probabilities.device());
        let clipped = probabilities.maximum(limit(1e-7)).minimum(limit(1.0 - 1e-7));
        binary_cross_entropy(&clipped, labels, None, Reduction::Mean)
    }

    /// The share of `labels [b, 1]` that lie on the side of 0.5 on which their probabilities are: Keras' `accuracy`.
    #[track_caller]
    pub fn accuracy(probabilities: &Tensor, labels: &Tensor) -> Tensor {
        let half = Tensor::constant(0.5, probabilities.dtype(), probabilities.device());
        let predicted = probabilities.gt(half).cast(labels.dtype());
        predicted.eq(labels).cast(DType::F32).mean_all()
    }
}

folders!(TextClassifierConfig, Weights::read; TextClassifier);
