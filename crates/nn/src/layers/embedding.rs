//! Tables of vectors.

use wgrad_tensor::Tensor;

use crate::{Init, Initializer, Module, Param};

/// A table with one row per id.
#[derive(Clone, Debug, Module)]
pub struct Embedding {
    /// `[rows, width]`.
    pub weight: Param,
}

impl Embedding {
    /// Standard normal values, PyTorch's default.
    pub fn new(init: &Init, rows: usize, width: usize) -> Self {
        Self::with(init, rows, width, Initializer::Normal { std: 1.0 })
    }

    /// With the given initial values.
    pub fn with(init: &Init, rows: usize, width: usize, weight: Initializer) -> Self {
        Embedding { weight: init.param([rows, width], weight) }
    }

    /// The rows of `ids` (integers `[..]`) as `[.., width]`. An id that has no row is an error: at once where the host knows the
    /// ids, else at the next read.
    #[track_caller]
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        self.weight.tensor().embedding(ids)
    }
}
