//! What models that write one text from another (translation) have in common.

use wgrad_nn::{
    Context,
    functional::{CrossEntropy, cross_entropy_with},
};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::IGNORED_LABEL;

mod beam;
mod writer;

pub use beam::{BeamSearch, beam_search};
pub use writer::greedy;

/// An encoder, and a decoder that attends to what the encoder made of the source.
///
/// Legend of shapes: b batch, s and t time of source and target, c width, v vocabulary.
pub trait EncoderDecoder {
    /// Number of tokens of the target.
    fn vocab_size(&self) -> usize;

    /// The longest target.
    fn max_target(&self) -> usize;

    /// The token before the first one of a target.
    fn decoder_start_token_id(&self) -> i32;

    /// The token of padding.
    fn pad_token_id(&self) -> i32;

    /// The token that ends a text.
    fn eos_token_id(&self) -> Option<i32>;

    /// The token that every text ends with that is cut, where there is one.
    fn forced_eos_token_id(&self) -> Option<i32> {
        None
    }

    /// Tokens that are not to be written.
    fn suppressed_tokens(&self) -> &[i32] {
        &[]
    }

    /// Where it computes.
    fn device(&self) -> DeviceHandle;

    /// States of the source `ids [b, s]` (i32): after the embeddings, then after each block; the last one is the memory `[b, s, c]`
    /// of the decoder. `mask [b, s]` hides padding.
    fn encode(&self, ids_bs: &Tensor, mask: Option<&Tensor>, ctx: &Context) -> Vec<Tensor>;

    /// States of the target, of which the last one is what [`EncoderDecoder::logits`] takes.
    fn decode(
        &self,
        ids_bt: &Tensor,
        mask: Option<&Tensor>,
        source: &Source<'_>,
        ctx: &Context,
    ) -> Vec<Tensor>;

    /// The output layer: `[.., c]` to `[.., v]`.
    fn logits(&self, x: &Tensor) -> Tensor;

    /// What the decoder reads to predict `labels [b, t]`: the token that starts, then the labels but the last one, padding where they do
    /// not count.
    #[track_caller]
    fn shift_right(&self, labels_bt: &Tensor) -> Tensor {
        let [b, t] = labels_bt.dims::<2>();
        let constant = |value: i32| Tensor::constant(f64::from(value), labels_bt.dtype(), labels_bt.device());
        let start = constant(self.decoder_start_token_id()).expand([b, 1]);
        let shifted = Tensor::cat(&[&start, &labels_bt.narrow(1, 0, t.saturating_sub(1))], 1);
        // Computed, since the host knows of a selection only that it may hold labels that are no ids.
        let counts = shifted.ne(constant(IGNORED_LABEL)).cast(labels_bt.dtype());
        let padding = constant(1).sub(&counts).mul(constant(self.pad_token_id()));
        shifted.mul(&counts).add(padding)
    }

    /// Logits `[b, t, v]` for each of `labels [b, t]`, from the source and the labels before it. `target_mask [b, t]` hides padding.
    #[track_caller]
    fn forward(
        &self,
        ids_bs: &Tensor,
        mask: Option<&Tensor>,
        labels_bt: &Tensor,
        target_mask: Option<&Tensor>,
        ctx: &Context,
    ) -> Tensor {
        let memory = last(self.encode(ids_bs, mask, ctx), ids_bs);
        let target = self.shift_right(labels_bt);
        let states = self.decode(&target, target_mask, &Source { memory: &memory, mask }, ctx);
        self.logits(&last(states, labels_bt))
    }
}

/// What a decoder attends to.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The encoder's last states, `[b, s, c]`.
    pub memory: &'a Tensor,
    /// Which of them are not padding, `[b, s]`.
    pub mask: Option<&'a Tensor>,
}

/// The last state, or the ids where there are none.
pub(crate) fn last(mut states: Vec<Tensor>, ids: &Tensor) -> Tensor {
    states.pop().unwrap_or_else(|| ids.clone())
}

/// The mean cross-entropy of logits `[b, t, v]` over the labels `[b, t]` that are not -100, with `label_smoothing` of the target spread
/// evenly over all tokens.
#[track_caller]
pub fn seq2seq_loss(logits_btv: &Tensor, labels_bt: &Tensor, label_smoothing: f64) -> Tensor {
    let options = CrossEntropy {
        ignore_index: Some(IGNORED_LABEL),
        label_smoothing,
        class_dim: -1,
        ..CrossEntropy::default()
    };
    cross_entropy_with(logits_btv, labels_bt, &options)
}
