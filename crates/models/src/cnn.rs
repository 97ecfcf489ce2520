//! A plain convolutional network for small images, of the kind that VGG (Simonyan and Zisserman, 2015) made usual, with batch norm:
//! blocks of convolution, norm and activation, each followed by a pooling that halves the image, and a classifier.
//!
//! Legend of shapes: n images, c channels, h height, w width, k classes.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wgrad_nn::{
    Activation, BatchNorm2d, Context, Conv2d, Dropout, Init, Linear, MaxPool2d, Module,
    functional::{Conv, Padding},
};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;

use crate::{
    ModelError,
    pretrained::{self, Weights, check_parameters, check_room},
};

/// The configuration. Where Hugging Face's vision models have the same key, it is called as they call it; keys that do not matter here
/// (`id2label`) are kept in `other` and written back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct CnnConfig {
    /// `cnn`.
    pub model_type: String,
    /// Channels of the images.
    pub num_channels: usize,
    /// Height and width of the images.
    pub image_size: [usize; 2],
    /// Classes.
    pub num_labels: usize,
    /// Channels of each block.
    pub channels: Vec<usize>,
    /// Convolutions per block.
    pub depth: usize,
    /// Height and width of the filters; odd.
    pub kernel_size: usize,
    /// After each norm.
    pub hidden_act: Activation,
    /// Width of a layer between the last block and the classifier; none if absent.
    pub hidden_size: Option<usize>,
    /// Dropout before the classifier.
    pub classifier_dropout: f64,
    /// The other keys.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for CnnConfig {
    /// Two blocks of 32 and 64 channels, for the images of MNIST.
    fn default() -> Self {
        CnnConfig {
            model_type: "cnn".to_owned(),
            num_channels: 1,
            image_size: [28, 28],
            num_labels: 10,
            channels: vec![32, 64],
            depth: 1,
            kernel_size: 3,
            hidden_act: Activation::Relu,
            hidden_size: None,
            classifier_dropout: 0.0,
            other: Map::from_iter([("architectures".to_owned(), json!(["CnnForImageClassification"]))]),
        }
    }
}

impl CnnConfig {
    /// Whether such a model can be made.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the key that cannot be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let refuse = |message: String| Err(ModelError::Config { model: "the CNN", message });
        if self.model_type != "cnn" {
            return refuse(format!("`model_type` is `{}`, expected `cnn`", self.model_type));
        }
        let [height, width] = self.image_size;
        let hidden = self.hidden_size.unwrap_or(1);
        let sizes = [
            ("num_channels", self.num_channels),
            ("image_size", height),
            ("image_size", width),
            ("num_labels", self.num_labels),
            ("depth", self.depth),
            ("kernel_size", self.kernel_size),
            ("hidden_size", hidden),
        ];
        let channels = self.channels.iter().map(|&channels| ("channels", channels));
        let most = 1 << 24;
        if let Some((key, size)) = sizes.into_iter().chain(channels).find(|(_, s)| !(1..=most).contains(s)) {
            return refuse(format!("`{key}` is {size}, expected 1 to {most}"));
        }
        if self.channels.is_empty() {
            return refuse("`channels` is empty, expected the channels of at least one block".into());
        }
        if self.kernel_size.is_multiple_of(2) {
            return refuse(format!("`kernel_size` is {}, expected an odd number", self.kernel_size));
        }
        let blocks = self.channels.len() as u32;
        if height.min(width).checked_shr(blocks).unwrap_or(0) == 0 {
            return refuse(format!(
                "{blocks} blocks halve images of {height} x {width} away; expected fewer `channels`, or larger images"
            ));
        }
        if !(0.0..1.0).contains(&self.classifier_dropout) {
            return refuse(format!("`classifier_dropout` is {}, expected 0..1", self.classifier_dropout));
        }
        Ok(())
    }

    /// Number of parameters, saturating; of a valid configuration.
    pub fn parameters(&self) -> usize {
        let mut inputs = self.num_channels as u128;
        let mut all = 0_u128;
        for &outputs in &self.channels {
            for _ in 0..self.depth {
                let taps = (self.kernel_size * self.kernel_size) as u128;
                all = all.saturating_add(inputs * outputs as u128 * taps + 2 * outputs as u128);
                inputs = outputs as u128;
            }
        }
        let mut layer = |inputs: u128, outputs: usize| {
            all = all.saturating_add((inputs + 1).saturating_mul(outputs as u128));
            outputs as u128
        };
        let features = self.features() as u128;
        let features = self.hidden_size.map_or(features, |hidden| layer(features, hidden));
        layer(features, self.num_labels);
        usize::try_from(all).unwrap_or(usize::MAX)
    }

    /// Numbers that the last block hands on.
    fn features(&self) -> usize {
        let [height, width] = self.image_size.map(|size| size >> self.channels.len());
        self.channels.last().map_or(0, |&channels| channels.saturating_mul(height).saturating_mul(width))
    }
}

/// The network.
#[derive(Clone, Debug, Module)]
pub struct Cnn {
    /// The blocks.
    pub blocks: Vec<CnnBlock>,
    /// Between the last block and the classifier, if there is such a layer.
    pub fc: Option<Linear>,
    /// Before the classifier.
    pub dropout: Dropout,
    /// To the classes.
    pub classifier: Linear,
    #[module(skip)]
    config: CnnConfig,
}

impl Cnn {
    /// A new model, with PyTorch's initial weights.
    ///
    /// # Errors
    /// The configuration is impossible, or a parameter does not fit on the device.
    pub fn new(config: &CnnConfig, init: &Init) -> Result<Self, ModelError> {
        config.validate()?;
        check_room("CNN", config.parameters(), init)?;
        let mut inputs = config.num_channels;
        let mut block = |&outputs: &usize| {
            let layers = (0..config.depth)
                .map(|_| ConvLayer::new(config, init, std::mem::replace(&mut inputs, outputs), outputs));
            CnnBlock { layers: layers.collect(), pool: MaxPool2d::new([2, 2]) }
        };
        let blocks = config.channels.iter().map(&mut block).collect();
        let features = config.features();
        let fc = config.hidden_size.map(|hidden| Linear::new(init, features, hidden, true));
        let model = Cnn {
            blocks,
            fc,
            dropout: Dropout::new(config.classifier_dropout),
            classifier: Linear::new(init, config.hidden_size.unwrap_or(features), config.num_labels, true),
            config: config.clone(),
        };
        check_parameters(&model)?;
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &CnnConfig {
        &self.config
    }

    /// Logits `[n, k]` of images `[n, c, h, w]`.
    ///
    /// Images of another size are an error that the result carries.
    #[track_caller]
    pub fn forward(&self, x_nchw: &Tensor, ctx: &Context) -> Tensor {
        let [height, width] = self.config.image_size;
        let expected = [self.config.num_channels, height, width];
        if x_nchw.error().is_none() && x_nchw.shape().dims().get(1..) != Some(&expected) {
            let message =
                format!("expects images [n, {}, {height}, {width}], got {}", expected[0], x_nchw.shape());
            return x_nchw.invalid("cnn", message);
        }
        let x_nchw = self.blocks.iter().fold(x_nchw.clone(), |x, block| block.forward(&x, ctx));
        let [n, c, h, w] = x_nchw.dims::<4>();
        let mut x_nf = x_nchw.reshape([n, c * h * w]);
        if let Some(fc) = &self.fc {
            x_nf = self.config.hidden_act.forward(&fc.forward(&x_nf));
        }
        self.classifier.forward(&self.dropout.forward(&x_nf, ctx))
    }

    /// Reads a folder of `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// A file is missing or damaged, or the two do not fit together.
    pub fn from_pretrained(dir: &Path, device: &DeviceHandle) -> Result<Self, ModelError> {
        let config: CnnConfig = pretrained::read_config(dir)?;
        let model = Cnn::new(&config, &Init::new(device, 0))?;
        Weights::read(dir, device)?.load_into(&model)?;
        Ok(model)
    }

    /// Writes `config.json` and `model.safetensors` into a folder.
    ///
    /// # Errors
    /// The parameters cannot be read back, or the files cannot be written.
    pub fn save_pretrained(&self, dir: &Path) -> Result<(), ModelError> {
        pretrained::save(dir, &self.config, self)
    }
}

/// Convolutions at one resolution, then a pooling that halves it.
#[derive(Clone, Debug, Module)]
pub struct CnnBlock {
    /// The convolutions.
    pub layers: Vec<ConvLayer>,
    /// The larger of each two by two.
    pub pool: MaxPool2d,
}

impl CnnBlock {
    #[track_caller]
    fn forward(&self, x_nchw: &Tensor, ctx: &Context) -> Tensor {
        self.pool.forward(&self.layers.iter().fold(x_nchw.clone(), |x, layer| layer.forward(&x, ctx)))
    }
}

/// Convolution, norm, activation.
#[derive(Clone, Debug, Module)]
pub struct ConvLayer {
    /// Without a bias, which the norm would take away again.
    pub conv: Conv2d,
    /// Over the batch.
    pub norm: BatchNorm2d,
    #[module(skip)]
    act: Activation,
}

impl ConvLayer {
    fn new(config: &CnnConfig, init: &Init, inputs: usize, outputs: usize) -> Self {
        let same = Conv { padding: Padding::Same, ..Conv::default() };
        ConvLayer {
            conv: Conv2d::new(init, inputs, outputs, [config.kernel_size; 2], same, false),
            norm: BatchNorm2d::new(init, outputs),
            act: config.hidden_act,
        }
    }

    #[track_caller]
    fn forward(&self, x_nchw: &Tensor, ctx: &Context) -> Tensor {
        self.act.forward(&self.norm.forward(&self.conv.forward(x_nchw), ctx))
    }
}
