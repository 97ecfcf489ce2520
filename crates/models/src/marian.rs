//! Marian's translators (Junczys-Dowmunt et al., *Marian: Fast Neural Machine Translation in C++*, 2018), as Hugging Face's
//! `MarianMTModel` computes them: the transformer of Vaswani et al. (2017) with [BART](crate::bart)'s blocks and names, sinusoidal positions,
//! and embeddings that are scaled instead of normed.

use std::path::Path;

use wgrad_nn::{Context, Init, Module};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::{
    BartConfig, BartForConditionalGeneration, ModelError, pretrained,
    seq2seq::{EncoderDecoder, Source},
};

/// `MarianMTModel`: encoder, decoder, and the output layer.
#[derive(Clone, Debug, Module)]
pub struct MarianMTModel {
    /// The parameters, named as BART's; those of positions are missing.
    #[module(rename = "")]
    pub transformer: BartForConditionalGeneration,
}

impl MarianMTModel {
    /// A new model. Weights are normal with standard deviation `init_std`, biases 0.
    ///
    /// # Errors
    /// The configuration is impossible or not Marian's, or a parameter does not fit on the device.
    pub fn new(config: &BartConfig, init: &Init) -> Result<Self, ModelError> {
        if config.model_type != "marian" {
            let message = format!("`model_type` is `{}`, expected `marian`", config.model_type);
            return Err(ModelError::Config { model: "Marian", message });
        }
        Ok(MarianMTModel { transformer: BartForConditionalGeneration::of_either(config, init)? })
    }

    /// The configuration.
    pub fn config(&self) -> &BartConfig {
        self.transformer.config()
    }

    /// Reads a folder of `config.json` and `model.safetensors` as Hugging Face writes them.
    ///
    /// # Errors
    /// A file is missing or damaged, or the two do not fit together.
    pub fn from_pretrained(dir: &Path, device: &DeviceHandle) -> Result<Self, ModelError> {
        let model = Self::new(&pretrained::read_config(dir)?, &Init::new(device, 0))?;
        model.transformer.read(dir, device)?;
        Ok(model)
    }

    /// Writes `config.json` and `model.safetensors` into a folder, as Hugging Face's `from_pretrained` reads them.
    ///
    /// # Errors
    /// The parameters cannot be read back, or the files cannot be written.
    pub fn save_pretrained(&self, dir: &Path) -> Result<(), ModelError> {
        pretrained::save(dir, self.config(), self)
    }
}

impl EncoderDecoder for MarianMTModel {
    fn vocab_size(&self) -> usize {
        self.transformer.vocab_size()
    }

    fn max_target(&self) -> usize {
        self.transformer.max_target()
    }

    fn decoder_start_token_id(&self) -> i32 {
        self.transformer.decoder_start_token_id()
    }

    fn pad_token_id(&self) -> i32 {
        self.transformer.pad_token_id()
    }

    fn eos_token_id(&self) -> Option<i32> {
        self.transformer.eos_token_id()
    }

    fn forced_eos_token_id(&self) -> Option<i32> {
        self.transformer.forced_eos_token_id()
    }

    fn suppressed_tokens(&self) -> &[i32] {
        self.transformer.suppressed_tokens()
    }

    fn device(&self) -> DeviceHandle {
        self.transformer.device()
    }

    #[track_caller]
    fn encode(&self, ids_bs: &Tensor, mask: Option<&Tensor>, ctx: &Context) -> Vec<Tensor> {
        self.transformer.encode(ids_bs, mask, ctx)
    }

    #[track_caller]
    fn decode(
        &self,
        ids_bt: &Tensor,
        mask: Option<&Tensor>,
        source: &Source<'_>,
        ctx: &Context,
    ) -> Vec<Tensor> {
        self.transformer.decode(ids_bt, mask, source, ctx)
    }

    fn logits(&self, x: &Tensor) -> Tensor {
        self.transformer.logits(x)
    }
}

/// Positions `[rows, width]`, row-major: `sin(p / 10000^(2i/width))` for each `i` in the first half of a row, the cosines of the same
/// phases in the second.
pub(crate) fn sinusoids(rows: usize, width: usize) -> Vec<f32> {
    let half = width.div_ceil(2);
    let mut table = Vec::with_capacity(rows * width);
    for position in 0..rows {
        for column in 0..width {
            let i = if column < half { column } else { column - half };
            let phase = position as f64 / 10000f64.powf(2.0 * i as f64 / width as f64);
            table.push(if column < half { phase.sin() } else { phase.cos() } as f32);
        }
    }
    table
}
