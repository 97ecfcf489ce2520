//! A tokenised text as one long sequence of ids, mapped from a cache file.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::cache::{Cache, CacheWriter, HEADER, Key, Width};
use crate::{DataError, Documents, Result, Tokenizer};

/// Texts are handed to the tokenizer in groups of about this many bytes: enough to keep all cores busy, little
/// enough to hold in memory.
const GROUP: usize = 4 << 20;

/// The token ids of a split, in order.
///
/// Ids take 1, 2 or 4 bytes each, whatever the vocabulary needs. A stream opened from a cache file is mapped into
/// memory, not read: a corpus may be larger than memory.
pub struct TokenStream {
    storage: Storage,
    width: Width,
    len: usize,
    vocab_size: usize,
}

enum Storage {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl TokenStream {
    /// Tokenises `documents`, or opens the result of an earlier time from the folder `cache`, which is created if
    /// it is missing.
    ///
    /// The file is named after the SHA-256 of the texts and the tokenizer, so that a change of either makes
    /// another file, and a stale one is never used. One that is damaged is written anew, and `warn` gets a sentence
    /// about it.
    ///
    /// # Errors
    /// [`DataError::Io`] for files, [`DataError::SourceChanged`] if the texts change meanwhile, [`DataError::Cache`] for
    /// a disk that does not give back what was just written, and the errors of [`Tokenizer::encode`].
    pub fn build(
        documents: &Documents,
        tokenizer: &Tokenizer,
        cache: &Path,
        warn: impl FnOnce(String),
    ) -> Result<Self> {
        let key = key_of(documents, tokenizer)?;
        let path = cache_path(cache, &key);
        if path.exists() {
            match Self::open_with_key(&path, &key) {
                Err(DataError::Cache { expected, found, .. }) => warn(format!(
                    "the token cache `{}` is damaged (expected {expected}, found {found}); the text is tokenised anew",
                    path.display()
                )),
                opened => return opened,
            }
        }
        fs::create_dir_all(cache).map_err(DataError::io("create", cache))?;
        let vocab_size = checked_vocab(tokenizer.vocab_size())?;
        let width = Width::for_vocab(tokenizer.vocab_size());
        let mut writer = CacheWriter::create(&path, width, vocab_size)?;
        let read = tokenize(documents, tokenizer, |ids| writer.push(ids))?;
        if read != key {
            return Err(DataError::SourceChanged);
        }
        writer.finish(&key)?;
        Self::open_with_key(&path, &key)
    }

    /// Tokenises `documents` into memory.
    ///
    /// # Errors
    /// [`DataError::Io`] for files, and the errors of [`Tokenizer::encode`].
    pub fn in_memory(documents: &Documents, tokenizer: &Tokenizer) -> Result<Self> {
        let vocab_size = tokenizer.vocab_size();
        checked_vocab(vocab_size)?;
        let width = Width::for_vocab(vocab_size);
        let mut bytes = Vec::new();
        tokenize(documents, tokenizer, |ids| {
            width.pack(ids, &mut bytes);
            Ok(())
        })?;
        let len = bytes.len() / width.bytes();
        Ok(Self { storage: Storage::Owned(bytes), width, len, vocab_size })
    }

    /// A stream of the given ids, all below `vocab_size`.
    ///
    /// # Errors
    /// [`DataError::UnknownToken`] for an id that is not, [`DataError::Invalid`] for a vocabulary above 2^31.
    pub fn from_ids(ids: &[u32], vocab_size: usize) -> Result<Self> {
        checked_vocab(vocab_size)?;
        check_ids(ids, vocab_size)?;
        let width = Width::for_vocab(vocab_size);
        let mut bytes = Vec::with_capacity(ids.len() * width.bytes());
        width.pack(ids, &mut bytes);
        Ok(Self { storage: Storage::Owned(bytes), width, len: ids.len(), vocab_size })
    }

    /// Opens a cache file that [`build`](Self::build) wrote, after checking all of it.
    ///
    /// # Errors
    /// [`DataError::Io`] if it cannot be opened, [`DataError::Cache`] if it is damaged or truncated.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::mapped(Cache::open(path)?))
    }

    /// Opens the file if it holds the tokens of this key.
    fn open_with_key(path: &Path, key: &Key) -> Result<Self> {
        let cache = Cache::open(path)?;
        if cache.key != *key {
            return Err(DataError::Cache {
                path: path.to_owned(),
                expected: format!("the tokens of texts with key {}", hex(key)),
                found: format!("key {}", hex(&cache.key)),
            });
        }
        Ok(Self::mapped(cache))
    }

    fn mapped(Cache { map, width, len, vocab_size, .. }: Cache) -> Self {
        Self { storage: Storage::Mapped(map), width, len, vocab_size }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Size of the vocabulary: all ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Bytes that one token takes: 1, 2 or 4.
    pub fn token_bytes(&self) -> usize {
        self.width.bytes()
    }

    /// The ids of the tokens in `range`.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`] if the range is reversed or reaches past the end.
    pub fn get(&self, range: Range<usize>) -> Result<Vec<u32>> {
        Ok(self.ids(range)?.collect())
    }

    /// Appends the ids of `range` to `ids`, as `i32`.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`] if the range is reversed or reaches past the end; `ids` is then unchanged.
    pub fn append_to(&self, ids: &mut Vec<i32>, range: Range<usize>) -> Result<()> {
        // Ids are below the vocabulary's size, which is at most 2^31: the cast keeps their value.
        ids.extend(self.ids(range)?.map(|id| id as i32));
        Ok(())
    }

    fn ids(&self, range: Range<usize>) -> Result<impl Iterator<Item = u32>> {
        let Range { start, end } = range;
        if start > end || end > self.len {
            return Err(DataError::OutOfRange { start, end, len: self.len });
        }
        let width = self.width.bytes();
        let tokens = match &self.storage {
            Storage::Mapped(map) => &map[HEADER..],
            Storage::Owned(bytes) => bytes,
        };
        Ok(self.width.unpack(&tokens[start * width..end * width]))
    }
}

impl fmt::Debug for TokenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenStream")
            .field("len", &self.len)
            .field("vocab_size", &self.vocab_size)
            .field("token_bytes", &self.token_bytes())
            .field("mapped", &matches!(self.storage, Storage::Mapped(_)))
            .finish()
    }
}

/// Hands the ids of all documents to `sink`, in order, and returns the key of what was read.
fn tokenize(
    documents: &Documents,
    tokenizer: &Tokenizer,
    mut sink: impl FnMut(&[u32]) -> Result<()>,
) -> Result<Key> {
    let vocab_size = tokenizer.vocab_size();
    let mut flush = |group: &mut Vec<Vec<u8>>| {
        for ids in tokenizer.encode_batch(group)? {
            check_ids(&ids, vocab_size)?;
            sink(&ids)?;
        }
        group.clear();
        Ok(())
    };
    let mut hash = KeyHasher::new(tokenizer);
    let (mut group, mut size) = (Vec::new(), 0);
    for piece in documents.pieces() {
        let piece = piece?;
        hash.update(&piece);
        size += piece.len();
        group.push(piece);
        if size >= GROUP {
            flush(&mut group)?;
            size = 0;
        }
    }
    flush(&mut group)?;
    Ok(hash.finish())
}

fn key_of(documents: &Documents, tokenizer: &Tokenizer) -> Result<Key> {
    let mut hash = KeyHasher::new(tokenizer);
    for piece in documents.pieces() {
        hash.update(&piece?);
    }
    Ok(hash.finish())
}

/// Hashes the tokenizer and the pieces, each with its length before it, so that no two lists hash the same bytes.
struct KeyHasher(Sha256);

impl KeyHasher {
    fn new(tokenizer: &Tokenizer) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.update(tokenizer.identity());
        hasher
    }

    fn update(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    fn finish(self) -> Key {
        self.0.finalize().into()
    }
}

fn cache_path(cache: &Path, key: &Key) -> PathBuf {
    // Sixteen bytes name the file; the header holds all thirty-two.
    cache.join(format!("{}.tokens", hex(&key[..16])))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Ids travel to devices as `i32`.
fn checked_vocab(vocab_size: usize) -> Result<u32> {
    match u32::try_from(vocab_size) {
        Ok(size) if size <= 1 << 31 => Ok(size),
        _ => Err(DataError::Invalid {
            name: "vocab_size",
            expected: "at most 2^31".into(),
            found: vocab_size.to_string(),
        }),
    }
}

fn check_ids(ids: &[u32], vocab_size: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(&id) => Err(DataError::UnknownToken { id, vocab_size }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BpeOptions;

    const TEXTS: [&str; 3] = ["the lowest of the low", "", "naïve newest of the new"];

    /// For a cache that has nothing to complain of.
    fn intact(warning: String) {
        panic!("{warning}");
    }

    fn cache_files(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    #[test]
    fn a_cached_stream_holds_the_bytes_of_the_text() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let documents = Documents::from_texts(TEXTS);
        let cache = dir.path().join("new/cache");
        for _ in 0..2 {
            let stream = TokenStream::build(&documents, &Tokenizer::Bytes, &cache, intact).expect("built");
            let ids: Vec<u8> = stream.get(0..stream.len()).expect("all").iter().map(|&id| id as u8).collect();
            assert_eq!(ids, TEXTS.join("\n\n").as_bytes());
            assert_eq!((stream.token_bytes(), stream.vocab_size()), (1, 256));
            assert_eq!(cache_files(&cache).len(), 1);
        }
    }

    #[test]
    fn a_bpe_stream_decodes_to_the_text() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let documents = Documents::from_texts(TEXTS);
        let tokenizer = Tokenizer::train_bpe(&documents, &BpeOptions::new(270)).expect("trained");
        let mapped = TokenStream::build(&documents, &tokenizer, dir.path(), intact).expect("built");
        let owned = TokenStream::in_memory(&documents, &tokenizer).expect("built");
        assert_eq!(mapped.token_bytes(), 2);
        let ids = mapped.get(0..mapped.len()).expect("all");
        assert_eq!(ids, owned.get(0..owned.len()).expect("all"));
        assert_eq!(tokenizer.decode(&ids).expect("decoded"), TEXTS.join("\n\n"));
    }

    #[test]
    fn other_texts_or_another_tokenizer_get_another_cache_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let documents = Documents::from_texts(TEXTS);
        let bpe = Tokenizer::train_bpe(&documents, &BpeOptions::new(256)).expect("trained");
        TokenStream::build(&documents, &Tokenizer::Bytes, dir.path(), intact).expect("built");
        TokenStream::build(&documents, &bpe, dir.path(), intact).expect("built");
        TokenStream::build(&Documents::from_texts(["other"]), &bpe, dir.path(), intact).expect("built");
        assert_eq!(cache_files(dir.path()).len(), 3);
    }

    #[test]
    fn a_cache_file_with_any_byte_changed_or_missing_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let documents = Documents::from_texts(TEXTS);
        TokenStream::build(&documents, &Tokenizer::Bytes, dir.path(), intact).expect("built");
        let path = cache_files(dir.path()).remove(0);
        let whole = fs::read(&path).expect("the file");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, bytes).expect("written");
            assert!(matches!(TokenStream::open(&path), Err(DataError::Cache { .. })), "byte {at} changed");
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).expect("written");
            assert!(
                matches!(TokenStream::open(&path), Err(DataError::Cache { .. })),
                "cut to {length} bytes"
            );
        }
        let error = TokenStream::open(&path).expect_err("damaged");
        assert!(error.to_string().contains("delete it"), "{error}");
    }

    #[test]
    fn a_damaged_cache_file_is_written_anew_with_a_notice() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let documents = Documents::from_texts(TEXTS);
        TokenStream::build(&documents, &Tokenizer::Bytes, dir.path(), intact).expect("built");
        let path = cache_files(dir.path()).remove(0);
        let whole = fs::read(&path).expect("the file");
        let mut changed = whole.clone();
        changed[HEADER + 3] ^= 1;
        for damaged in [&changed[..], &whole[..HEADER + 5], &whole[..7], b""] {
            fs::write(&path, damaged).expect("written");
            let mut notice = None;
            let stream =
                TokenStream::build(&documents, &Tokenizer::Bytes, dir.path(), |text| notice = Some(text));
            assert_eq!(stream.expect("built anew").len(), whole.len() - HEADER);
            let notice = notice.expect("a notice");
            assert!(notice.contains("is damaged (expected") && !notice.contains('\n'), "{notice}");
            assert!(fs::read(&path).expect("the file") == whole);
            assert_eq!(cache_files(dir.path()).len(), 1);
            TokenStream::build(&documents, &Tokenizer::Bytes, dir.path(), intact).expect("intact");
        }
    }

    #[test]
    fn a_cache_file_under_another_key_is_not_used() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        TokenStream::build(&Documents::from_texts(["one"]), &Tokenizer::Bytes, dir.path(), intact)
            .expect("built");
        let path = cache_files(dir.path()).remove(0);
        let other = Documents::from_texts(["two"]);
        let key = key_of(&other, &Tokenizer::Bytes).expect("a key");
        fs::rename(path, cache_path(dir.path(), &key)).expect("renamed");
        let mut notice = String::new();
        let stream = TokenStream::build(&other, &Tokenizer::Bytes, dir.path(), |text| notice = text);
        assert_eq!(stream.expect("built anew").get(0..3).expect("three"), b"two".map(u32::from));
        assert!(notice.contains("with key"), "{notice}");
    }

    #[test]
    fn ids_and_ranges_outside_are_errors() {
        let stream = TokenStream::from_ids(&[1, 70_000], 70_001).expect("valid ids");
        assert_eq!(stream.token_bytes(), 4);
        assert_eq!(stream.get(1..2).expect("in range"), [70_000]);
        assert!(matches!(stream.get(1..3), Err(DataError::OutOfRange { end: 3, len: 2, .. })));
        #[expect(clippy::reversed_empty_ranges, reason = "the reversed range is what is tested")]
        let reversed = stream.get(2..1);
        assert!(matches!(reversed, Err(DataError::OutOfRange { .. })));
        assert!(matches!(TokenStream::from_ids(&[256], 256), Err(DataError::UnknownToken { id: 256, .. })));
    }
}
