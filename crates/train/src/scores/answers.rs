//! Exact match and F1 of answers to questions, as SQuAD 2.0's evaluation computes them.
//!
//! P. Rajpurkar, R. Jia, P. Liang, "Know What You Don't Know", ACL 2018.

use std::collections::HashMap;

/// How well an answer, or on average several, agree with what was expected.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AnswerScore {
    /// 1 if the answer is one of the expected ones, up to case, punctuation, articles and spaces.
    pub exact_match: f64,
    /// F1 of the words that both have, with the expected answer that fits best.
    pub f1: f64,
}

impl AnswerScore {
    /// The mean of scores; 0 of none.
    pub fn mean(scores: &[AnswerScore]) -> Self {
        let count = scores.len().max(1) as f64;
        Self {
            exact_match: scores.iter().map(|score| score.exact_match).sum::<f64>() / count,
            f1: scores.iter().map(|score| score.f1).sum::<f64>() / count,
        }
    }
}

/// Scores a prediction against the expected answers, of which the best counts; without any, the empty answer is expected.
pub fn answer_score<S: AsRef<str>>(prediction: &str, expected: &[S]) -> AnswerScore {
    let prediction = normalize_answer(prediction);
    let mut best = AnswerScore::default();
    let mut compare = |expected: &str| {
        let expected = normalize_answer(expected);
        best.exact_match = best.exact_match.max(f64::from(u8::from(prediction == expected)));
        best.f1 = best.f1.max(word_f1(&prediction, &expected));
    };
    match expected {
        [] => compare(""),
        _ => expected.iter().for_each(|expected| compare(expected.as_ref())),
    }
    best
}

/// An answer in lower case, without ASCII punctuation, without the words "a", "an" and "the", and with single spaces.
pub fn normalize_answer(answer: &str) -> String {
    let mut kept = String::new();
    let mut word = String::new();
    let finish = |word: &mut String, kept: &mut String| {
        kept.push_str(if matches!(word.as_str(), "a" | "an" | "the") { " " } else { word.as_str() });
        word.clear();
    };
    for c in answer.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()) {
        if c.is_alphanumeric() {
            word.push(c);
        } else {
            finish(&mut word, &mut kept);
            kept.push(c);
        }
    }
    finish(&mut word, &mut kept);
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn word_f1(prediction: &str, expected: &str) -> f64 {
    let words = |text: &str| text.split_whitespace().count();
    let (predicted, wanted) = (words(prediction), words(expected));
    if predicted == 0 || wanted == 0 {
        return f64::from(u8::from(predicted == wanted));
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in expected.split_whitespace() {
        *counts.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in prediction.split_whitespace() {
        if let Some(count) = counts.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    2.0 * f64::from(common) / (predicted + wanted) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_punctuation_articles_and_spaces_do_not_matter() {
        assert_eq!(normalize_answer("The  U.S.A., an\ta-b Theory!"), "usa ab theory");
        let score = answer_score("the Eiffel  tower.", &["an Eiffel Tower"]);
        assert_eq!(score, AnswerScore { exact_match: 1.0, f1: 1.0 });
    }

    #[test]
    fn the_best_expected_answer_counts() {
        let score = answer_score("in the north of France", &["France", "north France today", "Paris"]);
        // Words in, north, of, France: two of four, and two of three expected.
        assert_eq!(score, AnswerScore { exact_match: 0.0, f1: 4.0 / 7.0 });
        let repeated = answer_score("yes yes", &["yes"]);
        assert_eq!(repeated.f1, 2.0 / 3.0);
    }

    #[test]
    fn no_answer_agrees_with_none_expected() {
        let none: [&str; 0] = [];
        assert_eq!(answer_score("", &none), AnswerScore { exact_match: 1.0, f1: 1.0 });
        assert_eq!(answer_score("something", &none), AnswerScore::default());
        assert_eq!(answer_score("", &["something"]), AnswerScore::default());
        let mean = AnswerScore::mean(&[answer_score("", &none), answer_score("x", &none)]);
        assert_eq!(
            (mean, AnswerScore::mean(&[])),
            (AnswerScore { exact_match: 0.5, f1: 0.5 }, AnswerScore::default())
        );
    }
}
