//! The sections of a recipe for image classifiers.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wgrad_data::Augmentation;
use wgrad_models::CnnConfig;
use wgrad_nn::Activation;

use crate::recipe::{RecipeError, check, positive};
use crate::task::TaskKind;

/// Where the Debian package `dataset-fashion-mnist` puts its files.
const FASHION_MNIST: &str = "/usr/share/datasets/fashion-mnist";

/// `[task]` of an image classifier.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTask {
    /// Which task it is.
    #[serde(default = "this_kind")]
    pub kind: TaskKind,
    /// How much of each target is spread evenly over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
}

impl Default for ImageTask {
    fn default() -> Self {
        ImageTask { kind: this_kind(), label_smoothing: 0.0 }
    }
}

fn this_kind() -> TaskKind {
    TaskKind::ImageClassification
}

/// The kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageModelKind {
    /// Blocks of convolution, batch norm, activation and pooling.
    Cnn,
}

/// The network, with the names of [`CnnConfig`]. Sizes of images come from the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CnnRecipe {
    /// The kind of network.
    #[serde(rename = "type")]
    pub kind: ImageModelKind,
    /// Channels of each block; after each the image has half the height and width.
    pub channels: Vec<usize>,
    /// Convolutions per block.
    #[serde(default = "one")]
    pub depth: usize,
    /// Height and width of the filters; odd.
    #[serde(default = "three")]
    pub kernel_size: usize,
    /// `relu`, `gelu`, `silu`, ...
    #[serde(default = "relu")]
    pub hidden_act: Activation,
    /// Width of a layer before the classifier; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    /// Dropout before the classifier.
    #[serde(default)]
    pub classifier_dropout: f64,
}

/// The images: a folder in the layout of MNIST, whose test images are the validation data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDataRecipe {
    /// Folder to which `path` is relative. Default: the recipe's own; in a run folder's recipe it is absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// The folder of `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, gzipped or
    /// not.
    #[serde(default = "fashion_mnist")]
    pub path: PathBuf,
    /// Height and width of the images; the model is made for them.
    #[serde(default = "mnist_size")]
    pub image_size: [usize; 2],
    /// Channels of the images.
    #[serde(default = "one")]
    pub num_channels: usize,
    /// How many classes there are.
    #[serde(default = "ten")]
    pub num_labels: usize,
    /// Their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Subtracted from each channel's pixels in 0..=1. Absent: the mean of the training images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// What each channel's are divided by then. Absent: the standard deviation of the training images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f64>>,
    /// Training images are padded by so many black pixels on each side, and a part of their own size is cut out at random.
    #[serde(default)]
    pub random_crop: usize,
    /// Whether every second training image is turned left to right.
    #[serde(default)]
    pub horizontal_flip: bool,
}

impl CnnRecipe {
    /// The model's configuration for images and classes.
    pub(super) fn config(&self, data: &ImageDataRecipe) -> CnnConfig {
        let mut config = CnnConfig {
            num_channels: data.num_channels,
            image_size: data.image_size,
            num_labels: data.num_labels,
            channels: self.channels.clone(),
            depth: self.depth,
            kernel_size: self.kernel_size,
            hidden_act: self.hidden_act,
            hidden_size: self.hidden_size,
            classifier_dropout: self.classifier_dropout,
            ..CnnConfig::default()
        };
        if !data.labels.is_empty() {
            let names =
                data.labels.iter().enumerate().map(|(id, name)| (id.to_string(), name.clone().into()));
            config.other.insert("id2label".to_owned(), serde_json::Value::Object(names.collect()));
        }
        config
    }

    pub(super) fn validate(&self, data: &ImageDataRecipe) -> Result<(), RecipeError> {
        check("model.channels", !self.channels.is_empty(), "none", || "the channels of each block".into())?;
        self.channels.iter().try_for_each(|&channels| positive("model.channels", channels))?;
        positive("model.depth", self.depth)?;
        check("model.kernel_size", !self.kernel_size.is_multiple_of(2), self.kernel_size, || {
            "an odd number".into()
        })?;
        positive("model.hidden_size", self.hidden_size.unwrap_or(1))?;
        let p = self.classifier_dropout;
        check("model.classifier_dropout", (0.0..1.0).contains(&p), p, || "in 0..1".into())?;
        // What is left is about how these fit together.
        self.config(data).validate().map_err(|error| RecipeError::Setting {
            key: "model".to_owned(),
            expected: "a network that can be made".to_owned(),
            found: error.to_string(),
        })
    }
}

impl ImageTask {
    pub(super) fn validate(&self) -> Result<(), RecipeError> {
        let smoothing = self.label_smoothing;
        check("task.label_smoothing", (0.0..1.0).contains(&smoothing), smoothing, || "in 0..1".into())
    }
}

impl ImageDataRecipe {
    /// The folder of the files.
    pub(super) fn folder(&self) -> PathBuf {
        self.root.as_deref().unwrap_or(Path::new("")).join(&self.path)
    }

    /// How training images are changed.
    pub(super) fn augmentation(&self) -> Augmentation {
        Augmentation { random_crop: self.random_crop, horizontal_flip: self.horizontal_flip }
    }

    pub(super) fn validate(&self) -> Result<(), RecipeError> {
        self.image_size.iter().try_for_each(|&size| positive("data.image_size", size))?;
        positive("data.num_channels", self.num_channels)?;
        // Class numbers are bytes.
        check("data.num_labels", (2..=256).contains(&self.num_labels), self.num_labels, || {
            "in 2..=256".into()
        })?;
        let named = self.labels.len();
        check("data.labels", named == 0 || named == self.num_labels, format!("{named} names"), || {
            format!("a name for each of data.num_labels, {}", self.num_labels)
        })?;
        let fits = |values: &Option<Vec<f64>>, good: fn(f64) -> bool| {
            values.as_ref().is_none_or(|v| v.len() == self.num_channels && v.iter().all(|&x| good(x)))
        };
        let each = || format!("a number for each of {} channels", self.num_channels);
        check("data.mean", fits(&self.mean, f64::is_finite), "others", each)?;
        check("data.std", fits(&self.std, |x| x > 0.0 && x.is_finite()), "others", || {
            format!("{}, above 0", each())
        })?;
        let [height, width] = self.image_size;
        check("data.random_crop", self.random_crop < height.min(width), self.random_crop, || {
            "smaller than the images".into()
        })
    }
}

fn one() -> usize {
    1
}
fn three() -> usize {
    3
}
fn ten() -> usize {
    10
}
fn relu() -> Activation {
    Activation::Relu
}
fn fashion_mnist() -> PathBuf {
    FASHION_MNIST.into()
}
fn mnist_size() -> [usize; 2] {
    [28, 28]
}
