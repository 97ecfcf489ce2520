//! What a person sees while a model trains: a bar on a terminal, plain lines elsewhere.

mod waiting;

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub use self::waiting::Waiting;

/// Seconds between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows the state of a run on standard error; what a run is asked for, its samples and results, goes to standard output.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    steps: u64,
    last_line: Instant,
    rate: Rate,
}

impl Progress {
    pub(crate) fn new(steps: u64, done: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr_with_hz(10));
            // The template is a constant that indicatif accepts; its default is a bar too.
            if let Ok(style) = ProgressStyle::with_template("{wide_bar:.cyan/blue} {pos}/{len} {msg}") {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.set_position(done);
            bar
        });
        Progress { bar, steps, last_line: Instant::now(), rate: Rate::default() }
    }

    /// A step of so many tokens (or images, ..) is done, `seconds` after the one before; returns how many per second over the last steps.
    /// (A loss is read one step late, so that the seconds of a single step would say little.)
    pub(crate) fn step(
        &mut self,
        step: u64,
        loss: f64,
        lr: f64,
        (count, unit): (u64, &str),
        seconds: f64,
    ) -> f64 {
        self.rate.add(count as f64, seconds);
        let left = self.steps.saturating_sub(step) as f64 * self.rate.seconds_per_step();
        let message = format!(
            "loss {loss:.4}  lr {lr:.2e}  {} {unit}s/s  {} left",
            thousands(self.rate.per_second()),
            duration(left)
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(step);
                bar.set_message(message);
            }
            None if step == self.steps || self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                eprintln!("step {step}/{}  {message}", self.steps);
            }
            None => {}
        }
        self.rate.per_second()
    }

    /// Shows that something is being waited for, once it takes long, until the result is dropped.
    pub(crate) fn waiting(&self, what: &str) -> Waiting {
        match &self.bar {
            Some(bar) => Waiting::over(bar, what),
            None => Waiting::lines(what),
        }
    }

    /// A line about the run.
    pub(crate) fn note(&self, text: &str) {
        self.around(|| eprintln!("{text}"));
    }

    /// Text that the run was asked for.
    pub(crate) fn output(&self, text: &str) {
        self.around(|| {
            // Nobody listens to a closed pipe, and training goes on without a listener.
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        });
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn around(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// Speed over about the last 50 steps. Pauses for validation and checkpoints are not in it.
#[derive(Debug, Default)]
struct Rate {
    count: f64,
    seconds: f64,
    steps: f64,
}

impl Rate {
    fn add(&mut self, count: f64, seconds: f64) {
        const KEEP: f64 = 0.98;
        self.count = self.count * KEEP + count;
        self.seconds = self.seconds * KEEP + seconds;
        self.steps = self.steps * KEEP + 1.0;
    }

    fn per_second(&self) -> f64 {
        self.count / self.seconds.max(1e-9)
    }

    fn seconds_per_step(&self) -> f64 {
        self.seconds / self.steps.max(1.0)
    }
}

/// `22,500`.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1h 02m`, `3m 20s`, `9s`.
fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        _ => format!("{}h {:02}m", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_written_for_people() {
        assert_eq!(
            [thousands(7.0), thousands(950.2), thousands(22_500.0), thousands(1e6)],
            ["7", "950", "22,500", "1,000,000"]
        );
        assert_eq!([duration(9.4), duration(200.0), duration(3720.0)], ["9s", "3m 20s", "1h 02m"]);
    }

    #[test]
    fn the_rate_of_equal_steps_is_that_of_one() {
        let mut rate = Rate::default();
        for _ in 0..300 {
            rate.add(1024.0, 0.05);
        }
        assert!((rate.per_second() - 20_480.0).abs() < 1.0 && (rate.seconds_per_step() - 0.05).abs() < 1e-9);
    }
}
