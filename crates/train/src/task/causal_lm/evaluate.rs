//! Validation loss.

use wgrad_data::{Batch, validation_batches};
use wgrad_models::CausalLanguageModel;
use wgrad_nn::{Context, functional::cross_entropy};
use wgrad_tensor::{DeviceHandle, PendingValue, Tensor};

use super::corpus::Validation;
use crate::error::Result;
use crate::recipe::Precision;

/// Mean cross-entropy over all positions of all windows, in nats per token, without dropout.
///
/// Products are computed as in training. `batch` windows are computed at a time, and logits of `loss_chunk` tokens (0 for all of the batch); each batch is queued before
/// the previous one is waited for.
///
/// # Errors
/// The windows are longer than the model's context, or the device fails.
pub(super) fn validation_loss(
    model: &dyn CausalLanguageModel,
    validation: &Validation,
    batch: usize,
    loss_chunk: usize,
    precision: Precision,
) -> Result<f64> {
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
        let loss = next_token_loss(model, &inputs, &targets, loss_chunk, &Context::eval());
        let loss = loss.autocast(precision.dtype()).read()?;
        settle(pending.replace((weight, loss)))?;
    }
    settle(pending)?;
    Ok(sum / tokens)
}

/// A pass is cut into no more pieces than this, whatever the chunk: each adds kernels to the program.
const MOST_CHUNKS: usize = 128;

/// Mean cross-entropy of a batch's next tokens, rank 0, by way of logits of `loss_chunk` tokens at a time (0: of all at once).
pub(super) fn next_token_loss(
    model: &dyn CausalLanguageModel,
    inputs: &Tensor,
    targets: &Tensor,
    loss_chunk: usize,
    ctx: &Context,
) -> Tensor {
    if loss_chunk == 0 {
        return cross_entropy(&model.forward(inputs, None, ctx), targets, None);
    }
    let chunk = loss_chunk.max(targets.elements().div_ceil(MOST_CHUNKS));
    model.next_token_loss_in_chunks(&model.transform(inputs, None, ctx), targets, chunk)
}

/// A batch as tensors `[batch, context]`.
pub(super) fn upload(batch: Batch, device: &DeviceHandle) -> (Tensor, Tensor) {
    let shape = [batch.batch, batch.context];
    (Tensor::from_vec(batch.inputs, shape, device), Tensor::from_vec(batch.targets, shape, device))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wgrad_cpu::CpuDevice;
    use wgrad_data::{TokenStream, validation_windows};
    use wgrad_models::{Gpt2Config, Gpt2Init, Gpt2LMHead};
    use wgrad_nn::Init;

    use super::*;

    #[test]
    fn validation_in_chunks_gives_the_same_loss_from_less_memory() {
        const VOCABULARY: usize = 5000;
        let (batch, context) = (8, 32);
        let ids: Vec<u32> = (0..3000u32).map(|i| i * i % VOCABULARY as u32).collect();
        let stream = Arc::new(TokenStream::from_ids(&ids, VOCABULARY).expect("ids"));
        let starts = validation_windows(stream.len(), context, 20).expect("windows");
        let validation = Validation { stream, bytes: 0, starts, context };
        let measured = |loss_chunk| {
            let device: DeviceHandle = Arc::new(CpuDevice::new());
            let config = Gpt2Config {
                vocab_size: VOCABULARY,
                n_positions: context,
                n_embd: 16,
                n_layer: 1,
                n_head: 2,
                ..Gpt2Config::default()
            };
            let model = Gpt2LMHead::new(&config, &Init::new(&device, 3), Gpt2Init::Plain).expect("a model");
            let loss =
                validation_loss(&model, &validation, batch, loss_chunk, Precision::F32).expect("a loss");
            (loss, device.stats().peak_bytes)
        };
        let (whole, much) = measured(0);
        let (chunks, less) = measured(32);
        assert!((chunks - whole).abs() < 1e-5 * whole, "{chunks} and {whole}");
        let logits = (batch * context * VOCABULARY * 4) as u64;
        assert!(much > logits && less < much - logits / 2, "{less} bytes instead of {much}");
    }
}
