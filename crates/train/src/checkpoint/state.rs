//! Where a run stands, apart from its tensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

const STATE_FILE: &str = "state.json";

/// `state.json` of a checkpoint. Data order, dropout masks and the learning rate are functions of the seed and the step, so
/// that these two stand for the random streams and the data position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Version of this format.
    pub format: u32,
    /// Version of wgrad that wrote it.
    pub wgrad: String,
    /// Device that trained; bits are the same only on the same kind.
    pub device: String,
    /// Updates done; the next one draws the data and masks of this step, counted from 0.
    pub step: u64,
    /// The seed of data, masks and initial weights.
    pub seed: u64,
    /// Tokens in the training text (images, examples) and their CRC-32: resuming on other data would not continue this run.
    pub train_tokens: u64,
    /// See `train_tokens`.
    pub train_crc32: u32,
    /// Bytes of `metrics.jsonl` when this was written: a resumed run cuts the file back to them.
    pub metrics_bytes: u64,
    /// CRC-32 of those bytes.
    pub metrics_crc32: u32,
    /// Bytes of `samples.txt`, which is cut back likewise.
    pub samples_bytes: u64,
    /// Whether the sample of this step was given up for a request to stop, so that the resumed run writes it.
    #[serde(default)]
    pub sample_due: bool,
    /// The lowest validation loss so far.
    pub best_loss: Option<f64>,
    /// The latest validation loss.
    pub last_loss: Option<f64>,
    /// What else the latest validation measured, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub last_metrics: BTreeMap<String, f64>,
}

impl TrainState {
    /// The format that this build writes and reads.
    pub const FORMAT: u32 = 1;

    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(STATE_FILE);
        let json = serde_json::to_vec_pretty(self)
            .map_err(|error| TrainError::io("write", &path)(std::io::Error::other(error)))?;
        fs::write(&path, json).map_err(TrainError::io("write", &path))
    }

    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let damaged = |reason| TrainError::Checkpoint { path: folder.to_owned(), reason };
        let path = folder.join(STATE_FILE);
        let json = fs::read(&path).map_err(TrainError::io("read", &path))?;
        let state: TrainState =
            serde_json::from_slice(&json).map_err(|error| damaged(format!("`{STATE_FILE}`: {error}")))?;
        if state.format != Self::FORMAT {
            let (expected, found) = (Self::FORMAT, state.format);
            return Err(damaged(format!(
                "its format is {found}, this build reads {expected}; resume with the build that wrote it, {}",
                state.wgrad
            )));
        }
        Ok(state)
    }
}

#[cfg(test)]
pub(super) fn test_state(step: u64) -> TrainState {
    TrainState {
        format: TrainState::FORMAT,
        wgrad: "0".into(),
        device: "cpu".into(),
        step,
        seed: 1,
        train_tokens: 2,
        train_crc32: 3,
        metrics_bytes: 4,
        metrics_crc32: 5,
        samples_bytes: 6,
        sample_due: false,
        best_loss: Some(1.5),
        last_loss: None,
        last_metrics: BTreeMap::new(),
    }
}
