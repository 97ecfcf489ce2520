//! How the elements of a loss become one number.

use serde::{Deserialize, Serialize};
use wgrad_tensor::Tensor;

use crate::functional::like;

/// What becomes of the elements of a loss; named as in PyTorch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// All of them.
    None,
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// Their sum over the extent of axis 0, the mathematically right mean of a divergence.
    BatchMean,
}

impl Reduction {
    /// Reduces `x`.
    #[track_caller]
    pub fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Reduction::None => x.clone(),
            Reduction::Mean => x.mean_all(),
            Reduction::Sum => x.sum_all(),
            Reduction::BatchMean => {
                let batch = x.shape().first().copied().unwrap_or(1);
                x.sum_all().mul(like(1.0 / batch as f64, x))
            }
        }
    }

    /// Reduces `x` where the mean is over `count` instead of the number of elements.
    #[track_caller]
    pub(super) fn apply_over(self, x: &Tensor, count: &Tensor) -> Tensor {
        match self {
            Reduction::Mean => x.sum_all().div(count),
            other => other.apply(x),
        }
    }
}
