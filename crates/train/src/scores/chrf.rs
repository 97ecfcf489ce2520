//! chrF, equal to sacreBLEU's `chrF2|nrefs:any|case:mixed|eff:yes|nc:6|nw:0|space:no`.
//!
//! M. Popović, "chrF: character n-gram F-score for automatic MT evaluation", WMT 2015.

use std::collections::HashMap;

use super::bleu::is_space;

/// Longest n-grams of characters that are compared.
const ORDER: usize = 6;
/// How much more recall counts than precision.
const BETA: f64 = 2.0;

/// n-grams of one length: in translations, in references, in both.
type Counts = [u64; 3];

/// Counts of a corpus, to which translations are added one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chrf {
    counts: [Counts; ORDER],
}

impl Chrf {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a translation and its references, of which the one that fits best counts.
    pub fn add<S: AsRef<str>>(&mut self, translation: &str, references: &[S]) {
        let translation = visible(translation);
        let (mut best, mut best_score) = ([Counts::default(); ORDER], -1.0);
        for reference in references {
            let counts = compare(&translation, &visible(reference.as_ref()));
            let score = f_score(&counts);
            if score > best_score {
                (best, best_score) = (counts, score);
            }
        }
        for (sum, counts) in self.counts.iter_mut().zip(best) {
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }

    /// The score of what was added, 0 to 100.
    pub fn score(&self) -> f64 {
        f_score(&self.counts)
    }
}

fn visible(text: &str) -> Vec<char> {
    text.chars().filter(|&c| !is_space(c)).collect()
}

fn compare(translation: &[char], reference: &[char]) -> [Counts; ORDER] {
    std::array::from_fn(|i| {
        let (ours, theirs) = (grams(translation, i + 1), grams(reference, i + 1));
        let shared =
            ours.iter().map(|(gram, &count)| count.min(theirs.get(gram).copied().unwrap_or_default()));
        let shared = shared.sum();
        // What no reference is long enough for does not count.
        let produced = if theirs.is_empty() { 0 } else { ours.values().sum() };
        [produced, theirs.values().sum(), shared]
    })
}

fn grams(characters: &[char], n: usize) -> HashMap<&[char], u64> {
    let mut counts = HashMap::new();
    for gram in characters.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// `(1 + b^2) P R / (b^2 P + R)` of the mean precision and recall over the lengths that both sides have.
fn f_score(counts: &[Counts; ORDER]) -> f64 {
    let compared = counts.iter().filter(|[ours, theirs, _]| *ours > 0 && *theirs > 0);
    let (mut precision, mut recall, mut lengths) = (0.0, 0.0, 0.0);
    for &[ours, theirs, shared] in compared {
        precision += shared as f64 / ours as f64;
        recall += shared as f64 / theirs as f64;
        lengths += 1.0;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / lengths, recall / lengths);
    let factor = BETA * BETA;
    100.0 * (1.0 + factor) * precision * recall / (factor * precision + recall)
}
