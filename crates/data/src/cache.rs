//! The file that keeps a tokenised text.
//!
//! ```text
//! offset  bytes  content (integers little-endian)
//!      0      8  the letters WGRADTOK
//!      8      4  version of this format, 1
//!     12      4  bytes per token: 1, 2 or 4
//!     16      8  number of tokens
//!     24      4  size of the vocabulary
//!     28     32  SHA-256 of the texts and the tokenizer, the key
//!     60      4  CRC-32 of bytes 0..60 and of all tokens
//!     64      -  the tokens
//! ```
//!
//! A file is written under a temporary name, synced, and renamed, so that a reader sees a whole one or none. It
//! is never changed afterwards: other texts or another tokenizer have another key, hence another file.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tempfile::NamedTempFile;

use crate::{DataError, Result};

const MAGIC: &[u8; 8] = b"WGRADTOK";
const VERSION: u32 = 1;
const CHECKED: usize = 60;
/// Bytes before the first token.
pub(crate) const HEADER: usize = 64;

/// SHA-256 of the texts and the tokenizer.
pub(crate) type Key = [u8; 32];

/// How many bytes hold one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    U8,
    U16,
    U32,
}

impl Width {
    /// The narrowest width that holds the ids `0..vocab_size`.
    pub(crate) fn for_vocab(vocab_size: usize) -> Self {
        match vocab_size {
            0..=0x100 => Self::U8,
            0x101..=0x1_0000 => Self::U16,
            _ => Self::U32,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// Appends `ids`, which must be below the vocabulary size that the width was made for.
    pub(crate) fn pack(self, ids: &[u32], bytes: &mut Vec<u8>) {
        match self {
            Self::U8 => bytes.extend(ids.iter().map(|&id| id as u8)),
            Self::U16 => bytes.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            Self::U32 => bytes.extend(ids.iter().flat_map(|&id| id.to_le_bytes())),
        }
    }

    /// The ids that `bytes` hold.
    pub(crate) fn unpack(self, bytes: &[u8]) -> impl Iterator<Item = u32> {
        bytes.chunks_exact(self.bytes()).map(|token| match *token {
            [a] => u32::from(a),
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => 0,
        })
    }
}

/// Writes a cache file token by token.
pub(crate) struct CacheWriter {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    crc: crc32fast::Hasher,
    width: Width,
    vocab_size: u32,
    count: u64,
    packed: Vec<u8>,
}

impl CacheWriter {
    /// Begins the file that will be `path`, in an existing folder.
    pub(crate) fn create(path: &Path, width: Width, vocab_size: u32) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let temporary = tempfile::Builder::new()
            .prefix(".tokens-")
            .tempfile_in(folder)
            .map_err(DataError::io("create a file in", folder))?;
        let mut writer = Self {
            path: path.to_path_buf(),
            file: BufWriter::new(temporary),
            crc: crc32fast::Hasher::new(),
            width,
            vocab_size,
            count: 0,
            packed: Vec::new(),
        };
        writer.write(&[0; HEADER])?;
        Ok(writer)
    }

    /// Appends tokens.
    pub(crate) fn push(&mut self, ids: &[u32]) -> Result<()> {
        let mut packed = std::mem::take(&mut self.packed);
        packed.clear();
        self.width.pack(ids, &mut packed);
        self.crc.update(&packed);
        self.count += ids.len() as u64;
        let written = self.write(&packed);
        self.packed = packed;
        written
    }

    /// Completes the header and gives the file its name.
    pub(crate) fn finish(mut self, key: &Key) -> Result<()> {
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(self.width.bytes() as u32).to_le_bytes());
        header.extend_from_slice(&self.count.to_le_bytes());
        header.extend_from_slice(&self.vocab_size.to_le_bytes());
        header.extend_from_slice(key);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header);
        crc.combine(&self.crc);
        header.extend_from_slice(&crc.finalize().to_le_bytes());

        self.file.seek(SeekFrom::Start(0)).map_err(DataError::io("write", &self.path))?;
        self.write(&header)?;
        let file = self.file.into_inner().map_err(|e| DataError::io("write", &self.path)(e.into_error()))?;
        file.as_file().sync_all().map_err(DataError::io("sync", &self.path))?;
        file.persist(&self.path).map_err(|e| DataError::io("rename a new file to", &self.path)(e.error))?;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(DataError::io("write", &self.path))
    }
}

/// A cache file that was opened and found intact.
pub(crate) struct Cache {
    /// The whole file.
    pub(crate) map: Mmap,
    pub(crate) width: Width,
    pub(crate) len: usize,
    pub(crate) vocab_size: usize,
    pub(crate) key: Key,
}

impl Cache {
    /// Maps the file and checks all of it against its header.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let damaged =
            |expected: String, found: String| DataError::Cache { path: path.into(), expected, found };
        let found = fs::metadata(path).map_err(DataError::io("open", path))?.len();
        if found < HEADER as u64 {
            return Err(damaged(format!("a header of {HEADER} bytes"), format!("a file of {found} bytes")));
        }
        let file = File::open(path).map_err(DataError::io("open", path))?;
        // SAFETY: the bytes must not change while they are mapped. The file is this crate's own: it gets its name
        // only when it is complete, and nothing here writes to it afterwards.
        let map = unsafe { Mmap::map(&file) }.map_err(DataError::io("map", path))?;

        let (Some((header, tokens)), true) = (map.split_at_checked(HEADER), map.len() as u64 == found) else {
            return Err(damaged(format!("a file of {found} bytes"), format!("{} bytes", map.len())));
        };
        let fields = Fields::read(header).map_err(|(expected, found)| damaged(expected, found))?;
        let expected = fields.count.checked_mul(fields.width.bytes() as u64);
        if expected != Some(tokens.len() as u64) {
            let bytes = fields.width.bytes();
            return Err(damaged(
                format!("{} tokens of {bytes} bytes each", fields.count),
                format!("{} bytes of tokens", tokens.len()),
            ));
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[..CHECKED]);
        crc.update(tokens);
        let crc = crc.finalize();
        if crc != fields.crc {
            return Err(damaged(format!("checksum {:08x}", fields.crc), format!("{crc:08x}")));
        }
        let len = tokens.len() / fields.width.bytes();
        Ok(Self { map, width: fields.width, len, vocab_size: fields.vocab_size as usize, key: fields.key })
    }
}

struct Fields {
    width: Width,
    count: u64,
    vocab_size: u32,
    key: Key,
    crc: u32,
}

impl Fields {
    /// Reads a header of [`HEADER`] bytes; on failure, what was expected and what was found.
    fn read(header: &[u8]) -> Result<Self, (String, String)> {
        if &header[..8] != MAGIC {
            return Err(("the letters WGRADTOK at its start".into(), header[..8].escape_ascii().to_string()));
        }
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err((format!("format version {VERSION}"), version.to_string()));
        }
        let width = match u32_at(header, 12) {
            1 => Width::U8,
            2 => Width::U16,
            4 => Width::U32,
            other => return Err(("1, 2 or 4 bytes per token".into(), other.to_string())),
        };
        let count = u64::from(u32_at(header, 16)) | u64::from(u32_at(header, 20)) << 32;
        let mut key = Key::default();
        key.copy_from_slice(&header[28..CHECKED]);
        Ok(Self { width, count, vocab_size: u32_at(header, 24), key, crc: u32_at(header, CHECKED) })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_each_width_come_back_from_the_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.tokens");
        for (vocab_size, bytes) in [(256, 1), (257, 2), (65_536, 2), (65_537, 4), (1 << 31, 4)] {
            let width = Width::for_vocab(vocab_size as usize);
            let mut writer = CacheWriter::create(&path, width, vocab_size).expect("begun");
            writer.push(&[0, vocab_size - 1]).expect("written");
            writer.push(&[]).expect("written");
            writer.push(&[7]).expect("written");
            writer.finish(&[9; 32]).expect("named");
            let cache = Cache::open(&path).expect("intact");
            let ids: Vec<u32> = cache.width.unpack(&cache.map[HEADER..]).collect();
            assert_eq!(ids, [0, vocab_size - 1, 7]);
            assert_eq!((cache.len, cache.vocab_size, cache.key), (3, vocab_size as usize, [9; 32]));
            assert_eq!(cache.width.bytes(), bytes);
        }
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.tokens");
        let mut writer = CacheWriter::create(&path, Width::U8, 256).expect("begun");
        writer.push(&[1, 2, 3]).expect("written");
        drop(writer);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }
}
