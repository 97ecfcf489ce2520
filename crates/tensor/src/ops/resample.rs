//! Images at other sizes.

use crate::Tensor;

/// How [`Tensor::interpolate`] fills in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Interpolation {
    /// Of the elements of which a result covers a part, the first.
    Nearest,
    /// The element whose cell the centre of the result is in.
    NearestExact,
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
        let chooses = matches!(mode, Interpolation::Nearest | Interpolation::NearestExact);
        if !self.dtype().is_float() && !chooses {
            return self
                .fail("interpolate", format!("expects floats, got {}; `cast` first", self.describe()));
        }
        if self.dtype().is_half() && !chooses {
            return self.widened().interpolate(size, mode).cast(self.dtype());
        }
        let mut resized = self.clone();
        for (i, &n) in size.iter().enumerate() {
            let axis = first + i;
            let extent = self.shape()[axis];
            if extent == 0 || n == 0 || n > i32::MAX as usize {
                return self.fail("interpolate", format!("cannot resize {} to {size:?}", self.describe()));
            }
            if n == extent {
                continue;
            }
            resized = match mode {
                Interpolation::Nearest | Interpolation::NearestExact if n % extent == 0 => {
                    resized.repeat_interleave(n / extent, axis as isize)
                }
                Interpolation::Nearest | Interpolation::NearestExact => {
                    let centre = usize::from(mode == Interpolation::NearestExact);
                    let ids = (0..n).map(|o| ((2 * o + centre) * extent / (2 * n)) as i32).collect();
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
        let c = |value: f64| self.constant_like(value);
        let place = self.places(extent, n, align_corners);
        let below = place.floor();
        let t = place.sub(&below);
        let elements = self.elements_of(extent);
        let mut weights: Option<Tensor> = None;
        for tap in -1..=2i32 {
            let weight = t.sub(c(f64::from(tap))).abs().keys(tap == 0 || tap == 1);
            let at = below.add(c(f64::from(tap))).maximum(c(0.0)).minimum(c(extent as f64 - 1.0));
            let part = elements.eq(&at).where_(&weight, &c(0.0));
            weights = Some(weights.map_or_else(|| part.clone(), |sum| sum.add(&part)));
        }
        weights.unwrap_or_else(|| self.fail("interpolate", "no taps"))
    }

    /// Keys's weight of an element at a distance, which is up to 1 if `near`, else from 1 to 2.
    #[track_caller]
    pub(super) fn keys(&self, near: bool) -> Tensor {
        const A: f64 = -0.75;
        let c = |value: f64| self.constant_like(value);
        if near {
            // (A + 2) d³ - (A + 3) d² + 1
            self.mul(c(A + 2.0)).sub(c(A + 3.0)).mul(self.square()).add(c(1.0))
        } else {
            // A d³ - 5A d² + 8A d - 4A
            self.mul(c(A)).sub(c(5.0 * A)).mul(self).add(c(8.0 * A)).mul(self).sub(c(4.0 * A))
        }
    }
}
