//! Tables of vectors.

use wgrad_tensor::Tensor;

use crate::{Init, Initializer, Module, Param, functional::like};

/// A table with one row per id.
#[derive(Clone, Debug, Module)]
pub struct Embedding {
    /// `[rows, width]`.
    pub weight: Param,
    /// An id whose row gets no gradient from being looked up, so that training leaves the vector of padding as it is.
    #[module(skip)]
    pub padding_idx: Option<usize>,
}

impl Embedding {
    /// Standard normal values, PyTorch's default.
    pub fn new(init: &Init, rows: usize, width: usize) -> Self {
        Self::with(init, rows, width, Initializer::Normal { std: 1.0 })
    }

    /// With the given initial values.
    pub fn with(init: &Init, rows: usize, width: usize, weight: Initializer) -> Self {
        Embedding { weight: init.param([rows, width], weight), padding_idx: None }
    }

    /// The same table with this [`Embedding::padding_idx`].
    #[must_use]
    pub fn padded(self, padding_idx: Option<usize>) -> Self {
        Embedding { padding_idx, ..self }
    }

    /// The rows of `ids` (integers `[..]`) as `[.., width]`. An id that has no row is an error: at once where the host knows the
    /// ids, else at the next read.
    #[track_caller]
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        let rows = self.weight.tensor().embedding(ids);
        match self.padding_idx {
            Some(padding) => {
                let is_padding = ids.eq(like(padding as f64, ids)).unsqueeze(-1);
                is_padding.where_(&rows.detach(), &rows)
            }
            None => rows,
        }
    }
}
