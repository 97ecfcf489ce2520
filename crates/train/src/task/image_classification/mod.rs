//! Classifiers of images.

mod recipe;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wgrad_data::{Augmentation, EpochSampler, LabelledImages};
use wgrad_models::Cnn;
use wgrad_nn::functional::{CrossEntropy, Reduction, cross_entropy_with};
use wgrad_nn::{Context, Init, Module};
use wgrad_tensor::{DType, DeviceHandle, PendingValue, Tensor};

use super::batch::{Batch, Column, HostBatch};
use super::{BatchMaker, Measured, Opening, Task, TaskRecipe, TaskSpec, Units, check_room, refuse_sample};
use crate::error::{Result, TrainError};
use crate::recipe::{Precision, Recipe, RecipeError, SampleRecipe, Sections, TrainRecipe};

pub use self::recipe::{CnnRecipe, ImageDataRecipe, ImageModelKind, ImageTask};

/// `[task]`, `[model]` and `[data]` of an image classifier.
pub type ImageClassificationRecipe = Sections<ImageTask, CnnRecipe, ImageDataRecipe>;

impl TaskSpec for ImageClassificationRecipe {
    fn validate(
        &mut self,
        train: &mut TrainRecipe,
        sample: &mut Option<SampleRecipe>,
    ) -> Result<(), RecipeError> {
        self.task.validate()?;
        self.data.validate()?;
        self.model.validate(&self.data)?;
        train.allow(self.task.kind, &[])?;
        refuse_sample(self.task.kind, sample)
    }

    fn root(&mut self) -> &mut Option<PathBuf> {
        &mut self.data.root
    }

    /// Dropout, label smoothing and what is done to training images may change.
    fn changed(&self, other: &TaskRecipe) -> Option<&'static str> {
        let TaskRecipe::ImageClassification(other) = other else { return Some("task.kind") };
        let mut expected = self.model.clone();
        expected.classifier_dropout = other.model.classifier_dropout;
        if expected != other.model {
            return Some("[model]");
        }
        let shape = |r: &Self| (r.data.image_size, r.data.num_channels, r.data.num_labels);
        if shape(self) != shape(other) {
            return Some("the shape of [data]");
        }
        let given = |r: &Self| (r.data.mean.clone(), r.data.std.clone());
        (given(self) != given(other)).then_some("the normalisation of [data]")
    }

    fn open(
        &self,
        recipe: &Recipe,
        opening: &Opening<'_>,
        device: &DeviceHandle,
        _warn: &mut dyn FnMut(String),
    ) -> Result<Box<dyn Task>> {
        let config = self.model.config(&self.data);
        let new = || Cnn::new(&config, &Init::new(device, recipe.train.seed));
        let (model, train, validation, processor) = match *opening {
            Opening::Plan => (new()?, None, None, Processor::plain(self.data.num_channels)),
            Opening::Begin { .. } => {
                let advice = "model.channels, model.depth, model.hidden_size";
                check_room(recipe, config.parameters(), advice, device)?;
                let (train, validation) = (self.images("train")?, self.images("t10k")?);
                let processor = Processor::new(&self.data, &train)?;
                (new()?, Some(train), Some(validation), processor)
            }
            Opening::Resume { checkpoint, .. } => {
                let (train, validation) = (self.images("train")?, self.images("t10k")?);
                (new()?, Some(train), Some(validation), Processor::load(checkpoint)?)
            }
            Opening::Evaluate { folder } => {
                let model = Cnn::from_pretrained(folder, device)?;
                (model, None, Some(self.images("t10k")?), Processor::load(folder)?)
            }
        };
        Ok(Box::new(ImageClassifier {
            model,
            affine: processor.affine(device),
            processor,
            train: train.map(Arc::new),
            validation,
            augmentation: self.data.augmentation(),
            label_smoothing: self.task.label_smoothing,
            device: device.clone(),
        }))
    }
}

impl ImageClassificationRecipe {
    /// The images of a split, which must be those that the recipe tells of.
    fn images(&self, split: &str) -> Result<LabelledImages> {
        let data = &self.data;
        let images = LabelledImages::of_split(&data.folder(), split)?;
        let [height, width] = data.image_size;
        let expected = [data.num_channels, height, width];
        let misfit = |what, expected: String, found: String| {
            let folder = data.folder();
            Err(TrainError::Images { folder, split: split.to_owned(), what, expected, found })
        };
        if images.shape != expected {
            let text = |[c, h, w]: [usize; 3]| format!("{c} x {h} x {w} (channels, height, width)");
            return misfit("data.num_channels and data.image_size", text(expected), text(images.shape));
        }
        if images.classes() > data.num_labels {
            let found = format!("a label {}", images.classes() - 1);
            return misfit("data.num_labels", format!("labels below {}", data.num_labels), found);
        }
        Ok(images)
    }
}

/// What is done to pixels before the model sees them; the file that Hugging Face's image processors read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Processor {
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: Vec<f64>,
    image_std: Vec<f64>,
}

impl Processor {
    const FILE: &'static str = "preprocessor_config.json";

    fn with(image_mean: Vec<f64>, image_std: Vec<f64>) -> Self {
        Processor { do_rescale: true, rescale_factor: 1.0 / 255.0, do_normalize: true, image_mean, image_std }
    }

    /// Nothing is subtracted, and everything divided by 1.
    fn plain(channels: usize) -> Self {
        Self::with(vec![0.0; channels], vec![1.0; channels])
    }

    /// By what the recipe says, or else what the training images are like.
    fn new(data: &ImageDataRecipe, train: &LabelledImages) -> Result<Self> {
        let statistics = train.statistics();
        let mean = data.mean.clone().unwrap_or_else(|| statistics.iter().map(|s| s.0).collect());
        // A channel that is the same everywhere stays as it is.
        let spread = |s: &(f64, f64)| if s.1 > 0.0 { s.1 } else { 1.0 };
        let std = data.std.clone().unwrap_or_else(|| statistics.iter().map(spread).collect());
        Ok(Self::with(mean, std))
    }

    fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::FILE);
        let json = fs::read(&path).map_err(TrainError::io("read", &path))?;
        serde_json::from_slice(&json).map_err(|error| TrainError::Checkpoint {
            path: folder.to_owned(),
            reason: format!("`{}`: {error}", Self::FILE),
        })
    }

    fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(Self::FILE);
        let json = serde_json::to_vec_pretty(self)
            .map_err(|error| TrainError::io("write", &path)(std::io::Error::other(error)))?;
        fs::write(&path, json).map_err(TrainError::io("write", &path))
    }

    /// What bytes `[n, c, h, w]` are multiplied by, and what is added then, `[c, 1, 1]`: `(x / 255 - mean) / std`.
    fn affine(&self, device: &DeviceHandle) -> (Tensor, Tensor) {
        let per_channel = |values: Vec<f32>| {
            let shape = [values.len(), 1, 1];
            Tensor::from_vec(values, shape, device)
        };
        let scale = self.image_std.iter().map(|std| (self.rescale_factor / std) as f32).collect();
        let shift =
            self.image_mean.iter().zip(&self.image_std).map(|(mean, std)| (-mean / std) as f32).collect();
        (per_channel(scale), per_channel(shift))
    }
}

/// A convolutional network and its images.
struct ImageClassifier {
    model: Cnn,
    processor: Processor,
    /// Of the processor.
    affine: (Tensor, Tensor),
    train: Option<Arc<LabelledImages>>,
    validation: Option<LabelledImages>,
    augmentation: Augmentation,
    label_smoothing: f64,
    device: DeviceHandle,
}

impl ImageClassifier {
    fn train(&self) -> Result<&Arc<LabelledImages>> {
        self.train.as_ref().ok_or(TrainError::NoData("training images"))
    }

    fn validation(&self) -> Result<&LabelledImages> {
        self.validation.as_ref().ok_or(TrainError::NoData("validation images"))
    }

    fn shape(&self) -> [usize; 3] {
        let config = self.model.config();
        [config.num_channels, config.image_size[0], config.image_size[1]]
    }

    fn logits(&self, batch: &Batch, ctx: &Context) -> Tensor {
        let (scale, shift) = &self.affine;
        let pixels = batch.get("pixel_values").cast(DType::F32).mul(scale).add(shift);
        self.model.forward(&pixels, ctx)
    }
}

fn host_batch(shape: &[usize; 3], pixels: Vec<u8>, labels: impl Iterator<Item = u8>) -> HostBatch {
    let labels: Vec<i32> = labels.map(i32::from).collect();
    HostBatch::default().with("pixel_values", shape, pixels).with("labels", &[], labels)
}

impl Task for ImageClassifier {
    fn module(&self) -> &dyn Module {
        &self.model
    }

    fn units(&self) -> Units {
        Units { example: "image", unit: "image", per_example: 1, data: "set of images" }
    }

    fn columns(&self) -> Vec<Column> {
        vec![Column::new("pixel_values", DType::U8, self.shape()), Column::new("labels", DType::I32, [])]
    }

    fn loss(&self, batch: &Batch, ctx: &Context) -> Tensor {
        let options = CrossEntropy { label_smoothing: self.label_smoothing, ..CrossEntropy::default() };
        cross_entropy_with(&self.logits(batch, ctx), &batch.get("labels"), &options)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.model.save_pretrained(folder)?;
        self.processor.save(folder)
    }

    fn batches(&self, examples: usize, seed: u64) -> Result<BatchMaker> {
        let images = Arc::clone(self.train()?);
        let mut sampler = EpochSampler::new(images.len(), examples, seed)?;
        let augmentation = self.augmentation;
        Ok(Box::new(move |step| {
            let draws = sampler.draws(step);
            let mut pixels = Vec::with_capacity(examples * images.shape.iter().product::<usize>());
            for &(position, index) in &draws {
                augmentation.apply(images.image(index), images.shape, seed, position, &mut pixels);
            }
            Ok(host_batch(&images.shape, pixels, draws.iter().map(|&(_, index)| images.labels[index])))
        }))
    }

    fn fingerprint(&self) -> Result<(u64, u32)> {
        let images = self.train()?;
        Ok((images.len() as u64, images.checksum()))
    }

    fn describe(&self) -> String {
        let count = |images: Option<&LabelledImages>| images.map_or(0, LabelledImages::len);
        let (train, validation) = (count(self.train.as_deref()), count(self.validation.as_ref()));
        format!("{train} training images, {validation} validation images")
    }

    /// Loss without smoothing, and the share of images whose likeliest class is theirs.
    fn evaluate(&self, examples: usize, precision: Precision) -> Result<Measured> {
        let images = self.validation()?;
        let (mut loss, mut hits) = (0.0, 0.0);
        let mut settle = |pending: Option<PendingValue<f32>>| -> Result<()> {
            if let Some(pending) = pending {
                let [l, h] = pending.wait()?[..] else { return Err(TrainError::NoData("sum of losses")) };
                (loss, hits) = (loss + f64::from(l), hits + f64::from(h));
            }
            Ok(())
        };
        // Each batch is queued before the previous one is waited for.
        let mut pending = None;
        for first in (0..images.len()).step_by(examples.max(1)) {
            let range = first..images.len().min(first + examples.max(1));
            let pixels = range.clone().flat_map(|index| images.image(index)).copied().collect();
            let batch = host_batch(&images.shape, pixels, images.labels[range].iter().copied());
            let batch = batch.upload(0, 1, &self.device);
            settle(pending.replace(self.sums(&batch).autocast(precision.dtype()).read()?))?;
        }
        settle(pending)?;
        let count = images.len() as f64;
        let metrics = vec![("accuracy", hits / count)];
        Ok(Measured { loss: loss / count, metrics, units: images.len() })
    }

    fn report(&self, measured: &Measured) -> Vec<(String, String)> {
        let mut lines = vec![
            ("images".to_owned(), measured.units.to_string()),
            ("validation loss".to_owned(), format!("{:.4} nats per image", measured.loss)),
        ];
        for (name, value) in &measured.metrics {
            lines.push(((*name).to_owned(), format!("{value:.4}")));
        }
        lines
    }
}

impl ImageClassifier {
    /// The sum of losses and the number of hits of a batch, `[2]`.
    fn sums(&self, batch: &Batch) -> Tensor {
        let (logits, labels) = (self.logits(batch, &Context::eval()), batch.get("labels"));
        let options = CrossEntropy { reduction: Reduction::Sum, ..CrossEntropy::default() };
        let loss = cross_entropy_with(&logits, &labels, &options);
        let hits = logits.argmax(-1, false).eq(&labels).cast(DType::F32).sum_all();
        Tensor::cat(&[&loss.reshape([1]), &hits.reshape([1])], 0)
    }
}
