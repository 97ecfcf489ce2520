//! Images at other sizes and places.

use wgrad_ir::{DType, Shape};

use crate::Tensor;

/// How [`Tensor::interpolate`] fills in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Interpolation {
    /// The element whose cell the place is in.
    Nearest,
    /// By the nearest element on either side (`linear`, `bilinear`, `trilinear`).
    Linear {
        /// Whether the centres of the outer elements, not their edges, stay where they are.
        align_corners: bool,
    },
    /// By the two nearest elements on either side; cubic convolution with `a = -0.75` (Keys, 1981).
    Cubic {
        /// As for `Linear`.
        align_corners: bool,
    },
}

/// What [`Tensor::grid_sample`] sees outside of the image.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GridPadding {
    /// Zeros.
    Zeros,
    /// The nearest element of the edge.
    Border,
}

impl Tensor {
    /// The last axes at other extents: `[.., in..]` gives `[.., size..]`; the first two axes (batch and channels) are not resized. Each axis
    /// is resized on its own, by a product with the matrix of its weights; the nearest elements are gathered.
    #[track_caller]
    pub fn interpolate(&self, size: &[usize], mode: Interpolation) -> Tensor {
        if self.error().is_some() {
            return self.clone();
        }
        let Some(first) = self.rank().checked_sub(size.len()).filter(|&first| first > 0 || size.is_empty())
        else {
            let message = format!("expects channels and then {} axes, got {}", size.len(), self.describe());
            return self.fail("interpolate", message);
        };
        if !self.dtype().is_float() && mode != Interpolation::Nearest {
            return self
                .fail("interpolate", format!("expects floats, got {}; `cast` first", self.describe()));
        }
        if self.dtype().is_half() && mode != Interpolation::Nearest {
            return self.widened().interpolate(size, mode).cast(self.dtype());
        }
        let mut resized = self.clone();
        for (i, &n) in size.iter().enumerate() {
            let axis = first + i;
            let extent = self.shape()[axis];
            if extent == 0 || n == 0 {
                return self.fail("interpolate", format!("cannot resize {} to {size:?}", self.describe()));
            }
            if n == extent {
                continue;
            }
            resized = match mode {
                Interpolation::Nearest if n % extent == 0 => {
                    resized.repeat_interleave(n / extent, axis as isize)
                }
                Interpolation::Nearest => {
                    let ids = (0..n).map(|o| (o * extent / n) as i32).collect();
                    resized.index_select(axis as isize, &Tensor::from_vec(ids, [n], self.device()))
                }
                Interpolation::Linear { align_corners } => {
                    resized.resize(axis, &self.linear_weights(extent, n, align_corners))
                }
                Interpolation::Cubic { align_corners } => {
                    resized.resize(axis, &self.cubic_weights(extent, n, align_corners))
                }
            };
        }
        resized
    }

    /// An axis times `weights [out, in]`.
    #[track_caller]
    fn resize(&self, axis: usize, weights: &Tensor) -> Tensor {
        let last = self.rank() - 1;
        self.move_axis(axis, last).matmul(&weights.t()).move_axis(last, axis)
    }

    /// Where result `o` lies among the elements of an axis, `[out, 1]`.
    #[track_caller]
    fn places(&self, extent: usize, n: usize, align_corners: bool) -> Tensor {
        let c = |value: f64| self.constant_like(value);
        let o = Tensor::arange(n, self.device()).cast(self.dtype()).unsqueeze(1);
        if align_corners {
            let step = if n > 1 { (extent - 1) as f64 / (n - 1) as f64 } else { 0.0 };
            return o.mul(c(step));
        }
        // (o + 1/2) in / out - 1/2
        let step = extent as f64 / n as f64;
        o.mul(c(step)).add(c(0.5 * step - 0.5))
    }

    #[track_caller]
    fn elements_of(&self, extent: usize) -> Tensor {
        Tensor::arange(extent, self.device()).cast(self.dtype()).unsqueeze(0)
    }

    /// `max(0, 1 - |place - i|)`, the places kept within the axis.
    #[track_caller]
    fn linear_weights(&self, extent: usize, n: usize, align_corners: bool) -> Tensor {
        let c = |value: f64| self.constant_like(value);
        let place = self.places(extent, n, align_corners);
        let place = place.maximum(c(0.0)).minimum(c(extent as f64 - 1.0));
        c(1.0).sub(place.sub(self.elements_of(extent)).abs()).maximum(c(0.0))
    }

    /// Four taps with Keys's weights, those beyond the ends at the ends.
    #[track_caller]
    fn cubic_weights(&self, extent: usize, n: usize, align_corners: bool) -> Tensor {
        const A: f64 = -0.75;
        let c = |value: f64| self.constant_like(value);
        let place = self.places(extent, n, align_corners);
        let below = place.floor();
        let t = place.sub(&below);
        let elements = self.elements_of(extent);
        let mut weights: Option<Tensor> = None;
        for tap in -1..=2i32 {
            let d = t.sub(c(f64::from(tap))).abs();
            // (A + 2) d³ - (A + 3) d² + 1 up to 1, A d³ - 5A d² + 8A d - 4A up to 2.
            let weight = if tap == 0 || tap == 1 {
                d.mul(c(A + 2.0)).sub(c(A + 3.0)).mul(d.square()).add(c(1.0))
            } else {
                d.mul(c(A)).sub(c(5.0 * A)).mul(&d).add(c(8.0 * A)).mul(&d).sub(c(4.0 * A))
            };
            let at = below.add(c(f64::from(tap))).maximum(c(0.0)).minimum(c(extent as f64 - 1.0));
            let part = elements.eq(&at).where_(&weight, &c(0.0));
            weights = Some(weights.map_or_else(|| part.clone(), |sum| sum.add(&part)));
        }
        weights.unwrap_or_else(|| self.fail("interpolate", "no taps"))
    }

    /// The image at given places, bilinearly: `x [n, c, h, w]` and `grid [n, oh, ow, 2]` of places `(x, y)` in `[-1, 1]` give
    /// `[n, c, oh, ow]` (Jaderberg et al., 2015). With `align_corners`, -1 and 1 are the centres of the outer elements, else their edges.
    #[track_caller]
    pub fn grid_sample(&self, grid: &Tensor, padding: GridPadding, align_corners: bool) -> Tensor {
        if let Some(faulty) = [self, grid].into_iter().find(|t| t.error().is_some()) {
            return faulty.clone();
        }
        let misfit = || {
            format!(
                "expects an image [n, c, h, w] and a grid [n, oh, ow, 2], got {} and {}",
                self.describe(),
                grid.describe()
            )
        };
        let (&[n, channels, h, w], &[gn, oh, ow, 2]) = (self.shape().dims(), grid.shape().dims()) else {
            return self.fail("grid_sample", misfit());
        };
        if n != gn || self.dtype() != grid.dtype() || !self.dtype().is_float() || h * w == 0 {
            return self.fail("grid_sample", misfit());
        }
        if self.dtype().is_half() {
            return self.widened().grid_sample(&grid.widened(), padding, align_corners).cast(self.dtype());
        }
        let c = |value: f64| self.constant_like(value);
        let place = |axis: usize, extent: usize| {
            let g = grid.narrow(-1, axis, 1).squeeze(-1);
            let extent = extent as f64;
            let at = if align_corners {
                g.add(c(1.0)).mul(c(0.5 * (extent - 1.0)))
            } else {
                g.add(c(1.0)).mul(c(0.5 * extent)).sub(c(0.5))
            };
            match padding {
                GridPadding::Zeros => at,
                // The gradient of a place outside is 0.
                GridPadding::Border => {
                    let (low, high) = (c(0.0), c(extent - 1.0));
                    let at = at.le(&low).where_(&low, &at);
                    at.ge(&high).where_(&high, &at)
                }
            }
        };
        let (x, y) = (place(0, w), place(1, h));
        let (x0, y0) = (x.floor().detach(), y.floor().detach());
        // One row of channels per element of the image.
        let rows = self.permute(&[0, 2, 3, 1]).reshape([n * h * w, channels]);
        let image = Tensor::arange(n, self.device()).reshape([n, 1, 1]);
        let int = |value: usize| Tensor::constant(value as f64, DType::I32, self.device());
        let mut sum: Option<Tensor> = None;
        for (dx, dy) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
            let (cx, cy) = (x0.add(c(dx)), y0.add(c(dy)));
            let weight = |at: &Tensor, corner: &Tensor| c(1.0).sub(at.sub(corner).abs());
            let inside =
                |at: &Tensor, extent: usize| at.ge(c(0.0)).logical_and(at.le(c(extent as f64 - 1.0)));
            let within = inside(&cx, w).logical_and(inside(&cy, h));
            let index = |at: &Tensor, extent: usize| {
                at.maximum(c(0.0)).minimum(c(extent as f64 - 1.0)).cast(DType::I32)
            };
            let ids = image.mul(int(h)).add(index(&cy, h)).mul(int(w)).add(index(&cx, w));
            let weight = within.where_(&weight(&x, &cx).mul(weight(&y, &cy)), &c(0.0)).unsqueeze(-1);
            let part = rows.embedding(&ids).mul(weight);
            sum = Some(sum.map_or_else(|| part.clone(), |sum| sum.add(&part)));
        }
        let shape: Shape = [n, oh, ow, channels].into();
        sum.unwrap_or_else(|| self.fail("grid_sample", "no corners")).reshape(shape).permute(&[0, 3, 1, 2])
    }
}
