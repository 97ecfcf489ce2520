//! How good predictions are: scores of classes, answers and translations.
//!
//! They are here, beside the loop that makes predictions, since they take class numbers and strings, and need no tensor.

mod answers;
mod bleu;
mod chrf;
mod classes;
mod picture;

pub use self::answers::{AnswerScore, answer_score, normalize_answer};
pub use self::bleu::{Bleu, BleuScore};
pub use self::chrf::Chrf;
pub use self::classes::Confusion;
pub use self::picture::draw_confusion;

/// Perplexity of a mean cross-entropy in nats per token, `e^loss`.
pub fn perplexity(loss: f64) -> f64 {
    loss.exp()
}

/// Bits per byte of text, `loss / ln 2 / bytes_per_token`: comparable between tokenizers.
pub fn bits_per_byte(loss: f64, bytes_per_token: f64) -> f64 {
    loss / std::f64::consts::LN_2 / bytes_per_token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_among_equals_has_their_number_as_perplexity() {
        assert!((perplexity(256_f64.ln()) - 256.0).abs() < 1e-9);
        assert!((bits_per_byte(256_f64.ln(), 1.0) - 8.0).abs() < 1e-12);
        assert!((bits_per_byte(256_f64.ln(), 4.0) - 2.0).abs() < 1e-12);
    }
}
