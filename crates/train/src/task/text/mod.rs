//! Tasks of BERTs on text: guessing hidden tokens, and telling classes of texts.

mod examples;
mod masked_lm;
mod model;
mod sequence_classification;

pub use self::masked_lm::{MaskedLmOptions, MaskedLmRecipe};
pub use self::model::BertRecipe;
pub use self::sequence_classification::{LabelledTextRecipe, SequenceClassificationRecipe};
