//! Which text files make up a split, how they are joined, and how they are cleaned.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{CleanOptions, CleanReport, Cleaner, DataError, Result, Table, TableSource};

/// The text files of one split, as a recipe names them.
///
/// ```toml
/// files = ["data/sotu/*.txt"]   # glob patterns, relative to the recipe's folder
/// range = [1981, 2018]          # optional: keep the files whose name begins with such a number
/// separator = "\n\n"            # optional: stands between two documents; this is the default
/// column = "text"               # optional: each row of a JSONL, CSV, TSV or Parquet file is a document
/// clean = { duplicates = true } # optional: what is dropped or replaced; see `CleanOptions`
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSource {
    /// Glob patterns (`*`, `?`, `[a-z]`, `**`) or plain names, relative to the recipe's folder. A folder's name
    /// stands for the files directly within it.
    pub files: Vec<String>,
    /// Inclusive range for the number at the start of the file name; files without one are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[u64; 2]>,
    /// What stands between two documents.
    #[serde(default = "default_separator")]
    pub separator: String,
    /// The column that holds the text, where files are tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Steps that clean the documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean: Option<CleanOptions>,
}

impl TextSource {
    /// The files that match any of `patterns`, joined by two newlines.
    pub fn new<S: Into<String>>(patterns: impl IntoIterator<Item = S>) -> Self {
        let files = patterns.into_iter().map(Into::into).collect();
        Self { files, range: None, separator: default_separator(), column: None, clean: None }
    }

    /// Keeps only files whose name begins with a number in `first..=last`.
    pub fn with_range(mut self, first: u64, last: u64) -> Self {
        self.range = Some([first, last]);
        self
    }

    /// Sets what stands between two documents.
    pub fn with_separator(mut self, separator: impl Into<String>) -> Self {
        self.separator = separator.into();
        self
    }

    /// Finds the files, in the order of their paths, each once, and the rows of tables. `base` is the folder of the recipe.
    ///
    /// # Errors
    /// [`DataError::Pattern`] for a malformed pattern, [`DataError::Invalid`] for an empty range or cleaning without sense,
    /// [`DataError::Io`] for a folder that cannot be read, [`DataError::NoFiles`] if a pattern matches nothing or
    /// the range leaves nothing, and those of [`TableSource::open`].
    pub fn resolve(&self, base: &Path) -> Result<Documents> {
        if let Some([first, last]) = self.range
            && first > last
        {
            return Err(DataError::Invalid {
                name: "range",
                expected: "[first, last] with first <= last".into(),
                found: format!("[{first}, {last}]"),
            });
        }
        let mut paths = Vec::new();
        for pattern in &self.files {
            let matched = expand(base, pattern)?;
            if matched.is_empty() {
                return Err(self.no_files(base, &format!("`{pattern}`"), false));
            }
            paths.extend(matched);
        }
        paths.retain(|path| self.keeps(path));
        paths.sort();
        paths.dedup();
        if paths.is_empty() {
            let patterns: Vec<String> = self.files.iter().map(|p| format!("`{p}`")).collect();
            return Err(self.no_files(base, &format!("[{}]", patterns.join(", ")), true));
        }
        if let Some(clean) = &self.clean {
            Cleaner::new(clean)?;
        }
        let documents = match &self.column {
            None => paths.into_iter().map(Document::File).collect(),
            Some(column) => {
                let names = paths.iter().map(|path| path.to_string_lossy());
                let table =
                    TableSource::new(names.map(|name| glob::Pattern::escape(&name)), [column.as_str()]);
                vec![Document::Rows(Arc::new(table.open(Path::new(""), None)?))]
            }
        };
        Ok(Documents { documents, separator: self.separator.clone(), clean: self.clean.clone() })
    }

    fn keeps(&self, path: &Path) -> bool {
        match self.range {
            None => true,
            Some([first, last]) => leading_number(path).is_some_and(|n| (first..=last).contains(&n)),
        }
    }

    fn no_files(&self, base: &Path, patterns: &str, filtered: bool) -> DataError {
        let filter = match self.range {
            Some([first, last]) if filtered => format!(" with a leading number in {first}..={last}"),
            _ => String::new(),
        };
        DataError::NoFiles { patterns: patterns.into(), base: base.into(), filter }
    }
}

/// The documents of one split, in order: each is stripped of ASCII whitespace at both ends, and a separator
/// stands between two.
///
/// Contents are read when asked for, one document at a time.
#[derive(Clone, Debug)]
pub struct Documents {
    documents: Vec<Document>,
    separator: String,
    clean: Option<CleanOptions>,
}

#[derive(Clone, Debug)]
enum Document {
    File(PathBuf),
    Memory(Vec<u8>),
    /// The first column of a table, each row a document.
    Rows(Arc<Table>),
}

impl Documents {
    /// Documents that are in memory already, joined by two newlines.
    pub fn from_texts<T: Into<Vec<u8>>>(texts: impl IntoIterator<Item = T>) -> Self {
        let documents = texts.into_iter().map(|text| Document::Memory(text.into())).collect();
        Self { documents, separator: default_separator(), clean: None }
    }

    /// The first column of a table, each row a document, joined by two newlines.
    pub fn from_table(table: Arc<Table>) -> Self {
        Self { documents: vec![Document::Rows(table)], separator: default_separator(), clean: None }
    }

    /// Number of documents before cleaning.
    pub fn len(&self) -> usize {
        let count = |document: &Document| match document {
            Document::Rows(table) => table.len(),
            Document::File(_) | Document::Memory(_) => 1,
        };
        self.documents.iter().map(count).sum()
    }

    /// Whether there is no document.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The paths of those documents that are files, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.documents.iter().filter_map(|document| match document {
            Document::File(path) => Some(path.as_path()),
            Document::Memory(_) | Document::Rows(_) => None,
        })
    }

    /// The texts of the documents, cleaned, without separators.
    ///
    /// Each item is an error if its file cannot be read, or is no UTF-8 and to be cleaned.
    pub fn texts(&self) -> impl Iterator<Item = Result<Vec<u8>>> {
        // Options were checked before.
        let mut cleaner = self.clean.as_ref().and_then(|options| Cleaner::new(options).ok());
        self.originals().filter_map(move |text| match (text, &mut cleaner) {
            (Ok(text), Some(cleaner)) => match std::str::from_utf8(&text) {
                Ok(text) => cleaner.clean(text).map(|text| Ok(text.into_bytes())),
                Err(error) => Some(Err(DataError::NotUtf8 { offset: error.valid_up_to() })),
            },
            (text, _) => Some(text),
        })
    }

    /// What cleaning does to the documents; `None` if they are not cleaned. All are read for it.
    ///
    /// # Errors
    /// As the items of [`texts`](Self::texts).
    pub fn clean_report(&self) -> Result<Option<CleanReport>> {
        let Some(options) = &self.clean else { return Ok(None) };
        let mut cleaner = Cleaner::new(options)?;
        for text in self.originals() {
            let text = text?;
            let text = std::str::from_utf8(&text);
            cleaner.clean(text.map_err(|error| DataError::NotUtf8 { offset: error.valid_up_to() })?);
        }
        Ok(Some(cleaner.report().clone()))
    }

    /// The texts as they are, stripped.
    fn originals(&self) -> impl Iterator<Item = Result<Vec<u8>>> {
        let places = self.documents.iter().flat_map(|document| {
            let rows = if let Document::Rows(table) = document { table.len() } else { 1 };
            (0..rows).map(move |row| (document, row))
        });
        places.map(|(document, row)| match document {
            Document::Memory(text) => Ok(strip(text).to_vec()),
            Document::File(path) => Ok(strip(&fs::read(path).map_err(DataError::io("read", path))?).to_vec()),
            Document::Rows(table) => Ok(strip(table.row(row)?.text(0)?.as_bytes()).to_vec()),
        })
    }

    /// The documents with their separators: every piece but the first begins with the separator, so that all
    /// pieces one after the other are [`text`](Self::text).
    ///
    /// Each item is an error if its file cannot be read.
    pub fn pieces(&self) -> impl Iterator<Item = Result<Vec<u8>>> {
        self.texts().enumerate().map(|(i, text)| {
            let mut piece = if i == 0 { Vec::new() } else { self.separator.clone().into_bytes() };
            piece.extend_from_slice(&text?);
            Ok(piece)
        })
    }

    /// The whole split as one text.
    ///
    /// # Errors
    /// [`DataError::Io`] if a file cannot be read.
    pub fn text(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        for piece in self.pieces() {
            text.extend_from_slice(&piece?);
        }
        Ok(text)
    }
}

fn default_separator() -> String {
    "\n\n".into()
}

/// The files that `pattern` names below `base`; the files of a folder, if it names a folder.
pub(crate) fn expand(base: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let malformed = |reason: String| DataError::Pattern { pattern: pattern.into(), reason };
    let base = base.to_str().ok_or_else(|| malformed("the folder of the recipe is not UTF-8".into()))?;
    // The base is a path, not a pattern: a folder named `runs [old]` must stay literal.
    let full = if Path::new(pattern).is_absolute() || base.is_empty() {
        pattern.to_owned()
    } else {
        format!("{}/{pattern}", glob::Pattern::escape(base))
    };
    let mut files = Vec::new();
    for entry in glob::glob(&full).map_err(|error| malformed(error.to_string()))? {
        let path = entry.map_err(|error| {
            let path = error.path().to_path_buf();
            DataError::Io { action: "read", path, source: error.into() }
        })?;
        if path.is_dir() {
            // `data/*` may meet folders; only a folder that the pattern names itself is opened.
            if !pattern.contains(['*', '?', '[']) {
                files.extend(files_of(&path)?);
            }
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io("list", folder))? {
        let path = entry.map_err(DataError::io("list", folder))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// The number that the file name begins with: 1981 for `1981_jimmy_carter_d.txt`.
fn leading_number(path: &Path) -> Option<u64> {
    let name = path.file_name().and_then(OsStr::to_str)?;
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    name[..digits].parse().ok()
}

/// Strips the whitespace that Python's `bytes.strip` strips: unlike `trim_ascii`, the vertical tab too.
fn strip(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let Some(first) = text.iter().position(|byte| !is_space(byte)) else { return &[] };
    let last = text.iter().rposition(|byte| !is_space(byte)).unwrap_or(first);
    &text[first..=last]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        folder
    }

    fn names(documents: &Documents) -> Vec<String> {
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        documents.paths().map(name).collect()
    }

    #[test]
    fn documents_are_stripped_and_joined_in_name_order() {
        let folder = folder(&[("b.txt", "\n two\x0b\n"), ("a.txt", " one "), ("c.md", "no")]);
        let source = TextSource::new(["*.txt"]);
        let documents = source.resolve(folder.path()).expect("two files");
        assert_eq!(documents.text().expect("readable"), b"one\n\ntwo");
        let dashed = source.with_separator(" - ").resolve(folder.path()).expect("two files");
        assert_eq!(dashed.text().expect("readable"), b"one - two");
    }

    #[test]
    fn a_range_is_inclusive_and_leaves_out_names_without_a_number() {
        let folder =
            folder(&[("1_a.txt", ""), ("2_a.txt", ""), ("3_a.txt", ""), ("10_a.txt", ""), ("x.txt", "")]);
        let documents = TextSource::new(["*.txt"]).with_range(2, 10).resolve(folder.path()).expect("files");
        assert_eq!(names(&documents), ["10_a.txt", "2_a.txt", "3_a.txt"]);
    }

    #[test]
    fn overlapping_patterns_take_each_file_once() {
        let folder = folder(&[("a.txt", "a"), ("b.txt", "b")]);
        let documents = TextSource::new(["b.txt", "*.txt", "."]).resolve(folder.path()).expect("files");
        assert_eq!(names(&documents), ["a.txt", "b.txt"]);
    }

    #[test]
    fn a_base_with_glob_characters_is_taken_literally() {
        let folder = folder(&[("runs [old]/a.txt", "a")]);
        let documents =
            TextSource::new(["*.txt"]).resolve(&folder.path().join("runs [old]")).expect("a file");
        assert_eq!(documents.len(), 1);
    }

    #[test]
    fn what_selects_no_file_says_so() {
        let folder = folder(&[("1_a.txt", "a")]);
        let error = TextSource::new(["*.md"]).resolve(folder.path()).expect_err("no such file").to_string();
        assert!(error.contains("`*.md`"), "{error}");
        let ranged = TextSource::new(["*.txt"]).with_range(5, 9).resolve(folder.path());
        let error = ranged.expect_err("none in range").to_string();
        assert!(error.contains("5..=9"), "{error}");
        let reversed = TextSource::new(["*.txt"]).with_range(9, 5).resolve(folder.path());
        assert!(matches!(reversed, Err(DataError::Invalid { name: "range", .. })));
        assert!(matches!(TextSource::new(["a["]).resolve(folder.path()), Err(DataError::Pattern { .. })));
    }

    #[test]
    fn rows_of_tables_are_documents() {
        let folder = folder(&[
            ("a.jsonl", "{\"text\":\" one \"}\n{\"text\":\"two\"}\n"),
            ("b.csv", "id,text\n1,three\n"),
        ]);
        let source = TextSource { column: Some("text".into()), ..TextSource::new(["*"]) };
        let documents = source.resolve(folder.path()).expect("three rows");
        assert_eq!((documents.len(), documents.paths().count()), (3, 0));
        assert_eq!(documents.text().expect("readable"), b"one\n\ntwo\n\nthree");
        let other = TextSource { column: Some("title".into()), ..TextSource::new(["b.csv"]) };
        assert!(matches!(other.resolve(folder.path()), Err(DataError::Row { .. })));
    }

    #[test]
    fn documents_are_cleaned_with_a_report() {
        let folder =
            folder(&[("a.txt", "ada@example.org"), ("b.txt", "One"), ("c.txt", "one"), ("d.txt", "two")]);
        let clean: CleanOptions = toml::from_str("personal = ['email']\nduplicates = true").expect("options");
        let source = TextSource { clean: Some(clean), ..TextSource::new(["*.txt"]) };
        let documents = source.resolve(folder.path()).expect("files");
        for _ in 0..2 {
            assert_eq!(documents.text().expect("readable"), b"[EMAIL]\n\nOne\n\ntwo");
        }
        let report = documents.clean_report().expect("readable").expect("a report");
        assert_eq!((report.texts, report.kept(), report.duplicates, report.emails), (4, 3, 1, 1));
        let plain = TextSource::new(["*.txt"]).resolve(folder.path()).expect("files");
        assert_eq!(plain.clean_report().expect("readable"), None);
    }

    #[test]
    fn a_recipe_may_leave_out_range_and_separator_but_not_misspell_them() {
        let source: TextSource = toml::from_str("files = ['a.txt']").expect("a source");
        assert_eq!(source, TextSource::new(["a.txt"]));
        let full = "files = ['a.txt']\nrange = [1, 2]\nseparator = ''";
        let source: TextSource = toml::from_str(full).expect("a source");
        assert_eq!(source, TextSource::new(["a.txt"]).with_range(1, 2).with_separator(""));
        assert!(toml::from_str::<TextSource>("files = []\nrnage = [1, 2]").is_err());
    }
}
