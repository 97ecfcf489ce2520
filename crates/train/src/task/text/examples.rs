//! Labelled texts of a table, encoded when a batch asks for them.

use std::sync::Arc;

use wgrad_data::{BatchPlan, Encoding, Labels, Row, Table, TextBatch, TextEncoder};

use crate::task::batch::HostBatch;

/// Rows that are encoded at one time while lengths are found.
const GROUP: usize = 1024;

/// The texts of a split: columns `text`, perhaps a second text, and `label`. What stays in memory of each is its length and its class.
#[derive(Clone, Debug)]
pub(super) struct Examples {
    table: Arc<Table>,
    encoder: Arc<TextEncoder>,
    pad: u32,
    /// Tokens of each text.
    pub(super) lengths: Vec<u32>,
    /// Class of each text.
    pub(super) classes: Vec<i32>,
    /// Checksum of all ids and classes.
    pub(super) crc: u32,
}

impl Examples {
    /// Reads and encodes all rows once, so that whatever is wrong with one shows before training.
    pub(super) fn new(
        table: Arc<Table>,
        encoder: Arc<TextEncoder>,
        labels: &Labels,
        pad: u32,
    ) -> wgrad_data::Result<Self> {
        let mut examples = Self { table, encoder, pad, lengths: Vec::new(), classes: Vec::new(), crc: 0 };
        let mut hasher = crc32fast::Hasher::new();
        let all: Vec<usize> = (0..examples.table.len()).collect();
        for group in all.chunks(GROUP) {
            let rows = examples.rows(group)?;
            for row in &rows {
                examples.classes.push(labels.id(row, row.len() - 1)? as i32);
            }
            for encoding in examples.encode(&rows)? {
                examples.lengths.push(encoding.len() as u32);
                encoding.ids.iter().for_each(|id| hasher.update(&id.to_le_bytes()));
            }
        }
        examples.classes.iter().for_each(|class| hasher.update(&class.to_le_bytes()));
        examples.crc = hasher.finalize();
        Ok(examples)
    }

    /// Number of texts.
    pub(super) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// The texts of a plan, padded to its width.
    pub(super) fn batch(&self, plan: &BatchPlan) -> wgrad_data::Result<HostBatch> {
        let encodings = self.encode(&self.rows(&plan.rows)?)?;
        let encodings: Vec<&Encoding> = encodings.iter().collect();
        let TextBatch { input_ids, attention_mask, token_type_ids, width, .. } =
            TextBatch::new(&encodings, plan.width, self.pad);
        let labels: Vec<i32> = plan.rows.iter().map(|&row| self.classes[row]).collect();
        Ok(HostBatch::default()
            .with("input_ids", &[width], input_ids)
            .with("attention_mask", &[width], attention_mask)
            .with("token_type_ids", &[width], token_type_ids)
            .with("labels", &[], labels))
    }

    fn rows(&self, numbers: &[usize]) -> wgrad_data::Result<Vec<Row>> {
        numbers.iter().map(|&row| self.table.row(row)).collect()
    }

    fn encode(&self, rows: &[Row]) -> wgrad_data::Result<Vec<Encoding>> {
        let text = |row: &'_ Row| -> wgrad_data::Result<(String, Option<String>)> {
            let pair = if row.len() > 2 { Some(row.text(1)?.to_owned()) } else { None };
            Ok((row.text(0)?.to_owned(), pair))
        };
        let texts = rows.iter().map(text).collect::<wgrad_data::Result<Vec<_>>>()?;
        let texts: Vec<(&str, Option<&str>)> =
            texts.iter().map(|(text, pair)| (text.as_str(), pair.as_deref())).collect();
        self.encoder.encode_batch(&texts)
    }
}
