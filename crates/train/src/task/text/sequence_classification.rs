//! Telling classes of texts, or of pairs of texts.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wgrad_data::{
    Documents, EncodeOptions, Labels, LengthBuckets, Table, TableSource, TextEncoder, Tokenizer,
    TokenizerSpec,
};
use wgrad_models::{BertForSequenceClassification, BertModel};
use wgrad_nn::{Context, Init, Module, functional::cross_entropy};
use wgrad_tensor::{DType, DeviceHandle, Tensor};

use super::batches;
use super::examples::Examples;
use super::model::{BertRecipe, config_of};
use crate::error::{Result, TrainError};
use crate::recipe::{Precision, Recipe, RecipeError, SampleRecipe, Sections, TrainRecipe, check, positive};
use crate::scores::{Confusion, draw_confusion};
use crate::task::batch::{Batch, Column};
use crate::task::{
    BatchMaker, Measured, Opening, Task, TaskKind, TaskOptions, TaskRecipe, TaskSpec, Units, check_room,
    refuse_sample,
};

/// `[model]` and `[data]` of a classifier of texts.
pub type SequenceClassificationRecipe = Sections<TaskOptions, BertRecipe, LabelledTextRecipe>;

/// Texts and their classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelledTextRecipe {
    /// Folder to which file patterns are relative. Default: the recipe's own; in a run folder's recipe it is absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// What to train on; its columns are a text, perhaps a second text, and the class.
    pub train: TableSource,
    /// What to measure on, with the same columns.
    pub validation: TableSource,
    /// Names of the classes, the first being 0. Default: those that occur in `train`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// How text becomes tokens. Default: as the trained model does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerSpec>,
    /// Longer texts are cut to so many tokens.
    #[serde(default = "batches::max_length")]
    pub max_length: usize,
    /// Batches are padded to a multiple of it, so that few programs are compiled.
    #[serde(default = "batches::multiple")]
    pub pad_to_multiple_of: usize,
}

impl LabelledTextRecipe {
    fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new(""))
    }
}

impl TaskSpec for SequenceClassificationRecipe {
    fn validate(
        &mut self,
        train: &mut TrainRecipe,
        sample: &mut Option<SampleRecipe>,
    ) -> Result<(), RecipeError> {
        train.allow(TaskKind::SequenceClassification, &[])?;
        refuse_sample(TaskKind::SequenceClassification, sample)?;
        self.model.validate()?;
        positive("data.max_length", self.data.max_length)?;
        positive("data.pad_to_multiple_of", self.data.pad_to_multiple_of)?;
        for (key, source) in
            [("data.train.columns", &self.data.train), ("data.validation.columns", &self.data.validation)]
        {
            let count = source.columns.len();
            check(key, (2..=3).contains(&count), count, || {
                "2 or 3: a text, perhaps a second one, and the class".into()
            })?;
        }
        check(
            "data.tokenizer",
            self.model.pretrained.is_some() || self.data.tokenizer.is_some(),
            "nothing",
            || "a tokenizer, since the model is a new one".into(),
        )
    }

    fn root(&mut self) -> &mut Option<PathBuf> {
        &mut self.data.root
    }

    fn width(&self) -> Option<usize> {
        self.model.hidden_size
    }

    fn changed(&self, other: &TaskRecipe) -> Option<&'static str> {
        let TaskRecipe::SequenceClassification(other) = other else { return Some("task.kind") };
        match (self.model == other.model, self.data.labels == other.data.labels) {
            (false, _) => Some("[model]"),
            (_, false) => Some("data.labels"),
            _ => (self.data.tokenizer != other.data.tokenizer).then_some("data.tokenizer"),
        }
    }

    fn open(
        &self,
        recipe: &Recipe,
        opening: &Opening<'_>,
        device: &DeviceHandle,
        _warn: &mut dyn FnMut(String),
    ) -> Result<Box<dyn Task>> {
        let (data, seed) = (&self.data, recipe.train.seed);
        let init = Init::new(device, seed);
        let pretrained = self.model.folder(data.root());
        let open = |source: &TableSource| -> Result<Arc<Table>> {
            Ok(Arc::new(source.open(data.root(), opening.cache())?))
        };
        let (model, tokenizer, splits) = match *opening {
            Opening::Plan => {
                let spec = data.tokenizer.clone().unwrap_or_default();
                let config = self.model.planned(&spec, data.root())?;
                let names: Vec<String> = (0..data.labels.len().max(2)).map(|i| i.to_string()).collect();
                let model = BertForSequenceClassification::new(&config.with_labels(&names), &init)?;
                let longest = data.max_length.min(model.config().max_position_embeddings);
                return Ok(Box::new(SequenceClassification::new(model, None, data, longest, device)));
            }
            Opening::Begin { .. } => {
                let train = open(&data.train)?;
                let labels = match data.labels.is_empty() {
                    true => Labels::of_column(&train, train.columns().len() - 1)?,
                    false => Labels::new(data.labels.clone())?,
                };
                let tokenizer = match (&data.tokenizer, &pretrained) {
                    (Some(spec), _) => spec.build(&Documents::from_table(Arc::clone(&train)), data.root())?,
                    (None, Some(folder)) => Tokenizer::load(folder)?,
                    // A recipe is checked for it.
                    (None, None) => return Err(TrainError::NoData("tokenizer")),
                };
                let model = match &pretrained {
                    Some(folder) => {
                        let config = config_of(folder)?.with_labels(labels.names());
                        check_room(recipe, config.parameters(), "another model", device)?;
                        let body = BertModel::from_pretrained(folder, device)?;
                        BertForSequenceClassification::on(body, &config, &init)?
                    }
                    None => {
                        let config = self.model.config(tokenizer.vocab_size()).with_labels(labels.names());
                        check_room(recipe, config.parameters(), BertRecipe::ADVICE, device)?;
                        BertForSequenceClassification::new(&config, &init)?
                    }
                };
                (model, tokenizer, (Some(train), labels))
            }
            Opening::Resume { checkpoint: folder, .. } | Opening::Evaluate { folder } => {
                let model = BertForSequenceClassification::from_pretrained(folder, device)?;
                let labels = Labels::new(label_names(&model))?;
                let train =
                    matches!(opening, Opening::Resume { .. }).then(|| open(&data.train)).transpose()?;
                (model, Tokenizer::load(folder)?, (train, labels))
            }
        };
        tokenizer.check_model(model.config().vocab_size)?;
        let longest = data.max_length.min(model.config().max_position_embeddings);
        let options = EncodeOptions { max_length: Some(longest), ..EncodeOptions::default() };
        let encoder = Arc::new(TextEncoder::new(&tokenizer, &options)?);
        let pad = tokenizer.special_tokens().pad.unwrap_or(0);
        let (train, labels) = splits;
        let examples = |table| Examples::new(table, Arc::clone(&encoder), &labels, pad);
        let train = train.map(examples).transpose()?;
        let validation = examples(open(&data.validation)?)?;
        let data_of = Some(Data { tokenizer, labels, train, validation });
        Ok(Box::new(SequenceClassification::new(model, data_of, data, longest, device)))
    }
}

fn label_names(model: &BertForSequenceClassification) -> Vec<String> {
    let config = model.config();
    let names = config.id2label.as_ref();
    (0..config.num_labels())
        .map(|i| {
            let name = names.and_then(|names| names.get(&i.to_string())).and_then(|name| name.as_str());
            name.map_or_else(|| i.to_string(), str::to_owned)
        })
        .collect()
}

struct Data {
    tokenizer: Tokenizer,
    labels: Labels,
    /// Not there where the model is only measured.
    train: Option<Examples>,
    validation: Examples,
}

/// A classifier and its texts.
struct SequenceClassification {
    model: BertForSequenceClassification,
    /// Not there where a step is only planned.
    data: Option<Data>,
    max_length: usize,
    multiple: usize,
    device: DeviceHandle,
    /// Of the last evaluation.
    confusion: RefCell<Option<Confusion>>,
}

impl SequenceClassification {
    fn new(
        model: BertForSequenceClassification,
        data: Option<Data>,
        recipe: &LabelledTextRecipe,
        max_length: usize,
        device: &DeviceHandle,
    ) -> Self {
        let (multiple, device) = (recipe.pad_to_multiple_of, device.clone());
        Self { model, data, max_length, multiple, device, confusion: RefCell::new(None) }
    }

    fn data(&self) -> Result<&Data> {
        self.data.as_ref().ok_or(TrainError::NoData("text"))
    }

    fn train(&self) -> Result<&Examples> {
        self.data()?.train.as_ref().ok_or(TrainError::NoData("training text"))
    }

    fn logits(&self, batch: &Batch, ctx: &Context) -> Tensor {
        let (mask, types) = (batch.get("attention_mask"), batch.get("token_type_ids"));
        self.model.forward(&batch.get("input_ids"), Some(&mask), Some(&types), ctx)
    }
}

impl Task for SequenceClassification {
    fn module(&self) -> &dyn Module {
        &self.model
    }

    fn units(&self) -> Units {
        Units { example: "text", unit: "text", per_example: 1, data: "text" }
    }

    fn columns(&self) -> Vec<Column> {
        let tokens = |name| Column::new(name, DType::I32, [self.max_length]);
        let mut columns = ["input_ids", "attention_mask", "token_type_ids"].map(tokens).to_vec();
        columns.push(Column::new("labels", DType::I32, []));
        columns
    }

    fn loss(&self, batch: &Batch, ctx: &Context) -> Tensor {
        cross_entropy(&self.logits(batch, ctx), &batch.get("labels"), None)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        Ok(self.model.save_pretrained(folder)?)
    }

    fn save_beside(&self, folder: &Path) -> Result<()> {
        Ok(self.data()?.tokenizer.save(folder)?)
    }

    fn batches(&self, examples: usize, seed: u64) -> Result<BatchMaker> {
        let train = self.train()?.clone();
        let buckets = LengthBuckets::new(train.lengths.clone(), examples, self.multiple, seed)?;
        Ok(batches::by_length(buckets, self.max_length, move |plan| train.batch(plan)))
    }

    fn fingerprint(&self) -> Result<(u64, u32)> {
        let train = self.train()?;
        Ok((train.len() as u64, train.crc))
    }

    fn describe(&self) -> String {
        let Some(data) = &self.data else { return String::new() };
        let train = data.train.as_ref().map_or(0, Examples::len);
        let (validation, classes) = (data.validation.len(), data.labels.len());
        format!("{train} training texts, {validation} validation texts, {classes} classes")
    }

    fn evaluate(&self, examples: usize, precision: Precision) -> Result<Measured> {
        let data = self.data()?;
        let classes = data.labels.len();
        let buckets = LengthBuckets::new(data.validation.lengths.clone(), examples, self.multiple, 0)?;
        let (mut loss, mut confusion) = (0.0, Confusion::new(classes));
        for (plan, wanted) in batches::in_order(&buckets, examples, self.max_length) {
            let batch = data.validation.batch(&plan)?.upload(0, 1, &self.device);
            let logits = self.logits(&batch, &Context::eval()).autocast(precision.dtype()).to_vec::<f32>()?;
            for (logits, &row) in logits.chunks(classes).zip(&plan.rows[..wanted]) {
                let truth = data.validation.classes[row] as usize;
                let (best, nats) = judged(logits, truth);
                loss += nats;
                confusion.add(truth, best);
            }
        }
        let units = data.validation.len();
        let metrics = vec![
            ("accuracy", confusion.accuracy()),
            ("f1_macro", confusion.f1_macro()),
            ("matthews", confusion.matthews()),
        ];
        self.confusion.replace(Some(confusion));
        Ok(Measured { loss: loss / units as f64, metrics, units })
    }

    fn report(&self, measured: &Measured) -> Vec<(String, String)> {
        let mut lines = vec![
            ("texts".to_owned(), measured.units.to_string()),
            ("validation loss".to_owned(), format!("{:.4} nats per text", measured.loss)),
        ];
        lines
            .extend(measured.metrics.iter().map(|(name, value)| ((*name).to_owned(), format!("{value:.4}"))));
        lines
    }

    fn draw(&self, folder: &Path) -> Result<()> {
        let (Some(data), Some(confusion)) = (&self.data, &*self.confusion.borrow()) else { return Ok(()) };
        draw_confusion(&folder.join("confusion.svg"), "validation texts", data.labels.names(), confusion)
    }
}

/// The class with the highest logit, and the cross-entropy of the true one.
fn judged(logits: &[f32], truth: usize) -> (usize, f64) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let best = logits.iter().position(|&logit| logit == highest).unwrap_or(0);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
    let true_logit = logits.get(truth).map_or(f64::NAN, |&logit| f64::from(logit - highest));
    (best, sum.ln() - true_logit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_logit_wins_and_the_true_one_is_charged() {
        let (best, nats) = judged(&[0.0, 2.0, 1.0], 2);
        let expected = (0_f64.exp() + 2_f64.exp() + 1_f64.exp()).ln() - 1.0;
        assert!(best == 1 && (nats - expected).abs() < 1e-6, "{nats}");
    }
}
