//! Rows of JSONL, CSV, TSV, Parquet and text files, whatever their size.
//!
//! A [`TableSource`] names files and columns, a [`Table`] knows where each row lies, and reads it when it is asked for: what stays in
//! memory is some 24 bytes a row. So the rows of a step can be a pure function of the seed and the step, as windows are.

mod index;
mod labels;
#[cfg(feature = "parquet")]
mod parquet;
mod row;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::index::{Entry, TableFile};
pub use self::labels::Labels;
pub use self::row::Row;
use crate::source::expand;
use crate::{DataError, Result};

/// How rows lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// A JSON object a line (`.jsonl`, `.ndjson`).
    Jsonl,
    /// Fields between commas, quoted by `"` where they hold commas or newlines (`.csv`); RFC 4180.
    Csv,
    /// Fields between tabs; quotes mean nothing (`.tsv`).
    Tsv,
    /// Apache Parquet (`.parquet`), with the cargo feature `parquet`.
    Parquet,
    /// A row a line, with one column `text` (any other extension); empty lines are left out.
    Text,
}

impl TableFormat {
    /// The format that a file's extension stands for.
    pub fn of(path: &Path) -> Self {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" | "json" => Self::Jsonl,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "parquet" => Self::Parquet,
            _ => Self::Text,
        }
    }
}

/// The files of one split and the columns that are wanted of them, as a recipe names them.
///
/// ```toml
/// files = ["data/sms-spam/train.tsv"]  # patterns, relative to the recipe's folder
/// columns = ["text", "label"]          # by name; by number, from 0 on, where there is no header
/// format = "tsv"                       # optional: `jsonl`, `csv`, `tsv`, `parquet`, `text`; by the extension
/// header = true                        # optional: whether the first row of a CSV or TSV names the columns
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSource {
    /// Patterns or names, as those of [`TextSource`](crate::TextSource).
    pub files: Vec<String>,
    /// The columns, in the order in which [`Row`]s hold them. In JSONL and Parquet `a.b` is field `b` of the object `a`.
    pub columns: Vec<String>,
    /// Default: by each file's extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TableFormat>,
    /// Whether the first row of a CSV or TSV file names the columns.
    #[serde(default = "yes")]
    pub header: bool,
}

fn yes() -> bool {
    true
}

impl TableSource {
    /// `columns` of the files that match any of `patterns`.
    pub fn new<S: Into<String>, C: Into<String>>(
        patterns: impl IntoIterator<Item = S>,
        columns: impl IntoIterator<Item = C>,
    ) -> Self {
        let files = patterns.into_iter().map(Into::into).collect();
        let columns = columns.into_iter().map(Into::into).collect();
        Self { files, columns, format: None, header: true }
    }

    /// Finds the files, in the order of their paths, and every row in them. `base` is the folder of the recipe; rows of Parquet
    /// files are written into the folder `cache` (one for temporary files if it is not given) as JSONL, once for each file, since a row
    /// of theirs cannot be read alone.
    ///
    /// # Errors
    /// [`DataError::NoFiles`] if nothing matches, [`DataError::Invalid`] without columns, [`DataError::Row`] for a file without one
    /// of the columns and for rows that are none of its format, [`DataError::Io`] for files that cannot be read.
    pub fn open(&self, base: &Path, cache: Option<&Path>) -> Result<Table> {
        let cache = cache.map_or_else(|| std::env::temp_dir().join("wgrad-rows"), Path::to_owned);
        if self.columns.is_empty() {
            let expected = "one or more names".into();
            return Err(DataError::Invalid { name: "columns", expected, found: "none".into() });
        }
        let mut paths = Vec::new();
        for pattern in &self.files {
            let matched = expand(base, pattern)?;
            if matched.is_empty() {
                let patterns = format!("`{pattern}`");
                return Err(DataError::NoFiles { patterns, base: base.into(), filter: String::new() });
            }
            paths.extend(matched);
        }
        paths.sort();
        paths.dedup();
        let mut table = Table { columns: self.columns.clone(), files: Vec::new(), entries: Vec::new() };
        for path in paths {
            let format = self.format.unwrap_or_else(|| TableFormat::of(&path));
            table.add(path, format, self.header, &cache)?;
        }
        Ok(table)
    }
}

/// The rows of files, of which the chosen columns are read when asked for.
#[derive(Debug)]
pub struct Table {
    columns: Vec<String>,
    files: Vec<Mutex<TableFile>>,
    entries: Vec<Entry>,
}

impl Table {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The columns of each row.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Reads row `i`.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`] if there are fewer, [`DataError::Row`] if it lacks a column or is not what its file began with,
    /// [`DataError::Io`] if the file cannot be read.
    pub fn row(&self, i: usize) -> Result<Row> {
        let Some(entry) = self.entries.get(i) else {
            return Err(DataError::OutOfRange { start: i, end: i.saturating_add(1), len: self.len() });
        };
        // A thread that panicked while reading left nothing behind but a file position.
        let mut file = self.files[entry.file as usize].lock().unwrap_or_else(|poison| poison.into_inner());
        file.read(entry, &self.columns)
    }

    /// Every row, in the order of the files.
    pub fn rows(&self) -> impl Iterator<Item = Result<Row>> {
        (0..self.len()).map(|i| self.row(i))
    }

    fn add(&mut self, path: PathBuf, format: TableFormat, header: bool, cache: &Path) -> Result<()> {
        let number = self.files.len() as u32;
        let file = match format {
            TableFormat::Parquet => parquet_file(path, &self.columns, cache)?,
            _ => TableFile::open(path, format, header)?,
        };
        self.entries.extend(file.scan(number, &self.columns)?);
        self.files.push(Mutex::new(file));
        Ok(())
    }
}

#[cfg(feature = "parquet")]
fn parquet_file(path: PathBuf, columns: &[String], cache: &Path) -> Result<TableFile> {
    let rows = parquet::as_jsonl(&path, columns, cache)?;
    TableFile::open(rows, TableFormat::Jsonl, false)
}

#[cfg(not(feature = "parquet"))]
fn parquet_file(path: PathBuf, _: &[String], _: &Path) -> Result<TableFile> {
    let reason =
        "this build reads no Parquet; build with the feature `parquet`, or convert the file to JSONL";
    Err(DataError::Row { path, line: 1, reason: reason.into() })
}

/// Field `name` of an object; `a.b` is field `b` of its field `a`, unless there is a field of that very name.
fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| {
        let (outer, inner) = name.split_once('.')?;
        field(object.get(outer)?, inner)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        folder
    }

    fn open(folder: &tempfile::TempDir, source: &TableSource) -> Result<Table> {
        source.open(folder.path(), Some(folder.path()))
    }

    fn texts(table: &Table) -> Vec<Vec<String>> {
        let rows = table.rows().map(|row| row.expect("a row"));
        rows.map(|row| (0..row.len()).map(|i| row.text(i).expect("text").to_owned()).collect()).collect()
    }

    #[test]
    fn every_format_gives_the_same_rows() {
        let folder = folder(&[
            ("a.csv", "id,label,text\r\n1,ham,\"one, two\"\r\n2,spam,\"three\nfour \"\"five\"\"\"\r\n"),
            (
                "b.jsonl",
                "{\"text\":\"one, two\",\"label\":\"ham\"}\n\n{\"label\":\"spam\",\"text\":\"three\\nfour \\\"five\\\"\",\"x\":[1]}",
            ),
        ]);
        let expected = [["one, two", "ham"], ["three\nfour \"five\"", "spam"]];
        for file in ["a.csv", "b.jsonl"] {
            let table = open(&folder, &TableSource::new([file], ["text", "label"])).expect("a table");
            assert_eq!(texts(&table), expected, "{file}");
            assert_eq!(table.row(1).expect("a row").text(0).expect("text"), expected[1][0]);
        }
        let both = open(&folder, &TableSource::new(["*"], ["label"])).expect("a table");
        assert_eq!(texts(&both), [["ham"], ["spam"], ["ham"], ["spam"]]);
        assert!(matches!(both.row(4), Err(DataError::OutOfRange { .. })));
    }

    #[test]
    fn tabs_and_lines_are_taken_as_they_are() {
        let folder = folder(&[("a.tsv", "say \"hi\tham\n\"bye\tspam\n"), ("b.txt", "one\r\n\n two \nthree")]);
        let numbered = TableSource { header: false, ..TableSource::new(["a.tsv"], ["1", "0"]) };
        let table = open(&folder, &numbered).expect("a table");
        assert_eq!(texts(&table), [["ham", "say \"hi"], ["spam", "\"bye"]]);
        let lines = open(&folder, &TableSource::new(["b.txt"], ["text"])).expect("a table");
        assert_eq!(texts(&lines), [["one"], [" two "], ["three"]]);
    }

    #[test]
    fn nested_fields_and_missing_values_are_told_apart() {
        let rows = "{\"translation\":{\"en\":\"a\",\"de\":null},\"a.b\":3}\n";
        let folder = folder(&[("a.jsonl", rows)]);
        let source = TableSource::new(["a.jsonl"], ["translation.en", "translation.de", "a.b"]);
        let row = open(&folder, &source).expect("a table").row(0).expect("a row");
        assert_eq!((row.text(0).expect("text"), row.integer(2).expect("a number")), ("a", 3));
        let error = row.text(1).expect_err("null").to_string();
        assert!(
            error.contains("a.jsonl") && error.contains("line 1") && error.contains("translation.de"),
            "{error}"
        );
    }

    #[test]
    fn malformed_rows_are_errors_with_file_and_line() {
        for (name, text, line, part) in [
            ("a.csv", "text,label\na,b\na,b,c\n", 3, "fields"),
            ("a.csv", "text\na\n", 1, "no column `label`"),
            ("a.csv", "text,label,text\n", 1, "`text` twice"),
            ("a.csv", "", 1, "no column"),
            ("a.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\n", 2, "JSON"),
            ("a.jsonl", "{\"text\":\"a\",\"label\":1}\n\n[1]\n", 3, "object"),
            ("a.jsonl", "{\"text\":\"a\"}\n", 1, "no field `label`"),
            ("a.txt", "a\n", 1, "one column, `text`"),
        ] {
            let folder = folder(&[(name, text)]);
            let table = open(&folder, &TableSource::new([name], ["text", "label"]));
            let read = table.and_then(|table| table.rows().collect::<Result<Vec<Row>>>());
            let error = read.expect_err(text).to_string();
            assert!(error.contains(&format!("line {line}:")) && error.contains(part), "{text:?}: {error}");
            assert!(error.contains(name), "{error}");
        }
        let folder = folder(&[("a.tsv", "text\tlabel\n")]);
        fs::write(folder.path().join("a.tsv"), b"text\tlabel\na\t\xff\n").expect("written");
        let table = open(&folder, &TableSource::new(["a.tsv"], ["text", "label"]));
        let error = table.and_then(|table| table.row(0)).expect_err("no UTF-8").to_string();
        assert!(error.contains("line 2") && error.contains("UTF-8"), "{error}");
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let folder = folder(&[("a.txt", "one\ntwo\n")]);
        let table = open(&folder, &TableSource::new(["a.txt"], ["text"])).expect("a table");
        fs::write(folder.path().join("a.txt"), "o").expect("written");
        assert!(matches!(table.row(1), Err(DataError::Io { .. })));
    }
}
