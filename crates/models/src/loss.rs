//! Losses of language models.

use wgrad_nn::functional::cross_entropy;
use wgrad_tensor::Tensor;

/// Labels of this value do not count.
pub const IGNORED_LABEL: i32 = -100;

/// The mean cross-entropy of each position's logits with the *next* position's label, as Hugging Face computes it: logits `[b, t, v]`;
/// labels `[b, t]` are the ids themselves, with [`IGNORED_LABEL`] where a position does not count.
#[track_caller]
pub fn causal_loss(logits_btv: &Tensor, labels_bt: &Tensor) -> Tensor {
    let [_, t, _] = logits_btv.dims::<3>();
    if t < 2 && logits_btv.error().is_none() {
        return logits_btv.invalid("causal_loss", "needs at least two positions: each predicts the next one");
    }
    let last = t.saturating_sub(1);
    let (logits, labels) = (logits_btv.narrow(1, 0, last), labels_bt.narrow(1, 1, last));
    cross_entropy(&logits, &labels, Some(IGNORED_LABEL))
}
