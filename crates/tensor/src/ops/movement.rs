//! Views: operations that only say where elements lie. They cost nothing by themselves; kernels read through them.

use wgrad_ir::{Literal, Op, Shape};

use crate::Tensor;

/// More pieces than any tensor is cut into: each is an expression of its own.
const MOST_PIECES: usize = 1 << 20;

impl Tensor {
    /// The same elements in row-major order under another shape.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        if *self.shape() == shape {
            return self.clone();
        }
        Tensor::apply("reshape", Op::Reshape(shape), &[self])
    }

    /// [`Tensor::reshape`] by PyTorch's other name; any tensor can be viewed as any shape of as many elements.
    #[track_caller]
    pub fn view(&self, shape: impl Into<Shape>) -> Tensor {
        self.reshape(shape)
    }

    /// Merges the axes from `start` to `end`, both included, into one.
    #[track_caller]
    pub fn flatten(&self, start: isize, end: isize) -> Tensor {
        if self.rank() == 0 {
            return self.reshape([1]);
        }
        let (start, end) = match (self.axis(start, 0), self.axis(end, 0)) {
            (Ok(start), Ok(end)) => (start, end),
            (Err(message), _) | (_, Err(message)) => return self.fail("flatten", message),
        };
        if start > end {
            return self.fail("flatten", format!("axis {start} comes after axis {end}"));
        }
        let dims = self.shape().dims();
        let merged = dims[start..=end].iter().fold(1, |n: usize, &d| n.saturating_mul(d));
        let shape: Shape = dims[..start].iter().chain([&merged]).chain(&dims[end + 1..]).copied().collect();
        self.reshape(shape)
    }

    /// Reorders axes: axis `i` of the result is axis `axes[i]` of this tensor.
    #[track_caller]
    pub fn permute(&self, axes: &[usize]) -> Tensor {
        if axes.iter().copied().eq(0..self.rank()) {
            return self.clone();
        }
        Tensor::apply("permute", Op::Permute(axes.iter().copied().collect()), &[self])
    }

    /// Exchanges two axes.
    #[track_caller]
    pub fn transpose(&self, dim0: isize, dim1: isize) -> Tensor {
        if self.lone(dim0).and(self.lone(dim1)).is_some() {
            return self.clone();
        }
        let (a, b) = match (self.axis(dim0, 0), self.axis(dim1, 0)) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(message), _) | (_, Err(message)) => return self.fail("transpose", message),
        };
        let mut axes: Vec<usize> = (0..self.rank()).collect();
        axes.swap(a, b);
        self.permute(&axes)
    }

    /// The transpose of a matrix (rank 2).
    #[track_caller]
    pub fn t(&self) -> Tensor {
        if self.rank() != 2 {
            return self.fail("t", format!("expects a matrix (rank 2), got {}", self.describe()));
        }
        self.permute(&[1, 0])
    }

    /// Repeats axes of extent 1, and adds axes in front, up to `shape`.
    #[track_caller]
    pub fn expand(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        if self.shape().broadcast(&shape).as_ref() != Some(&shape) {
            return self.fail("expand", format!("cannot expand {} to {shape}", self.describe()));
        }
        self.stretch("expand", &shape)
    }

    /// [`Tensor::expand`] by NumPy's name.
    #[track_caller]
    pub fn broadcast_to(&self, shape: impl Into<Shape>) -> Tensor {
        self.expand(shape)
    }

    /// Inserts an axis of extent 1 at `dim` of the result.
    #[track_caller]
    pub fn unsqueeze(&self, dim: isize) -> Tensor {
        let axis = match self.axis(dim, 1) {
            Ok(axis) => axis,
            Err(message) => return self.fail("unsqueeze", message),
        };
        let dims = self.shape().dims();
        let shape: Shape = dims[..axis].iter().chain([&1]).chain(&dims[axis..]).copied().collect();
        self.reshape(shape)
    }

    /// Removes an axis, which must have extent 1.
    #[track_caller]
    pub fn squeeze(&self, dim: isize) -> Tensor {
        if self.lone(dim).is_some() {
            return self.clone();
        }
        let axis = match self.axis(dim, 0) {
            Ok(axis) => axis,
            Err(message) => return self.fail("squeeze", message),
        };
        let dims = self.shape().dims();
        if dims[axis] != 1 {
            return self.fail("squeeze", format!("axis {dim} of {} is not 1 long", self.describe()));
        }
        let shape: Shape = dims[..axis].iter().chain(&dims[axis + 1..]).copied().collect();
        self.reshape(shape)
    }

    /// Elements `start .. start + len` along an axis.
    #[track_caller]
    pub fn narrow(&self, dim: isize, start: usize, len: usize) -> Tensor {
        self.strided("narrow", dim, start, len, 1)
    }

    /// Elements `start, start + step, ...` before `end` along an axis. `end` may be beyond the axis, and `step` is at least 1.
    #[track_caller]
    pub fn slice(&self, dim: isize, start: usize, end: usize, step: usize) -> Tensor {
        if step == 0 {
            return self.fail("slice", "step 0 would repeat one element forever; use 1 or more");
        }
        let extent = match self.axis(dim, 0) {
            Ok(axis) => self.shape()[axis],
            Err(message) => return self.fail("slice", message),
        };
        let len = end.min(extent).saturating_sub(start).div_ceil(step);
        self.strided("slice", dim, start, len, step)
    }

    #[track_caller]
    pub(crate) fn strided(
        &self,
        name: &'static str,
        dim: isize,
        start: usize,
        len: usize,
        step: usize,
    ) -> Tensor {
        let axis = match self.axis(dim, 0) {
            Ok(axis) => axis,
            Err(message) => return self.fail(name, message),
        };
        let extent = self.shape()[axis];
        if start == 0 && len == extent && step == 1 {
            return self.clone();
        }
        let inside = if len == 0 {
            start <= extent
        } else {
            (len - 1).checked_mul(step).and_then(|n| n.checked_add(start)).is_some_and(|last| last < extent)
        };
        if !inside {
            return self.fail(
                name,
                format!("{len} element(s) from {start} exceed axis {dim} of {}", self.describe()),
            );
        }
        let mut ranges: smallvec::SmallVec<[_; 6]> = self.shape().iter().map(|&n| (0, n, 1)).collect();
        ranges[axis] = (start, len, step);
        Tensor::apply(name, Op::Slice { ranges }, &[self])
    }

    /// Pieces of `size` elements along an axis; the last one takes what is left.
    #[track_caller]
    pub fn split(&self, size: usize, dim: isize) -> Vec<Tensor> {
        let extent = match self.axis(dim, 0) {
            Ok(axis) => self.shape()[axis],
            Err(message) => return vec![self.fail("split", message)],
        };
        if size == 0 {
            return vec![self.fail("split", "expects pieces of at least 1 element, got 0")];
        }
        let mut pieces = Vec::with_capacity(extent.div_ceil(size));
        for start in (0..extent).step_by(size) {
            pieces.push(self.strided("split", dim, start, size.min(extent - start), 1));
        }
        if pieces.is_empty() {
            pieces.push(self.clone());
        }
        pieces
    }

    /// Exactly `n` pieces along an axis, each `⌈extent / n⌉` long but the last ones, which take what is left (nothing, where the
    /// extent is small). A tensor that carries an error gives `n` such tensors; more than 2²⁰ pieces give one.
    #[track_caller]
    pub fn chunk(&self, n: usize, dim: isize) -> Vec<Tensor> {
        if n > MOST_PIECES {
            return vec![self.fail("chunk", format!("expects at most {MOST_PIECES} pieces, got {n}"))];
        }
        let axis = match self.axis(dim, 0) {
            Ok(axis) => axis,
            Err(message) => return vec![self.fail("chunk", message); n],
        };
        let extent = self.shape()[axis];
        let size = extent.div_ceil(n.max(1));
        let mut pieces = Vec::with_capacity(n);
        for i in 0..n {
            let start = (i * size).min(extent);
            pieces.push(self.strided("chunk", dim, start, size.min(extent - start), 1));
        }
        pieces
    }

    /// Surrounds with `value`: `(before, after)` for each axis, outermost first. The value is part of the program.
    #[track_caller]
    pub fn pad(&self, widths: &[(usize, usize)], value: f64) -> Tensor {
        if widths.len() == self.rank() && widths.iter().all(|&w| w == (0, 0)) {
            return self.clone();
        }
        let fill = Literal::from_f64(self.dtype(), value);
        Tensor::apply("pad", Op::Pad { widths: widths.iter().copied().collect(), fill }, &[self])
    }

    /// Reverses the order of elements along the given axes.
    #[track_caller]
    pub fn flip(&self, dims: &[isize]) -> Tensor {
        match self.axes(dims) {
            Ok(axes) if axes.is_empty() => self.clone(),
            Ok(axes) => Tensor::apply("flip", Op::Flip(axes), &[self]),
            Err(message) => self.fail("flip", message),
        }
    }
}
