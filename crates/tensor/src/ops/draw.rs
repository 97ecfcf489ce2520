//! Random draws from other distributions than the uniform and the normal one; see [`RandomKey`] for what makes them repeatable.

use wgrad_ir::{DType, Shape};
use wgrad_runtime::DeviceHandle;

use crate::{RandomKey, Tensor};

impl Tensor {
    /// Integers in `low..high` (`i32`), each as likely as the others to about `(high - low) / 2³²`.
    #[track_caller]
    pub fn randint(
        low: i32,
        high: i32,
        shape: impl Into<Shape>,
        key: &RandomKey,
        device: &DeviceHandle,
    ) -> Tensor {
        let bits = Tensor::random_bits(shape, key, device);
        if low >= high {
            return bits.fail("randint", format!("there is no integer in {low}..{high}"));
        }
        let span = f64::from(high) - f64::from(low);
        let offset = bits.fmod(span).cast(DType::I32);
        offset.add(f64::from(low))
    }

    /// Uniform `f32` in `[low, high)`.
    #[track_caller]
    pub fn uniform(
        low: f64,
        high: f64,
        shape: impl Into<Shape>,
        key: &RandomKey,
        device: &DeviceHandle,
    ) -> Tensor {
        Tensor::random_uniform(shape, key, device).mul(high - low).add(low)
    }

    /// Normal `f32` of this mean and standard deviation.
    #[track_caller]
    pub fn normal(
        mean: f64,
        std: f64,
        shape: impl Into<Shape>,
        key: &RandomKey,
        device: &DeviceHandle,
    ) -> Tensor {
        Tensor::random_normal(shape, key, device).mul(std).add(mean)
    }

    /// 1 with the probability that each element gives, else 0, in this tensor's dtype (float). No gradient flows. A probability
    /// outside of `[0, 1]` is an error of the evaluation.
    #[track_caller]
    pub fn bernoulli(&self, key: &RandomKey) -> Tensor {
        if self.error().is_none() && !self.dtype().is_float() {
            return self.fail("bernoulli", format!("expects probabilities, got {}", self.describe()));
        }
        let u = Tensor::random_uniform(self.shape(), key, self.device()).cast(self.dtype());
        let likely = u.lt(self).ensure(&self.ge(0.0).logical_and(self.le(1.0)));
        likely.cast(self.dtype())
    }

    /// The numbers `0..n` in random order (`i32`).
    #[track_caller]
    pub fn randperm(n: usize, key: &RandomKey, device: &DeviceHandle) -> Tensor {
        Tensor::random_bits([n], key, device).argsort(0, false)
    }

    /// `n` class numbers (`i32`) drawn by weights that need not add up to 1: `[.., classes]` gives `[.., n]`. Without `replacement` no
    /// class is drawn twice. Each draw takes the largest of `ln weight + Gumbel noise` (Gumbel, 1954); classes of weight 0 are
    /// drawn only where no others are left. Weights that are negative or not finite, and rows of zeros, are an error of the evaluation.
    #[track_caller]
    pub fn multinomial(&self, n: usize, replacement: bool, key: &RandomKey) -> Tensor {
        let Some(&classes) = self.shape().last().filter(|_| self.dtype().is_float()) else {
            return self
                .fail("multinomial", format!("expects weights [.., classes], got {}", self.describe()));
        };
        if classes == 0 || n > classes && !replacement {
            let message =
                format!("cannot draw {n} of the classes of {} without replacement", self.describe());
            return self.fail("multinomial", message);
        }
        let weights = self.detach().cast(DType::F32);
        let weights = if replacement { weights.unsqueeze(-2) } else { weights };
        let mut shape: Vec<usize> = weights.shape().to_vec();
        if replacement {
            let last = shape.len() - 2;
            shape[last] = n;
        }
        // Neither 0 nor 1.
        let u = Tensor::random_uniform(shape, key, self.device()).mul(1.0 - 6e-8).add(3e-8);
        let gumbel = u.log().neg().log().neg();
        let possible = weights.gt(0.0);
        let logs = possible.where_(&weights, &weights.constant_like(1.0)).log();
        let scores = possible.where_(&logs.add(&gumbel), &weights.constant_like(-1e30));
        let classes = if replacement { scores.argmax(-1, false) } else { scores.topk(n, -1, true).1 };
        let weights = if replacement { weights.squeeze(-2) } else { weights };
        let good = weights.ge(0.0).logical_and(weights.isfinite());
        classes.ensure(&good.all(&[-1], true).logical_and(weights.gt(0.0).any(&[-1], true)))
    }
}
