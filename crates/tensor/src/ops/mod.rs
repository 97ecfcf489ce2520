//! The operations, one file per family. Each is a method that appends primitives; none computes anything.

mod activation;
mod arrange;
mod binary;
mod compare;
mod contract;
mod cumulate;
mod draw;
mod einsum;
mod ensure;
mod grid;
mod index;
mod join;
mod movement;
mod norm;
mod pad;
mod reduce;
mod resample;
mod rounding;
mod select;
mod transcendental;
mod unary;
mod window;

pub use grid::{GridMode, GridPadding};
pub use pad::PadMode;
pub use resample::Interpolation;

use crate::Tensor;

impl Tensor {
    /// An axis counted from the front, from one that may be counted from the back (-1 is the last). `extra` allows positions
    /// beyond the rank, for operations that insert an axis.
    pub(crate) fn axis(&self, dim: isize, extra: usize) -> Result<usize, String> {
        let rank = self.rank() + extra;
        let axis = if dim < 0 { dim + rank as isize } else { dim };
        usize::try_from(axis).ok().filter(|&a| a < rank).ok_or_else(|| {
            format!("axis {dim} is out of range for {} (rank {})", self.describe(), self.rank())
        })
    }

    /// 16-bit floats as `f32`, in which operations of several steps compute so that they round once; all else as it is.
    #[track_caller]
    pub(crate) fn widened(&self) -> Tensor {
        if self.dtype().is_half() { self.cast(wgrad_ir::DType::F32) } else { self.clone() }
    }

    /// A scalar as a vector of one element, for operations along an axis: 0 and -1 name the axis that a scalar does not have, as in
    /// PyTorch. `None` for all else.
    #[track_caller]
    pub(crate) fn lone(&self, dim: isize) -> Option<Tensor> {
        let lone = self.rank() == 0 && self.error().is_none() && matches!(dim, 0 | -1);
        lone.then(|| self.reshape([1]))
    }

    /// Several axes, ascending, each at most once. Of a scalar, 0 and -1 name none.
    pub(crate) fn axes(&self, dims: &[isize]) -> Result<smallvec::SmallVec<[usize; 6]>, String> {
        if self.rank() == 0 && matches!(dims, [0 | -1]) {
            return Ok(smallvec::SmallVec::new());
        }
        let mut axes = dims.iter().map(|&d| self.axis(d, 0)).collect::<Result<smallvec::SmallVec<_>, _>>()?;
        axes.sort_unstable();
        if axes.windows(2).any(|w| w[0] == w[1]) {
            return Err(format!("axes {dims:?} name one axis of {} twice", self.describe()));
        }
        Ok(axes)
    }
}
