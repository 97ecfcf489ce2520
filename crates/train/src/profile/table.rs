//! Kernels by time.

use std::collections::HashMap;
use std::fmt;

use super::{Profile, extents, name};

/// Rows of the printed table; what is left is summed up in one line.
const ROWS: usize = 40;

/// Equal kernels of a step, taken together: one that occurs in each layer is one row.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// The primitives that it came from.
    pub label: String,
    /// The kernel's kind.
    pub kind: &'static str,
    /// What it works on.
    pub extents: String,
    /// Dispatches per step.
    pub count: f64,
    /// Milliseconds per step, all of them together.
    pub ms: f64,
    /// Floating-point operations of contractions, per step.
    pub flops: f64,
    /// Bytes that arguments hold, per step.
    pub bytes: f64,
}

impl KernelTime {
    /// Operations per nanosecond.
    pub fn gflops(&self) -> f64 {
        self.flops / self.ms.max(1e-9) / 1e6
    }

    /// Bytes per nanosecond.
    pub fn gbytes(&self) -> f64 {
        self.bytes / self.ms.max(1e-9) / 1e6
    }
}

impl Profile {
    /// The kernels of the measured steps, means over these, the dearest first.
    pub fn kernels(&self) -> Vec<KernelTime> {
        let share = 1.0 / self.steps.len().max(1) as f64;
        let mut rows: HashMap<(&str, &'static str, String), KernelTime> = HashMap::new();
        for run in self.steps.iter().flat_map(|step| &step.runs) {
            let mut last = None;
            for (time, step) in run.dispatches() {
                let (kind, extents) = (step.kernel.name(), extents(&step.kernel));
                let row = rows.entry((name(step), kind, extents.clone())).or_insert_with(|| KernelTime {
                    label: name(step).to_owned(),
                    kind,
                    extents,
                    count: 0.0,
                    ms: 0.0,
                    flops: 0.0,
                    bytes: 0.0,
                });
                row.count += share;
                row.ms += share * time.nanos as f64 * 1e-6;
                // A kernel of several dispatches does its work once.
                if last.replace(time.step) != Some(time.step) {
                    row.flops += share * step.kernel.flops() as f64;
                    row.bytes += share * step.bytes_moved() as f64;
                }
            }
        }
        let mut rows: Vec<KernelTime> = rows.into_values().collect();
        rows.sort_by(|a, b| b.ms.total_cmp(&a.ms).then_with(|| a.label.cmp(&b.label)));
        rows
    }
}

/// The table, with the time that the steps took in all.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernels = self.kernels();
        let total: f64 = kernels.iter().map(|k| k.ms).sum();
        let dispatches: f64 = kernels.iter().map(|k| k.count).sum();
        let steps = self.steps.len();
        let wall: u64 = self.steps.iter().map(|s| s.ended - s.started).sum();
        writeln!(
            f,
            "{total:.3} ms in {dispatches:.0} dispatches per step, of {:.3} ms (mean of {steps}, measuring included)",
            wall as f64 * 1e-6 / steps.max(1) as f64
        )?;
        writeln!(
            f,
            "{:>9}  {:>6}  {:>5}  {:>8} {:8}  {:14}  kernel",
            "ms", "share", "count", "rate", "", "kind"
        )?;
        for k in kernels.iter().take(ROWS) {
            let (rate, unit) = if k.flops > 0.0 { (k.gflops(), "GFLOP/s") } else { (k.gbytes(), "GB/s") };
            writeln!(
                f,
                "{:9.3}  {:5.1}%  {:5.0}  {rate:8.1} {unit:8}  {:14}  {} {}",
                k.ms,
                100.0 * k.ms / total.max(1e-9),
                k.count,
                k.kind,
                k.label,
                k.extents
            )?;
        }
        if let Some(rest) = kernels.get(ROWS..).filter(|rest| !rest.is_empty()) {
            let (ms, count) = rest.iter().fold((0.0, 0.0), |(ms, n), k| (ms + k.ms, n + k.count));
            writeln!(
                f,
                "{ms:9.3}  {:5.1}%  {count:5.0}  in {} more",
                100.0 * ms / total.max(1e-9),
                rest.len()
            )?;
        }
        Ok(())
    }
}
