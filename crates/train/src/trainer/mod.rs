//! The loop.

mod start;

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

use wgrad_data::{PREFETCH_DEPTH, Prefetcher};
use wgrad_runtime::check_available;
use wgrad_tensor::{PendingValue, TensorError};

use crate::checkpoint::{CheckpointStore, TrainState};
use crate::curve::draw_loss_curve;
use crate::error::{Result, TrainError};
use crate::learner::Learner;
use crate::metrics::{Metric, MetricsFile, Speed, Split};
use crate::profile::Profile;
use crate::progress::{Progress, Waiting};
use crate::recipe::{Precision, Recipe, SampleRecipe};
use crate::run_folder::RunFolder;
use crate::sample::SampleOptions;
use crate::task::Units;
use crate::task::batch::Column;

pub(crate) use self::start::warn;
pub use self::start::{Outcome, ProfileOptions, RunOptions, resume, train};

/// The text that a finished run shows: bytes and temperature.
const FINAL_SAMPLE: (usize, f64) = (500, 0.8);

/// Steps that are not measured: drivers compile shaders at the first, and pools fill.
const WARM_UP: u64 = 5;

/// What a validation found beside the loss, by name.
type Metrics = std::collections::BTreeMap<String, f64>;

/// A run that is ready to go on; `start` makes it.
struct Trainer {
    recipe: Recipe,
    folder: RunFolder,
    store: CheckpointStore,
    options: RunOptions,
    train_id: (u64, u32),
    learner: Learner,
    metrics: MetricsFile,
    progress: Progress,
    /// Updates queued on the device.
    step: u64,
    /// Updates in the newest checkpoint.
    saved: Option<u64>,
    pending: Option<Pending>,
    /// For the first step of this process, which is compiled.
    compiling: Option<Waiting>,
    /// When the previous update was settled.
    clock: Instant,
    samples_bytes: u64,
    /// Whether the sample of the newest step was given up for a request to stop.
    sample_due: bool,
    best_loss: Option<f64>,
    /// The latest validation: the loss, and what else was measured.
    last: Option<(f64, Metrics)>,
    /// Measured steps, and how many are still to come.
    profile: Option<(Profile, u64)>,
}

/// An update whose loss is still on its way from the device.
struct Pending {
    step: u64,
    lr: f64,
    loss: PendingValue<f32>,
    grad_norm: PendingValue<f32>,
}

impl Trainer {
    fn run(mut self) -> Result<Outcome> {
        let outcome = self.run_steps();
        self.compiling = None;
        // The bar must not stand between an error's lines.
        self.progress.finish();
        outcome
    }

    fn run_steps(&mut self) -> Result<Outcome> {
        let t = self.recipe.train.clone();
        let sample_every = self.recipe.sample.as_ref().map_or(0, |sample| sample.every);
        let task = self.learner.task();
        self.progress.note(&format!(
            "{} parameters, {}, run folder {}",
            task.module().num_parameters(),
            task.describe(),
            self.folder.path().display()
        ));
        let examples = t.batch_size.saturating_mul(t.grad_accumulation);
        check_batch(examples, &task.columns(), task.units())?;
        let mut batches = Prefetcher::with(self.step, task.batches(examples, t.seed)?)?;
        if self.sample_due {
            self.sample_due = !self.sample()?;
        }
        self.clock = Instant::now();
        let measured_from = self.step + WARM_UP;
        self.compiling = Some(self.progress.waiting("compiling the first step"));
        while self.step < t.steps {
            let Some(batch) = batches.next().transpose()? else { break };
            let lr = self.learner.lr(self.step);
            let outcome = match &mut self.profile {
                Some((profile, left)) if *left > 0 && self.step >= measured_from => {
                    *left -= 1;
                    profile.measure(|| self.learner.update(&batch, self.step))?
                }
                _ => self.learner.update(&batch, self.step)?,
            };
            if self.profile.as_ref().is_some_and(|(_, left)| *left == 0) {
                self.show_profile()?;
            }
            let (loss, grad_norm) = (outcome.loss.read()?, outcome.grad_norm.read()?);
            self.step += 1;
            // The update before this one has had all that time; this one computes on while we wait for that.
            let previous = self.pending.replace(Pending { step: self.step, lr, loss, grad_norm });
            self.settle(previous)?;

            let last = self.step == t.steps;
            let due = |every: u64| every != 0 && self.step.is_multiple_of(every);
            let (validate, sample, save) =
                (last || due(t.eval_every), due(sample_every) && !last, last || due(t.checkpoint_every));
            let asked = self.options.interrupt.is_raised();
            if validate || sample || save || asked {
                self.settle_all()?;
            }
            if validate {
                self.validate()?;
            }
            if sample {
                self.sample_due = !self.sample()?;
            }
            // Also where it was raised meanwhile, during a long sample for one.
            let stop = self.options.interrupt.is_raised() && !last;
            if save || stop {
                self.settle_all()?;
                self.save()?;
            }
            if stop {
                return Ok(Outcome::Interrupted { step: self.step, folder: self.folder.path().to_owned() });
            }
            if validate || sample || save {
                // Speed is that of steps, not of pauses.
                self.clock = Instant::now();
            }
        }
        self.show_profile()?;
        self.progress.finish();
        if self.last.is_none() {
            self.validate()?;
        }
        self.final_sample()?;
        let (validation_loss, metrics) = self.last.take().unwrap_or_default();
        let (metrics, folder) = (metrics.into_iter().collect(), self.folder.path().to_owned());
        Ok(Outcome::Finished { validation_loss, metrics, folder })
    }

    /// Prints the table of the measured steps and writes their trace; once.
    fn show_profile(&mut self) -> Result<()> {
        let Some((profile, _)) = self.profile.take() else { return Ok(()) };
        if profile.steps() == 0 {
            self.progress.note(&format!("no step was measured: that begins after {WARM_UP} steps"));
            return Ok(());
        }
        let named = self.options.profile.as_ref().and_then(|p| p.out.clone());
        let path = named.unwrap_or_else(|| self.folder.path().join("trace.json"));
        profile.write_trace(&path)?;
        self.progress.note(&format!("{profile}trace for https://ui.perfetto.dev: {}", path.display()));
        Ok(())
    }

    fn settle_all(&mut self) -> Result<()> {
        let pending = self.pending.take();
        self.settle(pending)
    }

    /// Waits for an update's loss, writes its line, and shows it.
    fn settle(&mut self, pending: Option<Pending>) -> Result<()> {
        let Some(Pending { step, lr, loss, grad_norm }) = pending else { return Ok(()) };
        let first = |values: Vec<f32>| values.first().map_or(f64::NAN, |&value| f64::from(value));
        let (loss, grad_norm) = (first(loss.wait()?), first(grad_norm.wait()?));
        self.compiling = None;
        let seconds = self.clock.elapsed().as_secs_f64();
        self.clock = Instant::now();
        // A loss that is scaled for f16 may give gradients beyond it: such a step was skipped, and changed nothing.
        let skipped = !grad_norm.is_finite() && self.recipe.train.precision == Precision::F16;
        if !loss.is_finite() || !grad_norm.is_finite() && !skipped {
            return Err(self.not_finite(step, loss, grad_norm));
        }
        let (t, units) = (&self.recipe.train, self.learner.task().units());
        let counted = (t.batch_size * t.grad_accumulation * units.per_example) as u64;
        let speed = Speed::of(units, self.progress.step(step, loss, lr, (counted, units.unit), seconds));
        let (split, grad_norm) = (Split::Train, (!skipped).then_some(grad_norm));
        self.metrics.write(Metric { step, split, loss, lr, speed, grad_norm, metrics: Metrics::new() })
    }

    /// Says which tensor went wrong first; the newest checkpoint is older than that, since one is saved only after all losses
    /// up to it were found finite.
    fn not_finite(&self, step: u64, loss: f64, grad_norm: f64) -> TrainError {
        let culprit = match self.learner.first_bad_tensor() {
            Ok(Some(culprit)) => culprit,
            Ok(None) => "no parameter is affected".into(),
            Err(error) => format!("the parameters cannot be read: {error}"),
        };
        let way_out = match self.saved {
            Some(saved) => format!(
                "the checkpoint of step {saved} is kept: `wgrad train --resume {} --set optimizer.lr=...` with a lower rate \
                 continues from it",
                self.folder.path().display()
            ),
            None => "no checkpoint had been written yet; begin again with a lower optimizer.lr".into(),
        };
        TrainError::NotFinite { step, loss, grad_norm, culprit, way_out }
    }

    fn validate(&mut self) -> Result<()> {
        let begun = Instant::now();
        let waiting = self.progress.waiting("validating");
        let (examples, precision) = (self.recipe.train.batch_size, self.recipe.train.precision);
        let measured = self.learner.averaged(|task| task.evaluate(examples, precision))?;
        drop(waiting);
        let (loss, units) = (measured.loss, self.learner.task().units());
        let metrics: Metrics =
            measured.metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let speed = Speed::of(units, measured.units as f64 / begun.elapsed().as_secs_f64().max(1e-9));
        self.best_loss = Some(self.best_loss.map_or(loss, |best| best.min(loss)));
        let also: String = metrics.iter().map(|(name, value)| format!("  {name} {value:.4}")).collect();
        self.last = Some((loss, metrics.clone()));
        self.metrics.write(Metric {
            step: self.step,
            split: Split::Validation,
            loss,
            lr: self.learner.lr(self.step.saturating_sub(1)),
            speed,
            grad_norm: None,
            metrics,
        })?;
        self.progress.note(&format!("step {}  validation loss {loss:.4}{also}", self.step));
        if let Some(rate) = self.learner.observe(loss)?
            && rate.clamped
        {
            self.progress.note(&format!(
                "error ratio {:.4} taken as {:.0}, learning rate {:.4e}",
                rate.ratio,
                rate.ratio.clamp(0.0, 1.0),
                rate.lr
            ));
        }
        self.learner.task().draw(self.folder.path())?;
        draw_loss_curve(&self.folder.curve(), &self.recipe.name, units.unit, self.metrics.lines())
    }

    /// Writes what the model makes of each prompt, unless a request to stop comes first: then nothing is written, and a
    /// resumed run does it. Returns whether it was written.
    fn sample(&mut self) -> Result<bool> {
        let Some(s) = self.recipe.sample.clone() else { return Ok(true) };
        let options = SampleOptions {
            tokens: s.length,
            temperature: s.temperature,
            top_k: s.top_k,
            seed: self.recipe.train.seed.wrapping_add(self.step),
            ..SampleOptions::default()
        };
        let interrupt = self.options.interrupt.clone();
        let mut texts = Vec::new();
        for prompt in &s.prompts {
            texts.push(self.written(prompt, &options, || !interrupt.is_raised())?);
        }
        if interrupt.is_raised() {
            return Ok(false);
        }
        for text in texts {
            self.show(&format!("--- step {}, temperature {}\n{text}\n", self.step, s.temperature))?;
        }
        Ok(true)
    }

    fn final_sample(&mut self) -> Result<()> {
        let Some(SampleRecipe { prompts, .. }) = self.recipe.sample.clone() else { return Ok(()) };
        let (bytes, temperature) = FINAL_SAMPLE;
        let seed = self.recipe.train.seed;
        let options = SampleOptions {
            tokens: bytes,
            bytes: Some(bytes),
            temperature,
            seed,
            ..SampleOptions::default()
        };
        let prompt = prompts.first().map_or("\n", String::as_str);
        let text = self.written(prompt, &options, || true)?;
        self.show(&format!("--- after {} steps, temperature {temperature}\n{text}\n", self.step))
    }

    /// A prompt and what the model makes of it, as long as `go_on` says so.
    fn written(&mut self, prompt: &str, options: &SampleOptions, go_on: impl Fn() -> bool) -> Result<String> {
        let mut text = prompt.to_owned();
        let _waiting = self.progress.waiting("writing a sample");
        self.learner.averaged(|task| {
            let Some(writer) = task.writer() else { return Ok(()) };
            writer.write(prompt, options, &mut |piece| {
                text.push_str(piece);
                go_on()
            })
        })?;
        Ok(text)
    }

    /// Prints a sample and appends it to `samples.txt`.
    fn show(&mut self, text: &str) -> Result<()> {
        let path = self.folder.samples();
        let open = OpenOptions::new().create(true).append(true).open(&path);
        open.and_then(|mut file| writeln!(file, "{text}")).map_err(TrainError::io("write", &path))?;
        self.samples_bytes += text.len() as u64 + 1;
        self.progress.output(text);
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        if self.saved == Some(self.step) {
            return Ok(());
        }
        let (metrics_bytes, metrics_crc32) = self.metrics.sync()?;
        let state = TrainState {
            format: TrainState::FORMAT,
            wgrad: env!("CARGO_PKG_VERSION").into(),
            device: self.options.device.info().name.clone(),
            step: self.step,
            seed: self.recipe.train.seed,
            train_tokens: self.train_id.0,
            train_crc32: self.train_id.1,
            metrics_bytes,
            metrics_crc32,
            samples_bytes: self.samples_bytes,
            sample_due: self.sample_due,
            best_loss: self.best_loss,
            last_loss: self.last.as_ref().map(|(loss, _)| *loss),
            last_metrics: self.last.as_ref().map(|(_, metrics)| metrics.clone()).unwrap_or_default(),
        };
        self.store.save(self.step, |folder| {
            self.learner.save(folder)?;
            state.save(folder)
        })?;
        self.saved = Some(self.step);
        Ok(())
    }
}

/// Refuses batches that alone do not fit in the host's memory: the prefetched ones, the one being drawn, the one in use, and its copies on
/// the way to the device. What the model makes of a batch is checked when its program runs.
pub(crate) fn check_batch(examples: usize, columns: &[Column], units: Units) -> Result<()> {
    // Twice, since a model needs memory too: without any to spare there is nothing to train.
    let held = 2 * (PREFETCH_DEPTH + 4);
    let example = columns.iter().fold(0_usize, |sum, column| {
        sum.saturating_add(column.elements().saturating_mul(column.dtype.host_bytes()))
    });
    let bytes = examples.saturating_mul(example).saturating_mul(held) as u64;
    let size = match units.per_example {
        1 => String::new(),
        n => format!(" of {n} {}s", units.unit),
    };
    let what = || format!("drawing batches of {examples} {}s{size} ahead", units.example);
    Ok(check_available("cpu", what, bytes).map_err(TensorError::from)?)
}
