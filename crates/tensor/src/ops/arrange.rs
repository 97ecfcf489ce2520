//! Views that are made of several primitives: rolling, repeating, triangles, diagonals, grids.

use wgrad_ir::{DType, Shape};

use crate::Tensor;

impl Tensor {
    /// Moves elements on by `shifts` along the axes `dims`, those beyond the end back to the start.
    #[track_caller]
    pub fn roll(&self, shifts: &[isize], dims: &[isize]) -> Tensor {
        if shifts.len() != dims.len() {
            return self.fail("roll", format!("{} shifts for {} axes", shifts.len(), dims.len()));
        }
        let mut rolled = self.clone();
        for (&shift, &dim) in shifts.iter().zip(dims) {
            let extent = match self.axis(dim, 0) {
                Ok(axis) => self.shape()[axis],
                Err(message) => return self.fail("roll", message),
            };
            let head = if extent == 0 { 0 } else { shift.rem_euclid(extent as isize) as usize };
            if head > 0 {
                let (front, back) =
                    (rolled.narrow(dim, 0, extent - head), rolled.narrow(dim, extent - head, head));
                rolled = Tensor::cat(&[&back, &front], dim);
            }
        }
        rolled
    }

    /// The whole tensor `repeats[i]` times along axis `i`; more numbers than axes add axes in front.
    #[track_caller]
    pub fn repeat(&self, repeats: &[usize]) -> Tensor {
        if self.error().is_some() {
            return self.clone();
        }
        let Some(new) = repeats.len().checked_sub(self.rank()) else {
            let message = format!("expects at least {} numbers, got {}", self.rank(), repeats.len());
            return self.fail("repeat", message);
        };
        let extents: Vec<usize> = (0..new).map(|_| 1).chain(self.shape().iter().copied()).collect();
        let pairs = |inner: fn(usize) -> usize| -> Shape {
            repeats.iter().zip(&extents).flat_map(|(&r, &n)| [inner(r), n]).collect()
        };
        let merged: Shape = repeats.iter().zip(&extents).map(|(&r, &n)| r.saturating_mul(n)).collect();
        self.reshape(pairs(|_| 1)).expand(pairs(|r| r)).reshape(merged)
    }

    /// Each entry of an axis `n` times in a row.
    #[track_caller]
    pub fn repeat_interleave(&self, n: usize, dim: isize) -> Tensor {
        let axis = match self.axis(dim, 0) {
            Ok(axis) => axis,
            Err(message) => return self.fail("repeat_interleave", message),
        };
        let mut wide = self.shape().to_vec();
        wide.insert(axis + 1, n);
        let mut merged = self.shape().to_vec();
        merged[axis] = merged[axis].saturating_mul(n);
        self.unsqueeze(axis as isize + 1).expand(wide).reshape(merged)
    }

    /// The lower triangle of matrices `[.., m, n]`: elements with `column - row <= diagonal`, zeros elsewhere.
    #[track_caller]
    pub fn tril(&self, diagonal: isize) -> Tensor {
        self.triangle("tril", diagonal, |columns, rows| columns.le(rows))
    }

    /// The upper triangle of matrices `[.., m, n]`: elements with `column - row >= diagonal`, zeros elsewhere.
    #[track_caller]
    pub fn triu(&self, diagonal: isize) -> Tensor {
        self.triangle("triu", diagonal, |columns, rows| columns.ge(rows))
    }

    #[track_caller]
    fn triangle(&self, name: &'static str, diagonal: isize, keep: fn(&Tensor, &Tensor) -> Tensor) -> Tensor {
        let [.., m, n] = self.shape().dims() else {
            return self.fail(name, format!("expects matrices [.., m, n], got {}", self.describe()));
        };
        let device = self.device();
        let offset = Tensor::constant(diagonal as f64, DType::I32, device);
        let rows = Tensor::arange(*m, device).add(offset).unsqueeze(1);
        keep(&Tensor::arange(*n, device), &rows).where_(self, &self.constant_like(0.0))
    }

    /// Elements with `index in dim1 - index in dim0 = offset`, along a new last axis: `[.., m, .., n, ..]` gives `[.., length]`.
    #[track_caller]
    pub fn diagonal(&self, offset: isize, dim0: isize, dim1: isize) -> Tensor {
        let (a, b) = match (self.axis(dim0, 0), self.axis(dim1, 0)) {
            (Ok(a), Ok(b)) if a != b => (a, b),
            (Ok(_), Ok(_)) => return self.fail("diagonal", format!("axis {dim0} twice")),
            (Err(message), _) | (_, Err(message)) => return self.fail("diagonal", message),
        };
        let axes: Vec<usize> = (0..self.rank()).filter(|&d| d != a && d != b).chain([a, b]).collect();
        let (m, n) = (self.shape()[a], self.shape()[b]);
        let (row, column) = if offset < 0 { (offset.unsigned_abs(), 0) } else { (0, offset.unsigned_abs()) };
        let length = m.saturating_sub(row).min(n.saturating_sub(column));
        let matrices = self.permute(&axes);
        let batch = &matrices.shape()[..self.rank() - 2];
        let flat: Shape = batch.iter().copied().chain([m.saturating_mul(n)]).collect();
        let start = if length == 0 { 0 } else { row * n + column };
        matrices.reshape(flat).strided("diagonal", -1, start, length, n + 1)
    }

    /// The sum of a matrix's diagonal (rank 2).
    #[track_caller]
    pub fn trace(&self) -> Tensor {
        if self.rank() != 2 {
            return self.fail("trace", format!("expects a matrix (rank 2), got {}", self.describe()));
        }
        self.diagonal(0, 0, 1).sum(&[0], false)
    }

    /// Coordinates of a grid: tensor `i` of `n` vectors gives `[n_0, .., n_k]` that varies along axis `i` alone (`indexing="ij"`).
    #[track_caller]
    pub fn meshgrid(vectors: &[&Tensor]) -> Vec<Tensor> {
        let shape: Shape = vectors.iter().map(|v| v.elements()).collect();
        let mut grids = Vec::with_capacity(vectors.len());
        for (axis, vector) in vectors.iter().enumerate() {
            let mut along = vec![1; vectors.len()];
            along[axis] = vector.elements();
            grids.push(if vector.rank() > 1 {
                vector.fail("meshgrid", format!("expects vectors, got {}", vector.describe()))
            } else {
                vector.reshape(along).expand(&shape)
            });
        }
        grids
    }

    /// Moves channels into space: `[.., c r², h, w]` gives `[.., c, h r, w r]` (Shi et al., 2016).
    #[track_caller]
    pub fn pixel_shuffle(&self, r: usize) -> Tensor {
        let [batch @ .., c, h, w] = self.shape().dims() else {
            return self
                .fail("pixel_shuffle", format!("expects [.., channels, h, w], got {}", self.describe()));
        };
        if r == 0 || r.checked_mul(r).is_none_or(|square| c % square != 0) {
            let message = format!("expects channels that {r} x {r} divides, got {}", self.describe());
            return self.fail("pixel_shuffle", message);
        }
        let b: usize = batch.iter().product();
        let shape: Shape = batch.iter().copied().chain([c / (r * r), h * r, w * r]).collect();
        self.reshape([b, c / (r * r), r, r, *h, *w]).permute(&[0, 1, 4, 2, 5, 3]).reshape(shape)
    }

    /// Undoes [`Tensor::pixel_shuffle`]: `[.., c, h r, w r]` gives `[.., c r², h, w]`.
    #[track_caller]
    pub fn pixel_unshuffle(&self, r: usize) -> Tensor {
        let [batch @ .., c, h, w] = self.shape().dims() else {
            return self
                .fail("pixel_unshuffle", format!("expects [.., channels, h, w], got {}", self.describe()));
        };
        if r == 0 || h % r != 0 || w % r != 0 {
            return self.fail(
                "pixel_unshuffle",
                format!("expects extents that {r} divides, got {}", self.describe()),
            );
        }
        let b: usize = batch.iter().product();
        let shape: Shape = batch.iter().copied().chain([c * r * r, h / r, w / r]).collect();
        self.reshape([b, *c, h / r, r, w / r, r]).permute(&[0, 1, 3, 5, 2, 4]).reshape(shape)
    }
}
