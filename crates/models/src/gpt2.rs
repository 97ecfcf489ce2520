//! GPT-2 (Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019), as Hugging Face's `GPT2LMHeadModel`
//! computes it: a pre-norm transformer with learned positions.
//!
//! Legend of shapes: b batch, t time, c width (`n_embd`), h heads, d width of a head, f inner width, v vocabulary.

use std::path::Path;

use wgrad_nn::{
    Activation, Context, Conv1D, Dropout, Embedding, Init, Initializer, LayerNorm, Linear, Module,
    functional::cross_entropy,
};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::{
    CacheSpec, CausalLanguageModel, InitScheme, KeyValueCache, ModelError, causal_loss,
    decoder::{self, Pass, Weighing},
    pretrained::{self, Weights, check_parameters, check_room},
};

mod config;

pub use config::Gpt2Config;

/// How the weights of a new GPT-2 are drawn.
pub type Gpt2Init = InitScheme;

/// `GPT2LMHeadModel`: the transformer and its output layer.
#[derive(Clone, Debug, Module)]
pub struct Gpt2LMHead {
    /// Everything below the output layer.
    pub transformer: Gpt2Model,
    /// The output layer, `[v, c]`, unless it is tied to the token table.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    config: Gpt2Config,
}

impl Gpt2LMHead {
    /// A new model.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &Gpt2Config, init: &Init, scheme: Gpt2Init) -> Result<Self, ModelError> {
        config.validate()?;
        check_room("GPT-2", config.parameters(), init)?;
        let (weights, residual) = scheme.weights(config.initializer_range, config.n_layer);
        let transformer = Gpt2Model::new(config, init, weights, residual);
        let untied = !config.tie_word_embeddings;
        let lm_head = untied.then(|| Linear::with(init, config.n_embd, config.vocab_size, weights, None));
        let model = Gpt2LMHead { transformer, lm_head, config: config.clone() };
        check_parameters(&model)?;
        Ok(model)
    }

    /// Whether training keeps of each block only what went into it, and computes the block again for its gradient: memory for
    /// activations shrinks to about one block's, for about a third more work. Off at first.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.transformer.checkpointing = on;
    }

    /// The configuration.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// Logits `[b, t, v]` of the token after each position, for ids `[b, t]` (i32). `attention_mask [b, t]` (bool, or numbers of
    /// which 0 means the same as false) hides padding from the other positions.
    ///
    /// Ids of another rank, longer than the context, or (where the host knows them) not in the vocabulary are an error that
    /// the result carries.
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.logits(&self.transformer.forward(ids_bt, attention_mask, ctx))
    }

    /// The residual stream `[b, t, c]`: first the embeddings, then after each block; the last one is after the final norm.
    #[track_caller]
    pub fn hidden_states(
        &self,
        ids_bt: &Tensor,
        attention_mask: Option<&Tensor>,
        ctx: &Context,
    ) -> Vec<Tensor> {
        decoder::hidden_states(attention_mask, ctx, |pass, before| self.transformer.run(ids_bt, pass, before))
    }

    /// The output layer: `[.., c]` to `[.., v]`.
    pub fn logits(&self, x: &Tensor) -> Tensor {
        decoder::logits(x, self.lm_head.as_ref(), &self.transformer.wte)
    }

    /// See [`causal_loss`].
    #[track_caller]
    pub fn loss(logits_btv: &Tensor, labels_bt: &Tensor) -> Tensor {
        causal_loss(logits_btv, labels_bt)
    }

    /// The mean cross-entropy of each position's logits with its own target: targets `[b, t]` are already the next tokens.
    #[track_caller]
    pub fn next_token_loss(logits_btv: &Tensor, targets_bt: &Tensor) -> Tensor {
        cross_entropy(logits_btv, targets_bt, None)
    }

    /// As [`Gpt2LMHead::next_token_loss`] of the logits of `x_btc`, the residual stream after the final norm (the result of
    /// [`Gpt2Model::forward`]), of which only those of `chunk` positions exist at one time: see [`wgrad_nn::functional::linear_cross_entropy`].
    #[track_caller]
    pub fn next_token_loss_in_chunks(&self, x_btc: &Tensor, targets_bt: &Tensor, chunk: usize) -> Tensor {
        let output = (self.lm_head.as_ref(), &self.transformer.wte);
        decoder::next_token_loss_in_chunks(x_btc, output, targets_bt, chunk)
    }

    /// Reads a folder of `config.json` and `model.safetensors` as Hugging Face writes them, with or without the prefix
    /// `transformer.` and with or without the constant masks that old files hold.
    ///
    /// # Errors
    /// A file is missing or damaged, or the two do not fit together.
    pub fn from_pretrained(dir: &Path, device: &DeviceHandle) -> Result<Self, ModelError> {
        Self::from_pretrained_as(dir, &Init::new(device, 0))
    }

    /// As [`Gpt2LMHead::from_pretrained`], with the weights converted to the dtype of `init`.
    ///
    /// # Errors
    /// As there.
    pub fn from_pretrained_as(dir: &Path, init: &Init) -> Result<Self, ModelError> {
        let config: Gpt2Config = pretrained::read_config(dir)?;
        let model = Gpt2LMHead::new(&config, init, Gpt2Init::Zeros)?;
        let mut weights = Weights::read(dir, init.device())?;
        weights.drop_matching(&["*.attn.bias", "*.attn.masked_bias"]);
        weights.add_prefix("transformer.", &["lm_head.weight"]);
        if config.tie_word_embeddings {
            weights.tie("lm_head.weight", "transformer.wte.weight");
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

impl CausalLanguageModel for Gpt2LMHead {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_context(&self) -> usize {
        self.config.n_positions
    }

    fn hidden_size(&self) -> usize {
        self.config.n_embd
    }

    fn set_gradient_checkpointing(&mut self, on: bool) {
        Gpt2LMHead::set_gradient_checkpointing(self, on);
    }

    fn next_token_loss_in_chunks(&self, x_btc: &Tensor, targets_bt: &Tensor, chunk: usize) -> Tensor {
        Gpt2LMHead::next_token_loss_in_chunks(self, x_btc, targets_bt, chunk)
    }

    fn device(&self) -> DeviceHandle {
        self.transformer.wte.weight.tensor().device().clone()
    }

    fn transform(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.transformer.forward(ids_bt, attention_mask, ctx)
    }

    fn hidden_states(&self, ids_bt: &Tensor, mask: Option<&Tensor>, ctx: &Context) -> Vec<Tensor> {
        Gpt2LMHead::hidden_states(self, ids_bt, mask, ctx)
    }

    fn logits(&self, x: &Tensor) -> Tensor {
        Gpt2LMHead::logits(self, x)
    }

    fn cache_spec(&self) -> CacheSpec {
        CacheSpec {
            layers: self.config.n_layer,
            heads: self.config.n_head,
            width: self.config.n_embd / self.config.n_head,
            dtype: self.transformer.wte.weight.tensor().dtype(),
        }
    }

    fn transform_next(&self, ids_bt: &Tensor, cache: &mut KeyValueCache) -> Tensor {
        decoder::transform_next(cache, |pass| self.transformer.run(ids_bt, pass, |_| ()))
    }

    fn save_pretrained(&self, dir: &Path) -> Result<(), ModelError> {
        Gpt2LMHead::save_pretrained(self, dir)
    }
}

/// `GPT2Model`: embeddings, blocks, final norm.
#[derive(Clone, Debug, Module)]
pub struct Gpt2Model {
    /// Token table, `[v, c]`.
    pub wte: Embedding,
    /// Position table, `[n_positions, c]`.
    pub wpe: Embedding,
    /// After the embeddings.
    pub drop: Dropout,
    /// The blocks.
    pub h: Vec<Block>,
    /// Final norm.
    pub ln_f: LayerNorm,
    #[module(skip)]
    checkpointing: bool,
}

impl Gpt2Model {
    fn new(config: &Gpt2Config, init: &Init, weights: Initializer, residual: Initializer) -> Self {
        let (c, eps) = (config.n_embd, config.layer_norm_epsilon);
        Gpt2Model {
            wte: Embedding::with(init, config.vocab_size, c, weights),
            wpe: Embedding::with(init, config.n_positions, c, weights),
            drop: Dropout::new(config.embd_pdrop),
            h: (0..config.n_layer).map(|layer| Block::new(config, init, weights, residual, layer)).collect(),
            ln_f: LayerNorm::new(init, c, eps),
            checkpointing: false,
        }
    }

    /// Ids `[b, t]` to the normed residual stream `[b, t, c]`.
    #[track_caller]
    pub fn forward(&self, ids_bt: &Tensor, attention_mask: Option<&Tensor>, ctx: &Context) -> Tensor {
        self.run(ids_bt, &Pass::whole(attention_mask, self.checkpointing, ctx), |_| ())
    }

    /// As `forward`, showing what goes into each block.
    #[track_caller]
    fn run(&self, ids_bt: &Tensor, pass: &Pass<'_>, mut before: impl FnMut(&Tensor)) -> Tensor {
        let mut x_btc = self.embed(ids_bt, pass);
        for block in &self.h {
            before(&x_btc);
            x_btc = pass.through(&x_btc, |x| block.forward(x, pass));
        }
        self.ln_f.forward(&x_btc)
    }

    /// Token plus position embeddings, `[b, t, c]`.
    #[track_caller]
    fn embed(&self, ids_bt: &Tensor, pass: &Pass<'_>) -> Tensor {
        let wpe = self.wpe.weight.tensor();
        let [longest, _] = wpe.dims::<2>();
        if ids_bt.error().is_none() {
            let &[_, t] = ids_bt.shape().dims() else {
                return ids_bt.invalid("gpt2", format!("expects ids [batch, time], got {}", ids_bt.shape()));
            };
            if t > longest {
                let message = format!(
                    "{t} positions exceed the context of {longest} (`n_positions`); shorten the text"
                );
                return ids_bt.invalid("gpt2", message);
            }
        }
        let [_, t] = ids_bt.dims::<2>();
        self.drop.forward(&self.wte.forward(ids_bt).add(pass.rows_of(&wpe, t)), pass.ctx())
    }
}

/// `GPT2Block`: attention, then feed-forward, each on a normed copy of the residual stream to which it adds.
#[derive(Clone, Debug, Module)]
pub struct Block {
    /// Before attention.
    pub ln_1: LayerNorm,
    /// Attention.
    pub attn: SelfAttention,
    /// Before the feed-forward part.
    pub ln_2: LayerNorm,
    /// Feed-forward part.
    pub mlp: Mlp,
}

impl Block {
    fn new(
        config: &Gpt2Config,
        init: &Init,
        weights: Initializer,
        residual: Initializer,
        layer: usize,
    ) -> Self {
        let (c, eps) = (config.n_embd, config.layer_norm_epsilon);
        Block {
            ln_1: LayerNorm::new(init, c, eps),
            attn: SelfAttention::new(config, init, weights, residual, layer),
            ln_2: LayerNorm::new(init, c, eps),
            mlp: Mlp::new(config, init, weights, residual),
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, pass: &Pass<'_>) -> Tensor {
        let x_btc = x_btc.add(self.attn.forward(&self.ln_1.forward(x_btc), pass));
        x_btc.add(self.mlp.forward(&self.ln_2.forward(&x_btc), pass.ctx()))
    }
}

/// `GPT2Attention`: causal multi-head self-attention.
#[derive(Clone, Debug, Module)]
pub struct SelfAttention {
    /// Queries, keys and values side by side, `[c, 3c]`.
    pub c_attn: Conv1D,
    /// Onto the residual stream, `[c, c]`.
    pub c_proj: Conv1D,
    /// After `c_proj`.
    pub resid_dropout: Dropout,
    /// Number of heads.
    pub n_head: usize,
    /// What attention scores are multiplied by.
    pub scale: f64,
    /// Dropout of attention weights.
    pub attn_pdrop: f64,
}

impl SelfAttention {
    fn new(
        config: &Gpt2Config,
        init: &Init,
        weights: Initializer,
        residual: Initializer,
        layer: usize,
    ) -> Self {
        let (c, d) = (config.n_embd, config.n_embd / config.n_head);
        let by_width = if config.scale_attn_weights { (d as f64).sqrt().recip() } else { 1.0 };
        let by_depth =
            if config.scale_attn_by_inverse_layer_idx { (layer as f64 + 1.0).recip() } else { 1.0 };
        SelfAttention {
            c_attn: Conv1D::new(init, c, 3 * c, weights),
            c_proj: Conv1D::new(init, c, c, residual),
            resid_dropout: Dropout::new(config.resid_pdrop),
            n_head: config.n_head,
            scale: by_width * by_depth,
            attn_pdrop: config.attn_pdrop,
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, pass: &Pass<'_>) -> Tensor {
        let [b, t, c] = x_btc.dims::<3>();
        let (h, d) = (self.n_head, c / self.n_head);
        let qkv_btn = self.c_attn.forward(x_btc);
        let [q_bthd, k_bthd, v_bthd] =
            [0, 1, 2].map(|part| qkv_btn.narrow(-1, part * c, c).reshape([b, t, h, d]));
        let weighing = Weighing { scale: self.scale, window: None, dropout: self.attn_pdrop };
        let y_btc = pass.attend(&q_bthd, &k_bthd, &v_bthd, weighing);
        self.resid_dropout.forward(&self.c_proj.forward(&y_btc), pass.ctx())
    }
}

/// `GPT2MLP`: to the inner width, activation, and back.
#[derive(Clone, Debug, Module)]
pub struct Mlp {
    /// `[c, f]`.
    pub c_fc: Conv1D,
    /// `[f, c]`.
    pub c_proj: Conv1D,
    /// Between the two.
    #[module(skip)]
    pub act: Activation,
    /// After `c_proj`.
    pub dropout: Dropout,
}

impl Mlp {
    fn new(config: &Gpt2Config, init: &Init, weights: Initializer, residual: Initializer) -> Self {
        Mlp {
            c_fc: Conv1D::new(init, config.n_embd, config.inner(), weights),
            c_proj: Conv1D::new(init, config.inner(), config.n_embd, residual),
            act: config.activation_function,
            dropout: Dropout::new(config.resid_pdrop),
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, ctx: &Context) -> Tensor {
        let inner_btf = self.act.forward(&self.c_fc.forward(x_btc));
        self.dropout.forward(&self.c_proj.forward(&inner_btf), ctx)
    }
}
