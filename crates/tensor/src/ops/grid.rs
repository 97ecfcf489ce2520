//! Images at given places.

use wgrad_ir::{DType, Shape};

use crate::Tensor;

/// How [`Tensor::grid_sample`] fills in between elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GridMode {
    /// By the nearest element on either side (`bilinear`).
    Linear,
    /// The nearest element.
    Nearest,
    /// By the two nearest elements on either side (`bicubic`; Keys, 1981, with `a = -0.75`).
    Cubic,
}

/// What [`Tensor::grid_sample`] sees outside of the image.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GridPadding {
    /// Zeros.
    Zeros,
    /// The nearest element of the edge.
    Border,
    /// The image, turned over at the edge as often as need be.
    Reflection,
}

impl Tensor {
    /// The image at given places: `x [n, c, h, w]` and `grid [n, oh, ow, 2]` of places `(x, y)` in `[-1, 1]` give `[n, c, oh, ow]` (Jaderberg
    /// et al., 2015). With `align_corners`, -1 and 1 are the centres of the outer elements, else their edges.
    #[track_caller]
    pub fn grid_sample(
        &self,
        grid: &Tensor,
        mode: GridMode,
        padding: GridPadding,
        align_corners: bool,
    ) -> Tensor {
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
            let wide = self.widened().grid_sample(&grid.widened(), mode, padding, align_corners);
            return wide.cast(self.dtype());
        }
        let [across, down] = [(0, w), (1, h)].map(|(axis, extent)| {
            Axis { extent, align_corners, padding }.taps(&grid.narrow(-1, axis, 1).squeeze(-1), mode)
        });
        // One row of channels per element of the image.
        let rows = self.permute(&[0, 2, 3, 1]).reshape([n * h * w, channels]);
        let image = Tensor::arange(n, self.device()).reshape([n, 1, 1]);
        let int = |value: usize| Tensor::constant(value as f64, DType::I32, self.device());
        let mut sum: Option<Tensor> = None;
        for y in &down {
            for x in &across {
                let ids = image.mul(int(h)).add(&y.id).mul(int(w)).add(&x.id);
                let part = rows.embedding(&ids).mul(x.weight.mul(&y.weight).unsqueeze(-1));
                sum = Some(sum.map_or_else(|| part.clone(), |sum| sum.add(&part)));
            }
        }
        let shape: Shape = [n, oh, ow, channels].into();
        sum.unwrap_or_else(|| self.fail("grid_sample", "no taps")).reshape(shape).permute(&[0, 3, 1, 2])
    }
}

/// An axis of an image.
#[derive(Clone, Copy)]
struct Axis {
    extent: usize,
    align_corners: bool,
    padding: GridPadding,
}

/// Which element counts how much, for each place.
struct Tap {
    id: Tensor,
    weight: Tensor,
}

impl Axis {
    /// The elements that places `grid` in `[-1, 1]` see.
    #[track_caller]
    fn taps(self, grid: &Tensor, mode: GridMode) -> Vec<Tap> {
        let c = |value: f64| grid.constant_like(value);
        let extent = self.extent as f64;
        let at = if self.align_corners {
            grid.add(c(1.0)).mul(c(0.5 * (extent - 1.0)))
        } else {
            grid.add(c(1.0)).mul(c(0.5 * extent)).sub(c(0.5))
        };
        match mode {
            GridMode::Nearest => {
                let at = self.padded(&at).detach().round();
                vec![self.tap(&at, &at.ones_like())]
            }
            GridMode::Linear => {
                let at = self.padded(&at);
                let below = at.floor().detach();
                let tap = |step: f64| {
                    let element = below.add(c(step));
                    self.tap(&element, &c(1.0).sub(at.sub(&element).abs()))
                };
                vec![tap(0.0), tap(1.0)]
            }
            GridMode::Cubic => {
                let below = at.floor().detach();
                let t = at.sub(&below);
                let tap = |step: i32| {
                    let distance = t.sub(c(f64::from(step))).abs();
                    let element = self.padded(&below.add(c(f64::from(step))));
                    self.tap(&element, &distance.keys(step == 0 || step == 1))
                };
                (-1..=2).map(tap).collect()
            }
        }
    }

    /// Where a place lies that is seen through the padding. The gradient of what stays at the border is 0.
    #[track_caller]
    fn padded(self, at: &Tensor) -> Tensor {
        let c = |value: f64| at.constant_like(value);
        let extent = self.extent as f64;
        let inside = match self.padding {
            GridPadding::Zeros => return at.clone(),
            GridPadding::Border => at.clone(),
            GridPadding::Reflection => {
                // Between the centres of the outer elements, or their edges.
                let (low, span) = if self.align_corners { (0.0, extent - 1.0) } else { (-0.5, extent) };
                if span == 0.0 {
                    return at.zeros_like();
                }
                let from = at.sub(c(low)).abs();
                let whole = from.mul(c(0.5 / span)).floor().detach();
                let part = from.sub(whole.mul(c(2.0 * span)));
                part.minimum(c(2.0 * span).sub(&part)).add(c(low))
            }
        };
        let (low, high) = (c(0.0), c(extent - 1.0));
        let inside = inside.le(&low).where_(&low, &inside);
        inside.ge(&high).where_(&high, &inside)
    }

    /// An element with its weight, which is 0 outside of the image.
    #[track_caller]
    fn tap(self, element: &Tensor, weight: &Tensor) -> Tap {
        let (low, high) = (element.constant_like(0.0), element.constant_like(self.extent as f64 - 1.0));
        let within = element.ge(&low).logical_and(element.le(&high));
        Tap {
            id: element.maximum(&low).minimum(&high).cast(DType::I32),
            weight: within.where_(weight, &element.constant_like(0.0)),
        }
    }
}
