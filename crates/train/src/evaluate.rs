//! Validation loss.

use wgrad_data::{Batch, validation_batches};
use wgrad_models::{CausalLanguageModel, Gpt2LMHead};
use wgrad_nn::Context;
use wgrad_tensor::{DeviceHandle, PendingValue, Tensor};

use crate::corpus::Validation;
use crate::error::Result;

/// Mean cross-entropy over all positions of all windows, in nats per token, without dropout.
///
/// `batch` windows are computed at a time; each batch is queued before the previous one is waited for.
///
/// # Errors
/// The windows are longer than the model's context, or the device fails.
pub(crate) fn validation_loss(model: &Gpt2LMHead, validation: &Validation, batch: usize) -> Result<f64> {
    let device = model.device();
    let (mut sum, mut tokens) = (0.0, 0.0);
    let mut settle = |pending: Option<(f64, PendingValue<f32>)>| -> Result<()> {
        if let Some((weight, loss)) = pending {
            sum += weight * loss.wait()?.first().map_or(f64::NAN, |&loss| f64::from(loss));
            tokens += weight;
        }
        Ok(())
    };
    let mut pending = None;
    let windows = validation_batches(&validation.stream, &validation.starts, validation.context, batch)?;
    for windows in windows {
        let windows = windows?;
        let weight = windows.tokens() as f64;
        let (inputs, targets) = upload(windows, &device);
        let loss = next_token_loss(model, &inputs, &targets, &Context::eval()).read()?;
        settle(pending.replace((weight, loss)))?;
    }
    settle(pending)?;
    Ok(sum / tokens)
}

/// Mean cross-entropy of a batch's next tokens, rank 0.
pub(crate) fn next_token_loss(
    model: &Gpt2LMHead,
    inputs: &Tensor,
    targets: &Tensor,
    ctx: &Context,
) -> Tensor {
    Gpt2LMHead::next_token_loss(&model.forward(inputs, None, ctx), targets)
}

/// A batch as tensors `[batch, context]`.
pub(crate) fn upload(batch: Batch, device: &DeviceHandle) -> (Tensor, Tensor) {
    let shape = [batch.batch, batch.context];
    (Tensor::from_vec(batch.inputs, shape, device), Tensor::from_vec(batch.targets, shape, device))
}
