//! One row of a table, and its fields as what a caller expects.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{DataError, Result};

/// The chosen columns of one row.
///
/// Fields of CSV, TSV and text files are strings; those of JSONL and Parquet are what they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub(super) values: Vec<Value>,
    pub(super) columns: Vec<String>,
    pub(super) path: PathBuf,
    pub(super) line: u64,
}

impl Row {
    /// Number of columns.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no column.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The file that it is from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The line on which it begins, from 1 on.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Column `i` as it is.
    ///
    /// # Errors
    /// [`DataError::Row`] if there is none.
    pub fn value(&self, i: usize) -> Result<&Value> {
        self.values.get(i).ok_or_else(|| self.error(format!("there is no column {i} among {}", self.len())))
    }

    /// Column `i`, a string.
    ///
    /// # Errors
    /// [`DataError::Row`] if it is none.
    pub fn text(&self, i: usize) -> Result<&str> {
        let value = self.value(i)?;
        value.as_str().ok_or_else(|| self.mismatch(i, "a string", value))
    }

    /// Column `i`, a whole number, or a string that spells one.
    ///
    /// # Errors
    /// [`DataError::Row`] if it is neither.
    pub fn integer(&self, i: usize) -> Result<i64> {
        let value = self.value(i)?;
        let parsed = value.as_i64().or_else(|| value.as_str()?.trim().parse().ok());
        parsed.ok_or_else(|| self.mismatch(i, "a whole number", value))
    }

    /// Column `i`, a finite number, or a string that spells one.
    ///
    /// # Errors
    /// [`DataError::Row`] if it is neither.
    pub fn number(&self, i: usize) -> Result<f64> {
        let value = self.value(i)?;
        let parsed = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        parsed.filter(|x: &f64| x.is_finite()).ok_or_else(|| self.mismatch(i, "a finite number", value))
    }

    /// Column `i`, a list of strings (words of a sentence), or a string whose words are meant.
    ///
    /// # Errors
    /// [`DataError::Row`] if it is neither.
    pub fn words(&self, i: usize) -> Result<Vec<&str>> {
        let value = self.value(i)?;
        let words = match value {
            Value::String(text) => Some(text.split_whitespace().collect()),
            Value::Array(words) => words.iter().map(Value::as_str).collect(),
            _ => None,
        };
        words.ok_or_else(|| self.mismatch(i, "a list of strings", value))
    }

    /// An error about this row: its file and line, and `reason`.
    pub fn error(&self, reason: impl Into<String>) -> DataError {
        DataError::Row { path: self.path.clone(), line: self.line, reason: reason.into() }
    }

    fn mismatch(&self, i: usize, expected: &str, value: &Value) -> DataError {
        let mut found = value.to_string();
        if found.len() > 60 {
            let end = (0..=57).rev().find(|&end| found.is_char_boundary(end)).unwrap_or(0);
            found.truncate(end);
            found.push_str("...");
        }
        self.error(format!("column `{}` must be {expected}, found {found}", self.columns[i]))
    }
}
