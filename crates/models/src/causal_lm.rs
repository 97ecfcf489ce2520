//! What generation and training need of a language model.

use std::{fmt::Debug, path::Path};

use wgrad_nn::{Context, Module};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::{CacheSpec, KeyValueCache, ModelError};

/// A model that predicts the next token.
///
/// Legend of shapes: b batch, t time, c width, v vocabulary.
pub trait CausalLanguageModel: Module + Debug {
    /// Number of tokens.
    fn vocab_size(&self) -> usize;

    /// The longest context.
    fn max_context(&self) -> usize;

    /// Width of the residual stream.
    fn hidden_size(&self) -> usize;

    /// Whether training keeps of each block only what went into it, and computes the block again for its gradient. Off at first.
    fn set_gradient_checkpointing(&mut self, on: bool);

    /// The mean cross-entropy of the logits of `x_btc`, the result of [`CausalLanguageModel::transform`], with the next tokens `[b, t]`,
    /// of which only those of `chunk` positions exist at one time: see [`wgrad_nn::functional::linear_cross_entropy`].
    fn next_token_loss_in_chunks(&self, x_btc: &Tensor, targets_bt: &Tensor, chunk: usize) -> Tensor;

    /// Where it computes.
    fn device(&self) -> DeviceHandle;

    /// Logits `[b, t, v]` of the token after each position, for ids `[b, t]` (i32). `attention_mask [b, t]` (bool, or numbers of which
    /// 0 means the same as false) hides padding from the other positions.
    ///
    /// Ids of another rank, longer than the context, or (where the host knows them) not in the vocabulary are an error that
    /// the result carries.
    fn forward(&self, ids: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.logits(&self.transform(ids, attention_mask, ctx))
    }

    /// The residual stream `[b, t, c]` after the final norm: what the output layer sees.
    fn transform(&self, ids: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor;

    /// The residual stream `[b, t, c]`: first the embeddings, then after each block; the last one is after the final norm.
    fn hidden_states(&self, ids: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Vec<Tensor>;

    /// The output layer: `[.., c]` to `[.., v]`.
    fn logits(&self, x: &Tensor) -> Tensor;

    /// Of what size its keys and values are.
    fn cache_spec(&self) -> CacheSpec;

    /// As [`CausalLanguageModel::transform`], in evaluation mode, for the next ids `[b, t]` of the texts in a cache, which then holds
    /// their keys and values too. Where they go is [`KeyValueCache::position`]; it is for the caller to move on.
    fn transform_next(&self, ids: &Tensor, cache: &mut KeyValueCache) -> Tensor;

    /// Writes `config.json` and `model.safetensors` into a folder, as Hugging Face's `from_pretrained` reads them.
    ///
    /// # Errors
    /// The parameters cannot be read back, or the files cannot be written.
    fn save_pretrained(&self, dir: &Path) -> Result<(), ModelError>;
}
