//! `metrics.jsonl`: one JSON object a line, written as the run goes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Result, TrainError};
use crate::task::Units;

/// Which data a loss was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The step's own batch, before the update.
    Train,
    /// The validation data, after the update.
    Validation,
}

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Updates done, this one included.
    pub step: u64,
    /// Which data.
    pub split: Split,
    /// The mean loss; cross-entropy in nats per token (or image, or text).
    pub loss: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Tokens or examples per second: over about the last 50 steps, or of the validation.
    #[serde(flatten)]
    pub speed: Speed,
    /// Global gradient norm before clipping; only in lines of the training split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// What else a validation measured, each under its name: `accuracy`.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
}

/// How fast it went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Speed {
    /// Where losses are per token.
    #[serde(rename = "tokens_per_s")]
    Tokens(f64),
    /// Elsewhere.
    #[serde(rename = "examples_per_s")]
    Examples(f64),
}

impl Speed {
    pub(crate) fn of(units: Units, per_second: f64) -> Self {
        if units.are_tokens() { Speed::Tokens(per_second) } else { Speed::Examples(per_second) }
    }
}

/// The metrics file of a run: append-only, each line whole in one write, with a running checksum for the checkpoints.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    crc: crc32fast::Hasher,
    lines: Vec<Metric>,
}

impl MetricsFile {
    /// A new, empty file.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        OpenOptions::new().write(true).create_new(true).open(path).map_err(TrainError::io("make", path))?;
        Self::append_to(path, &[], Vec::new())
    }

    /// Cuts the file back to where a checkpoint of `step` left it, atomically, and goes on from there.
    ///
    /// The checkpoint knows the file's length and checksum at its time. Where these do not fit (someone edited the file), the
    /// lines up to `step` that can be read are kept, and `warn` gets a sentence about it.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn cut_back(
        path: &Path,
        step: u64,
        bytes: u64,
        crc32: u32,
        mut warn: impl FnMut(String),
    ) -> Result<Self> {
        let old = match fs::read(path) {
            Ok(old) => old,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(TrainError::io("read", path)(error)),
        };
        let prefix = usize::try_from(bytes).ok().and_then(|n| old.get(..n));
        let kept = match prefix {
            Some(prefix) if crc32fast::hash(prefix) == crc32 => prefix.to_vec(),
            _ => {
                warn(format!(
                    "`{}` is not as the checkpoint of step {step} left it; its readable lines up to that step are kept",
                    path.display()
                ));
                let readable = |line: &&[u8]| {
                    line.ends_with(b"\n")
                        && serde_json::from_slice::<Metric>(line).is_ok_and(|m| m.step <= step)
                };
                old.split_inclusive(|&byte| byte == b'\n').filter(readable).flatten().copied().collect()
            }
        };
        durable::replace_file(path, &kept)?;
        let lines =
            kept.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        Self::append_to(path, &kept, lines)
    }

    fn append_to(path: &Path, contents: &[u8], lines: Vec<Metric>) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path).map_err(TrainError::io("open", path))?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(contents);
        Ok(MetricsFile { path: path.to_owned(), file, bytes: contents.len() as u64, crc, lines })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn write(&mut self, metric: Metric) -> Result<()> {
        let mut line = serde_json::to_vec(&metric)
            .map_err(|error| TrainError::io("write", &self.path)(std::io::Error::other(error)))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(TrainError::io("write", &self.path))?;
        self.bytes += line.len() as u64;
        self.crc.update(&line);
        self.lines.push(metric);
        Ok(())
    }

    /// Makes all lines durable and returns their bytes and checksum, for a checkpoint to remember.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn sync(&self) -> Result<(u64, u32)> {
        self.file.sync_all().map_err(TrainError::io("sync", &self.path))?;
        Ok((self.bytes, self.crc.clone().finalize()))
    }

    /// All lines of the run, those of earlier sessions included.
    pub fn lines(&self) -> &[Metric] {
        &self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(step: u64) -> Metric {
        Metric {
            step,
            split: Split::Train,
            loss: 1.0 / 3.0,
            lr: 1e-3,
            speed: Speed::Tokens(9.5),
            grad_norm: Some(0.5),
            metrics: BTreeMap::new(),
        }
    }

    #[test]
    fn a_line_is_a_json_object_with_the_documented_keys() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let mut file = MetricsFile::create(&path).expect("made");
        file.write(metric(1)).expect("written");
        file.write(Metric { split: Split::Validation, grad_norm: None, ..metric(1) }).expect("written");
        let text = fs::read_to_string(&path).expect("read");
        let expected = "{\"step\":1,\"split\":\"train\",\"loss\":0.3333333333333333,\"lr\":0.001,\"tokens_per_s\":9.5,\
            \"grad_norm\":0.5}\n{\"step\":1,\"split\":\"validation\",\"loss\":0.3333333333333333,\"lr\":0.001,\
            \"tokens_per_s\":9.5}\n";
        assert_eq!(text, expected);
        assert!(MetricsFile::create(&path).is_err(), "an existing file is not overwritten");
    }

    #[test]
    fn cutting_back_restores_the_bytes_and_drops_a_torn_line() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let mut file = MetricsFile::create(&path).expect("made");
        for step in 1..=3 {
            file.write(metric(step)).expect("written");
        }
        let then = fs::read(&path).expect("read");
        let (bytes, crc) = file.sync().expect("synced");
        for step in 4..=6 {
            file.write(metric(step)).expect("written");
        }
        drop(file);
        let torn = fs::read(&path).expect("read");
        fs::write(&path, &torn[..torn.len() - 20]).expect("written");

        let no_warning = |warning| panic!("{warning}");
        let mut file = MetricsFile::cut_back(&path, 3, bytes, crc, no_warning).expect("cut");
        assert_eq!(fs::read(&path).expect("read"), then);
        assert_eq!(file.lines().len(), 3);
        file.write(metric(4)).expect("written");
        let lines = fs::read_to_string(&path).expect("read");
        assert_eq!(lines.lines().count(), 4);
        assert_eq!(file.sync().expect("synced").1, crc32fast::hash(lines.as_bytes()));
    }

    #[test]
    fn an_edited_file_keeps_its_readable_lines_and_gives_a_warning() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let mut file = MetricsFile::create(&path).expect("made");
        for step in 1..=5 {
            file.write(metric(step)).expect("written");
        }
        let (bytes, crc) = file.sync().expect("synced");
        let text = fs::read_to_string(&path).expect("read").replacen("step", "pets", 1);
        fs::write(&path, text).expect("written");
        let mut warnings = Vec::new();
        let file =
            MetricsFile::cut_back(&path, 4, bytes, crc, |warning| warnings.push(warning)).expect("cut");
        let steps: Vec<u64> = file.lines().iter().map(|m| m.step).collect();
        assert_eq!((steps, warnings.len()), (vec![2, 3, 4], 1));
    }
}
