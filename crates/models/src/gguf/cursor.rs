//! Reading the header of a GGUF file, piece by piece.

use super::{GgmlType, GgufValue};

/// What is wrong with a file.
pub(super) type Fault = String;

/// Lists within lists are not followed further than this.
const DEEPEST: usize = 4;

/// What the header says of a tensor.
pub(super) struct Header {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) kind: GgmlType,
    pub(super) offset: u64,
}

pub(super) struct Cursor<'a> {
    data: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Cursor { data, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let end = self.position.checked_add(length).filter(|end| *end <= self.data.len());
        let end = end.ok_or_else(|| format!("it ends within its header, at byte {}", self.data.len()))?;
        let piece = &self.data[self.position..end];
        self.position = end;
        Ok(piece)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N)?.try_into().map_err(|_| "it ends within its header".to_owned())
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things that take so many bytes each at least: no more than there can be.
    pub(super) fn count(&self, count: u64, bytes: usize, what: &str) -> Result<usize, Fault> {
        let left = (self.data.len() - self.position) / bytes.max(1);
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= left)
            .ok_or_else(|| format!("{count} {what} cannot be in a file of {} bytes", self.data.len()))
    }

    pub(super) fn text(&mut self) -> Result<String, Fault> {
        let length = self.u64()?;
        let length = self.count(length, 1, "characters")?;
        // Some vocabularies hold pieces of characters.
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    pub(super) fn value(&mut self, kind: u32, depth: usize) -> Result<GgufValue, Fault> {
        Ok(match kind {
            0 => GgufValue::Int(u8::from_le_bytes(self.array()?).into()),
            1 => GgufValue::Int(i8::from_le_bytes(self.array()?).into()),
            2 => GgufValue::Int(u16::from_le_bytes(self.array()?).into()),
            3 => GgufValue::Int(i16::from_le_bytes(self.array()?).into()),
            4 => GgufValue::Int(self.u32()?.into()),
            5 => GgufValue::Int(i32::from_le_bytes(self.array()?).into()),
            6 => GgufValue::Float(f32::from_le_bytes(self.array()?).into()),
            7 => GgufValue::Bool(u8::from_le_bytes(self.array()?) != 0),
            8 => GgufValue::Text(self.text()?),
            9 if depth < DEEPEST => {
                let (element, count) = (self.u32()?, self.u64()?);
                let bytes = match element {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    9 => 12,
                    _ => 8,
                };
                let count = self.count(count, bytes, "elements")?;
                let list = (0..count).map(|_| self.value(element, depth + 1)).collect::<Result<_, _>>()?;
                GgufValue::List(list)
            }
            9 => return Err("lists within lists within lists".into()),
            10 => {
                let value = self.u64()?;
                i64::try_from(value).map_or(GgufValue::Large(value), GgufValue::Int)
            }
            11 => GgufValue::Int(i64::from_le_bytes(self.array()?)),
            12 => GgufValue::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("values of type {other} are not known")),
        })
    }

    pub(super) fn tensor(&mut self) -> Result<Header, Fault> {
        let name = self.text()?;
        let rank = self.u32()?;
        if rank > 4 {
            return Err(format!("`{name}` has {rank} dimensions, at most 4 are known"));
        }
        let mut shape = (0..rank)
            .map(|_| {
                self.u64().and_then(|n| usize::try_from(n).map_err(|_| format!("`{name}` is too large")))
            })
            .collect::<Result<Vec<usize>, Fault>>()?;
        shape.reverse();
        let kind = self.u32()?;
        let kind = GgmlType::from_number(kind).ok_or_else(|| {
            format!("`{name}` is of the kind {kind}, which is not supported; known: {}", GgmlType::names())
        })?;
        let offset = self.u64()?;
        Ok(Header { name, shape, kind, offset })
    }
}
