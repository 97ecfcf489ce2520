//! Batch normalisation.

use wgrad_ir::DType;
use wgrad_tensor::Tensor;

use crate::{
    Context, Init, Initializer, Module, Param,
    functional::{Statistics, batch_norm, batch_norm_train},
};

/// Normalises each channel of `[n, channels, ..]`: in training by the batch's statistics, which it also remembers as moving averages; in
/// evaluation by these. Names, defaults and arithmetic are PyTorch's.
///
/// The statistics are buffers of the module: named, saved and loaded, not trained. A training pass sets them to expressions, which are
/// computed in the same program as the loss that follows from the pass ([`Tensor::alongside`]).
#[derive(Clone, Debug, Module)]
pub struct BatchNorm {
    /// `[channels]`, initially 1.
    pub weight: Option<Param>,
    /// `[channels]`, initially 0.
    pub bias: Option<Param>,
    /// `[channels]`, initially 0; without it evaluation, too, uses the batch's statistics (`track_running_stats=False`).
    pub running_mean: Option<Param>,
    /// `[channels]`, initially 1, unbiased; there with `running_mean`.
    pub running_var: Option<Param>,
    /// How many training passes there were; there with `running_mean`.
    pub num_batches_tracked: Option<Param>,
    /// Added to the variance.
    pub eps: f64,
    /// The weight of a batch in the moving averages; without it all batches weigh the same.
    #[module(skip)]
    pub momentum: Option<f64>,
}

/// [`BatchNorm`] of `[n, channels]` and `[n, channels, t]`.
pub type BatchNorm1d = BatchNorm;
/// [`BatchNorm`] of `[n, channels, h, w]`.
pub type BatchNorm2d = BatchNorm;
/// [`BatchNorm`] of `[n, channels, d, h, w]`.
pub type BatchNorm3d = BatchNorm;

impl BatchNorm {
    /// With weight and bias, an epsilon of 1e-5 and a momentum of 0.1.
    pub fn new(init: &Init, channels: usize) -> Self {
        let buffer = |value: f64, dtype: DType, shape: &[usize]| {
            let count = shape.iter().product();
            let values = vec![value as f32; count];
            Param::buffer(Tensor::from_vec(values, shape, init.device()).cast(dtype).detach_realized())
        };
        BatchNorm {
            weight: Some(init.param([channels], Initializer::Ones)),
            bias: Some(init.param([channels], Initializer::Zeros)),
            running_mean: Some(buffer(0.0, init.dtype(), &[channels])),
            running_var: Some(buffer(1.0, init.dtype(), &[channels])),
            num_batches_tracked: Some(buffer(0.0, DType::I32, &[])),
            eps: 1e-5,
            momentum: Some(0.1),
        }
    }

    /// The same without moving averages: always normalised by the batch's statistics (`track_running_stats=False`).
    #[must_use]
    pub fn without_running_stats(self) -> Self {
        BatchNorm { running_mean: None, running_var: None, num_batches_tracked: None, ..self }
    }

    /// The same shape.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, ctx: &Context) -> Tensor {
        let weight = self.weight.as_ref().map(Param::tensor);
        let bias = self.bias.as_ref().map(Param::tensor);
        let (weight, bias) = (weight.as_ref(), bias.as_ref());
        let (Some(running_mean), Some(running_var), Some(tracked)) =
            (&self.running_mean, &self.running_var, &self.num_batches_tracked)
        else {
            return batch_norm_train(x, weight, bias, self.eps).0;
        };
        if !ctx.is_training() {
            let statistics = Statistics { mean: running_mean.settled(), var: running_var.settled() };
            return batch_norm(x, &statistics, weight, bias, self.eps);
        }
        let (y, batch) = batch_norm_train(x, weight, bias, self.eps);
        if y.error().is_some() {
            return y;
        }
        let count = tracked.settled();
        let count = count.add(Tensor::constant(1.0, DType::I32, count.device()));
        let average = |running: &Param, new: &Tensor| {
            let part = match self.momentum {
                Some(momentum) => Tensor::constant(momentum, new.dtype(), new.device()),
                None => count.cast(new.dtype()).reciprocal(),
            };
            let old = running.settled();
            old.add(new.sub(&old).mul(part))
        };
        let mean = average(running_mean, &batch.mean);
        let var = average(running_var, &batch.var);
        let y = y.alongside(&mean).alongside(&var).alongside(&count);
        if y.error().is_none() {
            running_mean.set(mean);
            running_var.set(var);
            tracked.set(count);
        }
        y
    }
}
