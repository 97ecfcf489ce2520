//! BLEU, equal to sacreBLEU's `nrefs:any|case:mixed|eff:no|tok:13a|smooth:exp`.
//!
//! K. Papineni et al., "BLEU", ACL 2002; M. Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018.

use std::collections::HashMap;

/// Longest n-grams that are compared.
const ORDER: usize = 4;

/// Counts of a corpus, to which translations are added one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bleu {
    correct: [u64; ORDER],
    total: [u64; ORDER],
    length: u64,
    reference_length: u64,
}

/// BLEU and what it is made of; percentages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BleuScore {
    /// `brevity_penalty * (p1 p2 p3 p4)^(1/4)`, 0 to 100.
    pub score: f64,
    /// Share of n-grams that a reference has too, for n = 1 to 4, smoothed where there is none.
    pub precisions: [f64; ORDER],
    /// `e^(1 - reference length / length)` where translations are shorter than references, else 1.
    pub brevity_penalty: f64,
}

impl Bleu {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a translation and its references, of which n-grams of any count.
    pub fn add<S: AsRef<str>>(&mut self, translation: &str, references: &[S]) {
        let translation = tokenize_13a(translation);
        let length = translation.len() as u64;
        let references: Vec<Vec<String>> =
            references.iter().map(|text| tokenize_13a(text.as_ref())).collect();
        let distance = |reference: &Vec<String>| (length.abs_diff(reference.len() as u64), reference.len());
        let closest = references.iter().min_by_key(|reference| distance(reference));
        self.length += length;
        self.reference_length += closest.map_or(0, |reference| reference.len() as u64);
        for n in 1..=ORDER {
            let mut most: HashMap<&[String], u64> = HashMap::new();
            for reference in &references {
                for (gram, count) in grams(reference, n) {
                    let most = most.entry(gram).or_default();
                    *most = count.max(*most);
                }
            }
            for (gram, count) in grams(&translation, n) {
                self.total[n - 1] += count;
                self.correct[n - 1] += count.min(most.get(gram).copied().unwrap_or_default());
            }
        }
    }

    /// The score of what was added.
    pub fn score(&self) -> BleuScore {
        let brevity_penalty = if self.length >= self.reference_length {
            1.0
        } else if self.length == 0 {
            0.0
        } else {
            (1.0 - self.reference_length as f64 / self.length as f64).exp()
        };
        let mut precisions = [0.0; ORDER];
        if self.correct == [0; ORDER] {
            return BleuScore { score: 0.0, precisions, brevity_penalty };
        }
        let mut smoothing = 1.0_f64;
        let counts = self.correct.iter().zip(&self.total);
        for (precision, (&correct, &total)) in precisions.iter_mut().zip(counts) {
            *precision = match (correct, total) {
                (_, 0) => break,
                (0, _) => {
                    smoothing *= 2.0;
                    100.0 / (smoothing * total as f64)
                }
                _ => 100.0 * correct as f64 / total as f64,
            };
        }
        // A precision of 0 has the logarithm -infinity, and makes the score 0.
        let mean = precisions.iter().map(|p: &f64| p.ln()).sum::<f64>() / ORDER as f64;
        BleuScore { score: brevity_penalty * mean.exp(), precisions, brevity_penalty }
    }
}

fn grams(words: &[String], n: usize) -> HashMap<&[String], u64> {
    let mut counts = HashMap::new();
    for gram in words.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// The words of a text by the rule `13a` of the WMT evaluations: punctuation stands alone, except periods and commas within numbers.
fn tokenize_13a(text: &str) -> Vec<String> {
    let mut text =
        text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if text.contains('&') {
        for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
            text = text.replace(entity, character);
        }
    }
    let alone = |c| matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/');
    let mut spaced = String::from(" ");
    for c in text.chars() {
        if alone(c) { spaced.extend([' ', c, ' ']) } else { spaced.push(c) }
    }
    spaced.push(' ');
    let point = |c| matches!(c, '.' | ',');
    let digit = |c: char| c.is_ascii_digit();
    let spaced = pairs(&spaced, |a, b| !digit(a) && point(b), |a, b| [a, ' ', b, ' ']);
    let spaced = pairs(&spaced, |a, b| point(a) && !digit(b), |a, b| [' ', a, ' ', b]);
    let spaced = pairs(&spaced, |a, b| digit(a) && b == '-', |a, b| [a, ' ', b, ' ']);
    spaced.split(is_space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Replaces pairs of neighbours from left to right; no character is part of two.
fn pairs(text: &str, wanted: impl Fn(char, char) -> bool, with: impl Fn(char, char) -> [char; 4]) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut result = String::with_capacity(text.len() + 16);
    let mut i = 0;
    while let Some(&a) = characters.get(i) {
        match characters.get(i + 1) {
            Some(&b) if wanted(a, b) => {
                result.extend(with(a, b));
                i += 2;
            }
            _ => {
                result.push(a);
                i += 1;
            }
        }
    }
    result
}

/// What Python's `str.split` splits at.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

#[cfg(test)]
mod tests {
    use super::super::chrf::Chrf;
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    fn scores(pairs: &[(&str, &[&str])]) -> (BleuScore, f64) {
        let (mut bleu, mut chrf) = (Bleu::new(), Chrf::new());
        for (translation, references) in pairs {
            bleu.add(translation, references);
            chrf.add(translation, references);
        }
        (bleu.score(), chrf.score())
    }

    // What sacreBLEU 2.6.0 says: BLEU().corpus_score and CHRF().corpus_score.

    #[test]
    fn several_references_score_as_in_sacrebleu() {
        let references = ["The cat is sitting on the mat, isn't it?", "A cat sat on a mat."];
        let (bleu, chrf) = scores(&[("The cat sat on the mat, didn't it?", &references)]);
        assert!(close(bleu.score, 39.8179015751639), "{bleu:?}");
        assert!(close(bleu.precisions[3], 14.285714285714286), "{bleu:?}");
        assert!(close(bleu.brevity_penalty, 0.9048374180359595), "{bleu:?}");
        assert!(close(chrf, 48.06931510451523), "{chrf}");
    }

    #[test]
    fn a_corpus_with_numbers_entities_accents_and_gaps_scores_as_in_sacrebleu() {
        let (bleu, chrf) = scores(&[
            (
                "In the beginning God created the heaven and the earth.",
                &["At the beginning God created heaven and earth."],
            ),
            (
                "It costs $3,000.50 -- about 5-6% more; e.g. &quot;this&quot; & that...",
                &["It costs $3,000.5 - some 5-6 % more, e.g. \"this\" & that."],
            ),
            (
                "y dijo Dios: Sea la luz; y fué la luz.",
                &["Y dijo Dios: Sea hecha la luz: y la luz quedó hecha."],
            ),
            ("", &["something"]),
            ("a", &["a b"]),
        ]);
        let precisions = [75.51020408163265, 55.55555555555556, 38.095238095238095, 28.205128205128204];
        assert!(bleu.precisions.iter().zip(precisions).all(|(&a, b)| close(a, b)), "{bleu:?}");
        assert!(close(bleu.score, 46.076870797998964) && close(chrf, 55.98725453057217), "{bleu:?} {chrf}");
    }

    #[test]
    fn short_and_wrong_translations_score_as_in_sacrebleu() {
        let (bleu, chrf) = scores(&[("abc def", &["abc deg"]), ("x", &["x y"])]);
        assert!(
            close(bleu.precisions[1], 50.0) && close(bleu.brevity_penalty, 0.7165313105737893),
            "{bleu:?}"
        );
        assert!(bleu.score == 0.0 && close(chrf, 56.313404165916324), "{bleu:?} {chrf}");
        assert_eq!(scores(&[("abc", &["xyz"])]).0.score, 0.0);
        assert_eq!((scores(&[]).0.score, scores(&[]).1), (0.0, 0.0));
    }

    #[test]
    fn punctuation_is_split_as_13a_splits_it() {
        let text = "dash- \n 7-8 (a+b)=c/d {x} [y]_z 1,2 ,3 a,b 1. .5 .. ¿Qué?\u{a0}no";
        let words = "dash- 7 - 8 ( a + b ) = c / d { x } [ y ] _ z 1,2 , 3 a , b 1 . . 5 . . ¿Qué ? no";
        assert_eq!(tokenize_13a(text).join(" "), words);
        let reference = "dash- 7-8 ( a + b ) = c / d { x } [ y ] _ z 1,2 , 3 a , b 1 . .5 ¿ Qué ? no";
        let (bleu, chrf) = scores(&[(text, &[reference])]);
        assert!(close(bleu.score, 87.55220035854633) && close(chrf, 92.90066840997233), "{bleu:?} {chrf}");
    }
}
