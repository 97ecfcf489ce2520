//! Parquet files as JSONL.
//!
//! A row of a Parquet file cannot be read without its whole row group, so its rows are written once, of the chosen columns, as
//! lines that can. The file is named after the Parquet file's length and time of change, and after the columns.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use sha2::{Digest, Sha256};

use super::field;
use crate::{DataError, Result};

/// Writes the rows of the Parquet file `path` into the folder `cache`, unless they are there, and says where.
///
/// # Errors
/// [`DataError::Row`] if it is no Parquet file or lacks a column, [`DataError::Io`] for files that cannot be read or written.
pub(super) fn as_jsonl(path: &Path, columns: &[String], cache: &Path) -> Result<PathBuf> {
    let target = cache.join(name_of(path, columns)?);
    if target.is_file() {
        return Ok(target);
    }
    fs::create_dir_all(cache).map_err(DataError::io("create", cache))?;
    let temporary = tempfile::Builder::new()
        .prefix(".rows-")
        .tempfile_in(cache)
        .map_err(DataError::io("create a file in", cache))?;
    let mut lines = BufWriter::new(temporary);
    let error = |line: u64, reason: String| DataError::Row { path: path.to_owned(), line, reason };
    // The library panics on some files that are damaged.
    let copied = catch_unwind(AssertUnwindSafe(|| copy(path, columns, &mut lines, &error)));
    copied.unwrap_or_else(|_| Err(error(1, "the Parquet file is damaged".into())))?;
    let file = lines.into_inner().map_err(|failed| DataError::io("write", &target)(failed.into_error()))?;
    file.persist(&target).map_err(|failed| DataError::io("rename a new file to", &target)(failed.error))?;
    Ok(target)
}

fn copy(
    path: &Path,
    columns: &[String],
    lines: &mut impl Write,
    error: &impl Fn(u64, String) -> DataError,
) -> Result<()> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let reader = SerializedFileReader::new(file)
        .map_err(|failed| error(1, format!("expected a Parquet file: {failed}")))?;
    let rows = reader.get_row_iter(None).map_err(|failed| error(1, failed.to_string()))?;
    for (number, row) in (1..).zip(rows) {
        let row = row.map_err(|failed| error(number, failed.to_string()))?.to_json_value();
        let mut kept = serde_json::Map::new();
        for name in columns {
            let Some(value) = field(&row, name) else {
                let all: Vec<&str> =
                    row.as_object().into_iter().flat_map(|o| o.keys().map(String::as_str)).collect();
                return Err(error(
                    number,
                    format!("there is no column `{name}`, found `{}`", all.join("`, `")),
                ));
            };
            kept.insert(name.clone(), value.clone());
        }
        writeln!(lines, "{}", serde_json::Value::Object(kept))
            .map_err(DataError::io("write rows of", path))?;
    }
    Ok(())
}

fn name_of(path: &Path, columns: &[String]) -> Result<String> {
    let metadata = fs::metadata(path).map_err(DataError::io("open", path))?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let mut hash = Sha256::new();
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update(format!("\0{}\0{changed:?}\0{columns:?}", metadata.len()));
    let key: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(format!("{stem}-{key}.jsonl"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::data_type::{ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use crate::{DataError, TableSource};

    fn write(path: &std::path::Path) {
        let schema = "message m { required binary text (UTF8); required int64 label; }";
        let schema = Arc::new(parse_message_type(schema).expect("a schema"));
        let file = std::fs::File::create(path).expect("a file");
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(file, schema, properties).expect("a writer");
        for group in 0..2 {
            let mut rows = writer.next_row_group().expect("a row group");
            let mut column = rows.next_column().expect("readable").expect("text");
            let texts = [format!("a{group}").into_bytes().into(), "b\nc".into()];
            column.typed::<ByteArrayType>().write_batch(&texts, None, None).expect("written");
            column.close().expect("closed");
            let mut column = rows.next_column().expect("readable").expect("label");
            column.typed::<Int64Type>().write_batch(&[group, 7], None, None).expect("written");
            column.close().expect("closed");
            rows.close().expect("closed");
        }
        writer.close().expect("closed");
    }

    #[test]
    fn rows_of_all_groups_are_read_in_order() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(&dir.path().join("a.parquet"));
        let cache = dir.path().join("cache");
        for _ in 0..2 {
            let source = TableSource::new(["a.parquet"], ["label", "text"]);
            let table = source.open(dir.path(), Some(&cache)).expect("a table");
            let rows: Vec<(i64, String)> = table
                .rows()
                .map(|row| row.expect("a row"))
                .map(|row| (row.integer(0).expect("a number"), row.text(1).expect("text").to_owned()))
                .collect();
            let expected = [(0, "a0"), (7, "b\nc"), (1, "a1"), (7, "b\nc")];
            assert_eq!(rows, expected.map(|(label, text)| (label, text.to_owned())));
            assert_eq!(std::fs::read_dir(&cache).expect("a folder").count(), 1);
        }
    }

    #[test]
    fn damaged_files_and_missing_columns_are_errors() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.parquet");
        write(&path);
        let whole = std::fs::read(&path).expect("the file");
        let read =
            |column: &str| TableSource::new(["a.parquet"], [column]).open(dir.path(), Some(dir.path()));
        let error = read("x").expect_err("no such column").to_string();
        assert!(error.contains("`x`") && error.contains("label"), "{error}");
        for length in (0..whole.len()).step_by(7) {
            std::fs::write(&path, &whole[..length]).expect("written");
            assert!(matches!(read("text"), Err(DataError::Row { .. })), "cut to {length} bytes");
        }
        for at in (0..whole.len()).step_by(3) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            std::fs::write(&path, bytes).expect("written");
            // Whatever comes of it, it is no panic.
            let _ = read("text");
        }
    }
}
