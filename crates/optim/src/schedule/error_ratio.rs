//! A rate between two, by how large the error is.

use serde::{Deserialize, Serialize};

use crate::{OptimError, error::check};

/// `α = α_ref + (α_target - α_ref) clamp(error / reference error, 0, 1)`.
///
/// The clamp matters: without it an error ten times the reference's would turn rates of 0.1 and 0.01 into -0.8, which climbs.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorRatio {
    /// `α_ref`, the rate where the error is 0.
    pub lr: f64,
    /// `α_target`, the rate where the error is the reference's or more.
    pub target_lr: f64,
    /// The error that others are compared with; the first one that is measured, where absent.
    #[serde(default)]
    pub reference_error: Option<f64>,
}

/// A rate, and how it came about.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rate {
    /// The learning rate.
    pub lr: f64,
    /// `error / reference error` as it was.
    pub ratio: f64,
    /// Whether the ratio was outside of 0 to 1 and has been moved there.
    pub clamped: bool,
}

impl ErrorRatio {
    /// The rate for an error and a reference.
    ///
    /// # Errors
    /// The reference is 0, negative or not finite, or the error is not a number.
    pub fn rate(&self, error: f64, reference: f64) -> Result<Rate, OptimError> {
        check("reference error", reference > 0.0 && reference.is_finite(), reference, "above 0 and finite")?;
        check("error", !error.is_nan(), error, "a number")?;
        let ratio = error / reference;
        let share = ratio.clamp(0.0, 1.0);
        let lr = self.lr + (self.target_lr - self.lr) * share;
        Ok(Rate { lr, ratio, clamped: share != ratio })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: ErrorRatio = ErrorRatio { lr: 0.1, target_lr: 0.01, reference_error: None };

    #[test]
    fn a_large_error_gives_the_target_rate_and_reports_the_clamp() {
        let rate = RULE.rate(0.01, 0.001).expect("a rate");
        assert!(
            (rate.lr - 0.01).abs() < 1e-15 && rate.clamped && (rate.ratio - 10.0).abs() < 1e-12,
            "{rate:?}"
        );
        let rate = RULE.rate(0.0005, 0.001).expect("a rate");
        assert!((rate.lr - 0.055).abs() < 1e-15 && !rate.clamped, "{rate:?}");
        let rate = RULE.rate(-1.0, 0.001).expect("a rate");
        assert!(rate.lr == 0.1 && rate.clamped, "{rate:?}");
    }

    #[test]
    fn a_reference_that_cannot_be_divided_by_is_an_error() {
        for reference in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(RULE.rate(0.1, reference).is_err(), "{reference}");
        }
        assert!(RULE.rate(f64::NAN, 1.0).is_err());
    }
}
