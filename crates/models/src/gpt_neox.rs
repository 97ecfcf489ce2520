//! GPT-NeoX (Black et al., *GPT-NeoX-20B*, 2022), as Hugging Face's `GPTNeoXForCausalLM` computes it: attention and feed-forward part beside
//! each other on the residual stream, rotary positions on a part of each head. Pythia's models are of this kind.
//!
//! Legend of shapes: b batch, t time, c width, h heads, d width of a head, f inner width, v vocabulary.

use std::path::Path;

use wgrad_nn::{Activation, Context, Dropout, Embedding, Init, Initializer, LayerNorm, Linear, Module};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::{
    CacheSpec, CausalLanguageModel, InitScheme, KeyValueCache, ModelError,
    decoder::{self, Pass, Weighing},
    pretrained::{self, Weights, check_parameters, check_room},
    rotary::Rotary,
};

mod config;

pub use config::GptNeoXConfig;

/// `GPTNeoXForCausalLM`: the transformer and its output layer.
#[derive(Clone, Debug, Module)]
pub struct GptNeoXForCausalLM {
    /// Everything below the output layer.
    pub gpt_neox: GptNeoXModel,
    /// The output layer, `[v, c]`, unless it is tied to the token table.
    pub embed_out: Option<Linear>,
    #[module(skip)]
    config: GptNeoXConfig,
}

impl GptNeoXForCausalLM {
    /// A new model.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &GptNeoXConfig, init: &Init, scheme: InitScheme) -> Result<Self, ModelError> {
        config.validate()?;
        check_room("GPT-NeoX", config.parameters(), init)?;
        let refuse = |message| ModelError::Config { model: "GPT-NeoX", message };
        let d = config.hidden_size / config.num_attention_heads;
        let rope = Rotary::new(&config.rope(), d, config.max_position_embeddings, init.device());
        let weights = scheme.weights(config.initializer_range, config.num_hidden_layers);
        let (c, v) = (config.hidden_size, config.vocab_size);
        let gpt_neox = GptNeoXModel {
            embed_in: Embedding::with(init, v, c, weights.0),
            emb_dropout: Dropout::new(config.hidden_dropout),
            layers: (0..config.num_hidden_layers)
                .map(|_| GptNeoXLayer::new(config, init, [weights.0, weights.1]))
                .collect(),
            final_layer_norm: LayerNorm::new(init, c, config.layer_norm_eps),
            rope: rope.map_err(refuse)?,
            checkpointing: false,
        };
        let embed_out = (!config.tie_word_embeddings).then(|| Linear::with(init, c, v, weights.0, None));
        let model = GptNeoXForCausalLM { gpt_neox, embed_out, config: config.clone() };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Whether training keeps of each block only what went into it, and computes the block again for its gradient: memory for
    /// activations shrinks to about one block's, for about a third more work. Off at first.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.gpt_neox.checkpointing = on;
    }

    /// The configuration.
    pub fn config(&self) -> &GptNeoXConfig {
        &self.config
    }

    /// Logits `[b, t, v]`; see [`CausalLanguageModel::forward`].
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.logits(&self.gpt_neox.forward(ids_bt, attention_mask, ctx))
    }

    /// The output layer: `[.., c]` to `[.., v]`.
    #[track_caller]
    pub fn logits(&self, x: &Tensor) -> Tensor {
        decoder::logits(x, self.embed_out.as_ref(), &self.gpt_neox.embed_in)
    }

    /// The mean cross-entropy of the logits of `x_btc`, the result of [`GptNeoXModel::forward`], with the next tokens `[b, t]`, of which
    /// only those of `chunk` positions exist at one time: see [`wgrad_nn::functional::linear_cross_entropy`].
    #[track_caller]
    pub fn next_token_loss_in_chunks(&self, x_btc: &Tensor, targets_bt: &Tensor, chunk: usize) -> Tensor {
        let output = (self.embed_out.as_ref(), &self.gpt_neox.embed_in);
        decoder::next_token_loss_in_chunks(x_btc, output, targets_bt, chunk)
    }

    /// Reads a folder of `config.json` and `model.safetensors` (whole or in shards) as Hugging Face writes them; weights become f32.
    ///
    /// # Errors
    /// A file is missing or damaged, or the two do not fit together.
    pub fn from_pretrained(dir: &Path, device: &DeviceHandle) -> Result<Self, ModelError> {
        Self::from_pretrained_as(dir, &Init::new(device, 0))
    }

    /// As [`GptNeoXForCausalLM::from_pretrained`], with the weights converted to the dtype of `init`.
    ///
    /// # Errors
    /// As there.
    pub fn from_pretrained_as(dir: &Path, init: &Init) -> Result<Self, ModelError> {
        let config: GptNeoXConfig = pretrained::read_config(dir)?;
        let model = GptNeoXForCausalLM::new(&config, init, InitScheme::Zeros)?;
        let mut weights = Weights::read(dir, init.device())?;
        weights.drop_matching(&["*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq"]);
        weights.add_prefix("gpt_neox.", &["embed_out.weight", "lm_head.weight"]);
        // Some files name the output layer as other models do.
        weights.rename(|name| if name == "lm_head.weight" { "embed_out.weight" } else { name }.to_owned());
        if config.tie_word_embeddings {
            weights.tie("embed_out.weight", "gpt_neox.embed_in.weight");
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

impl CausalLanguageModel for GptNeoXForCausalLM {
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
        GptNeoXForCausalLM::set_gradient_checkpointing(self, on);
    }

    fn next_token_loss_in_chunks(&self, x_btc: &Tensor, targets_bt: &Tensor, chunk: usize) -> Tensor {
        GptNeoXForCausalLM::next_token_loss_in_chunks(self, x_btc, targets_bt, chunk)
    }

    fn device(&self) -> DeviceHandle {
        self.gpt_neox.embed_in.weight.tensor().device().clone()
    }

    fn transform(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.gpt_neox.forward(ids_bt, attention_mask, ctx)
    }

    fn hidden_states(&self, ids_bt: &Tensor, mask: Option<&Tensor>, ctx: &Context) -> Vec<Tensor> {
        decoder::hidden_states(mask, ctx, |pass, before| self.gpt_neox.run(ids_bt, pass, before))
    }

    fn logits(&self, x: &Tensor) -> Tensor {
        GptNeoXForCausalLM::logits(self, x)
    }

    fn cache_spec(&self) -> CacheSpec {
        CacheSpec {
            layers: self.config.num_hidden_layers,
            heads: self.config.num_attention_heads,
            width: self.config.hidden_size / self.config.num_attention_heads,
            dtype: self.gpt_neox.embed_in.weight.tensor().dtype(),
        }
    }

    fn transform_next(&self, ids_bt: &Tensor, cache: &mut KeyValueCache) -> Tensor {
        decoder::transform_next(cache, |pass| self.gpt_neox.run(ids_bt, pass, |_| ()))
    }

    fn save_pretrained(&self, dir: &Path) -> Result<(), ModelError> {
        GptNeoXForCausalLM::save_pretrained(self, dir)
    }
}

/// `GPTNeoXModel`: token table, blocks, final norm.
#[derive(Clone, Debug, Module)]
pub struct GptNeoXModel {
    /// Token table, `[v, c]`.
    pub embed_in: Embedding,
    /// After the token table.
    pub emb_dropout: Dropout,
    /// The blocks.
    pub layers: Vec<GptNeoXLayer>,
    /// Final norm.
    pub final_layer_norm: LayerNorm,
    #[module(skip)]
    rope: Rotary,
    #[module(skip)]
    checkpointing: bool,
}

impl GptNeoXModel {
    /// Ids `[b, t]` to the normed residual stream `[b, t, c]`.
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.run(ids_bt, &Pass::whole(attention_mask, self.checkpointing, ctx), |_| ())
    }

    /// As `forward`, showing what goes into each block.
    #[track_caller]
    fn run(&self, ids_bt: &Tensor, pass: &Pass<'_>, mut before: impl FnMut(&Tensor)) -> Tensor {
        if ids_bt.error().is_none() && ids_bt.rank() != 2 {
            return ids_bt.invalid("gpt_neox", format!("expects ids [batch, time], got {}", ids_bt.shape()));
        }
        let [_, t] = ids_bt.dims::<2>();
        let turns = self.rope.at(pass, t);
        let mut x_btc = self.emb_dropout.forward(&self.embed_in.forward(ids_bt), pass.ctx());
        for layer in &self.layers {
            before(&x_btc);
            x_btc = pass.through(&x_btc, |x| layer.forward(x, &self.rope, &turns, pass));
        }
        self.final_layer_norm.forward(&x_btc)
    }
}

/// `GPTNeoXLayer`: attention and feed-forward part on normed copies of the residual stream, to which both add.
#[derive(Clone, Debug, Module)]
pub struct GptNeoXLayer {
    /// Before attention.
    pub input_layernorm: LayerNorm,
    /// Before the feed-forward part.
    pub post_attention_layernorm: LayerNorm,
    /// Attention.
    pub attention: GptNeoXAttention,
    /// Feed-forward part.
    pub mlp: GptNeoXMlp,
    /// After each part.
    pub dropout: Dropout,
    /// Whether the feed-forward part sees the stream from before attention.
    pub use_parallel_residual: bool,
}

impl GptNeoXLayer {
    fn new(config: &GptNeoXConfig, init: &Init, weights: [Initializer; 2]) -> Self {
        let norm = || LayerNorm::new(init, config.hidden_size, config.layer_norm_eps);
        GptNeoXLayer {
            input_layernorm: norm(),
            post_attention_layernorm: norm(),
            attention: GptNeoXAttention::new(config, init, weights),
            mlp: GptNeoXMlp::new(config, init, weights),
            dropout: Dropout::new(config.hidden_dropout),
            use_parallel_residual: config.use_parallel_residual,
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, rope: &Rotary, turns: &[Tensor; 2], pass: &Pass<'_>) -> Tensor {
        let drop = |y: &Tensor| self.dropout.forward(y, pass.ctx());
        let attended = drop(&self.attention.forward(&self.input_layernorm.forward(x_btc), rope, turns, pass));
        let middle = x_btc.add(&attended);
        let seen = if self.use_parallel_residual { x_btc } else { &middle };
        middle.add(drop(&self.mlp.forward(&self.post_attention_layernorm.forward(seen))))
    }
}

/// `GPTNeoXAttention`: causal self-attention with rotary positions.
#[derive(Clone, Debug, Module)]
pub struct GptNeoXAttention {
    /// Queries, keys and values of each head side by side, `[h 3 d, c]`.
    pub query_key_value: Linear,
    /// Onto the residual stream, `[c, c]`.
    pub dense: Linear,
    /// Number of heads.
    pub num_attention_heads: usize,
    #[module(skip)]
    weighing: Weighing,
}

impl GptNeoXAttention {
    fn new(config: &GptNeoXConfig, init: &Init, [weights, residual]: [Initializer; 2]) -> Self {
        let (c, h) = (config.hidden_size, config.num_attention_heads);
        let bias = config.attention_bias.then_some(Initializer::Zeros);
        let scale = ((c / h) as f64).sqrt().recip();
        GptNeoXAttention {
            query_key_value: Linear::with(init, c, 3 * c, weights, bias),
            dense: Linear::with(init, c, c, residual, bias),
            num_attention_heads: h,
            weighing: Weighing { scale, window: None, dropout: config.attention_dropout },
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, rope: &Rotary, turns: &[Tensor; 2], pass: &Pass<'_>) -> Tensor {
        let [b, t, c] = x_btc.dims::<3>();
        let (h, d) = (self.num_attention_heads, c / self.num_attention_heads);
        let qkv_bth3d = self.query_key_value.forward(x_btc).reshape([b, t, h, 3 * d]);
        let [q_bthd, k_bthd, v_bthd] = [0, 1, 2].map(|part| qkv_bth3d.narrow(-1, part * d, d));
        let (q_bthd, k_bthd) = (rope.turn(&q_bthd, turns), rope.turn(&k_bthd, turns));
        self.dense.forward(&pass.attend(&q_bthd, &k_bthd, &v_bthd, self.weighing))
    }
}

/// `GPTNeoXMLP`: to the inner width, activation, and back.
#[derive(Clone, Debug, Module)]
pub struct GptNeoXMlp {
    /// `[f, c]`.
    pub dense_h_to_4h: Linear,
    /// `[c, f]`.
    pub dense_4h_to_h: Linear,
    /// Between the two.
    #[module(skip)]
    pub act: Activation,
}

impl GptNeoXMlp {
    fn new(config: &GptNeoXConfig, init: &Init, [weights, residual]: [Initializer; 2]) -> Self {
        let (c, f) = (config.hidden_size, config.intermediate_size);
        let zeros = Some(Initializer::Zeros);
        GptNeoXMlp {
            dense_h_to_4h: Linear::with(init, c, f, weights, zeros),
            dense_4h_to_h: Linear::with(init, f, c, residual, zeros),
            act: config.hidden_act,
        }
    }

    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        self.dense_4h_to_h.forward(&self.act.forward(&self.dense_h_to_4h.forward(x)))
    }
}
