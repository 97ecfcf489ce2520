//! Tasks on text: guessing hidden tokens, telling classes of texts, translating.

mod batches;
mod examples;
mod masked_lm;
mod model;
mod sequence_classification;
mod translation;

pub use self::masked_lm::{MaskedLmOptions, MaskedLmRecipe};
pub use self::model::BertRecipe;
pub use self::sequence_classification::{LabelledTextRecipe, SequenceClassificationRecipe};
pub use self::translation::{MarianRecipe, PairsRecipe, TranslationOptions, TranslationRecipe};
