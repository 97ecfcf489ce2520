//! BART (Lewis et al., *BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
//! Comprehension*, 2019), as Hugging Face's `BartForConditionalGeneration` computes it: a post-norm encoder-decoder transformer. Its
//! blocks are those of [Marian](crate::marian) too, which differs in positions and in what is done to embeddings.
//!
//! Legend of shapes: b batch, s and t time of source and target, c width (`d_model`), f inner width, v vocabulary.

use std::path::Path;

use wgrad_nn::{
    Activation, Context, Dropout, Embedding, Init, Initializer, LayerNorm, Linear, Module, Param,
    functional::{Attention, linear},
};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::{DType, Tensor};

use crate::{
    ModelError,
    heads::{as_bool, attend, time_of},
    pretrained::{self, Weights, check_parameters, check_room},
    seq2seq::{EncoderDecoder, Source},
};

mod config;

pub use config::BartConfig;

/// `BartForConditionalGeneration`: encoder, decoder, and the output layer.
#[derive(Clone, Debug, Module)]
pub struct BartForConditionalGeneration {
    /// Everything below the output layer.
    pub model: BartModel,
    /// Added to the logits, `[1, v]`; a buffer of zeros, unless tokens are to be kept from being written.
    pub final_logits_bias: Param,
    /// The output layer, `[v, c]`, unless it is the token table.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    suppressed: Vec<i32>,
    #[module(skip)]
    config: BartConfig,
}

impl BartForConditionalGeneration {
    /// A new model. Weights are normal with standard deviation `init_std`, biases 0.
    ///
    /// # Errors
    /// The configuration is impossible or not BART's, or a parameter does not fit on the device.
    pub fn new(config: &BartConfig, init: &Init) -> Result<Self, ModelError> {
        if config.model_type != "bart" {
            let message = format!("`model_type` is `{}`, expected `bart`", config.model_type);
            return Err(ModelError::Config { model: "BART", message });
        }
        Self::of_either(config, init)
    }

    /// A new model, BART's or Marian's.
    pub(crate) fn of_either(config: &BartConfig, init: &Init) -> Result<Self, ModelError> {
        config.validate()?;
        check_room(if config.is_marian() { "Marian" } else { "BART" }, config.parameters(), init)?;
        let (c, v) = (config.d_model, config.vocab_size);
        let normal = Initializer::Normal { std: config.init_std };
        let shared = Embedding::with(init, v, c, normal).padded(Some(config.pad_token_id));
        let model = BartForConditionalGeneration {
            model: BartModel {
                shared,
                encoder: BartEncoder::new(config, init),
                decoder: BartDecoder::new(config, init),
            },
            final_logits_bias: Param::buffer(Tensor::zeros([1, v], init.dtype(), init.device())),
            lm_head: (!config.tie_word_embeddings).then(|| Linear::with(init, c, v, normal, None)),
            suppressed: config.suppressed_tokens(),
            config: config.clone(),
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &BartConfig {
        &self.config
    }

    /// Reads a folder of `config.json` and `model.safetensors` as Hugging Face writes them.
    ///
    /// # Errors
    /// A file is missing or damaged, or the two do not fit together.
    pub fn from_pretrained(dir: &Path, device: &DeviceHandle) -> Result<Self, ModelError> {
        let model = Self::new(&pretrained::read_config(dir)?, &Init::new(device, 0))?;
        model.read(dir, device)?;
        Ok(model)
    }

    /// Takes the parameters of a folder.
    pub(crate) fn read(&self, dir: &Path, device: &DeviceHandle) -> Result<(), ModelError> {
        let mut weights = Weights::read(dir, device)?;
        weights.drop_matching(&["*coder.embed_tokens.weight", "*coder.version"]);
        if self.lm_head.is_none() {
            weights.drop_matching(&["lm_head.weight"]);
        }
        if self.config.is_marian() {
            weights.drop_matching(&["*coder.embed_positions.weight"]);
        }
        weights.or("final_logits_bias", self.final_logits_bias.tensor());
        weights.add_prefix("model.", &["final_logits_bias", "lm_head.weight"]);
        weights.load_into(self)
    }

    /// Writes `config.json` and `model.safetensors` into a folder, as Hugging Face's `from_pretrained` reads them.
    ///
    /// # Errors
    /// The parameters cannot be read back, or the files cannot be written.
    pub fn save_pretrained(&self, dir: &Path) -> Result<(), ModelError> {
        pretrained::save(dir, &self.config, self)
    }

    /// Token embeddings `[b, t, c]`, scaled where the configuration says so.
    #[track_caller]
    fn embed(&self, ids_bt: &Tensor) -> Tensor {
        let x_btc = self.model.shared.forward(ids_bt);
        if !self.config.scale_embedding {
            return x_btc;
        }
        let scale = (self.config.d_model as f64).sqrt();
        x_btc.mul(Tensor::constant(scale, x_btc.dtype(), x_btc.device()))
    }
}

impl EncoderDecoder for BartForConditionalGeneration {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_target(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn decoder_start_token_id(&self) -> i32 {
        self.config.decoder_start_token_id as i32
    }

    fn pad_token_id(&self) -> i32 {
        self.config.pad_token_id as i32
    }

    fn eos_token_id(&self) -> Option<i32> {
        self.config.eos_token_id.map(|id| id as i32)
    }

    fn forced_eos_token_id(&self) -> Option<i32> {
        self.config.forced_eos_token_id()
    }

    fn suppressed_tokens(&self) -> &[i32] {
        &self.suppressed
    }

    fn device(&self) -> DeviceHandle {
        self.model.shared.weight.tensor().device().clone()
    }

    #[track_caller]
    fn encode(&self, ids_bs: &Tensor, mask: Option<&Tensor>, ctx: &Context) -> Vec<Tensor> {
        let encoder = &self.model.encoder;
        let start = encoder.start.forward(ids_bs, || self.embed(ids_bs), ctx);
        let key_mask = mask.map(as_bool);
        let see = Attention { key_mask: key_mask.as_ref(), ..Attention::default() };
        through(&encoder.layers, start, |layer, x_bsc| layer.forward(x_bsc, &see, ctx))
    }

    #[track_caller]
    fn decode(
        &self,
        ids_bt: &Tensor,
        mask: Option<&Tensor>,
        source: &Source<'_>,
        ctx: &Context,
    ) -> Vec<Tensor> {
        let decoder = &self.model.decoder;
        let start = decoder.start.forward(ids_bt, || self.embed(ids_bt), ctx);
        let (key_mask, source_mask) = (mask.map(as_bool), source.mask.map(as_bool));
        let see = Attention { causal: true, key_mask: key_mask.as_ref(), ..Attention::default() };
        let see_source = Attention { key_mask: source_mask.as_ref(), ..Attention::default() };
        through(&decoder.layers, start, |layer, x_btc| {
            layer.forward(x_btc, source.memory, &see, &see_source, ctx)
        })
    }

    fn logits(&self, x: &Tensor) -> Tensor {
        let weight = self.lm_head.as_ref().map_or(&self.model.shared.weight, |lm_head| &lm_head.weight);
        linear(x, &weight.tensor(), None).add(self.final_logits_bias.tensor())
    }
}

/// The state at the start, and after each layer.
fn through<L>(layers: &[L], start: Tensor, each: impl Fn(&L, &Tensor) -> Tensor) -> Vec<Tensor> {
    let mut states = vec![start];
    for layer in layers {
        states.extend(states.last().map(|x| each(layer, x)));
    }
    states
}

/// `BartModel`: the token table and both sides.
#[derive(Clone, Debug, Module)]
pub struct BartModel {
    /// Token table of both sides, `[v, c]`.
    pub shared: Embedding,
    /// Of the source.
    pub encoder: BartEncoder,
    /// Of the target.
    pub decoder: BartDecoder,
}

/// What is done to token embeddings before the first block: positions are added, BART norms the sum, dropout.
#[derive(Clone, Debug, Module)]
pub struct Start {
    /// Learned positions, `[max_position_embeddings + 2, c]`: the first two rows are not used.
    pub embed_positions: Option<Embedding>,
    /// Of the sum.
    pub layernorm_embedding: Option<LayerNorm>,
    /// Of the result.
    pub dropout: Dropout,
    /// Marian's sinusoidal positions, `[max_position_embeddings, c]`.
    #[module(skip)]
    sinusoids: Option<Tensor>,
}

/// Unused rows of the table of positions: the reference once counted from the id of padding.
const OFFSET: usize = 2;

impl Start {
    fn new(config: &BartConfig, init: &Init) -> Self {
        let (c, rows) = (config.d_model, config.max_position_embeddings);
        let normal = Initializer::Normal { std: config.init_std };
        let marian = config.is_marian();
        Start {
            embed_positions: (!marian).then(|| Embedding::with(init, rows + OFFSET, c, normal)),
            layernorm_embedding: (!marian).then(|| LayerNorm::new(init, c, LAYER_NORM_EPS)),
            dropout: Dropout::new(config.dropout),
            sinusoids: marian.then(|| {
                let table = crate::marian::sinusoids(rows, c);
                let table = Tensor::from_vec(table, [rows, c], init.device());
                if init.dtype() == DType::F32 { table } else { table.cast(init.dtype()) }
            }),
        }
    }

    #[track_caller]
    fn forward(&self, ids_bt: &Tensor, embed: impl FnOnce() -> Tensor, ctx: &Context) -> Tensor {
        let learned = self.embed_positions.as_ref().map(|table| (table.weight.tensor(), OFFSET));
        let Some((table, offset)) = learned.or_else(|| self.sinusoids.clone().map(|table| (table, 0))) else {
            return embed();
        };
        let [rows, _] = table.dims::<2>();
        let t = match time_of("bart", ids_bt, rows.saturating_sub(offset), "max_position_embeddings") {
            Ok(t) => t,
            Err(faulty) => return *faulty,
        };
        let sum = embed().add(table.narrow(0, offset, t));
        let normed = self.layernorm_embedding.as_ref().map_or_else(|| sum.clone(), |norm| norm.forward(&sum));
        self.dropout.forward(&normed, ctx)
    }
}

/// PyTorch's default, which Hugging Face's BART and Marian use.
const LAYER_NORM_EPS: f64 = 1e-5;

/// `BartEncoder`.
#[derive(Clone, Debug, Module)]
pub struct BartEncoder {
    /// Before the first block.
    #[module(rename = "")]
    pub start: Start,
    /// From input to output.
    pub layers: Vec<BartEncoderLayer>,
}

impl BartEncoder {
    fn new(config: &BartConfig, init: &Init) -> Self {
        let layers = (0..config.encoder_layers).map(|_| BartEncoderLayer::new(config, init));
        BartEncoder { start: Start::new(config, init), layers: layers.collect() }
    }
}

/// `BartDecoder`.
#[derive(Clone, Debug, Module)]
pub struct BartDecoder {
    /// Before the first block.
    #[module(rename = "")]
    pub start: Start,
    /// From input to output.
    pub layers: Vec<BartDecoderLayer>,
}

impl BartDecoder {
    fn new(config: &BartConfig, init: &Init) -> Self {
        let layers = (0..config.decoder_layers).map(|_| BartDecoderLayer::new(config, init));
        BartDecoder { start: Start::new(config, init), layers: layers.collect() }
    }
}

fn norm(config: &BartConfig, init: &Init) -> LayerNorm {
    LayerNorm::new(init, config.d_model, LAYER_NORM_EPS)
}

fn projection(config: &BartConfig, init: &Init, inputs: usize, outputs: usize) -> Linear {
    let normal = Initializer::Normal { std: config.init_std };
    Linear::with(init, inputs, outputs, normal, Some(Initializer::Zeros))
}

/// `BartEncoderLayer`: attention, then feed-forward; the sum of input and output of each is normed.
#[derive(Clone, Debug, Module)]
pub struct BartEncoderLayer {
    /// Among the source's positions.
    pub self_attn: BartAttention,
    /// Of the attention.
    pub self_attn_layer_norm: LayerNorm,
    /// Feed-forward part.
    #[module(rename = "")]
    pub feed_forward: FeedForward,
    /// After each part.
    pub dropout: Dropout,
}

impl BartEncoderLayer {
    fn new(config: &BartConfig, init: &Init) -> Self {
        BartEncoderLayer {
            self_attn: BartAttention::new(config, init, config.encoder_attention_heads),
            self_attn_layer_norm: norm(config, init),
            feed_forward: FeedForward::new(config, init, config.encoder_ffn_dim),
            dropout: Dropout::new(config.dropout),
        }
    }

    #[track_caller]
    fn forward(&self, x_bsc: &Tensor, see: &Attention<'_>, ctx: &Context) -> Tensor {
        let y_bsc = self.dropout.forward(&self.self_attn.forward(x_bsc, x_bsc, see, ctx), ctx);
        self.feed_forward.forward(&self.self_attn_layer_norm.forward(&x_bsc.add(y_bsc)), ctx)
    }
}

/// `BartDecoderLayer`: as [`BartEncoderLayer`], with attention to the source between the two.
#[derive(Clone, Debug, Module)]
pub struct BartDecoderLayer {
    /// Among the target's positions.
    pub self_attn: BartAttention,
    /// Of the self-attention.
    pub self_attn_layer_norm: LayerNorm,
    /// From the target to the source.
    pub encoder_attn: BartAttention,
    /// Of the attention to the source.
    pub encoder_attn_layer_norm: LayerNorm,
    /// Feed-forward part.
    #[module(rename = "")]
    pub feed_forward: FeedForward,
    /// After each part.
    pub dropout: Dropout,
}

impl BartDecoderLayer {
    fn new(config: &BartConfig, init: &Init) -> Self {
        BartDecoderLayer {
            self_attn: BartAttention::new(config, init, config.decoder_attention_heads),
            self_attn_layer_norm: norm(config, init),
            encoder_attn: BartAttention::new(config, init, config.decoder_attention_heads),
            encoder_attn_layer_norm: norm(config, init),
            feed_forward: FeedForward::new(config, init, config.decoder_ffn_dim),
            dropout: Dropout::new(config.dropout),
        }
    }

    #[track_caller]
    fn forward(
        &self,
        x_btc: &Tensor,
        memory_bsc: &Tensor,
        see: &Attention<'_>,
        see_source: &Attention<'_>,
        ctx: &Context,
    ) -> Tensor {
        let y_btc = self.dropout.forward(&self.self_attn.forward(x_btc, x_btc, see, ctx), ctx);
        let x_btc = self.self_attn_layer_norm.forward(&x_btc.add(y_btc));
        let y_btc =
            self.dropout.forward(&self.encoder_attn.forward(&x_btc, memory_bsc, see_source, ctx), ctx);
        self.feed_forward.forward(&self.encoder_attn_layer_norm.forward(&x_btc.add(y_btc)), ctx)
    }
}

/// `BartAttention`: multi-head attention of one sequence to another or to itself.
#[derive(Clone, Debug, Module)]
pub struct BartAttention {
    /// Keys, `[c, c]`.
    pub k_proj: Linear,
    /// Values, `[c, c]`.
    pub v_proj: Linear,
    /// Queries, `[c, c]`.
    pub q_proj: Linear,
    /// Onto the residual stream, `[c, c]`.
    pub out_proj: Linear,
    /// Number of heads.
    pub num_heads: usize,
    /// Dropout of attention weights.
    pub dropout: f64,
}

impl BartAttention {
    fn new(config: &BartConfig, init: &Init, num_heads: usize) -> Self {
        let c = config.d_model;
        BartAttention {
            k_proj: projection(config, init, c, c),
            v_proj: projection(config, init, c, c),
            q_proj: projection(config, init, c, c),
            out_proj: projection(config, init, c, c),
            num_heads,
            dropout: config.attention_dropout,
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, memory_bsc: &Tensor, see: &Attention<'_>, ctx: &Context) -> Tensor {
        let q_btc = self.q_proj.forward(x_btc);
        let (k_bsc, v_bsc) = (self.k_proj.forward(memory_bsc), self.v_proj.forward(memory_bsc));
        let options = Attention { dropout: self.dropout, ..*see };
        self.out_proj.forward(&attend([&q_btc, &k_bsc, &v_bsc], self.num_heads, &options, ctx))
    }
}

/// To the inner width, activation, and back; the sum with the input is normed.
#[derive(Clone, Debug, Module)]
pub struct FeedForward {
    /// `[f, c]`.
    pub fc1: Linear,
    /// `[c, f]`.
    pub fc2: Linear,
    /// Of the sum.
    pub final_layer_norm: LayerNorm,
    /// Of the inner width.
    #[module(skip)]
    pub activation: Activation,
    /// Of the inner activations.
    pub activation_dropout: Dropout,
    /// Of the result.
    pub dropout: Dropout,
}

impl FeedForward {
    fn new(config: &BartConfig, init: &Init, f: usize) -> Self {
        FeedForward {
            fc1: projection(config, init, config.d_model, f),
            fc2: projection(config, init, f, config.d_model),
            final_layer_norm: norm(config, init),
            activation: config.activation_function,
            activation_dropout: Dropout::new(config.activation_dropout),
            dropout: Dropout::new(config.dropout),
        }
    }

    #[track_caller]
    fn forward(&self, x_btc: &Tensor, ctx: &Context) -> Tensor {
        let inner_btf = self.activation.forward(&self.fc1.forward(x_btc));
        let y_btc = self.fc2.forward(&self.activation_dropout.forward(&inner_btf, ctx));
        self.final_layer_norm.forward(&x_btc.add(self.dropout.forward(&y_btc, ctx)))
    }
}
