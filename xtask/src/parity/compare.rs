//! Tolerances, and what a comparison found.

use super::reference::{Kind, Meta, Reference};

/// The worst of a comparison, and everything that failed.
#[derive(Default)]
pub(crate) struct Report {
    compared: usize,
    worst: Vec<(String, f64, f64)>,
    failures: Vec<String>,
    note: Option<String>,
}

impl Report {
    /// Compares a tensor with its reference.
    pub(crate) fn tensor(
        &mut self,
        name: &str,
        want: &Reference,
        shape: &[usize],
        got: &[f64],
        meta: &Meta,
        gpu: bool,
    ) {
        self.compared += 1;
        if want.shape != shape || want.values.len() != got.len() {
            self.failures.push(format!("{name}: shape {shape:?}, reference {:?}", want.shape));
            return;
        }
        let finite = want.values.iter().filter(|v| v.is_finite());
        let scale = finite.fold(1.0f64, |s, v| s.max(v.abs()));
        let parameter = name.trim_start_matches("train.").strip_prefix("grad.");
        let noise = parameter.is_some_and(|p| meta.noise_grad_params.iter().any(|n| n == p));
        let recorded = meta.precision.as_ref().and_then(|all| all.get(name)).map_or(0.0, |p| p[0]);
        let tolerance = match (want.kind != Kind::Float, noise, gpu) {
            (true, ..) => 0.0,
            (_, true, _) => 1e-5 * scale,
            (_, _, false) => (20.0 * recorded).max(5e-6 * scale),
            (_, _, true) => (50.0 * recorded).max(2e-5 * scale),
        };
        // A NaN must not pass for a small error; equal infinities are none.
        let error = want
            .values
            .iter()
            .zip(got)
            .map(|(w, g)| if w == g { 0.0 } else { (w - g).abs() })
            .fold(0.0, |m, e| if e <= m { m } else { e });
        self.value(name, error, tolerance);
    }

    /// Compares a tensor with its reference, for which no precision is recorded; `loose` is a larger tolerance that the case has a
    /// reason for, else 0.
    pub(crate) fn within(
        &mut self,
        name: &str,
        want: &Reference,
        shape: &[usize],
        got: &[f64],
        loose: f64,
        gpu: bool,
    ) {
        self.compared += 1;
        if want.shape != shape || want.values.len() != got.len() {
            self.failures.push(format!("{name}: shape {shape:?}, reference {:?}", want.shape));
            return;
        }
        let scale = want.values.iter().fold(1.0f64, |s, v| s.max(v.abs()));
        let tolerance = loose.max(if gpu { 2e-5 } else { 5e-6 } * scale);
        let errors = want.values.iter().zip(got).map(|(w, g)| (w - g).abs());
        self.value(name, errors.fold(0.0, |m, e| if e <= m { m } else { e }), tolerance);
    }

    /// Compares one number.
    pub(crate) fn scalar(&mut self, name: &str, want: f64, got: f64, tolerance: f64) {
        self.compared += 1;
        self.value(name, (want - got).abs(), tolerance);
    }

    /// Notes something that the reference has and the result lacks, or the reverse.
    pub(crate) fn missing(&mut self, message: String) {
        self.failures.push(message);
    }

    /// Adds to the summary.
    pub(crate) fn note(&mut self, note: String) {
        self.note = Some(note);
    }

    fn value(&mut self, name: &str, error: f64, tolerance: f64) {
        let fits = error <= tolerance;
        if !fits {
            self.failures.push(format!("{name}: error {error:.2e}, at most {tolerance:.2e} expected"));
        }
        self.worst.push((name.to_owned(), error, tolerance));
    }

    /// Whether everything agreed.
    pub(crate) fn ok(&self) -> bool {
        self.failures.is_empty() && self.compared > 0
    }

    /// What did not agree.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// How much was compared, and the three largest errors relative to what is allowed.
    pub(crate) fn summary(&self) -> String {
        let share = |(_, e, t): &(String, f64, f64)| if *t > 0.0 { e / t } else { *e };
        let mut worst: Vec<_> = self.worst.iter().collect();
        worst.sort_by(|a, b| share(b).total_cmp(&share(a)));
        let list: Vec<String> =
            worst.iter().take(3).map(|(n, e, t)| format!("{n} {e:.1e} of {t:.1e}")).collect();
        let note = self.note.as_ref().map(|n| format!("{n}; ")).unwrap_or_default();
        format!("{note}{} compared; largest errors: {}", self.compared, list.join(", "))
    }
}
