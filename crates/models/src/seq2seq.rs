//! What models that write one text from another (translation) have in common.

use wgrad_nn::{
    Context,
    functional::{CrossEntropy, cross_entropy_with},
};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::{DType, Tensor, eval};

use crate::{IGNORED_LABEL, ModelError};

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

    /// Where it computes.
    fn device(&self) -> DeviceHandle;

    /// States of the source `ids [b, s]` (i32): after the embeddings, then after each block; the last one is the memory `[b, s, c]`
    /// of the decoder. `mask [b, s]` hides padding.
    fn encode(&self, ids_bs: &Tensor, mask: Option<&Tensor>, ctx: &Context) -> Vec<Tensor>;

    /// States of the target, of which the last one is what [`EncoderDecoder::logits`] takes.
    fn decode(&self, ids_bt: &Tensor, mask: Option<&Tensor>, source: &Source<'_>, ctx: &Context) -> Vec<Tensor>;

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

/// Writes the likeliest token after the tokens so far, for each source of a batch, until each text has ended or holds `max_new_tokens`.
/// The texts begin with [`EncoderDecoder::decoder_start_token_id`]; `stop` is whether the token that ends a text is heeded.
///
/// The source is encoded once. Targets are padded to one length, so that one program serves all tokens.
///
/// # Errors
/// The model cannot be evaluated, or gives logits that are not numbers.
pub fn greedy<M: EncoderDecoder + ?Sized>(
    model: &M,
    ids_bs: &Tensor,
    mask: Option<&Tensor>,
    max_new_tokens: usize,
    stop: bool,
) -> Result<Vec<Vec<i32>>, ModelError> {
    let (ctx, device) = (Context::eval(), model.device());
    let memory = last(model.encode(ids_bs, mask, &ctx), ids_bs);
    eval(&[&memory])?;
    let memory = memory.detach_realized();
    let b = memory.shape().first().copied().unwrap_or(0);
    let capacity = max_new_tokens.min(model.max_target()).max(1);
    let eos = model.eos_token_id().filter(|_| stop);
    let mut texts = vec![vec![model.decoder_start_token_id()]; b];
    for step in 0..capacity.min(max_new_tokens) {
        let ended = |text: &Vec<i32>| step > 0 && text.last().copied() == eos && eos.is_some();
        if b == 0 || texts.iter().all(ended) {
            break;
        }
        let padded = texts.iter().flat_map(|text| {
            let tokens = text.iter().copied().chain(std::iter::repeat(model.pad_token_id()));
            tokens.take(capacity).collect::<Vec<_>>()
        });
        let ids = Tensor::from_vec(padded.collect::<Vec<_>>(), [b, capacity], &device);
        let states = model.decode(&ids, None, &Source { memory: &memory, mask }, &ctx);
        let x_btc = last(states, &ids);
        let [_, t, c] = x_btc.dims::<3>();
        let rows: Vec<i32> = (0..b).map(|row| (row * t + texts[row].len() - 1) as i32).collect();
        let rows = Tensor::from_vec(rows, [b], &device);
        let logits = model.logits(&x_btc.reshape([b * t, c]).embedding(&rows)).cast(DType::F32).to_vec::<f32>()?;
        for (text, logits) in texts.iter_mut().zip(logits.chunks_exact(model.vocab_size().max(1))) {
            if logits.iter().any(|l| l.is_nan()) {
                let message = "the model gives logits that are not numbers; its parameters are damaged";
                return Err(ModelError::Generate(message.into()));
            }
            if ended(text) {
                continue;
            }
            // The smaller id wins a tie, as with argmax.
            let best = logits.iter().enumerate().fold(0, |best, (i, l)| if *l > logits[best] { i } else { best });
            text.push(best as i32);
        }
    }
    Ok(texts)
}
