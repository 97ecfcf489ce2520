//! Writing a text in another language.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use wgrad_data::{
    BatchPlan, Documents, EncodeOptions, Encoding, IGNORED_LABEL, LengthBuckets, Table, TableSource,
    TextBatch, TextEncoder, Tokenizer, TokenizerSpec,
};
use wgrad_models::seq2seq::{BeamSearch, EncoderDecoder, beam_search, seq2seq_loss};
use wgrad_models::{BartConfig, MarianMTModel};
use wgrad_nn::{Context, Init, Module};
use wgrad_tensor::{DType, DeviceHandle, Tensor};

use super::batches;
use crate::error::{Result, TrainError};
use crate::recipe::{Precision, Recipe, RecipeError, SampleRecipe, Sections, TrainRecipe, check, positive};
use crate::scores::{Bleu, Chrf};
use crate::task::batch::{Batch, Column, HostBatch};
use crate::task::{
    BatchMaker, Measured, Opening, Task, TaskKind, TaskRecipe, TaskSpec, Units, check_room, refuse_sample,
};

/// `[task]`, `[model]` and `[data]` of a translator.
pub type TranslationRecipe = Sections<TranslationOptions, MarianRecipe, PairsRecipe>;

/// `[task]` of a translator.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TranslationOptions {
    /// `translation`.
    pub kind: TaskKind,
    /// How much of each target is spread evenly over all tokens, in training.
    pub label_smoothing: f64,
    /// Beams of the search by which validation texts are translated.
    pub num_beams: usize,
    /// Validation texts that are translated and scored, spread evenly; the loss is of all.
    pub translated: usize,
}

impl Default for TranslationOptions {
    fn default() -> Self {
        TranslationOptions {
            kind: TaskKind::Translation,
            label_smoothing: 0.1,
            num_beams: 4,
            translated: 100,
        }
    }
}

/// A Marian translator, with the names of Hugging Face's `config.json`. The vocabulary comes from the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarianRecipe {
    /// Width.
    pub d_model: usize,
    /// Blocks that read.
    pub encoder_layers: usize,
    /// Blocks that write.
    pub decoder_layers: usize,
    /// Heads of a reading block; they divide the width.
    pub encoder_attention_heads: usize,
    /// Heads of a writing block; they divide the width.
    pub decoder_attention_heads: usize,
    /// Width inside the feed-forward part of a reading block. Default: `4 * d_model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_ffn_dim: Option<usize>,
    /// Width inside the feed-forward part of a writing block. Default: `4 * d_model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder_ffn_dim: Option<usize>,
    /// Longest text in tokens.
    #[serde(default = "batches::max_length")]
    pub max_position_embeddings: usize,
    /// Dropout after the embeddings and each part of a block.
    #[serde(default = "dropout")]
    pub dropout: f64,
}

/// Texts and their translations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairsRecipe {
    /// Folder to which file patterns are relative. Default: the recipe's own; in a run folder's recipe it is absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// What to train on; its columns are a text and its translation.
    pub train: TableSource,
    /// What to measure on, with the same columns.
    pub validation: TableSource,
    /// How text of both languages becomes tokens.
    pub tokenizer: TokenizerSpec,
    /// Longer texts are cut to so many tokens.
    #[serde(default = "batches::max_length")]
    pub max_length: usize,
    /// Batches are padded to a multiple of it, so that few programs are compiled.
    #[serde(default = "batches::multiple")]
    pub pad_to_multiple_of: usize,
}

fn dropout() -> f64 {
    0.1
}

impl MarianRecipe {
    fn config(&self, vocab_size: usize, pad: u32, eos: u32) -> BartConfig {
        let inner = 4 * self.d_model;
        let mut config = BartConfig {
            vocab_size,
            d_model: self.d_model,
            encoder_layers: self.encoder_layers,
            decoder_layers: self.decoder_layers,
            encoder_attention_heads: self.encoder_attention_heads,
            decoder_attention_heads: self.decoder_attention_heads,
            encoder_ffn_dim: self.encoder_ffn_dim.unwrap_or(inner),
            decoder_ffn_dim: self.decoder_ffn_dim.unwrap_or(inner),
            max_position_embeddings: self.max_position_embeddings,
            dropout: self.dropout,
            pad_token_id: pad as usize,
            eos_token_id: Some(eos as usize),
            decoder_start_token_id: pad as usize,
            ..BartConfig::marian()
        };
        config.other.insert("forced_eos_token_id".into(), eos.into());
        config.other.insert("bad_words_ids".into(), json!([[pad]]));
        config
    }
}

impl PairsRecipe {
    fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new(""))
    }
}

impl TaskSpec for TranslationRecipe {
    fn validate(
        &mut self,
        train: &mut TrainRecipe,
        sample: &mut Option<SampleRecipe>,
    ) -> Result<(), RecipeError> {
        train.allow(TaskKind::Translation, &[])?;
        refuse_sample(TaskKind::Translation, sample)?;
        let (task, data) = (&self.task, &self.data);
        let smoothing = task.label_smoothing;
        check("task.label_smoothing", (0.0..1.0).contains(&smoothing), smoothing, || "in 0..1".into())?;
        positive("task.num_beams", task.num_beams)?;
        positive("task.translated", task.translated)?;
        positive("data.pad_to_multiple_of", data.pad_to_multiple_of)?;
        let longest = self.model.max_position_embeddings;
        check("data.max_length", (2..=longest).contains(&data.max_length), data.max_length, || {
            format!("2 to model.max_position_embeddings, {longest}")
        })?;
        for (key, source) in
            [("data.train.columns", &data.train), ("data.validation.columns", &data.validation)]
        {
            let count = source.columns.len();
            check(key, count == 2, count, || "2: a text and its translation".into())?;
        }
        self.model.config(3, 0, 1).validate().map_err(|error| RecipeError::Value {
            key: "model",
            expected: "a model that is possible".into(),
            found: error.to_string(),
        })
    }

    fn root(&mut self) -> &mut Option<PathBuf> {
        &mut self.data.root
    }

    fn width(&self) -> Option<usize> {
        Some(self.model.d_model)
    }

    fn changed(&self, other: &TaskRecipe) -> Option<&'static str> {
        let TaskRecipe::Translation(other) = other else { return Some("task.kind") };
        if self.model != (MarianRecipe { dropout: self.model.dropout, ..other.model.clone() }) {
            return Some("[model]");
        }
        (self.data.tokenizer != other.data.tokenizer).then_some("data.tokenizer")
    }

    fn open(
        &self,
        recipe: &Recipe,
        opening: &Opening<'_>,
        device: &DeviceHandle,
        _warn: &mut dyn FnMut(String),
    ) -> Result<Box<dyn Task>> {
        let (data, init) = (&self.data, Init::new(device, recipe.train.seed));
        if let Opening::Plan = opening {
            let size = data.tokenizer.vocab_size(data.root())?.unwrap_or(1 << 15);
            let model = MarianMTModel::new(&self.model.config(size, 0, 1), &init)?;
            return Ok(Box::new(Translation::new(self, model, None, device)));
        }
        let table = |source: &TableSource| source.open(data.root(), opening.cache());
        let train = match opening {
            Opening::Evaluate { .. } => None,
            _ => Some(table(&data.train)?),
        };
        let (model, tokenizer) = match (opening, &train) {
            (Opening::Resume { checkpoint: folder, .. } | Opening::Evaluate { folder }, _) => {
                (MarianMTModel::from_pretrained(folder, device)?, Tokenizer::load(folder)?)
            }
            (_, Some(train)) => {
                let mut texts = Vec::with_capacity(2 * train.len());
                for row in train.rows() {
                    let row = row?;
                    texts.extend([row.text(0)?.to_owned(), row.text(1)?.to_owned()]);
                }
                let tokenizer = data.tokenizer.build(&Documents::from_texts(texts), data.root())?;
                let special = tokenizer.special_tokens();
                let (Some(pad), Some(eos)) = (special.pad, special.eos) else {
                    return Err(TrainError::Recipe(RecipeError::Value {
                        key: "data.tokenizer",
                        expected: "one with tokens `<pad>` and `</s>`, such as kind = \"unigram\"".into(),
                        found: "one without".into(),
                    }));
                };
                let config = self.model.config(tokenizer.vocab_size(), pad, eos);
                let advice = "model.encoder_layers, model.decoder_layers, model.d_model, the vocabulary";
                check_room(recipe, config.parameters(), advice, device)?;
                (MarianMTModel::new(&config, &init)?, tokenizer)
            }
            _ => return Err(TrainError::NoData("training text")),
        };
        tokenizer.check_model(model.vocab_size())?;
        let options = EncodeOptions { max_length: Some(data.max_length), ..EncodeOptions::default() };
        let encoder = TextEncoder::new(&tokenizer, &options)?;
        let pad = model.pad_token_id() as u32;
        let read = |table: &Table| Pairs::read(table, &encoder, pad);
        let train = train.as_ref().map(read).transpose()?.map(Arc::new);
        let validation = read(&table(&data.validation)?)?;
        let data = Data { tokenizer, train, validation };
        Ok(Box::new(Translation::new(self, model, Some(data), device)))
    }
}

/// The pairs of a split as tokens.
struct Pairs {
    encoded: Vec<[Encoding; 2]>,
    texts: Vec<[String; 2]>,
    pad: u32,
}

impl Pairs {
    fn read(table: &Table, encoder: &TextEncoder, pad: u32) -> wgrad_data::Result<Self> {
        let mut pairs = Pairs { encoded: Vec::new(), texts: Vec::new(), pad };
        for row in table.rows() {
            let row = row?;
            let texts = [row.text(0)?.to_owned(), row.text(1)?.to_owned()];
            if let Some(empty) = texts.iter().position(|text| text.trim().is_empty()) {
                return Err(
                    row.error(format!("column `{}` is empty, expected a text", table.columns()[empty]))
                );
            }
            pairs.encoded.push([encoder.encode(&texts[0], None)?, encoder.encode(&texts[1], None)?]);
            pairs.texts.push(texts);
        }
        Ok(pairs)
    }

    /// Of each pair the longer side.
    fn lengths(&self) -> Vec<u32> {
        self.encoded.iter().map(|[source, target]| source.len().max(target.len()) as u32).collect()
    }

    /// The pairs of a plan, both sides padded to its width; those from `wanted` on have nothing to write. Also how many tokens there are to
    /// write.
    fn batch(&self, plan: &BatchPlan, wanted: usize) -> (HostBatch, usize) {
        let side = |side: usize| -> TextBatch {
            let encodings: Vec<&Encoding> = plan.rows.iter().map(|&row| &self.encoded[row][side]).collect();
            TextBatch::new(&encodings, plan.width, self.pad)
        };
        let (source, target) = (side(0), side(1));
        let kept = wanted * target.width;
        let counts =
            |(i, (&id, &mask)): (usize, (&i32, &i32))| if mask == 1 && i < kept { id } else { IGNORED_LABEL };
        let labels: Vec<i32> =
            target.input_ids.iter().zip(&target.attention_mask).enumerate().map(counts).collect();
        let tokens = labels.iter().filter(|&&label| label != IGNORED_LABEL).count();
        let batch = HostBatch::default()
            .with("input_ids", &[source.width], source.input_ids)
            .with("attention_mask", &[source.width], source.attention_mask)
            .with("labels", &[target.width], labels);
        (batch, tokens)
    }
}

struct Data {
    tokenizer: Tokenizer,
    /// Not there where the model is only measured.
    train: Option<Arc<Pairs>>,
    validation: Pairs,
}

/// A translator and its texts.
struct Translation {
    model: MarianMTModel,
    /// Not there where a step is only planned.
    data: Option<Data>,
    task: TranslationOptions,
    max_length: usize,
    multiple: usize,
    device: DeviceHandle,
}

impl Translation {
    fn new(
        recipe: &TranslationRecipe,
        model: MarianMTModel,
        data: Option<Data>,
        device: &DeviceHandle,
    ) -> Self {
        let (max_length, multiple) = (recipe.data.max_length, recipe.data.pad_to_multiple_of);
        Translation { model, data, task: recipe.task, max_length, multiple, device: device.clone() }
    }

    fn data(&self) -> Result<&Data> {
        self.data.as_ref().ok_or(TrainError::NoData("text"))
    }

    fn train(&self) -> Result<&Arc<Pairs>> {
        self.data()?.train.as_ref().ok_or(TrainError::NoData("training text"))
    }

    fn smoothed_loss(&self, batch: &Batch, label_smoothing: f64, ctx: &Context) -> Tensor {
        let (mask, labels) = (batch.get("attention_mask"), batch.get("labels"));
        let logits = self.model.forward(&batch.get("input_ids"), Some(&mask), &labels, None, ctx);
        seq2seq_loss(&logits, &labels, label_smoothing)
    }

    /// BLEU and chrF of translations, and BLEU of the sources as they are.
    fn scores(&self, validation: &Pairs, examples: usize) -> Result<[f64; 3]> {
        let (tokenizer, eos) = (&self.data()?.tokenizer, self.model.eos_token_id());
        let total = validation.texts.len();
        let count = self.task.translated.min(total);
        let chosen: Vec<usize> = (0..count).map(|i| i * total / count.max(1)).collect();
        let options = BeamSearch {
            num_beams: self.task.num_beams,
            max_new_tokens: self.max_length,
            ..BeamSearch::default()
        };
        let width = self.max_length.next_multiple_of(self.multiple).min(self.model.max_target());
        let (mut bleu, mut chrf, mut copy) = (Bleu::new(), Chrf::new(), Bleu::new());
        for rows in chosen.chunks(examples.max(1)) {
            let plan = BatchPlan { rows: batches::filled(rows, examples), width };
            let (batch, _) = validation.batch(&plan, rows.len());
            let batch = batch.upload(0, 1, &self.device);
            let mask = batch.get("attention_mask");
            let written = beam_search(&self.model, &batch.get("input_ids"), Some(&mask), &options)?;
            for (ids, &row) in written.iter().zip(rows) {
                let ids: Vec<u32> =
                    ids.iter().skip(1).filter(|&&id| Some(id) != eos).map(|&id| id as u32).collect();
                let ([source, target], text) = (&validation.texts[row], tokenizer.decode(&ids)?);
                bleu.add(text.trim(), &[target]);
                chrf.add(text.trim(), &[target]);
                copy.add(source, &[target]);
            }
        }
        Ok([bleu.score().score, chrf.score(), copy.score().score])
    }
}

impl Task for Translation {
    fn module(&self) -> &dyn Module {
        &self.model
    }

    fn units(&self) -> Units {
        Units { example: "pair", unit: "pair", per_example: 1, data: "text" }
    }

    fn columns(&self) -> Vec<Column> {
        ["input_ids", "attention_mask", "labels"]
            .map(|name| Column::new(name, DType::I32, [self.max_length]))
            .to_vec()
    }

    fn loss(&self, batch: &Batch, ctx: &Context) -> Tensor {
        self.smoothed_loss(batch, self.task.label_smoothing, ctx)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        Ok(self.model.save_pretrained(folder)?)
    }

    fn save_beside(&self, folder: &Path) -> Result<()> {
        Ok(self.data()?.tokenizer.save(folder)?)
    }

    fn batches(&self, examples: usize, seed: u64) -> Result<BatchMaker> {
        let train = Arc::clone(self.train()?);
        let buckets = LengthBuckets::new(train.lengths(), examples, self.multiple, seed)?;
        let batch = move |plan: &BatchPlan| Ok(train.batch(plan, plan.rows.len()).0);
        Ok(batches::by_length(buckets, self.model.max_target(), batch))
    }

    fn fingerprint(&self) -> Result<(u64, u32)> {
        let train = self.train()?;
        let mut hasher = crc32fast::Hasher::new();
        for id in train.encoded.iter().flatten().flat_map(|side| &side.ids) {
            hasher.update(&id.to_le_bytes());
        }
        Ok((train.encoded.len() as u64, hasher.finalize()))
    }

    fn describe(&self) -> String {
        let Some(data) = &self.data else { return String::new() };
        let train = data.train.as_ref().map_or(0, |pairs| pairs.texts.len());
        format!("{train} training pairs, {} validation pairs", data.validation.texts.len())
    }

    fn evaluate(&self, examples: usize, precision: Precision) -> Result<Measured> {
        let validation = &self.data()?.validation;
        let buckets = LengthBuckets::new(validation.lengths(), examples, self.multiple, 0)?;
        let (mut sum, mut tokens) = (0.0, 0);
        for (plan, wanted) in batches::in_order(&buckets, examples, self.model.max_target()) {
            let (batch, counted) = validation.batch(&plan, wanted);
            let loss = self.smoothed_loss(&batch.upload(0, 1, &self.device), 0.0, &Context::eval());
            sum += loss.autocast(precision.dtype()).item()? * counted as f64;
            tokens += counted;
        }
        let [bleu, chrf, copy] = self.scores(validation, examples)?;
        let metrics = vec![("bleu", bleu), ("chrf", chrf), ("copy_bleu", copy)];
        Ok(Measured { loss: sum / tokens as f64, metrics, units: validation.texts.len() })
    }

    fn report(&self, measured: &Measured) -> Vec<(String, String)> {
        let mut lines = vec![
            ("pairs".to_owned(), measured.units.to_string()),
            ("validation loss".to_owned(), format!("{:.4} nats per token", measured.loss)),
        ];
        lines
            .extend(measured.metrics.iter().map(|(name, value)| ((*name).to_owned(), format!("{value:.2}"))));
        lines
    }
}
