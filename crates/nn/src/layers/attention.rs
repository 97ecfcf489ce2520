//! Self-attention.
//!
//! Legend: b batch, t time, c width, h heads, d width of a head.

use wgrad_tensor::Tensor;

use crate::{
    Context, Dropout, Init, Linear, Module,
    functional::{Attention, scaled_dot_product_attention},
};

/// Multi-head self-attention in which a position sees itself and what came before it (Vaswani et al., 2017), with
/// queries, keys and values from one projection.
#[derive(Clone, Debug, Module)]
pub struct CausalSelfAttention {
    /// `[3c, c]`: queries, then keys, then values.
    pub c_attn: Linear,
    /// `[c, c]`, applied to the joined heads.
    pub c_proj: Linear,
    /// Number of heads; it divides the width.
    pub n_head: usize,
    /// Applied to the attention weights.
    pub attn_dropout: f64,
    /// Applied to the result.
    pub resid_dropout: Dropout,
}

impl CausalSelfAttention {
    /// With biases, PyTorch's default initial values, and one dropout probability for weights and result.
    pub fn new(init: &Init, width: usize, n_head: usize, dropout: f64) -> Self {
        CausalSelfAttention {
            c_attn: Linear::new(init, width, 3 * width, true),
            c_proj: Linear::new(init, width, width, true),
            n_head,
            attn_dropout: dropout,
            resid_dropout: Dropout::new(dropout),
        }
    }

    /// `[b, t, c]` to `[b, t, c]`; `key_mask` (`bool [b, t]`) is false where a position is padding.
    #[track_caller]
    pub fn forward(&self, x_btc: &Tensor, key_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        let ([b, t, c], h) = (x_btc.dims::<3>(), self.n_head);
        if x_btc.error().is_some() {
            return x_btc.clone();
        }
        if x_btc.rank() != 3 || h == 0 || c % h != 0 {
            let message = format!(
                "expects [batch, time, width] with a width that {h} heads divide, got {}",
                x_btc.shape()
            );
            return x_btc.invalid("causal_self_attention", message);
        }
        let qkv_btn = self.c_attn.forward(x_btc);
        let part =
            |index: usize| qkv_btn.narrow(-1, index * c, c).reshape([b, t, h, c / h]).permute(&[0, 2, 1, 3]);
        let options =
            Attention { causal: true, key_mask, dropout: self.attn_dropout, ..Attention::default() };
        let y_bhtd = scaled_dot_product_attention(&part(0), &part(1), &part(2), &options, ctx);
        let y_btc = y_bhtd.permute(&[0, 2, 1, 3]).reshape([b, t, c]);
        self.resid_dropout.forward(&self.c_proj.forward(&y_btc), ctx)
    }
}
