//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// What can go wrong between text files and batches.
///
/// Each message says what was expected, what came, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused a file operation.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// The operation, as a verb: `read`, `write`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file pattern is not a valid glob.
    #[error("`{pattern}` is not a valid file pattern: {reason}; use names with `*`, `?`, `[a-z]` or `**`")]
    Pattern {
        /// The pattern as written.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No file was selected.
    #[error(
        "no text file matches {patterns} under `{}`{filter}: expected at least one; check the patterns, \
         which are relative to the folder of the recipe",
        base.display()
    )]
    NoFiles {
        /// The patterns, as a readable list.
        patterns: String,
        /// The folder to which they are relative.
        base: PathBuf,
        /// The range filter, readable, or nothing.
        filter: String,
    },
    /// A text that must be UTF-8 is not.
    #[error(
        "expected UTF-8 text, found an invalid byte at offset {offset}; convert the text to UTF-8 or use the \
         `bytes` tokenizer, which takes any file"
    )]
    NotUtf8 {
        /// Offset of the first invalid byte in the text that was handed over.
        offset: usize,
    },
    /// A setting has a value that makes no sense.
    #[error("`{name}` must be {expected}, found {found}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A tokenizer could not be trained, read or applied.
    #[error("cannot {action}: {reason}")]
    Tokenizer {
        /// The operation, as a verb with its object.
        action: String,
        /// The reason, with what to do.
        reason: String,
    },
    /// A token id that the vocabulary does not hold.
    #[error(
        "token id {id} is not in the vocabulary of {vocab_size} tokens (ids 0..{vocab_size}); use the tokenizer \
         that produced the ids"
    )]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A row of a table that is none, or lacks what is asked of it.
    #[error("`{}`, line {line}: {reason}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Its line (of Parquet files: row), from 1 on.
        line: u64,
        /// What was expected, what is there.
        reason: String,
    },
    /// A tokenizer with more tokens than the model's embedding has rows.
    #[error(
        "the tokenizer has {tokens} tokens, but the model's embedding has {rows} rows: they do not belong together; \
         use the tokenizer.json that came with the model"
    )]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A token cache file is damaged, truncated, or no token cache at all.
    #[error(
        "the token cache `{}` cannot be used: expected {expected}, found {found}; delete it, and it is built anew",
        path.display()
    )]
    Cache {
        /// The file.
        path: PathBuf,
        /// What its bytes should say.
        expected: String,
        /// What they say.
        found: String,
    },
    /// An IDX file that is damaged, or holds something else than what is wanted.
    #[error("`{}` cannot be used: expected {expected}, found {found}", path.display())]
    Idx {
        /// The file.
        path: PathBuf,
        /// What it should say.
        expected: String,
        /// What it says.
        found: String,
    },
    /// Images that are not there.
    #[error(
        "expected `{name}` or `{name}.gz` in `{}`, found neither; Fashion-MNIST comes with `apt-get install dataset-fashion-mnist` on \
         Debian-like systems, and `data.path` names another folder",
        folder.display()
    )]
    NoImages {
        /// The folder.
        folder: PathBuf,
        /// The file's name.
        name: String,
    },
    /// The text files changed between being hashed and being tokenised.
    #[error("the text files changed while they were read; run again when nothing writes to them")]
    SourceChanged,
    /// A text with fewer tokens than one training window.
    #[error(
        "the text has {tokens} tokens, but one window of context {context} needs {needed} (the context and one \
         target more); use more text or a shorter context"
    )]
    TooShort {
        /// Tokens in the stream.
        tokens: usize,
        /// Context length asked for.
        context: usize,
        /// Tokens needed for one window.
        needed: usize,
    },
    /// A range outside the token stream.
    #[error(
        "tokens {start}..{end} were asked for, but the stream has {len}; ask for a range within 0..{len}"
    )]
    OutOfRange {
        /// First token asked for.
        start: usize,
        /// One past the last token asked for.
        end: usize,
        /// Tokens in the stream.
        len: usize,
    },
    /// The background thread that prepares batches failed.
    #[error("the thread that prepares batches {0}")]
    Worker(String),
}

/// `Result` with [`DataError`].
pub type Result<T, E = DataError> = std::result::Result<T, E>;

impl DataError {
    /// Wraps an I/O error with the operation and the path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// A tokenizer's failure, from whatever error the tokenizer library gave.
    pub(crate) fn tokenizer(action: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Tokenizer { action: action.into(), reason: reason.to_string() }
    }
}
