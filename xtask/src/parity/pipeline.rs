//! A case that goes from texts to probabilities: word index, sequences, padded ids, training, predictions.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use wgrad::{
    data::{PadOptions, Side, WordOptions, WordTokenizer, pad_sequences},
    models::TextClassifier,
    prelude::*,
};

use super::{compare::Report, models::keras, reference::json};
use crate::Result;

/// `config.json`.
#[derive(Deserialize)]
struct Config {
    texts: Vec<String>,
    labels: Vec<f32>,
    test_texts: Vec<String>,
    num_words: usize,
    maxlen: usize,
    filters: String,
    lower: bool,
    oov_token: Option<String>,
    padding: Side,
    truncating: Side,
    word_index: BTreeMap<String, u32>,
    sequences: Vec<Vec<u32>>,
    test_sequences: Vec<Vec<u32>>,
    padded: Vec<Vec<i32>>,
    test_padded: Vec<Vec<i32>>,
    n_params: usize,
    optimizer: OptimizerSpec,
}

#[derive(Deserialize)]
struct OptimizerSpec {
    lr: f64,
}

/// `trajectory.json`.
#[derive(Deserialize)]
struct Trajectory {
    epochs: usize,
    losses: Vec<f64>,
    accuracies: Vec<f64>,
    predictions: Vec<f64>,
    final_param_l2: f64,
    tolerance: f64,
}

/// Texts that Keras trains on at once if it is not told.
const BATCH: usize = 32;

/// Runs the case.
pub(crate) fn run(dir: &Path, device: &DeviceHandle, gpu: bool) -> Result<Report> {
    let config: Config = json(&dir.join("config.json"))?;
    let want: Trajectory = json(&dir.join("trajectory.json"))?;
    let mut report = Report::default();
    let [train, test] = padded(&config, &mut report)?;
    let tolerance = want.tolerance * if gpu { 5.0 } else { 1.0 };

    let model = keras::load(dir, device)?;
    report.scalar("n_params", config.n_params as f64, model.num_parameters() as f64, 0.0);
    let mut optimizer = keras::keras_adam(&model);
    optimizer.set_lr(config.optimizer.lr);
    let upload = |ids: &[i32]| {
        Tensor::from_vec(ids.to_vec(), [ids.len() / config.maxlen.max(1), config.maxlen], device)
    };
    if want.losses.len() != want.epochs || want.accuracies.len() != want.epochs {
        return Err(
            format!("trajectory.json: {} losses for {} epochs", want.losses.len(), want.epochs).into()
        );
    }
    for epoch in 0..want.epochs {
        // Each batch counts by its texts.
        let (mut loss, mut accuracy) = (0.0, 0.0);
        let batches = train.chunks(BATCH * config.maxlen.max(1)).zip(config.labels.chunks(BATCH));
        for (ids, labels) in batches {
            let truth = Tensor::from_vec(labels.to_vec(), [labels.len(), 1], device);
            let probabilities = model.forward(&upload(ids), &Context::train(0, epoch as u32));
            accuracy += TextClassifier::accuracy(&probabilities, &truth).item()? * labels.len() as f64;
            let outcome = optimizer.step(&TextClassifier::loss(&probabilities, &truth))?;
            loss += outcome.loss.item()? * labels.len() as f64;
        }
        let count = config.labels.len().max(1) as f64;
        report.scalar(&format!("loss[{epoch}]"), want.losses[epoch], loss / count, tolerance);
        report.scalar(&format!("accuracy[{epoch}]"), want.accuracies[epoch], accuracy / count, tolerance);
    }
    let predictions = model.forward(&upload(&test), &Context::eval()).to_f64_vec()?;
    if predictions.len() != want.predictions.len() {
        report.missing(format!("{} predictions for {} texts", want.predictions.len(), predictions.len()));
    }
    for (text, (expected, found)) in want.predictions.iter().zip(&predictions).enumerate() {
        report.scalar(&format!("prediction[{text}]"), *expected, *found, tolerance);
    }
    let mut squares = 0.0;
    for (_, param) in model.named_parameters() {
        squares += param.tensor().to_f64_vec()?.iter().map(|v| v * v).sum::<f64>();
    }
    // A norm of thousands of numbers, each within the tolerance.
    report.scalar("final_param_l2", want.final_param_l2, squares.sqrt(), tolerance * want.final_param_l2);
    Ok(report)
}

/// The padded ids of the texts to train on and to test with, after their words, sequences and rows have been compared.
fn padded(config: &Config, report: &mut Report) -> Result<[Vec<i32>; 2]> {
    let options = WordOptions {
        num_words: Some(config.num_words),
        filters: config.filters.clone(),
        lower: config.lower,
        oov_token: config.oov_token.clone(),
        ..WordOptions::default()
    };
    let tokenizer = WordTokenizer::fit(&config.texts, &options)?;
    let index: BTreeMap<String, u32> =
        tokenizer.word_index().into_iter().map(|(word, id)| (word.to_owned(), id)).collect();
    let mut equal = |name: &str, equal: bool| report.scalar(name, 1.0, f64::from(u8::from(equal)), 0.0);
    equal("word_index", index == config.word_index);
    let pad = PadOptions {
        maxlen: Some(config.maxlen),
        padding: config.padding,
        truncating: config.truncating,
        ..PadOptions::default()
    };
    let mut rows = |name: &str, texts: &[String], sequences: &[Vec<u32>], wanted: &[Vec<i32>]| {
        let found = tokenizer.texts_to_sequences(texts);
        equal(&format!("{name}sequences"), found == sequences);
        let ids = pad_sequences(&found, &pad).ids;
        equal(&format!("{name}padded"), ids == wanted.concat());
        ids
    };
    let train = rows("", &config.texts, &config.sequences, &config.padded);
    let test = rows("test_", &config.test_texts, &config.test_sequences, &config.test_padded);
    Ok([train, test])
}
