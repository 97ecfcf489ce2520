//! PyTorch's Transformer layers (Vaswani et al., 2017), batches first.
//!
//! Legend: b batch, t and s time of target and source, c width.

use wgrad_tensor::Tensor;

use super::{Dropout, LayerNorm, Linear, MultiheadAttention};
use crate::{Activation, Context, Init, Module, functional::Attention};

/// Extents and settings of a Transformer layer, with PyTorch's names and defaults.
#[derive(Clone, Copy, Debug)]
pub struct TransformerConfig {
    /// Width.
    pub d_model: usize,
    /// Heads; they divide the width.
    pub nhead: usize,
    /// Width of the feed-forward layer.
    pub dim_feedforward: usize,
    /// Dropout of weights and results.
    pub dropout: f64,
    /// Of the feed-forward layer.
    pub activation: Activation,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// Whether normalisation comes before each part (and once at the end), or after it and the residual.
    pub norm_first: bool,
}

impl TransformerConfig {
    /// PyTorch's defaults for a width and a number of heads.
    pub fn new(d_model: usize, nhead: usize) -> Self {
        TransformerConfig {
            d_model,
            nhead,
            dim_feedforward: 2048,
            dropout: 0.1,
            activation: Activation::Relu,
            layer_norm_eps: 1e-5,
            norm_first: false,
        }
    }

    fn norm(&self, init: &Init) -> LayerNorm {
        LayerNorm::new(init, self.d_model, self.layer_norm_eps)
    }

    fn attention(&self, init: &Init) -> MultiheadAttention {
        MultiheadAttention::new(init, self.d_model, self.nhead, self.dropout)
    }
}

/// `x + dropout(part(norm(x)))`, or `norm(x + dropout(part(x)))`.
#[track_caller]
fn residual(
    x: &Tensor,
    norm: &LayerNorm,
    norm_first: bool,
    dropout: &Dropout,
    ctx: &Context,
    part: impl FnOnce(&Tensor) -> Tensor,
) -> Tensor {
    if norm_first {
        x.add(dropout.forward(&part(&norm.forward(x)), ctx))
    } else {
        norm.forward(&x.add(dropout.forward(&part(x), ctx)))
    }
}

/// `linear2(dropout(activation(linear1(x))))`.
fn feed_forward(
    x: &Tensor,
    [linear1, linear2]: [&Linear; 2],
    activation: Activation,
    dropout: &Dropout,
    ctx: &Context,
) -> Tensor {
    let hidden = activation.forward(&linear1.forward(x));
    linear2.forward(&dropout.forward(&hidden, ctx))
}

/// Self-attention and a feed-forward layer, each with residual and normalisation.
#[derive(Clone, Debug, Module)]
pub struct TransformerEncoderLayer {
    /// Among all positions.
    pub self_attn: MultiheadAttention,
    /// `[dim_feedforward, c]`.
    pub linear1: Linear,
    /// `[c, dim_feedforward]`.
    pub linear2: Linear,
    /// Of the attention.
    pub norm1: LayerNorm,
    /// Of the feed-forward layer.
    pub norm2: LayerNorm,
    /// Its activation.
    #[module(skip)]
    pub activation: Activation,
    /// Of weights and results.
    pub dropout: Dropout,
    /// See [`TransformerConfig::norm_first`].
    pub norm_first: bool,
}

impl TransformerEncoderLayer {
    /// With PyTorch's initial values.
    pub fn new(init: &Init, config: &TransformerConfig) -> Self {
        let TransformerConfig { d_model, dim_feedforward, .. } = *config;
        TransformerEncoderLayer {
            self_attn: config.attention(init),
            linear1: Linear::new(init, d_model, dim_feedforward, true),
            linear2: Linear::new(init, dim_feedforward, d_model, true),
            norm1: config.norm(init),
            norm2: config.norm(init),
            activation: config.activation,
            dropout: Dropout::new(config.dropout),
            norm_first: config.norm_first,
        }
    }

    /// `[b, s, c]` to `[b, s, c]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, see: &Attention<'_>, ctx: &Context) -> Tensor {
        let x = residual(x, &self.norm1, self.norm_first, &self.dropout, ctx, |x| {
            self.self_attn.forward(x, x, x, see, ctx)
        });
        residual(&x, &self.norm2, self.norm_first, &self.dropout, ctx, |x| {
            feed_forward(x, [&self.linear1, &self.linear2], self.activation, &self.dropout, ctx)
        })
    }
}

/// A stack of [`TransformerEncoderLayer`]s.
#[derive(Clone, Debug, Module)]
pub struct TransformerEncoder {
    /// From input to output.
    pub layers: Vec<TransformerEncoderLayer>,
    /// After the last one.
    pub norm: Option<LayerNorm>,
}

impl TransformerEncoder {
    /// `count` layers; with a last normalisation if `norm`.
    pub fn new(init: &Init, config: &TransformerConfig, count: usize, norm: bool) -> Self {
        TransformerEncoder {
            layers: (0..count).map(|_| TransformerEncoderLayer::new(init, config)).collect(),
            norm: norm.then(|| config.norm(init)),
        }
    }

    /// `[b, s, c]` to `[b, s, c]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, see: &Attention<'_>, ctx: &Context) -> Tensor {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x, see, ctx);
        }
        self.norm.as_ref().map_or_else(|| x.clone(), |norm| norm.forward(&x))
    }
}

/// Self-attention, attention to the encoder's result and a feed-forward layer, each with residual and normalisation.
#[derive(Clone, Debug, Module)]
pub struct TransformerDecoderLayer {
    /// Among the target's positions.
    pub self_attn: MultiheadAttention,
    /// From the target to the source.
    pub multihead_attn: MultiheadAttention,
    /// `[dim_feedforward, c]`.
    pub linear1: Linear,
    /// `[c, dim_feedforward]`.
    pub linear2: Linear,
    /// Of the self-attention.
    pub norm1: LayerNorm,
    /// Of the attention to the source.
    pub norm2: LayerNorm,
    /// Of the feed-forward layer.
    pub norm3: LayerNorm,
    /// Its activation.
    #[module(skip)]
    pub activation: Activation,
    /// Of weights and results.
    pub dropout: Dropout,
    /// See [`TransformerConfig::norm_first`].
    pub norm_first: bool,
}

impl TransformerDecoderLayer {
    /// With PyTorch's initial values.
    pub fn new(init: &Init, config: &TransformerConfig) -> Self {
        let TransformerConfig { d_model, dim_feedforward, .. } = *config;
        TransformerDecoderLayer {
            self_attn: config.attention(init),
            multihead_attn: config.attention(init),
            linear1: Linear::new(init, d_model, dim_feedforward, true),
            linear2: Linear::new(init, dim_feedforward, d_model, true),
            norm1: config.norm(init),
            norm2: config.norm(init),
            norm3: config.norm(init),
            activation: config.activation,
            dropout: Dropout::new(config.dropout),
            norm_first: config.norm_first,
        }
    }

    /// `x [b, t, c]` and `memory [b, s, c]`, what the encoder gave, to `[b, t, c]`. `see` is for the self-attention (usually causal),
    /// `see_memory` for that to the source.
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        memory: &Tensor,
        see: &Attention<'_>,
        see_memory: &Attention<'_>,
        ctx: &Context,
    ) -> Tensor {
        let x = residual(x, &self.norm1, self.norm_first, &self.dropout, ctx, |x| {
            self.self_attn.forward(x, x, x, see, ctx)
        });
        let x = residual(&x, &self.norm2, self.norm_first, &self.dropout, ctx, |x| {
            self.multihead_attn.forward(x, memory, memory, see_memory, ctx)
        });
        residual(&x, &self.norm3, self.norm_first, &self.dropout, ctx, |x| {
            feed_forward(x, [&self.linear1, &self.linear2], self.activation, &self.dropout, ctx)
        })
    }
}

/// A stack of [`TransformerDecoderLayer`]s.
#[derive(Clone, Debug, Module)]
pub struct TransformerDecoder {
    /// From input to output.
    pub layers: Vec<TransformerDecoderLayer>,
    /// After the last one.
    pub norm: Option<LayerNorm>,
}

impl TransformerDecoder {
    /// `count` layers; with a last normalisation if `norm`.
    pub fn new(init: &Init, config: &TransformerConfig, count: usize, norm: bool) -> Self {
        TransformerDecoder {
            layers: (0..count).map(|_| TransformerDecoderLayer::new(init, config)).collect(),
            norm: norm.then(|| config.norm(init)),
        }
    }

    /// As [`TransformerDecoderLayer::forward`].
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        memory: &Tensor,
        see: &Attention<'_>,
        see_memory: &Attention<'_>,
        ctx: &Context,
    ) -> Tensor {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x, memory, see, see_memory, ctx);
        }
        self.norm.as_ref().map_or_else(|| x.clone(), |norm| norm.forward(&x))
    }
}
