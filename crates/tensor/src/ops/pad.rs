//! Padding by what the tensor itself holds.

use crate::Tensor;

/// What surrounds a tensor; a constant is [`Tensor::pad`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PadMode {
    /// Mirrored at the edge, which is not repeated: `c b | a b c | b a`. Each width is less than the extent.
    Reflect,
    /// The edge, repeated: `a a | a b c | c c`.
    Replicate,
    /// The other end: `b c | a b c | a b`. No width exceeds the extent.
    Circular,
}

impl Tensor {
    /// Surrounds with elements of the tensor: `(before, after)` for each axis, outermost first.
    #[track_caller]
    pub fn pad_with(&self, widths: &[(usize, usize)], mode: PadMode) -> Tensor {
        if self.error().is_some() {
            return self.clone();
        }
        if widths.len() != self.rank() {
            let message = format!("{} width pairs do not fit {}", widths.len(), self.describe());
            return self.fail("pad", message);
        }
        let mut padded = self.clone();
        for (axis, &(before, after)) in widths.iter().enumerate().filter(|(_, w)| **w != (0, 0)) {
            if padded.error().is_some() {
                return padded;
            }
            let (dim, n) = (axis as isize, self.shape()[axis]);
            let most = match mode {
                PadMode::Reflect => n.saturating_sub(1),
                PadMode::Circular => n,
                PadMode::Replicate => {
                    if n == 0 {
                        0
                    } else {
                        usize::MAX
                    }
                }
            };
            if before.max(after) > most {
                let message =
                    format!("{before} and {after} around axis {axis} of {} exceed {most}", self.describe());
                return self.fail("pad", message);
            }
            let edge = |at: usize, width: usize| {
                let mut shape = padded.shape().to_vec();
                shape[axis] = width;
                padded.narrow(dim, at, 1).expand(shape)
            };
            let (front, back) = match mode {
                PadMode::Reflect => (
                    padded.narrow(dim, 1, before).flip(&[dim]),
                    padded.narrow(dim, n - 1 - after, after).flip(&[dim]),
                ),
                PadMode::Replicate => (edge(0, before), edge(n - 1, after)),
                PadMode::Circular => (padded.narrow(dim, n - before, before), padded.narrow(dim, 0, after)),
            };
            let parts: Vec<&Tensor> =
                [&front, &padded, &back].into_iter().filter(|t| t.shape().get(axis) != Some(&0)).collect();
            padded = Tensor::cat(&parts, dim);
        }
        padded
    }
}
