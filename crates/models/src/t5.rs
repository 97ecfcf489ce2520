//! T5 (Raffel et al., *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer*, 2020) and its version 1.1
//! with gated feed-forward parts, as Hugging Face's `T5ForConditionalGeneration` computes them: pre-norm, no biases, positions as
//! learned terms of attention scores.
//!
//! Legend of shapes: b batch, s and t time of source and target, i queries, j keys, c width (`d_model`), n heads times `d_kv`, f inner
//! width, h heads, v vocabulary.

use std::path::Path;

use wgrad_nn::{
    Activation, Context, Dropout, Embedding, Init, Initializer, Linear, Module, RMSNorm, Visitor,
    functional::Attention,
};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::{
    ModelError,
    heads::{as_bool, attend},
    pretrained::{self, Weights, check_parameters, check_room},
    seq2seq::{EncoderDecoder, Source},
};

mod config;

pub use config::T5Config;

/// `T5ForConditionalGeneration`: encoder, decoder, and the output layer.
#[derive(Clone, Debug, Module)]
pub struct T5ForConditionalGeneration {
    /// Token table of both sides, `[v, c]`.
    pub shared: Embedding,
    /// Of the source.
    pub encoder: T5Stack,
    /// Of the target.
    pub decoder: T5Stack,
    /// The output layer, `[v, c]`, unless it is the token table.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    config: T5Config,
}

impl T5ForConditionalGeneration {
    /// A new model; the output layer is the token table where `tie_word_embeddings` says so. Weights are normal with the standard
    /// deviations of Mesh TensorFlow, by the width of what they are applied to.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &T5Config, init: &Init) -> Result<Self, ModelError> {
        config.validate()?;
        check_room("T5", config.parameters(), init)?;
        let (c, v) = (config.d_model, config.vocab_size);
        let normal = Initializer::Normal { std: config.initializer_factor };
        let model = T5ForConditionalGeneration {
            shared: Embedding::with(init, v, c, normal),
            encoder: T5Stack::new(config, init, false),
            decoder: T5Stack::new(config, init, true),
            lm_head: (!config.tie_word_embeddings).then(|| Linear::with(init, c, v, normal, None)),
            config: config.clone(),
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Reads a folder of `config.json` and `model.safetensors` as Hugging Face writes them. Configurations of version 1.1 say that the
    /// output layer is not tied; where the file has none it is the token table nevertheless, as Hugging Face reads it.
    ///
    /// # Errors
    /// A file is missing or damaged, or the two do not fit together.
    pub fn from_pretrained(dir: &Path, device: &DeviceHandle) -> Result<Self, ModelError> {
        let mut config: T5Config = pretrained::read_config(dir)?;
        let mut weights = Weights::read(dir, device)?;
        weights.drop_matching(&["*coder.embed_tokens.weight"]);
        // Of old files; attention to the source has no positions.
        weights.drop_matching(&["decoder.*.EncDecAttention.relative_attention_bias.weight"]);
        config.scale_decoder_outputs = Some(config.scales_outputs());
        if config.tie_word_embeddings {
            weights.drop_matching(&[LM_HEAD]);
        } else {
            config.tie_word_embeddings = !weights.contains(LM_HEAD);
        }
        let model = T5ForConditionalGeneration::new(&config, &Init::new(device, 0))?;
        weights.load_into(&model)?;
        Ok(model)
    }

    /// Writes `config.json` and `model.safetensors` into a folder, as Hugging Face's `from_pretrained` reads them.
    ///
    /// # Errors
    /// The parameters cannot be read back, or the files cannot be written.
    pub fn save_pretrained(&self, dir: &Path) -> Result<(), ModelError> {
        pretrained::save(dir, &self.config, self)
    }
}

const LM_HEAD: &str = "lm_head.weight";

impl EncoderDecoder for T5ForConditionalGeneration {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_target(&self) -> usize {
        // Distances beyond the last bucket share it.
        i32::MAX as usize
    }

    fn decoder_start_token_id(&self) -> i32 {
        self.config.decoder_start_token_id.unwrap_or(self.config.pad_token_id) as i32
    }

    fn pad_token_id(&self) -> i32 {
        self.config.pad_token_id as i32
    }

    fn eos_token_id(&self) -> Option<i32> {
        self.config.eos_token_id.map(|id| id as i32)
    }

    fn device(&self) -> DeviceHandle {
        self.shared.weight.tensor().device().clone()
    }

    #[track_caller]
    fn encode(&self, ids_bs: &Tensor, mask: Option<&Tensor>, ctx: &Context) -> Vec<Tensor> {
        self.encoder.forward(&self.shared.forward(ids_bs), mask, None, ctx)
    }

    #[track_caller]
    fn decode(
        &self,
        ids_bt: &Tensor,
        mask: Option<&Tensor>,
        source: &Source<'_>,
        ctx: &Context,
    ) -> Vec<Tensor> {
        self.decoder.forward(&self.shared.forward(ids_bt), mask, Some(source), ctx)
    }

    /// Version 1.0 scales the states by `1/√c` first, since the token table has unit variance.
    fn logits(&self, x: &Tensor) -> Tensor {
        let scaled = if self.config.scales_outputs() {
            let scale = (self.config.d_model as f64).sqrt().recip();
            x.mul(Tensor::constant(scale, x.dtype(), x.device()))
        } else {
            x.clone()
        };
        match &self.lm_head {
            Some(lm_head) => lm_head.forward(&scaled),
            None => scaled.matmul(&self.shared.weight.tensor().t()),
        }
    }
}

/// `T5Stack`: the blocks of one side, and the final norm.
#[derive(Clone, Debug, Module)]
pub struct T5Stack {
    /// From input to output.
    pub block: Vec<T5Block>,
    /// After the last one.
    pub final_layer_norm: RMSNorm,
    /// Of embeddings and results.
    pub dropout: Dropout,
    #[module(skip)]
    buckets: Buckets,
}

impl T5Stack {
    fn new(config: &T5Config, init: &Init, decoder: bool) -> Self {
        let layers = if decoder { config.decoder_layers() } else { config.num_layers };
        T5Stack {
            block: (0..layers).map(|layer| T5Block::new(config, init, decoder, layer == 0)).collect(),
            final_layer_norm: RMSNorm::new(init, config.d_model, config.layer_norm_epsilon),
            dropout: Dropout::new(config.dropout_rate),
            buckets: Buckets {
                bidirectional: !decoder,
                count: config.relative_attention_num_buckets,
                max_distance: config.relative_attention_max_distance,
            },
        }
    }

    /// The states of embeddings `[b, t, c]`: themselves, then after each block; the last one is after the final norm.
    #[track_caller]
    fn forward(
        &self,
        x_btc: &Tensor,
        mask: Option<&Tensor>,
        source: Option<&Source<'_>>,
        ctx: &Context,
    ) -> Vec<Tensor> {
        if x_btc.error().is_none() && x_btc.rank() != 3 {
            return vec![
                x_btc.invalid("t5", format!("expects ids [batch, time], got embeddings {}", x_btc.shape())),
            ];
        }
        let key_mask = mask.map(as_bool);
        let source_mask = source.and_then(|source| source.mask).map(as_bool);
        let bias = self.position_bias(x_btc);
        let mut x_btc = self.dropout.forward(x_btc, ctx);
        let mut states = Vec::with_capacity(self.block.len() + 1);
        let see = Attention {
            causal: source.is_some(),
            key_mask: key_mask.as_ref(),
            mask: bias.as_ref(),
            ..Attention::default()
        };
        for block in &self.block {
            let mut next = block.attention.forward(&x_btc, &x_btc, &see, ctx);
            if let (Some(cross), Some(source)) = (&block.cross_attention, source) {
                let see = Attention { key_mask: source_mask.as_ref(), ..Attention::default() };
                next = cross.forward(&next, source.memory, &see, ctx);
            }
            next = block.feed_forward.forward(&next, ctx);
            states.push(std::mem::replace(&mut x_btc, next));
        }
        states.push(self.dropout.forward(&self.final_layer_norm.forward(&x_btc), ctx));
        states
    }

    /// What is added to the scores of every block, `[1, h, i, j]`.
    fn position_bias(&self, x_btc: &Tensor) -> Option<Tensor> {
        let table = self.block.first()?.attention.attention.relative_attention_bias.as_ref()?;
        let [_, t, _] = x_btc.dims::<3>();
        let ids = Tensor::from_vec(self.buckets.of(t), [t, t], x_btc.device());
        Some(table.forward(&ids).permute(&[2, 0, 1]).unsqueeze(0))
    }
}

/// How distances share learned terms: near ones have their own, far ones share one per range that grows by a factor.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    bidirectional: bool,
    count: usize,
    max_distance: usize,
}

impl Buckets {
    /// The bucket of every query and key of `t` positions, row-major.
    fn of(self, t: usize) -> Vec<i32> {
        // It depends on the distance only.
        let by_distance: Vec<[i32; 2]> =
            (0..t).map(|d| [self.bucket(d, false), self.bucket(d, true)]).collect();
        let pairs = (0..t).flat_map(|query| (0..t).map(move |key| (query, key)));
        pairs.map(|(query, key)| by_distance[query.abs_diff(key)][usize::from(key > query)]).collect()
    }

    /// The bucket of a key `distance` positions before the query, or `ahead` of it.
    fn bucket(self, distance: usize, ahead: bool) -> i32 {
        let half = if self.bidirectional { self.count / 2 } else { self.count };
        let base = if self.bidirectional && ahead { half } else { 0 };
        let distance = if !self.bidirectional && ahead { 0 } else { distance };
        let exact = half / 2;
        if distance < exact {
            return (base + distance) as i32;
        }
        // In f32, so that distances at the border of two ranges fall where the reference puts them.
        let range = (self.max_distance as f64 / exact.max(1) as f64).ln() as f32;
        let share = (distance as f32 / exact.max(1) as f32).ln() / range;
        let far = exact + (share * (half - exact) as f32) as usize;
        (base + far.min(half.saturating_sub(1))) as i32
    }
}

/// `T5Block`: attention, in the decoder attention to the source, and feed-forward.
#[derive(Clone, Debug)]
pub struct T5Block {
    /// `layer.0`.
    pub attention: T5LayerAttention,
    /// `layer.1` of a decoder.
    pub cross_attention: Option<T5LayerAttention>,
    /// The last `layer`.
    pub feed_forward: T5LayerFF,
}

impl Module for T5Block {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.field("layer.0", |visitor| self.attention.named("SelfAttention", visitor));
        if let Some(cross) = &self.cross_attention {
            visitor.field("layer.1", |visitor| cross.named("EncDecAttention", visitor));
        }
        let last = if self.cross_attention.is_some() { "layer.2" } else { "layer.1" };
        visitor.field(last, |visitor| self.feed_forward.visit(visitor));
    }
}

impl T5Block {
    fn new(config: &T5Config, init: &Init, decoder: bool, first: bool) -> Self {
        T5Block {
            attention: T5LayerAttention::new(config, init, first),
            cross_attention: decoder.then(|| T5LayerAttention::new(config, init, false)),
            feed_forward: T5LayerFF::new(config, init),
        }
    }
}

/// Attention on a normed copy of the residual stream, to which it adds.
#[derive(Clone, Debug)]
pub struct T5LayerAttention {
    /// `SelfAttention` or `EncDecAttention`.
    pub attention: T5Attention,
    /// Before it.
    pub layer_norm: RMSNorm,
    /// After it.
    pub dropout: Dropout,
}

impl T5LayerAttention {
    fn new(config: &T5Config, init: &Init, positions: bool) -> Self {
        T5LayerAttention {
            attention: T5Attention::new(config, init, positions),
            layer_norm: RMSNorm::new(init, config.d_model, config.layer_norm_epsilon),
            dropout: Dropout::new(config.dropout_rate),
        }
    }

    fn named(&self, name: &str, visitor: &mut Visitor<'_>) {
        visitor.field(name, |visitor| self.attention.visit(visitor));
        visitor.field("layer_norm", |visitor| self.layer_norm.visit(visitor));
    }

    /// `memory` is what keys and values come from: another sequence, or the residual stream itself.
    #[track_caller]
    fn forward(&self, x_btc: &Tensor, memory: &Tensor, see: &Attention<'_>, ctx: &Context) -> Tensor {
        let normed = self.layer_norm.forward(x_btc);
        let keys = if memory.is_same(x_btc) { &normed } else { memory };
        x_btc.add(self.dropout.forward(&self.attention.forward(&normed, keys, see, ctx), ctx))
    }
}

/// `T5Attention`: multi-head attention without scaling and biases.
#[derive(Clone, Debug, Module)]
pub struct T5Attention {
    /// Queries, `[n, c]`.
    pub q: Linear,
    /// Keys, `[n, c]`.
    pub k: Linear,
    /// Values, `[n, c]`.
    pub v: Linear,
    /// Onto the residual stream, `[c, n]`.
    pub o: Linear,
    /// `[buckets, h]`, in the first block of each side; it serves all of them.
    pub relative_attention_bias: Option<Embedding>,
    /// Number of heads.
    pub num_heads: usize,
    /// Dropout of attention weights.
    pub dropout: f64,
}

impl T5Attention {
    fn new(config: &T5Config, init: &Init, positions: bool) -> Self {
        let (c, n, h) = (config.d_model, config.num_heads * config.d_kv, config.num_heads);
        let normal = |variance: f64| Initializer::Normal { std: config.initializer_factor / variance.sqrt() };
        let (c_, d_, n_) = (c as f64, config.d_kv as f64, n as f64);
        let table = || Embedding::with(init, config.relative_attention_num_buckets, h, normal(c_));
        T5Attention {
            q: Linear::with(init, c, n, normal(c_ * d_), None),
            k: Linear::with(init, c, n, normal(c_), None),
            v: Linear::with(init, c, n, normal(c_), None),
            o: Linear::with(init, n, c, normal(n_), None),
            relative_attention_bias: positions.then(table),
            num_heads: h,
            dropout: config.dropout_rate,
        }
    }

    #[track_caller]
    fn forward(&self, x_bic: &Tensor, memory_bjc: &Tensor, see: &Attention<'_>, ctx: &Context) -> Tensor {
        let (q, k, v) = (self.q.forward(x_bic), self.k.forward(memory_bjc), self.v.forward(memory_bjc));
        let options = Attention { scale: Some(1.0), dropout: self.dropout, ..*see };
        self.o.forward(&attend([&q, &k, &v], self.num_heads, &options, ctx))
    }
}

/// `T5LayerFF`: to the inner width and back, on a normed copy of the residual stream, to which it adds.
#[derive(Clone, Debug, Module)]
pub struct T5LayerFF {
    /// The two or three projections.
    #[module(rename = "DenseReluDense")]
    pub dense: T5Dense,
    /// Before them.
    pub layer_norm: RMSNorm,
    /// Of the inner activations and of the result.
    pub dropout: Dropout,
}

/// `W act(W₁ x)`, or gated: `W (act(W₁ x) · W₂ x)`.
#[derive(Clone, Debug, Module)]
pub struct T5Dense {
    /// `[f, c]`, where there is no gate.
    pub wi: Option<Linear>,
    /// `[f, c]`, with the activation.
    pub wi_0: Option<Linear>,
    /// `[f, c]`, what it gates.
    pub wi_1: Option<Linear>,
    /// `[c, f]`.
    pub wo: Linear,
    /// Of the inner width.
    #[module(skip)]
    pub act: Activation,
}

impl T5LayerFF {
    fn new(config: &T5Config, init: &Init) -> Self {
        let (c, f) = (config.d_model, config.d_ff);
        let linear = |inputs: usize, outputs: usize| {
            let std = config.initializer_factor / (inputs as f64).sqrt();
            Linear::with(init, inputs, outputs, Initializer::Normal { std }, None)
        };
        let (gated, act) = config.activation();
        T5LayerFF {
            dense: T5Dense {
                wi: (!gated).then(|| linear(c, f)),
                wi_0: gated.then(|| linear(c, f)),
                wi_1: gated.then(|| linear(c, f)),
                wo: linear(f, c),
                act,
            },
            layer_norm: RMSNorm::new(init, c, config.layer_norm_epsilon),
            dropout: Dropout::new(config.dropout_rate),
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, ctx: &Context) -> Tensor {
        let T5Dense { wi, wi_0, wi_1, wo, act } = &self.dense;
        let normed = self.layer_norm.forward(x_btc);
        let mut inner_btf = match wi.as_ref().or(wi_0.as_ref()) {
            Some(wi) => act.forward(&wi.forward(&normed)),
            None => normed.clone(),
        };
        if let Some(gate) = wi_1 {
            inner_btf = inner_btf.mul(gate.forward(&normed));
        }
        let y_btc = wo.forward(&self.dropout.forward(&inner_btf, ctx));
        x_btc.add(self.dropout.forward(&y_btc, ctx))
    }
}

#[cfg(test)]
mod tests {
    use super::Buckets;

    #[test]
    fn near_distances_have_buckets_of_their_own_and_far_ones_share() {
        let buckets = Buckets { bidirectional: true, count: 8, max_distance: 12 };
        let behind: Vec<i32> = (0..14).map(|d| buckets.bucket(d, false)).collect();
        assert_eq!(behind, [0, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!(buckets.bucket(1, true), 5);
        assert_eq!(buckets.of(2), [0, 5, 1, 0]);
        let one_sided = Buckets { bidirectional: false, ..buckets };
        assert_eq!(one_sided.of(2), [0, 0, 1, 0]);
        assert_eq!(one_sided.bucket(100, false), 7);
    }
}
