//! Files of llama.cpp's format GGUF (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): keys with values, and tensors, most of
//! them quantised. Files are not trusted: no size in them is believed before it is compared with what is there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::ModelError;

mod cursor;
mod llama;
mod quant;
mod tokenizer;

use cursor::{Cursor, Fault};
pub use quant::GgmlType;

/// A value of a key.
#[derive(Clone, PartialEq, Debug)]
pub enum GgufValue {
    /// A whole number of any width.
    Int(i64),
    /// A whole number beyond `i64`.
    Large(u64),
    /// A floating-point number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// Several values.
    List(Vec<GgufValue>),
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Entry {
    /// Extents, slowest first as everywhere here (the file has them the other way round).
    shape: Vec<usize>,
    kind: GgmlType,
    /// First and last byte within the file.
    bytes: std::ops::Range<usize>,
}

/// A GGUF file in memory.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    data: Vec<u8>,
    keys: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, Entry>,
}

impl GgufFile {
    /// Reads a file and checks that all of its tensors are there.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged, or holds a kind of tensor that is not known.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let data = fs::read(path).map_err(|source| ModelError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, data)
    }

    /// Understands the bytes of a file; `path` is for messages.
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    pub fn parse(path: &Path, data: Vec<u8>) -> Result<Self, ModelError> {
        let refuse = |message: Fault| ModelError::Folder {
            path: path.to_owned(),
            message: format!("no GGUF file, or damaged: {message}; fetch it again"),
        };
        let (keys, tensors) = contents(&data).map_err(refuse)?;
        Ok(GgufFile { path: path.to_owned(), data, keys, tensors })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.keys.get(key)
    }

    /// A whole number that must be there.
    ///
    /// # Errors
    /// It is not, or is no size.
    pub fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.find_size(key)?.ok_or_else(|| self.refuse(format!("has no `{key}`")))
    }

    /// A whole number that may be there.
    ///
    /// # Errors
    /// It is something else.
    pub fn find_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(GgufValue::Int(value)) if usize::try_from(*value).is_ok() => {
                Ok(usize::try_from(*value).ok())
            }
            Some(other) => Err(self.refuse(format!("`{key}` is {}, expected a size", describe(other)))),
        }
    }

    /// A number that may be there.
    ///
    /// # Errors
    /// It is something else.
    pub fn find_number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(GgufValue::Float(value)) => Ok(Some(*value)),
            Some(GgufValue::Int(value)) => Ok(Some(*value as f64)),
            Some(other) => Err(self.refuse(format!("`{key}` is {}, expected a number", describe(other)))),
        }
    }

    /// A text that may be there.
    ///
    /// # Errors
    /// It is something else.
    pub fn find_text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(GgufValue::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.refuse(format!("`{key}` is {}, expected a text", describe(other)))),
        }
    }

    /// The names of the tensors with their shapes, slowest extent first, and kinds.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize], GgmlType)> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice(), entry.kind))
    }

    /// The elements of a tensor, dequantised.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let entry = self.tensors.get(name);
        let found = entry.and_then(|entry| Some((entry.kind, self.data.get(entry.bytes.clone())?)));
        let (kind, bytes) = found.ok_or_else(|| self.refuse(format!("has no tensor `{name}`")))?;
        Ok(kind.dequantise(bytes))
    }

    fn refuse(&self, message: String) -> ModelError {
        ModelError::Folder { path: self.path.clone(), message }
    }
}

fn describe(value: &GgufValue) -> String {
    match value {
        GgufValue::List(list) => format!("a list of {}", list.len()),
        GgufValue::Text(text) => format!("the text `{}`", text.chars().take(40).collect::<String>()),
        other => format!("{other:?}"),
    }
}

type Contents = (BTreeMap<String, GgufValue>, BTreeMap<String, Entry>);

fn contents(data: &[u8]) -> Result<Contents, Fault> {
    let mut cursor = Cursor::new(data);
    if cursor.take(4)? != b"GGUF" {
        return Err("it does not begin with `GGUF`".into());
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        return Err(format!("version {version} is not supported; known: 2, 3"));
    }
    let (tensors, keys) = (cursor.u64()?, cursor.u64()?);
    // A key takes 13 bytes at least, a tensor 24.
    let (keys, tensors) = (cursor.count(keys, 13, "keys")?, cursor.count(tensors, 24, "tensors")?);
    let mut values = BTreeMap::new();
    for _ in 0..keys {
        let key = cursor.text()?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind, 0).map_err(|fault| format!("`{key}`: {fault}"))?;
        if values.insert(key.clone(), value).is_some() {
            return Err(format!("`{key}` is there twice"));
        }
    }
    let mut headers = Vec::with_capacity(tensors);
    for _ in 0..tensors {
        headers.push(cursor.tensor()?);
    }
    let alignment = match values.get("general.alignment") {
        None => 32,
        Some(GgufValue::Int(n)) if *n > 0 && *n <= 1 << 20 => *n as usize,
        Some(other) => return Err(format!("the alignment is {}", describe(other))),
    };
    let start = cursor.position().next_multiple_of(alignment);
    let mut found = BTreeMap::new();
    for header in headers {
        let name = header.name;
        let length = header.kind.bytes(&header.shape).map_err(|fault| format!("`{name}`: {fault}"))?;
        let first = usize::try_from(header.offset).ok().and_then(|offset| start.checked_add(offset));
        let range = first.and_then(|first| Some(first..first.checked_add(length)?));
        let Some(bytes) = range.filter(|range| range.end <= data.len()) else {
            return Err(format!("`{name}` reaches beyond the end of the file"));
        };
        let entry = Entry { shape: header.shape, kind: header.kind, bytes };
        if found.insert(name.clone(), entry).is_some() {
            return Err(format!("the tensor `{name}` is there twice"));
        }
    }
    Ok((values, found))
}
