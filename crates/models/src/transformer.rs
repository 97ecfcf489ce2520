//! Models of PyTorch's own Transformer layers (Vaswani et al., *Attention Is All You Need*, 2017), with learned positions: one that
//! translates (`nn.Transformer`), and one encoder for several tasks (`nn.TransformerEncoder`).
//!
//! Masks are as PyTorch's modules take them: true at padding. Legend of shapes: b batch, s and t time of source and target, c width,
//! v vocabulary.

use serde::{Deserialize, Serialize};
use wgrad_nn::{
    Activation, Context, Embedding, Init, Linear, Module, TransformerConfig, TransformerDecoder,
    TransformerEncoder,
    functional::{Attention, cross_entropy},
    multi_task::weighted_sum,
};
use wgrad_tensor::{DType, Tensor};

use crate::{
    IGNORED_LABEL, ModelError,
    bert::mean_pooling,
    folders::folders,
    heads::time_of,
    pretrained::{Weights, check_parameters, check_room},
};

/// Extents that both models have.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Extents {
    /// Number of tokens.
    pub vocab: usize,
    /// Width.
    pub d_model: usize,
    /// Heads; they divide the width.
    pub heads: usize,
    /// Inner width of the feed-forward parts.
    pub ff: usize,
    /// The longest text.
    pub max_len: usize,
    /// Whether normalisation comes before each part.
    #[serde(default)]
    pub norm_first: bool,
    /// Of the feed-forward parts.
    #[serde(default = "relu")]
    pub activation: Activation,
    /// Dropout of weights and results.
    #[serde(default)]
    pub dropout: f64,
}

fn relu() -> Activation {
    Activation::Relu
}

impl Extents {
    fn layers(&self) -> TransformerConfig {
        TransformerConfig {
            dim_feedforward: self.ff,
            dropout: self.dropout,
            activation: self.activation,
            norm_first: self.norm_first,
            ..TransformerConfig::new(self.d_model, self.heads)
        }
    }

    /// Numbers of the layers, saturating: of an encoder's (one attention) or a decoder's (two).
    fn parameters(&self, layers: usize, attentions: u128) -> u128 {
        let (c, f) = (self.d_model as u128, self.ff as u128);
        let layer = attentions * (4 * (c * c + c) + 2 * c) + 2 * c * f + f + 3 * c;
        (layers as u128).saturating_mul(layer)
    }

    fn validate(&self, further: &[(&str, usize)]) -> Result<(), ModelError> {
        let refuse = |message: String| Err(ModelError::Config { model: "Transformer", message });
        let sizes = [
            ("vocab", self.vocab),
            ("d_model", self.d_model),
            ("heads", self.heads),
            ("ff", self.ff),
            ("max_len", self.max_len),
        ];
        let wrong = |(_, size): &&(&str, usize)| *size == 0 || *size > i32::MAX as usize;
        if let Some((key, size)) = sizes.iter().chain(further).find(wrong) {
            return refuse(format!("`{key}` is {size}, expected 1 to {}", i32::MAX));
        }
        if !self.d_model.is_multiple_of(self.heads) {
            return refuse(format!("`heads` ({}) does not divide `d_model` ({})", self.heads, self.d_model));
        }
        if !(0.0..=1.0).contains(&self.dropout) {
            return refuse(format!("`dropout` is {}, expected a probability in [0, 1]", self.dropout));
        }
        Ok(())
    }
}

/// True where a mask `[b, t]` says that there is padding: true where there is none.
fn present(padding: Option<&Tensor>) -> Option<Tensor> {
    padding.map(|mask| mask.cast(DType::Bool).logical_not())
}

/// Tokens plus learned positions, `[b, t, c]`.
#[track_caller]
fn embed(tokens: &Embedding, positions: &Embedding, ids_bt: &Tensor) -> Tensor {
    let table = positions.weight.tensor();
    let [longest, _] = table.dims::<2>();
    match time_of("transformer", ids_bt, longest, "max_len") {
        Ok(t) => tokens.forward(ids_bt).add(table.narrow(0, 0, t)),
        Err(faulty) => *faulty,
    }
}

/// The configuration of [`TransformerSeq2Seq`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TransformerSeq2SeqConfig {
    /// Shared by both sides.
    #[serde(flatten)]
    pub extents: Extents,
    /// Number of layers of encoder and decoder.
    pub layers: [usize; 2],
}

/// `nn.Transformer` between token tables and an output layer.
#[derive(Clone, Debug, Module)]
pub struct TransformerSeq2Seq {
    /// Token table of the source, `[v, c]`.
    pub src: Embedding,
    /// Token table of the target, `[v, c]`.
    pub tgt: Embedding,
    /// Positions of both, `[max_len, c]`.
    pub pos: Embedding,
    /// Encoder and decoder.
    pub tr: Transformer,
    /// The output layer, `[v, c]`.
    pub out: Linear,
    #[module(skip)]
    config: TransformerSeq2SeqConfig,
}

/// `nn.Transformer`: both stacks end in a norm.
#[derive(Clone, Debug, Module)]
pub struct Transformer {
    /// Of the source.
    pub encoder: TransformerEncoder,
    /// Of the target.
    pub decoder: TransformerDecoder,
}

impl TransformerSeq2Seq {
    /// A new model with PyTorch's initial values.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &TransformerSeq2SeqConfig, init: &Init) -> Result<Self, ModelError> {
        let (extents, [encoder, decoder]) = (&config.extents, config.layers);
        extents.validate(&[("layers[0]", encoder), ("layers[1]", decoder)])?;
        let tables = (3 * extents.vocab as u128 + extents.max_len as u128) * extents.d_model as u128;
        let all = tables
            .saturating_add(extents.parameters(encoder, 1))
            .saturating_add(extents.parameters(decoder, 2));
        check_room("Transformer", usize::try_from(all).unwrap_or(usize::MAX), init)?;
        let (layers, table) = (extents.layers(), |rows| Embedding::new(init, rows, extents.d_model));
        let model = TransformerSeq2Seq {
            src: table(extents.vocab),
            tgt: table(extents.vocab),
            pos: table(extents.max_len),
            tr: Transformer {
                encoder: TransformerEncoder::new(init, &layers, encoder, true),
                decoder: TransformerDecoder::new(init, &layers, decoder, true),
            },
            out: Linear::new(init, extents.d_model, extents.vocab, true),
            config: config.clone(),
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Logits `[b, t, v]` of the token after each position of `target [b, t]`, from what came before it and from `source [b, s]`; the
    /// two are ids, each with a mask that is true at padding. Their loss is [`seq2seq_loss`](crate::seq2seq::seq2seq_loss).
    #[track_caller]
    pub fn forward(
        &self,
        source: &Tensor,
        target: &Tensor,
        source_padding: Option<&Tensor>,
        target_padding: Option<&Tensor>,
        ctx: &Context,
    ) -> Tensor {
        let (in_source, in_target) = (present(source_padding), present(target_padding));
        let see_source = Attention { key_mask: in_source.as_ref(), ..Attention::default() };
        let see = Attention { causal: true, key_mask: in_target.as_ref(), ..Attention::default() };
        let memory = self.tr.encoder.forward(&embed(&self.src, &self.pos, source), &see_source, ctx);
        let x_btc = embed(&self.tgt, &self.pos, target);
        self.out.forward(&self.tr.decoder.forward(&x_btc, &memory, &see, &see_source, ctx))
    }
}

/// The configuration of [`MultiTaskEncoder`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MultiTaskConfig {
    /// Of the encoder.
    #[serde(flatten)]
    pub extents: Extents,
    /// Number of layers.
    pub layers: usize,
    /// Classes of texts.
    pub classes: usize,
    /// Classes of tokens.
    pub tags: usize,
}

/// One encoder for two tasks: classes of texts and classes of tokens.
#[derive(Clone, Debug, Module)]
pub struct MultiTaskEncoder {
    /// Token table, `[v, c]`.
    pub tok: Embedding,
    /// Positions, `[max_len, c]`.
    pub pos: Embedding,
    /// Shared by the tasks.
    pub encoder: TransformerEncoder,
    /// Classes of texts, `[classes, c]`.
    pub head_cls: Linear,
    /// Classes of tokens, `[tags, c]`.
    pub head_tag: Linear,
    #[module(skip)]
    config: MultiTaskConfig,
}

/// What [`MultiTaskEncoder::forward`] computes.
#[derive(Clone, Debug)]
pub struct MultiTaskOutput {
    /// The encoder's result, `[b, t, c]`.
    pub hidden: Tensor,
    /// `[b, classes]`, of the mean over the positions that are not padding.
    pub logits_cls: Tensor,
    /// `[b, t, tags]`.
    pub logits_tag: Tensor,
}

impl MultiTaskOutput {
    /// The mean cross-entropies of classes `[b]` and of tags `[b, t]` (those of -100 do not count).
    #[track_caller]
    pub fn losses(&self, classes: &Tensor, tags: &Tensor) -> [Tensor; 2] {
        let loss = |logits, labels| cross_entropy(logits, labels, Some(IGNORED_LABEL));
        [loss(&self.logits_cls, classes), loss(&self.logits_tag, tags)]
    }

    /// `Σ λᵢ Lᵢ` of [`MultiTaskOutput::losses`]; see [`wgrad_nn::multi_task`] for weights that are learned or balanced.
    #[track_caller]
    pub fn loss(&self, classes: &Tensor, tags: &Tensor, weights: [f64; 2]) -> Tensor {
        let [cls, tag] = self.losses(classes, tags);
        weighted_sum(&[&cls, &tag], &weights)
    }
}

impl MultiTaskEncoder {
    /// A new model with PyTorch's initial values.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &MultiTaskConfig, init: &Init) -> Result<Self, ModelError> {
        let MultiTaskConfig { extents, layers, classes, tags } = config;
        extents.validate(&[("layers", *layers), ("classes", *classes), ("tags", *tags)])?;
        let tables = (extents.vocab as u128 + extents.max_len as u128) * extents.d_model as u128;
        let all = tables.saturating_add(extents.parameters(*layers, 1));
        check_room("multi-task encoder", usize::try_from(all).unwrap_or(usize::MAX), init)?;
        let table = |rows| Embedding::new(init, rows, extents.d_model);
        let model = MultiTaskEncoder {
            tok: table(extents.vocab),
            pos: table(extents.max_len),
            encoder: TransformerEncoder::new(init, &extents.layers(), *layers, false),
            head_cls: Linear::new(init, extents.d_model, *classes, true),
            head_tag: Linear::new(init, extents.d_model, *tags, true),
            config: config.clone(),
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Ids `[b, t]` to the scores of both tasks; `padding [b, t]` is true at padding.
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, padding: Option<&Tensor>, ctx: &Context) -> MultiTaskOutput {
        let keep = present(padding);
        let see = Attention { key_mask: keep.as_ref(), ..Attention::default() };
        let hidden = self.encoder.forward(&embed(&self.tok, &self.pos, ids_bt), &see, ctx);
        let pooled = keep.map_or_else(|| hidden.mean(&[1], false), |keep| mean_pooling(&hidden, &keep));
        MultiTaskOutput {
            logits_cls: self.head_cls.forward(&pooled),
            logits_tag: self.head_tag.forward(&hidden),
            hidden,
        }
    }
}

folders!(TransformerSeq2SeqConfig, Weights::read; TransformerSeq2Seq);
folders!(MultiTaskConfig, Weights::read; MultiTaskEncoder);
