//! Where the rows of a file lie, and reading one of them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde_json::Value;

use super::row::Row;
use super::{TableFormat, field};
use crate::{DataError, Result};

/// The longest row that is read: a file without newlines ends here instead of in all memory.
const LONGEST_ROW: u64 = 64 << 20;

/// Where a row lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    offset: u64,
    bytes: u32,
    pub(super) file: u32,
    line: u64,
}

/// An open file of rows.
#[derive(Debug)]
pub(super) struct TableFile {
    path: PathBuf,
    file: File,
    format: TableFormat,
    /// Names of the columns of a CSV or TSV file.
    names: Vec<String>,
    header: bool,
}

impl TableFile {
    /// Opens a file of any format but Parquet, and reads its header.
    pub(super) fn open(path: PathBuf, format: TableFormat, header: bool) -> Result<Self> {
        let file = File::open(&path).map_err(DataError::io("open", &path))?;
        let mut table = Self { path, file, format, names: Vec::new(), header };
        if matches!(format, TableFormat::Csv | TableFormat::Tsv) {
            let mut first = csv::ByteRecord::new();
            let read = table.csv(table.reader()?).read_byte_record(&mut first);
            read.map_err(|error| table.csv_error(error))?;
            table.names = match header {
                true => first.iter().map(|name| table.utf8(name, 1)).collect::<Result<_>>()?,
                false => (0..first.len()).map(|i| i.to_string()).collect(),
            };
        }
        Ok(table)
    }

    /// Finds every row, after checking that there are the wanted columns.
    pub(super) fn scan(&self, number: u32, columns: &[String]) -> Result<Vec<Entry>> {
        match self.format {
            TableFormat::Csv | TableFormat::Tsv => {
                self.places(columns)?;
                self.scan_records(number)
            }
            TableFormat::Text if columns != ["text"] => {
                let reason = format!(
                    "a text file has one column, `text`, found `{}` asked for; set `format`, or name a file of another kind",
                    columns.join("`, `")
                );
                Err(self.error(1, reason))
            }
            _ => self.scan_lines(number),
        }
    }

    /// Reads one row.
    pub(super) fn read(&mut self, entry: &Entry, columns: &[String]) -> Result<Row> {
        let mut bytes = vec![0; entry.bytes as usize];
        let read =
            self.file.seek(SeekFrom::Start(entry.offset)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(DataError::io("read", &self.path))?;
        let values = match self.format {
            TableFormat::Csv | TableFormat::Tsv => self.record(&bytes, entry.line, columns)?,
            TableFormat::Text => vec![Value::String(self.utf8(&bytes, entry.line)?)],
            TableFormat::Jsonl | TableFormat::Parquet => self.object(&bytes, entry.line, columns)?,
        };
        Ok(Row { values, columns: columns.to_vec(), path: self.path.clone(), line: entry.line })
    }

    fn record(&self, bytes: &[u8], line: u64, columns: &[String]) -> Result<Vec<Value>> {
        let mut record = csv::ByteRecord::new();
        let read = self.csv(bytes).read_byte_record(&mut record);
        let read = read.map_err(|error| self.error(line, error.to_string()))?;
        if !read || record.len() != self.names.len() {
            let (expected, found) = (self.names.len(), record.len());
            return Err(self.error(line, format!("expected {expected} fields, found {found}")));
        }
        let places = self.places(columns)?;
        places.into_iter().map(|i| Ok(Value::String(self.utf8(&record[i], line)?))).collect()
    }

    fn object(&self, bytes: &[u8], line: u64, columns: &[String]) -> Result<Vec<Value>> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| self.error(line, format!("expected a JSON object on one line: {error}")))?;
        if !value.is_object() {
            return Err(self.error(line, "expected a JSON object, found another JSON value".into()));
        }
        let missing = |name: &String| self.error(line, format!("there is no field `{name}`"));
        columns.iter().map(|name| field(&value, name).cloned().ok_or_else(|| missing(name))).collect()
    }

    /// Numbers of the wanted columns.
    fn places(&self, columns: &[String]) -> Result<Vec<usize>> {
        let place = |name: &String| {
            let mut places = (0..self.names.len()).filter(|&i| self.names[i] == *name);
            match (places.next(), places.next()) {
                (Some(place), None) => Ok(place),
                (Some(_), Some(_)) => Err(self.error(1, format!("the header names `{name}` twice"))),
                (None, _) => {
                    let names = self.names.join("`, `");
                    let found = if names.is_empty() { "none".into() } else { format!("`{names}`") };
                    Err(self.error(1, format!("there is no column `{name}`, found {found}")))
                }
            }
        };
        columns.iter().map(place).collect()
    }

    fn scan_records(&self, number: u32) -> Result<Vec<Entry>> {
        let mut reader = self.csv(self.reader()?);
        let mut record = csv::ByteRecord::new();
        let mut entries = Vec::new();
        loop {
            let offset = reader.position().byte();
            let read = reader.read_byte_record(&mut record).map_err(|error| self.csv_error(error))?;
            if !read {
                break;
            }
            let line = record.position().map_or(1, csv::Position::line);
            if record.len() != self.names.len() {
                let reason = format!("expected {} fields, found {}", self.names.len(), record.len());
                return Err(self.error(line, reason));
            }
            let bytes = self.checked_length(reader.position().byte().saturating_sub(offset), line)?;
            entries.push(Entry { offset, bytes, file: number, line });
        }
        if self.header && !entries.is_empty() {
            entries.remove(0);
        }
        Ok(entries)
    }

    fn scan_lines(&self, number: u32) -> Result<Vec<Entry>> {
        let mut reader = self.reader()?;
        let mut entries = Vec::new();
        let (mut offset, mut line, mut bytes) = (0, 1, Vec::new());
        loop {
            bytes.clear();
            let mut limited = Read::by_ref(&mut reader).take(LONGEST_ROW + 1);
            let read = limited.read_until(b'\n', &mut bytes).map_err(DataError::io("read", &self.path))?;
            if read == 0 {
                return Ok(entries);
            }
            self.checked_length(read as u64, line)?;
            let row = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            let row = row.strip_suffix(b"\r").unwrap_or(row);
            if !row.trim_ascii().is_empty() {
                entries.push(Entry { offset, bytes: row.len() as u32, file: number, line });
            }
            (offset, line) = (offset + read as u64, line + 1);
        }
    }

    fn reader(&self) -> Result<BufReader<File>> {
        File::open(&self.path).map(BufReader::new).map_err(DataError::io("open", &self.path))
    }

    fn csv<R: Read>(&self, reader: R) -> csv::Reader<R> {
        let tabs = self.format == TableFormat::Tsv;
        csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(if tabs { b'\t' } else { b',' })
            .quoting(!tabs)
            .from_reader(reader)
    }

    fn checked_length(&self, bytes: u64, line: u64) -> Result<u32> {
        if bytes > LONGEST_ROW {
            let reason =
                format!("the row is longer than {} MiB; is a quote or a newline missing?", LONGEST_ROW >> 20);
            return Err(self.error(line, reason));
        }
        Ok(bytes as u32)
    }

    fn utf8(&self, bytes: &[u8], line: u64) -> Result<String> {
        String::from_utf8(bytes.to_vec()).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            self.error(
                line,
                format!("expected UTF-8, found an invalid byte at offset {at} of a field; convert the file"),
            )
        })
    }

    fn csv_error(&self, error: csv::Error) -> DataError {
        let line = error.position().map_or(1, csv::Position::line);
        match error.into_kind() {
            csv::ErrorKind::Io(source) => DataError::io("read", &self.path)(source),
            kind => self.error(line, format!("{kind:?}")),
        }
    }

    fn error(&self, line: u64, reason: String) -> DataError {
        DataError::Row { path: self.path.clone(), line, reason }
    }
}
