//! Guessing hidden tokens of a text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wgrad_data::{
    IGNORED_LABEL, Masking, MaskingOptions, TokenStream, Tokenizer, TokenizerSpec, WindowSampler,
    validation_windows,
};
use wgrad_models::BertForMaskedLM;
use wgrad_nn::{Context, Init, Module, functional::cross_entropy};
use wgrad_tensor::{DType, DeviceHandle, Tensor};

use super::batches::filled;
use super::model::{BertRecipe, config_of};
use crate::error::{Result, TrainError};
use crate::recipe::{Precision, Recipe, RecipeError, SampleRecipe, Sections, TrainRecipe, check, positive};
use crate::scores::perplexity;
use crate::task::batch::{Batch, Column, HostBatch};
use crate::task::causal_lm::TextRecipe;
use crate::task::causal_lm::corpus::{fingerprint, report_cleaning, stream};
use crate::task::{
    BatchMaker, Measured, Opening, Task, TaskKind, TaskRecipe, TaskSpec, Units, check_room, refuse_sample,
};

/// `[task]`, `[model]` and `[data]` of a masked language model.
pub type MaskedLmRecipe = Sections<MaskedLmOptions, BertRecipe, TextRecipe>;

/// The epoch of validation, whose tokens are hidden the same at every time.
const VALIDATION: u64 = u64::MAX;

/// `[task]` of a masked language model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskedLmOptions {
    /// `masked-lm`.
    #[serde(default)]
    pub kind: TaskKind,
    /// Which tokens are hidden, and how.
    #[serde(default)]
    pub masking: MaskingOptions,
}

impl TaskSpec for MaskedLmRecipe {
    fn validate(
        &mut self,
        train: &mut TrainRecipe,
        sample: &mut Option<SampleRecipe>,
    ) -> Result<(), RecipeError> {
        train.allow(TaskKind::MaskedLm, &["context", "validation_windows"])?;
        refuse_sample(TaskKind::MaskedLm, sample)?;
        self.model.validate()?;
        let own = self.data.tokenizer == TokenizerSpec::default();
        check("data.tokenizer", self.model.pretrained.is_none() || own, "another one", || {
            "absent: model.pretrained has its own".into()
        })?;
        let longest = self.model.pretrained.is_none().then(|| self.model.config(1).max_position_embeddings);
        let context = *train.context.get_or_insert(self.model.max_position_embeddings.unwrap_or(128));
        check("train.context", longest.is_none_or(|longest| context <= longest), context, || {
            format!("at most model.max_position_embeddings, {}", longest.unwrap_or_default())
        })?;
        check("train.context", context > 2, context, || "3 or more: two tokens frame the text".into())?;
        positive("train.validation_windows", *train.validation_windows.get_or_insert(200))
    }

    fn root(&mut self) -> &mut Option<PathBuf> {
        &mut self.data.root
    }

    fn width(&self) -> Option<usize> {
        self.model.hidden_size
    }

    /// How tokens are hidden may change.
    fn changed(&self, other: &TaskRecipe) -> Option<&'static str> {
        let TaskRecipe::MaskedLm(other) = other else { return Some("task.kind") };
        if self.model != other.model {
            return Some("[model]");
        }
        (self.data.tokenizer != other.data.tokenizer).then_some("data.tokenizer")
    }

    fn open(
        &self,
        recipe: &Recipe,
        opening: &Opening<'_>,
        device: &DeviceHandle,
        warn: &mut dyn FnMut(String),
    ) -> Result<Box<dyn Task>> {
        let (data, train) = (&self.data, &recipe.train);
        let root = data.root();
        let init = Init::new(device, train.seed);
        let pretrained = self.model.folder(root);
        if let Opening::Plan = opening {
            let model = BertForMaskedLM::new(&self.model.planned(&data.tokenizer, root)?, &init)?;
            return MaskedLm::boxed(model, None, train, device);
        }
        let cache = opening.cache();
        let documents = match opening {
            Opening::Evaluate { .. } => None,
            _ => Some(data.train.resolve(root)?),
        };
        if let Some(documents) = &documents {
            report_cleaning(documents, cache)?;
        }
        let (model, tokenizer) = match (opening, &documents, &pretrained) {
            (Opening::Resume { checkpoint: folder, .. } | Opening::Evaluate { folder }, ..) => {
                (BertForMaskedLM::from_pretrained(folder, device)?, Tokenizer::load(folder)?)
            }
            (_, _, Some(folder)) => {
                check_room(recipe, config_of(folder)?.parameters(), "another model", device)?;
                (BertForMaskedLM::from_pretrained(folder, device)?, Tokenizer::load(folder)?)
            }
            (_, Some(documents), None) => {
                let tokenizer = data.tokenizer.build(documents, root)?;
                let config = self.model.config(tokenizer.vocab_size());
                check_room(recipe, config.parameters(), BertRecipe::ADVICE, device)?;
                (BertForMaskedLM::new(&config, &init)?, tokenizer)
            }
            _ => return Err(TrainError::NoData("training text")),
        };
        tokenizer.check_model(model.config().vocab_size)?;
        let masking = Masking::new(&tokenizer, &self.task.masking, train.seed)?;
        let validation = Arc::new(stream(&data.validation.resolve(root)?, &tokenizer, cache, warn)?);
        let special = tokenizer.special_tokens();
        let frame = [special.cls, special.sep];
        let inner = train.context.unwrap_or_default() - frame.iter().flatten().count();
        let starts =
            validation_windows(validation.len(), inner, train.validation_windows.unwrap_or_default())?;
        let train_stream = match documents {
            Some(documents) => Some(Arc::new(stream(&documents, &tokenizer, cache, warn)?)),
            None => None,
        };
        let windows = Windows { frame, inner, masking };
        let data = Data { tokenizer, windows, train: train_stream, validation, starts };
        MaskedLm::boxed(model, Some(data), train, device)
    }
}

/// Windows of a text between the tokens that a BERT expects around one.
#[derive(Clone, Debug)]
struct Windows {
    frame: [Option<u32>; 2],
    /// Tokens of the text in a window.
    inner: usize,
    masking: Masking,
}

impl Windows {
    /// The windows at `starts` with hidden tokens, and how many are hidden. Those from `wanted` on have nothing to guess.
    fn batch(
        &self,
        stream: &TokenStream,
        starts: &[usize],
        wanted: usize,
        epoch: u64,
        first: u64,
    ) -> wgrad_data::Result<(HostBatch, usize)> {
        let [before, after] = self.frame.map(|token| token.map(|id| id as i32));
        let (mut inputs, mut labels) = (Vec::new(), Vec::new());
        for (row, &start) in starts.iter().enumerate() {
            let ids = stream.get(start..start + self.inner)?;
            let masked = self.masking.mask_window(&ids, epoch, first + row as u64);
            inputs.extend(before);
            labels.extend(before.map(|_| IGNORED_LABEL));
            inputs.extend(masked.ids.iter().map(|&id| id as i32));
            match row < wanted {
                true => labels.extend(masked.labels),
                false => labels.extend(masked.labels.iter().map(|_| IGNORED_LABEL)),
            }
            inputs.extend(after);
            labels.extend(after.map(|_| IGNORED_LABEL));
        }
        let width = inputs.len() / starts.len().max(1);
        let hidden = labels.iter().filter(|&&label| label != IGNORED_LABEL).count();
        let batch = HostBatch::default().with("input_ids", &[width], inputs).with("labels", &[width], labels);
        Ok((batch, hidden))
    }
}

struct Data {
    tokenizer: Tokenizer,
    windows: Windows,
    /// Not there where the model is only measured.
    train: Option<Arc<TokenStream>>,
    validation: Arc<TokenStream>,
    /// Where the windows of the validation begin.
    starts: Vec<usize>,
}

/// A masked language model and its text.
struct MaskedLm {
    model: BertForMaskedLM,
    /// Not there where a step is only planned.
    data: Option<Data>,
    context: usize,
    device: DeviceHandle,
}

impl MaskedLm {
    fn boxed(
        model: BertForMaskedLM,
        data: Option<Data>,
        train: &TrainRecipe,
        device: &DeviceHandle,
    ) -> Result<Box<dyn Task>> {
        let context = train.context.unwrap_or_default();
        let longest = model.config().max_position_embeddings;
        check("train.context", context <= longest, context, || {
            format!("at most max_position_embeddings, {longest}")
        })?;
        Ok(Box::new(MaskedLm { model, data, context, device: device.clone() }))
    }

    fn data(&self) -> Result<&Data> {
        self.data.as_ref().ok_or(TrainError::NoData("text"))
    }

    fn train(&self) -> Result<&Arc<TokenStream>> {
        self.data()?.train.as_ref().ok_or(TrainError::NoData("training text"))
    }
}

impl Task for MaskedLm {
    fn module(&self) -> &dyn Module {
        &self.model
    }

    fn units(&self) -> Units {
        Units { example: "window", unit: "token", per_example: self.context, data: "text" }
    }

    fn columns(&self) -> Vec<Column> {
        ["input_ids", "labels"].map(|name| Column::new(name, DType::I32, [self.context])).to_vec()
    }

    fn loss(&self, batch: &Batch, ctx: &Context) -> Tensor {
        let logits = self.model.forward(&batch.get("input_ids"), None, None, ctx);
        cross_entropy(&logits, &batch.get("labels"), Some(IGNORED_LABEL))
    }

    fn save(&self, folder: &Path) -> Result<()> {
        Ok(self.model.save_pretrained(folder)?)
    }

    fn save_beside(&self, folder: &Path) -> Result<()> {
        Ok(self.data()?.tokenizer.save(folder)?)
    }

    fn batches(&self, examples: usize, seed: u64) -> Result<BatchMaker> {
        let (stream, windows) = (Arc::clone(self.train()?), self.data()?.windows.clone());
        let sampler = WindowSampler::new(stream.len(), windows.inner, examples, seed)?;
        Ok(Box::new(move |step| Ok(windows.batch(&stream, &sampler.starts(step), examples, step, 0)?.0)))
    }

    fn fingerprint(&self) -> Result<(u64, u32)> {
        fingerprint(self.train()?)
    }

    fn describe(&self) -> String {
        let Some(data) = &self.data else { return String::new() };
        let train = data.train.as_ref().map_or(0, |stream| stream.len());
        format!("{train} training tokens, {} validation tokens", data.validation.len())
    }

    fn evaluate(&self, examples: usize, precision: Precision) -> Result<Measured> {
        let data = self.data()?;
        let (mut sum, mut units) = (0.0, 0);
        for (number, starts) in data.starts.chunks(examples.max(1)).enumerate() {
            let full = filled(starts, examples);
            let first = (number * examples.max(1)) as u64;
            let (batch, hidden) =
                data.windows.batch(&data.validation, &full, starts.len(), VALIDATION, first)?;
            let loss = self.loss(&batch.upload(0, 1, &self.device), &Context::eval());
            sum += loss.autocast(precision.dtype()).item()? * hidden as f64;
            units += hidden;
        }
        Ok(Measured { loss: sum / units as f64, metrics: Vec::new(), units })
    }

    fn report(&self, measured: &Measured) -> Vec<(String, String)> {
        let loss = measured.loss;
        vec![
            ("hidden tokens".to_owned(), measured.units.to_string()),
            ("validation loss".to_owned(), format!("{loss:.4} nats per hidden token")),
            ("perplexity".to_owned(), format!("{:.3}", perplexity(loss))),
        ]
    }
}
