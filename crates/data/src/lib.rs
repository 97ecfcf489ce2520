//! Turns text files into the batches that a language model trains on.
//!
//! Data flows one way: a [`TextSource`] names files, [`Documents`] are their texts in order, a [`Tokenizer`] makes
//! ids of them, a [`TokenStream`] keeps these in a memory-mapped cache file, a [`WindowSampler`] draws windows, and
//! a [`Prefetcher`] prepares the next [`Batch`]es on a thread. This crate knows no tensor and no device.
//!
//! The windows of a training step are a pure function of the seed and the step, so that a checkpoint holds no more
//! of the data's state than the step's number.
//!
//! ```
//! use std::sync::Arc;
//! use wgrad_data::{Documents, Prefetcher, TokenStream, Tokenizer, WindowSampler};
//!
//! # fn main() -> wgrad_data::Result<()> {
//! let text = Documents::from_texts(["It was the best of times, it was the worst of times."]);
//! let stream = Arc::new(TokenStream::in_memory(&text, &Tokenizer::Bytes)?);
//!
//! // Four windows of eight tokens a step; training goes on at step 100.
//! let sampler = WindowSampler::new(stream.len(), 8, 4, 42)?;
//! for batch in Prefetcher::new(Arc::clone(&stream), sampler, 100)?.take(2) {
//!     let batch = batch?;
//!     assert_eq!(batch.inputs.len(), 4 * 8);
//!     assert_eq!(batch.inputs[1..8], batch.targets[..7]);
//! }
//! # Ok(())
//! # }
//! ```

mod augment;
mod batches;
mod cache;
mod clean;
mod error;
mod idx;
mod images;
mod masking;
mod pad;
mod philox;
mod prefetch;
mod sampler;
mod shuffle;
mod source;
mod stream;
mod table;
mod tokenizer;

pub use self::augment::Augmentation;
pub use self::batches::{BatchPlan, LengthBuckets, Packed, TextBatch, pack};
pub use self::clean::{CleanOptions, CleanReport, Cleaner, PersonalData};
pub use self::error::{DataError, Result};
pub use self::idx::Idx;
pub use self::images::LabelledImages;
pub use self::masking::{IGNORED_LABEL, Masked, Masking, MaskingOptions};
pub use self::pad::{PadOptions, Padded, Side, pad_sequences};
pub use self::philox::{below, philox4x32};
pub use self::prefetch::{PREFETCH_DEPTH, Prefetcher};
pub use self::sampler::{Batch, WindowSampler, validation_batches, validation_windows};
pub use self::shuffle::EpochSampler;
pub use self::source::{Documents, TextSource};
pub use self::stream::TokenStream;
pub use self::table::{Labels, Row, Table, TableFormat, TableSource};
pub use self::tokenizer::{
    BpeOptions, DecodeStream, EncodeOptions, Encoding, JsonTokenizer, SpecialTokens, TOKENIZER_FILE,
    TextEncoder, Tokenizer, TokenizerSpec, Truncation, UnigramOptions, WordOptions, WordPieceOptions,
    WordTokenizer,
};
