//! LLaMA (Touvron et al., *LLaMA: Open and Efficient Foundation Language Models*, 2023), as Hugging Face's `LlamaForCausalLM` computes it:
//! a pre-norm transformer with RMS norms, rotary positions, gated feed-forward parts and grouped queries.
//!
//! Mistral (Jiang et al., 2023) adds a window, Qwen2 (Yang et al., 2024) biases, Qwen3 (Yang et al., 2025) norms of queries and keys.
//!
//! Legend of shapes: b batch, t time, c width, h heads, g key heads, d width of a head, f inner width, v vocabulary.

use std::path::Path;

use wgrad_nn::{Activation, Context, Embedding, Init, Initializer, Linear, Module, RMSNorm};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::{
    CacheSpec, CausalLanguageModel, InitScheme, KeyValueCache, ModelError,
    decoder::{self, Pass, Weighing},
    pretrained::{self, Weights, check_parameters, check_room},
    rotary::Rotary,
};

mod config;

pub use config::LlamaConfig;
pub(crate) use config::MODEL_TYPES;

/// `LlamaForCausalLM`: the transformer and its output layer.
#[derive(Clone, Debug, Module)]
pub struct LlamaForCausalLM {
    /// Everything below the output layer.
    pub model: LlamaModel,
    /// The output layer, `[v, c]`, unless it is tied to the token table.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    config: LlamaConfig,
}

impl LlamaForCausalLM {
    /// A new model.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &LlamaConfig, init: &Init, scheme: InitScheme) -> Result<Self, ModelError> {
        config.validate()?;
        check_room("LLaMA", config.parameters(), init)?;
        let refuse = |message| ModelError::Config { model: "LLaMA", message };
        let rope =
            Rotary::new(&config.rope(), config.head_width(), config.max_position_embeddings, init.device());
        let (weights, residual) = scheme.weights(config.initializer_range, config.num_hidden_layers);
        let (c, v) = (config.hidden_size, config.vocab_size);
        let model = LlamaModel {
            embed_tokens: Embedding::with(init, v, c, weights),
            layers: (0..config.num_hidden_layers)
                .map(|layer| DecoderLayer::new(config, init, [weights, residual], layer))
                .collect(),
            norm: RMSNorm::new(init, c, config.rms_norm_eps),
            rope: rope.map_err(refuse)?,
            checkpointing: false,
        };
        let lm_head = (!config.tie_word_embeddings).then(|| Linear::with(init, c, v, weights, None));
        let model = LlamaForCausalLM { model, lm_head, config: config.clone() };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Whether training keeps of each block only what went into it, and computes the block again for its gradient: memory for
    /// activations shrinks to about one block's, for about a third more work. Off at first.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.model.checkpointing = on;
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Logits `[b, t, v]`; see [`CausalLanguageModel::forward`].
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.logits(&self.model.forward(ids_bt, attention_mask, ctx))
    }

    /// The output layer: `[.., c]` to `[.., v]`.
    #[track_caller]
    pub fn logits(&self, x: &Tensor) -> Tensor {
        decoder::logits(x, self.lm_head.as_ref(), &self.model.embed_tokens)
    }

    /// The mean cross-entropy of the logits of `x_btc`, the result of [`LlamaModel::forward`], with the next tokens `[b, t]`, of which
    /// only those of `chunk` positions exist at one time: see [`wgrad_nn::functional::linear_cross_entropy`].
    #[track_caller]
    pub fn next_token_loss_in_chunks(&self, x_btc: &Tensor, targets_bt: &Tensor, chunk: usize) -> Tensor {
        let output = (self.lm_head.as_ref(), &self.model.embed_tokens);
        decoder::next_token_loss_in_chunks(x_btc, output, targets_bt, chunk)
    }

    /// Reads a folder of `config.json` and `model.safetensors` (whole or in shards) as Hugging Face writes them; weights become f32.
    ///
    /// # Errors
    /// A file is missing or damaged, or the two do not fit together.
    pub fn from_pretrained(dir: &Path, device: &DeviceHandle) -> Result<Self, ModelError> {
        Self::from_pretrained_as(dir, &Init::new(device, 0))
    }

    /// As [`LlamaForCausalLM::from_pretrained`], with the weights converted to the dtype of `init`.
    ///
    /// # Errors
    /// As there.
    pub fn from_pretrained_as(dir: &Path, init: &Init) -> Result<Self, ModelError> {
        let config = pretrained::read_keys(dir, LlamaConfig::from_keys)?;
        let model = LlamaForCausalLM::new(&config, init, InitScheme::Zeros)?;
        let mut weights = Weights::read(dir, init.device())?;
        weights.drop_matching(&["*.rotary_emb.inv_freq"]);
        weights.add_prefix("model.", &["lm_head.weight"]);
        if config.tie_word_embeddings {
            weights.tie("lm_head.weight", "model.embed_tokens.weight");
        }
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

impl CausalLanguageModel for LlamaForCausalLM {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_context(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    fn set_gradient_checkpointing(&mut self, on: bool) {
        LlamaForCausalLM::set_gradient_checkpointing(self, on);
    }

    fn next_token_loss_in_chunks(&self, x_btc: &Tensor, targets_bt: &Tensor, chunk: usize) -> Tensor {
        LlamaForCausalLM::next_token_loss_in_chunks(self, x_btc, targets_bt, chunk)
    }

    fn device(&self) -> DeviceHandle {
        self.model.embed_tokens.weight.tensor().device().clone()
    }

    fn transform(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.model.forward(ids_bt, attention_mask, ctx)
    }

    fn hidden_states(&self, ids_bt: &Tensor, mask: Option<&Tensor>, ctx: &Context) -> Vec<Tensor> {
        decoder::hidden_states(mask, ctx, |pass, before| self.model.run(ids_bt, pass, before))
    }

    fn logits(&self, x: &Tensor) -> Tensor {
        LlamaForCausalLM::logits(self, x)
    }

    fn cache_spec(&self) -> CacheSpec {
        CacheSpec {
            layers: self.config.num_hidden_layers,
            heads: self.config.key_heads(),
            width: self.config.head_width(),
            dtype: self.model.embed_tokens.weight.tensor().dtype(),
        }
    }

    fn transform_next(&self, ids_bt: &Tensor, cache: &mut KeyValueCache) -> Tensor {
        decoder::transform_next(cache, |pass| self.model.run(ids_bt, pass, |_| ()))
    }

    fn save_pretrained(&self, dir: &Path) -> Result<(), ModelError> {
        LlamaForCausalLM::save_pretrained(self, dir)
    }
}

/// `LlamaModel`: token table, blocks, final norm.
#[derive(Clone, Debug, Module)]
pub struct LlamaModel {
    /// Token table, `[v, c]`.
    pub embed_tokens: Embedding,
    /// The blocks.
    pub layers: Vec<DecoderLayer>,
    /// Final norm.
    pub norm: RMSNorm,
    #[module(skip)]
    rope: Rotary,
    #[module(skip)]
    checkpointing: bool,
}

impl LlamaModel {
    /// Ids `[b, t]` to the normed residual stream `[b, t, c]`.
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.run(ids_bt, &Pass::whole(attention_mask, self.checkpointing, ctx), |_| ())
    }

    /// As `forward`, showing what goes into each block.
    #[track_caller]
    fn run(&self, ids_bt: &Tensor, pass: &Pass<'_>, mut before: impl FnMut(&Tensor)) -> Tensor {
        if ids_bt.error().is_none() && ids_bt.rank() != 2 {
            return ids_bt.invalid("llama", format!("expects ids [batch, time], got {}", ids_bt.shape()));
        }
        let [_, t] = ids_bt.dims::<2>();
        let turns = self.rope.at(pass, t);
        let mut x_btc = self.embed_tokens.forward(ids_bt);
        for layer in &self.layers {
            before(&x_btc);
            x_btc = pass.through(&x_btc, |x| layer.forward(x, &self.rope, &turns, pass));
        }
        self.norm.forward(&x_btc)
    }
}

/// `LlamaDecoderLayer`: attention, then feed-forward, each on a normed copy of the residual stream to which it adds.
#[derive(Clone, Debug, Module)]
pub struct DecoderLayer {
    /// Before attention.
    pub input_layernorm: RMSNorm,
    /// Attention.
    pub self_attn: LlamaAttention,
    /// Before the feed-forward part.
    pub post_attention_layernorm: RMSNorm,
    /// Feed-forward part.
    pub mlp: LlamaMlp,
}

impl DecoderLayer {
    fn new(config: &LlamaConfig, init: &Init, weights: [Initializer; 2], layer: usize) -> Self {
        let norm = || RMSNorm::new(init, config.hidden_size, config.rms_norm_eps);
        DecoderLayer {
            input_layernorm: norm(),
            self_attn: LlamaAttention::new(config, init, weights, layer),
            post_attention_layernorm: norm(),
            mlp: LlamaMlp::new(config, init, weights),
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, rope: &Rotary, turns: &[Tensor; 2], pass: &Pass<'_>) -> Tensor {
        let x_btc =
            x_btc.add(self.self_attn.forward(&self.input_layernorm.forward(x_btc), rope, turns, pass));
        x_btc.add(self.mlp.forward(&self.post_attention_layernorm.forward(&x_btc)))
    }
}

/// `LlamaAttention`: causal self-attention with grouped queries and rotary positions.
#[derive(Clone, Debug, Module)]
pub struct LlamaAttention {
    /// `[h d, c]`.
    pub q_proj: Linear,
    /// `[g d, c]`.
    pub k_proj: Linear,
    /// `[g d, c]`.
    pub v_proj: Linear,
    /// Onto the residual stream, `[c, h d]`.
    pub o_proj: Linear,
    /// Of each head's queries, where there is one.
    pub q_norm: Option<RMSNorm>,
    /// Of each head's keys, where there is one.
    pub k_norm: Option<RMSNorm>,
    #[module(skip)]
    weighing: Weighing,
    /// Width of a head.
    pub head_dim: usize,
}

impl LlamaAttention {
    fn new(config: &LlamaConfig, init: &Init, [weights, residual]: [Initializer; 2], layer: usize) -> Self {
        let (c, d) = (config.hidden_size, config.head_width());
        let (q, kv) = (config.num_attention_heads * d, config.key_heads() * d);
        let (qkv_bias, o_bias) = config.attention_biases();
        let zeros = |there: bool| there.then_some(Initializer::Zeros);
        let norm = || config.norms_heads().then(|| RMSNorm::new(init, d, config.rms_norm_eps));
        LlamaAttention {
            q_proj: Linear::with(init, c, q, weights, zeros(qkv_bias)),
            k_proj: Linear::with(init, c, kv, weights, zeros(qkv_bias)),
            v_proj: Linear::with(init, c, kv, weights, zeros(qkv_bias)),
            o_proj: Linear::with(init, q, c, residual, zeros(o_bias)),
            q_norm: norm(),
            k_norm: norm(),
            weighing: Weighing {
                scale: (d as f64).sqrt().recip(),
                window: config.window(layer),
                dropout: config.attention_dropout,
            },
            head_dim: d,
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, rope: &Rotary, turns: &[Tensor; 2], pass: &Pass<'_>) -> Tensor {
        let [b, t, _] = x_btc.dims::<3>();
        let heads = |projection: &Linear| {
            let y = projection.forward(x_btc);
            let heads = y.shape().last().map_or(1, |&n| n / self.head_dim);
            y.reshape([b, t, heads, self.head_dim])
        };
        let normed = |x: Tensor, norm: &Option<RMSNorm>| norm.as_ref().map_or(x.clone(), |n| n.forward(&x));
        let q_bthd = rope.turn(&normed(heads(&self.q_proj), &self.q_norm), turns);
        let k_btgd = rope.turn(&normed(heads(&self.k_proj), &self.k_norm), turns);
        let v_btgd = heads(&self.v_proj);
        self.o_proj.forward(&pass.attend(&q_bthd, &k_btgd, &v_btgd, self.weighing))
    }
}

/// `LlamaMLP`: `down(act(gate(x)) up(x))` (SwiGLU; Shazeer, 2020).
#[derive(Clone, Debug, Module)]
pub struct LlamaMlp {
    /// `[f, c]`.
    pub gate_proj: Linear,
    /// `[f, c]`.
    pub up_proj: Linear,
    /// `[c, f]`.
    pub down_proj: Linear,
    /// Of the gate.
    #[module(skip)]
    pub act_fn: Activation,
}

impl LlamaMlp {
    fn new(config: &LlamaConfig, init: &Init, [weights, residual]: [Initializer; 2]) -> Self {
        let (c, f) = (config.hidden_size, config.intermediate_size);
        let zeros = config.mlp_bias.then_some(Initializer::Zeros);
        LlamaMlp {
            gate_proj: Linear::with(init, c, f, weights, zeros),
            up_proj: Linear::with(init, c, f, weights, zeros),
            down_proj: Linear::with(init, f, c, residual, zeros),
            act_fn: config.hidden_act,
        }
    }

    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let gate = self.act_fn.forward(&self.gate_proj.forward(x));
        self.down_proj.forward(&gate.mul(self.up_proj.forward(x)))
    }
}
