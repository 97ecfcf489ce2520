//! Cleaning of texts before they are trained on: repeated ones are dropped, personal data replaced.
//!
//! Steps are options, off unless a recipe asks for them, and a [`CleanReport`] says what they did.

mod near;
mod personal;

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::near::NearDuplicates;
pub use self::personal::PersonalData;
use crate::{DataError, Result};

/// Which steps are taken, in this order: personal data, repeated texts, nearly repeated texts.
///
/// ```toml
/// [data.clean]
/// personal = ["email", "phone", "card", "ip", "name"]
/// names = ["Ada Lovelace"]      # what `name` replaces, whole words, whatever their case
/// duplicates = true
/// near_duplicates = 0.8         # share of equal word 5-grams from which on two texts are nearly the same
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CleanOptions {
    /// Kinds of personal data that are replaced by `[EMAIL]`, `[PHONE]`, `[CARD]`, `[IP]`, `[NAME]`.
    pub personal: Vec<PersonalData>,
    /// Names that `name` replaces.
    pub names: Vec<String>,
    /// Whether texts that equal an earlier one are dropped, up to case and spaces.
    pub duplicates: bool,
    /// Texts that resemble an earlier one at least so much are dropped: the Jaccard similarity of their word 5-grams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near_duplicates: Option<f64>,
}

/// What cleaning did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CleanReport {
    /// Texts that came.
    pub texts: u64,
    /// Texts that were dropped because an earlier one is the same.
    pub duplicates: u64,
    /// Texts that were dropped because an earlier one is nearly the same.
    pub near_duplicates: u64,
    /// E-mail addresses that were replaced.
    pub emails: u64,
    /// Telephone numbers that were replaced.
    pub phones: u64,
    /// Card numbers that were replaced.
    pub cards: u64,
    /// Internet addresses that were replaced.
    pub ips: u64,
    /// Names that were replaced.
    pub names: u64,
}

impl CleanReport {
    /// Texts that stayed.
    pub fn kept(&self) -> u64 {
        self.texts - self.duplicates - self.near_duplicates
    }

    fn count(&mut self, kind: PersonalData) -> &mut u64 {
        match kind {
            PersonalData::Email => &mut self.emails,
            PersonalData::Phone => &mut self.phones,
            PersonalData::Card => &mut self.cards,
            PersonalData::Ip => &mut self.ips,
            PersonalData::Name => &mut self.names,
        }
    }
}

impl fmt::Display for CleanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} texts kept ({} repeated, {} nearly repeated); replaced: {} e-mail addresses, {} telephone numbers, \
             {} card numbers, {} internet addresses, {} names",
            self.kept(),
            self.texts,
            self.duplicates,
            self.near_duplicates,
            self.emails,
            self.phones,
            self.cards,
            self.ips,
            self.names
        )
    }
}

/// Cleans texts one after the other; what it remembers of each is some hundred bytes.
#[derive(Debug)]
pub struct Cleaner {
    personal: Vec<PersonalData>,
    names: personal::Names,
    seen: Option<HashSet<[u8; 16]>>,
    near: Option<NearDuplicates>,
    report: CleanReport,
}

impl Cleaner {
    /// A cleaner that has seen no text.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if the similarity is not above 0 and at most 1, or names are to be replaced and none is given.
    pub fn new(options: &CleanOptions) -> Result<Self> {
        if let Some(similarity) = options.near_duplicates
            && !(similarity > 0.0 && similarity <= 1.0)
        {
            let expected = "above 0 and at most 1".into();
            return Err(DataError::Invalid {
                name: "near_duplicates",
                expected,
                found: similarity.to_string(),
            });
        }
        let names = personal::Names::new(&options.names);
        if options.personal.contains(&PersonalData::Name) && names.is_empty() {
            let expected = "a list of names, since `personal` has \"name\"".into();
            return Err(DataError::Invalid { name: "names", expected, found: "none".into() });
        }
        Ok(Self {
            personal: options.personal.clone(),
            names,
            seen: options.duplicates.then(HashSet::new),
            near: options.near_duplicates.map(NearDuplicates::new),
            report: CleanReport::default(),
        })
    }

    /// The text without personal data, and `None` if an earlier one makes it superfluous.
    pub fn clean(&mut self, text: &str) -> Option<String> {
        self.report.texts += 1;
        let mut text = text.to_owned();
        for kind in PersonalData::ALL {
            if self.personal.contains(&kind) {
                let (cleaned, count) = personal::replace(&text, kind, &self.names);
                text = cleaned;
                *self.report.count(kind) += count;
            }
        }
        let words: Vec<String> = text.to_lowercase().split_whitespace().map(str::to_owned).collect();
        if let Some(seen) = &mut self.seen {
            let mut key = [0; 16];
            key.copy_from_slice(&Sha256::digest(words.join(" "))[..16]);
            if !seen.insert(key) {
                self.report.duplicates += 1;
                return None;
            }
        }
        if let Some(near) = &mut self.near
            && !near.insert(&words)
        {
            self.report.near_duplicates += 1;
            return None;
        }
        Some(text)
    }

    /// What was done so far.
    pub fn report(&self) -> &CleanReport {
        &self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEECH: &str = "We hold these truths to be self-evident, that all men are created equal, that they are endowed by their \
        Creator with certain unalienable Rights, that among these are Life, Liberty and the pursuit of Happiness.";

    #[test]
    fn repeated_texts_are_dropped_up_to_case_and_spaces() {
        let options = CleanOptions { duplicates: true, ..CleanOptions::default() };
        let mut cleaner = Cleaner::new(&options).expect("a cleaner");
        let kept: Vec<bool> = ["One two", "one  TWO\n", "one two.", ""]
            .iter()
            .map(|text| cleaner.clean(text).is_some())
            .collect();
        assert_eq!(kept, [true, false, true, true]);
        assert_eq!((cleaner.report().texts, cleaner.report().duplicates, cleaner.report().kept()), (4, 1, 3));
    }

    #[test]
    fn texts_that_differ_in_few_words_are_nearly_repeated() {
        let options = CleanOptions { near_duplicates: Some(0.7), ..CleanOptions::default() };
        let mut cleaner = Cleaner::new(&options).expect("a cleaner");
        let edited = SPEECH.replace("Happiness", "Wisdom");
        let other = SPEECH.split(' ').rev().collect::<Vec<_>>().join(" ");
        let kept: Vec<bool> = [SPEECH, &edited, &other, "short", "short text", "short"]
            .iter()
            .map(|text| cleaner.clean(text).is_some())
            .collect();
        assert_eq!(kept, [true, false, true, true, true, false]);
        let line = cleaner.report().to_string();
        assert!(line.starts_with("4 of 6 texts kept (0 repeated, 2 nearly repeated)"), "{line}");
    }

    #[test]
    fn personal_data_is_replaced_before_texts_are_compared() {
        let options = CleanOptions {
            personal: vec![PersonalData::Email, PersonalData::Ip],
            duplicates: true,
            ..CleanOptions::default()
        };
        let mut cleaner = Cleaner::new(&options).expect("a cleaner");
        assert_eq!(
            cleaner.clean("Mail ada@example.org from 10.0.0.7").as_deref(),
            Some("Mail [EMAIL] from [IP]")
        );
        assert_eq!(cleaner.clean("Mail bob@example.com from 10.0.0.8"), None);
        assert_eq!((cleaner.report().emails, cleaner.report().ips), (2, 2));
    }

    #[test]
    fn options_without_sense_are_errors() {
        for options in [
            CleanOptions { near_duplicates: Some(0.0), ..CleanOptions::default() },
            CleanOptions { near_duplicates: Some(f64::NAN), ..CleanOptions::default() },
            CleanOptions { personal: vec![PersonalData::Name], ..CleanOptions::default() },
        ] {
            assert!(matches!(Cleaner::new(&options), Err(DataError::Invalid { .. })), "{options:?}");
        }
        let recipe = "personal = ['email', 'name']\nnames = ['Ada']\nnear_duplicates = 0.8";
        let options: CleanOptions = toml::from_str(recipe).expect("a recipe");
        assert!(Cleaner::new(&options).is_ok() && toml::from_str::<CleanOptions>("personel = []").is_err());
    }
}
