//! Writing a text token by token.

use wgrad_nn::Context;
use wgrad_tensor::{DType, Tensor, eval};

use super::{EncoderDecoder, Source, last};
use crate::ModelError;

/// Sources that have been encoded once, and what the decoder says of the next token of their targets.
///
/// Targets are padded to one length, so that one program serves all tokens.
pub(super) struct Writer<'a, M: ?Sized> {
    model: &'a M,
    memory: Tensor,
    mask: Option<Tensor>,
    /// The longest target, the token that starts it included.
    capacity: usize,
}

impl<'a, M: EncoderDecoder + ?Sized> Writer<'a, M> {
    /// Encodes `ids [b, s]`, each for `copies` targets of at most `max_new_tokens` tokens after the one that starts them.
    pub(super) fn new(
        model: &'a M,
        ids: &Tensor,
        mask: Option<&Tensor>,
        copies: usize,
        max_new_tokens: usize,
    ) -> Result<Self, ModelError> {
        let memory = last(model.encode(ids, mask, &Context::eval()), ids).repeat_interleave(copies, 0);
        eval(&[&memory])?;
        let mask = mask.map(|mask| mask.repeat_interleave(copies, 0));
        let capacity = max_new_tokens.min(model.max_target()).max(1);
        Ok(Writer { model, memory: memory.detach_realized(), mask, capacity })
    }

    /// How many targets there are.
    pub(super) fn targets(&self) -> usize {
        self.memory.shape().first().copied().unwrap_or(0)
    }

    /// How many tokens can be written after the one that starts a target.
    pub(super) fn longest(&self) -> usize {
        self.capacity
    }

    /// Logits of the token after each text, `v` numbers for each.
    ///
    /// # Errors
    /// The model cannot be evaluated, or gives logits that are not numbers.
    pub(super) fn logits(&self, texts: &[Vec<i32>]) -> Result<Vec<f32>, ModelError> {
        let (model, b) = (self.model, texts.len());
        let device = model.device();
        let padded = texts.iter().flat_map(|text| {
            let tokens = text.iter().copied().chain(std::iter::repeat(model.pad_token_id()));
            tokens.take(self.capacity)
        });
        let ids = Tensor::from_vec(padded.collect::<Vec<i32>>(), [b, self.capacity], &device);
        let source = Source { memory: &self.memory, mask: self.mask.as_ref() };
        let x_btc = last(model.decode(&ids, None, &source, &Context::eval()), &ids);
        let [_, t, c] = x_btc.dims::<3>();
        let row = |(row, text): (usize, &Vec<i32>)| (row * t + text.len().clamp(1, t.max(1)) - 1) as i32;
        let rows = Tensor::from_vec(texts.iter().enumerate().map(row).collect::<Vec<i32>>(), [b], &device);
        let logits =
            model.logits(&x_btc.reshape([b * t, c]).embedding(&rows)).cast(DType::F32).to_vec::<f32>()?;
        if logits.iter().any(|l| l.is_nan()) {
            let message = "the model gives logits that are not numbers; its parameters are damaged";
            return Err(ModelError::Generate(message.into()));
        }
        Ok(logits)
    }

    /// [`Writer::logits`] with what the model's configuration says of tokens: some are not to be written, and the `last` one of a text may
    /// be given.
    pub(super) fn allowed(&self, texts: &[Vec<i32>], last: bool) -> Result<Vec<f32>, ModelError> {
        let mut logits = self.logits(texts)?;
        let forced = self.model.forced_eos_token_id().filter(|_| last);
        for logits in logits.chunks_exact_mut(self.model.vocab_size().max(1)) {
            if let Some(forced) = forced {
                logits.fill(f32::NEG_INFINITY);
                logits.iter_mut().skip(forced as usize).take(1).for_each(|logit| *logit = 0.0);
                continue;
            }
            for &token in self.model.suppressed_tokens() {
                logits.iter_mut().skip(token as usize).take(1).for_each(|logit| *logit = f32::NEG_INFINITY);
            }
        }
        Ok(logits)
    }
}

/// Writes the likeliest token after the tokens so far, for each source of `ids [b, s]`, until each text has ended or holds
/// `max_new_tokens`. The texts begin with [`EncoderDecoder::decoder_start_token_id`]; `stop` is whether the token that ends a text is
/// heeded, and what the configuration says of tokens.
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
    let writer = Writer::new(model, ids_bs, mask, 1, max_new_tokens)?;
    let eos = model.eos_token_id().filter(|_| stop);
    let mut texts = vec![vec![model.decoder_start_token_id()]; writer.targets()];
    let ended = |text: &Vec<i32>| text.len() > 1 && eos.is_some() && text.last().copied() == eos;
    let longest = writer.longest().min(max_new_tokens);
    for length in 1..=longest {
        if texts.iter().all(ended) {
            break;
        }
        let logits = if stop { writer.allowed(&texts, length == longest)? } else { writer.logits(&texts)? };
        for (text, logits) in texts.iter_mut().zip(logits.chunks_exact(model.vocab_size().max(1))) {
            if !ended(text) {
                // The smaller id wins a tie, as with argmax.
                let better =
                    |best: usize, (id, logit): (usize, &f32)| if *logit > logits[best] { id } else { best };
                text.push(logits.iter().enumerate().fold(0, better) as i32);
            }
        }
    }
    Ok(texts)
}
