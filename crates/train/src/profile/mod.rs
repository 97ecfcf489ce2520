//! Where a step's time goes: a table of kernels, and a trace for a timeline viewer.

mod table;
mod trace;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use wgrad_ir::{Kernel, Shape, Step};
use wgrad_runtime::{DeviceError, DeviceHandle, Executable, StepTime};

use crate::error::{Result, TrainError};

pub use self::table::KernelTime;

/// Times of the kernels of some training steps.
///
/// A device that measures runs slower: a GPU ends a pass after each dispatch. The shares are what to look at; how long a step
/// takes is told better by one that is not measured.
pub struct Profile {
    device: DeviceHandle,
    begun: Instant,
    steps: Vec<MeasuredStep>,
}

/// One step; times are nanoseconds since the profile was begun.
struct MeasuredStep {
    started: u64,
    /// When the host had queued everything.
    queued: u64,
    /// When the device was done.
    ended: u64,
    runs: Vec<MeasuredRun>,
}

/// A program that ran, and how long each of its dispatches took.
struct MeasuredRun {
    executable: Arc<dyn Executable>,
    times: Vec<StepTime>,
}

impl MeasuredRun {
    /// Each dispatch with the step of the program that it belongs to.
    fn dispatches(&self) -> impl Iterator<Item = (&StepTime, &Step)> {
        let steps = &self.executable.program().steps;
        self.times.iter().filter_map(|time| Some((time, steps.get(time.step)?)))
    }
}

impl Profile {
    /// An empty profile.
    ///
    /// # Errors
    /// The device cannot measure.
    pub fn new(device: &DeviceHandle) -> Result<Self, DeviceError> {
        device.set_profiling(true)?;
        device.set_profiling(false)?;
        Ok(Profile { device: device.clone(), begun: Instant::now(), steps: Vec::new() })
    }

    /// Measures what `step` runs on the device. Of a program that it runs several times, the last run counts.
    ///
    /// # Errors
    /// Those of `step` and of the device.
    pub fn measure<T, E: From<DeviceError>>(&mut self, step: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        // Nothing that was queued before belongs to this step.
        self.device.synchronize()?;
        self.device.set_profiling(true)?;
        let started = self.now();
        let outcome = step();
        let queued = self.now();
        let runs = self.runs();
        let ended = self.now();
        self.device.set_profiling(false)?;
        let outcome = outcome?;
        self.steps.push(MeasuredStep { started, queued, ended, runs: runs? });
        Ok(outcome)
    }

    /// Measured steps.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Writes the steps as a trace that <https://ui.perfetto.dev> and `chrome://tracing` open: what the host did, and every
    /// kernel with its shape, bytes and operations.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_trace(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.trace().to_string()).map_err(TrainError::io("write", path))
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// The programs of the step that has just run, oldest first.
    fn runs(&self) -> Result<Vec<MeasuredRun>, DeviceError> {
        self.device.synchronize()?;
        let mut runs = Vec::new();
        // The cache lists what was used last first.
        for executable in self.device.cache().executables().into_iter().rev() {
            let times = executable.profile()?;
            if !times.is_empty() {
                runs.push(MeasuredRun { executable, times });
            }
        }
        Ok(runs)
    }
}

/// The extents that a kernel works on, as tables show them.
fn extents(kernel: &Kernel) -> String {
    match kernel {
        Kernel::Map(k) => k.space.to_string(),
        Kernel::Row(k) => format!("{} rows of {}", k.outer.elements(), k.inner),
        Kernel::Reduce(k) => format!("{} over {}", k.outer, k.inner),
        Kernel::MatMul(k) if k.batch.elements() == 1 => format!("{} x {} x {}", k.m, k.n, k.k),
        Kernel::MatMul(k) => format!("{} of {} x {} x {}", k.batch.elements(), k.m, k.n, k.k),
        Kernel::Conv(k) => format!("{} by {}", Shape::from(&k.x.view.shape[..]), k.w.view.shape),
        Kernel::ScatterAdd(k) => format!("{} rows of {} into {}", k.count, k.row_len, k.rows),
        Kernel::Cumulate(k) => format!("{} lines of {}", k.lines.elements(), k.len),
        Kernel::Sort(k) => format!("{} rows of {}", k.rows, k.len),
        Kernel::Attention(k) => attention_extents(&k.dims),
        Kernel::AttentionGrad(k) => attention_extents(&k.dims),
    }
}

fn attention_extents(dims: &wgrad_ir::AttentionDims) -> String {
    let shape: Shape = [dims.batch, dims.heads, dims.queries, dims.width].into();
    if dims.keys == dims.queries { shape.to_string() } else { format!("{shape}, {} keys", dims.keys) }
}

/// What tells kernels apart in the table and the trace.
fn name(step: &Step) -> &str {
    if step.label.is_empty() { step.kernel.name() } else { &step.label }
}
