//! The loop.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use wgrad_data::{PREFETCH_DEPTH, Prefetcher, TokenizerSpec, WindowSampler};
use wgrad_nn::Module;
use wgrad_runtime::check_available;
use wgrad_tensor::{DeviceHandle, PendingValue, TensorError};

use crate::checkpoint::{Checkpoint, CheckpointStore, TrainState};
use crate::corpus::{Corpus, fingerprint};
use crate::curve::draw_loss_curve;
use crate::durable;
use crate::error::{Result, TrainError};
use crate::evaluate::validation_loss;
use crate::interrupt::Interrupt;
use crate::learner::Learner;
use crate::metrics::{Metric, MetricsFile, Split};
use crate::profile::Profile;
use crate::progress::Progress;
use crate::recipe::{Override, Recipe};
use crate::run_folder::RunFolder;
use crate::sample::{SampleOptions, generate};

/// The text that a finished run shows: bytes and temperature.
const FINAL_SAMPLE: (usize, f64) = (500, 0.8);

/// What a run needs beside its recipe.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where to compute.
    pub device: DeviceHandle,
    /// Stops the run between two steps when raised.
    pub interrupt: Interrupt,
    /// Which steps to measure.
    pub profile: Option<ProfileOptions>,
}

/// Steps that a run measures, once it has warmed up; then it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfileOptions {
    /// How many.
    pub steps: u64,
    /// Where the trace goes; `trace.json` in the run folder unless told otherwise.
    pub out: Option<PathBuf>,
}

/// Steps that are not measured: drivers compile shaders at the first, and pools fill.
const WARM_UP: u64 = 5;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All steps are done.
    Finished {
        /// The validation loss after the last step, in nats per token.
        validation_loss: f64,
        /// The run folder.
        folder: PathBuf,
    },
    /// The interrupt was raised; a checkpoint has been saved.
    Interrupted {
        /// Updates that the checkpoint contains.
        step: u64,
        /// The run folder.
        folder: PathBuf,
    },
}

/// Runs a recipe from its beginning, in the folder `out` or a new numbered one below `runs`.
///
/// # Errors
/// `out` holds something; the text, the device or the disk fail; the loss is not finite. Checkpoints written before the
/// failure stay.
pub fn train(recipe: Recipe, out: Option<&Path>, options: RunOptions) -> Result<Outcome> {
    let folder = RunFolder::create(out, &recipe.name)?;
    // What a run that was killed before its recipe was written may have left.
    durable::remove_temporaries(folder.path())?;
    folder.write_recipe(&recipe)?;
    Trainer::begin(recipe, folder, options)?.run()
}

/// Continues the run in `folder` from its last valid checkpoint, or from the beginning if it has none yet.
///
/// The run's own recipe holds, unless another one is given; overrides apply to it. The continued run is the same, bit for bit,
/// as one that was never stopped, on the same machine with the same build and device.
///
/// # Errors
/// As [`train`]; the folder is not a run's, all its checkpoints are damaged, or text, seed or model are others than before.
pub fn resume(
    folder: &Path,
    recipe: Option<Recipe>,
    overrides: &[Override],
    options: RunOptions,
) -> Result<Outcome> {
    let run = RunFolder::open(folder)?;
    let (recipe, changed) = match recipe {
        Some(recipe) => (recipe, true),
        None => (Recipe::from_file(&run.recipe(), overrides)?, !overrides.is_empty()),
    };
    let store = run.checkpoints(recipe.train.keep_checkpoints)?;
    let trainer = if store.list()?.is_empty() {
        eprintln!("no checkpoint had been written yet; the run starts from its beginning");
        Trainer::begin(recipe.clone(), run, options)?
    } else {
        if changed {
            check_same_model(&Recipe::from_file(&run.recipe(), &[])?, &recipe, folder)?;
        }
        let (checkpoint, state) = Checkpoint::find(folder, |warning| eprintln!("warning: {warning}"))?;
        eprintln!("continuing after step {} from {}", state.step, checkpoint.path.display());
        Trainer::restore(recipe.clone(), run, &checkpoint, &state, options)?
    };
    // Only a recipe that fits the checkpoint replaces the old one.
    if changed {
        trainer.folder.write_recipe(&recipe)?;
    }
    trainer.run()
}

struct Trainer {
    recipe: Recipe,
    folder: RunFolder,
    store: CheckpointStore,
    options: RunOptions,
    corpus: Corpus,
    train_id: (u64, u32),
    learner: Learner,
    metrics: MetricsFile,
    progress: Progress,
    /// Updates queued on the device.
    step: u64,
    /// Updates in the newest checkpoint.
    saved: Option<u64>,
    pending: Option<Pending>,
    /// When the previous update was settled.
    clock: Instant,
    samples_bytes: u64,
    /// Whether the sample of the newest step was given up for a request to stop.
    sample_due: bool,
    best_loss: Option<f64>,
    last_loss: Option<f64>,
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
    fn begin(recipe: Recipe, folder: RunFolder, options: RunOptions) -> Result<Self> {
        let corpus = Corpus::build(&recipe, None, &folder.tokens())?;
        let learner = Learner::new(&recipe, corpus.tokenizer.vocab_size(), &options.device)?;
        let (empty, crc) = (0, crc32fast::hash(&[]));
        let metrics = MetricsFile::cut_back(&folder.metrics(), 0, empty, crc, |_| {})?;
        Self::assemble(recipe, folder, options, corpus, learner, metrics, None)
    }

    fn restore(
        recipe: Recipe,
        folder: RunFolder,
        checkpoint: &Checkpoint,
        state: &TrainState,
        options: RunOptions,
    ) -> Result<Self> {
        let unfit = |reason| TrainError::Checkpoint { path: checkpoint.path.clone(), reason };
        if state.seed != recipe.train.seed {
            return Err(unfit(format!(
                "it was trained with train.seed = {}, the recipe says {}; keep the seed, or begin a new run",
                state.seed, recipe.train.seed
            )));
        }
        if state.step > recipe.train.steps {
            return Err(unfit(format!(
                "it has {} steps already, and the recipe asks for {}; raise train.steps",
                state.step, recipe.train.steps
            )));
        }
        let tokenizer = wgrad_data::Tokenizer::load(&checkpoint.path)?;
        let corpus = Corpus::build(&recipe, Some(tokenizer), &folder.tokens())?;
        // Everything is compared before anything in the folder is cut back.
        let found = fingerprint(&corpus.train)?;
        if found != (state.train_tokens, state.train_crc32) {
            return Err(unfit(format!(
                "the training text is another one now: {} tokens with checksum {:08x} instead of {} with {:08x}; restore \
                 the text, or begin a new run",
                found.0, found.1, state.train_tokens, state.train_crc32
            )));
        }
        let learner =
            Learner::restore(&recipe, corpus.tokenizer.vocab_size(), &checkpoint.path, &options.device)?;
        let warn = |warning| eprintln!("warning: {warning}");
        let metrics = MetricsFile::cut_back(
            &folder.metrics(),
            state.step,
            state.metrics_bytes,
            state.metrics_crc32,
            warn,
        )?;
        let trainer = Self::assemble(recipe, folder, options, corpus, learner, metrics, Some(state))?;
        trainer.store.discard_after(state.step)?;
        trainer.store.prune()?;
        Ok(trainer)
    }

    fn assemble(
        recipe: Recipe,
        folder: RunFolder,
        options: RunOptions,
        corpus: Corpus,
        learner: Learner,
        metrics: MetricsFile,
        state: Option<&TrainState>,
    ) -> Result<Self> {
        let step = state.map_or(0, |s| s.step);
        let samples_bytes = state.map_or(0, |s| s.samples_bytes);
        cut(&folder.samples(), samples_bytes)?;
        // A device that cannot measure says so before anything is computed.
        let wanted = options.profile.as_ref().filter(|p| p.steps > 0);
        let profile = wanted.map(|p| Ok::<_, TrainError>((Profile::new(&options.device)?, p.steps)));
        Ok(Trainer {
            profile: profile.transpose()?,
            store: folder.checkpoints(recipe.train.keep_checkpoints)?,
            train_id: fingerprint(&corpus.train)?,
            progress: Progress::new(recipe.train.steps, step),
            saved: state.map(|s| s.step),
            best_loss: state.and_then(|s| s.best_loss),
            last_loss: state.and_then(|s| s.last_loss),
            recipe,
            folder,
            options,
            corpus,
            learner,
            metrics,
            step,
            pending: None,
            clock: Instant::now(),
            samples_bytes,
            sample_due: state.is_some_and(|s| s.sample_due),
        })
    }

    fn run(mut self) -> Result<Outcome> {
        let outcome = self.run_steps();
        // The bar must not stand between an error's lines.
        self.progress.finish();
        outcome
    }

    fn run_steps(&mut self) -> Result<Outcome> {
        let (t, sample_every) = (self.recipe.train.clone(), self.recipe.sample.every);
        let text = &self.corpus.train;
        self.progress.note(&format!(
            "{} parameters, {} training tokens, {} validation tokens, run folder {}",
            self.learner.model().num_parameters(),
            text.len(),
            self.corpus.validation.stream.len(),
            self.folder.path().display()
        ));
        let windows = t.batch_size.saturating_mul(t.grad_accumulation);
        check_batch(windows, t.context)?;
        let sampler = WindowSampler::new(text.len(), t.context, windows, t.seed)?;
        let mut batches = Prefetcher::new(text.clone(), sampler, self.step)?;
        if self.sample_due {
            self.sample_due = !self.sample()?;
        }
        self.clock = Instant::now();
        let measured_from = self.step + WARM_UP;
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
        let validation_loss = match self.last_loss {
            Some(loss) => loss,
            None => self.validate()?,
        };
        self.final_sample()?;
        Ok(Outcome::Finished { validation_loss, folder: self.folder.path().to_owned() })
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
        let seconds = self.clock.elapsed().as_secs_f64();
        self.clock = Instant::now();
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Err(self.not_finite(step, loss, grad_norm));
        }
        let t = &self.recipe.train;
        let tokens = (t.batch_size * t.grad_accumulation * t.context) as u64;
        let tokens_per_s = self.progress.step(step, loss, lr, tokens, seconds);
        let grad_norm = Some(grad_norm);
        self.metrics.write(Metric { step, split: Split::Train, loss, lr, tokens_per_s, grad_norm })
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

    fn validate(&mut self) -> Result<f64> {
        let begun = Instant::now();
        let validation = &self.corpus.validation;
        let windows = self.recipe.train.batch_size;
        let loss = self.learner.averaged(|model| validation_loss(model, validation, windows))?;
        let tokens = (validation.starts.len() * validation.context) as f64;
        self.best_loss = Some(self.best_loss.map_or(loss, |best| best.min(loss)));
        self.last_loss = Some(loss);
        self.metrics.write(Metric {
            step: self.step,
            split: Split::Validation,
            loss,
            lr: self.learner.lr(self.step.saturating_sub(1)),
            tokens_per_s: tokens / begun.elapsed().as_secs_f64().max(1e-9),
            grad_norm: None,
        })?;
        self.progress.note(&format!("step {}  validation loss {loss:.4}", self.step));
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
        draw_loss_curve(&self.folder.curve(), &self.recipe.name, self.metrics.lines())?;
        Ok(loss)
    }

    /// Writes what the model makes of each prompt, unless a request to stop comes first: then nothing is written, and a
    /// resumed run does it. Returns whether it was written.
    fn sample(&mut self) -> Result<bool> {
        let s = self.recipe.sample.clone();
        let options = SampleOptions {
            tokens: s.length,
            bytes: None,
            temperature: s.temperature,
            top_k: s.top_k,
            seed: self.recipe.train.seed.wrapping_add(self.step),
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
        let (bytes, temperature) = FINAL_SAMPLE;
        let seed = self.recipe.train.seed;
        let options = SampleOptions { tokens: bytes, bytes: Some(bytes), temperature, top_k: None, seed };
        let prompt = self.recipe.sample.prompts.first().map_or("\n", String::as_str).to_owned();
        let text = self.written(&prompt, &options, || true)?;
        self.show(&format!("--- after {} steps, temperature {temperature}\n{text}\n", self.step))
    }

    /// A prompt and what the model makes of it, as long as `go_on` says so.
    fn written(&mut self, prompt: &str, options: &SampleOptions, go_on: impl Fn() -> bool) -> Result<String> {
        let mut text = prompt.to_owned();
        let tokenizer = &self.corpus.tokenizer;
        self.learner.averaged(|model| {
            generate(model, tokenizer, prompt, options, |piece| {
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
            last_loss: self.last_loss,
        };
        self.store.save(self.step, |folder| {
            self.learner.save(folder)?;
            self.corpus.tokenizer.save(folder)?;
            state.save(folder)
        })?;
        self.saved = Some(self.step);
        Ok(())
    }
}

/// Refuses to continue a run as another model: what the weights mean is decided when a run begins. Dropout may change.
fn check_same_model(old: &Recipe, new: &Recipe, folder: &Path) -> Result<()> {
    let mut expected = old.model.clone();
    expected.resid_pdrop = new.model.resid_pdrop;
    expected.embd_pdrop = new.model.embd_pdrop;
    expected.attn_pdrop = new.model.attn_pdrop;
    let files = |r: &Recipe| matches!(r.data.tokenizer, TokenizerSpec::File { .. });
    let same_tokens = old.data.tokenizer == new.data.tokenizer || files(old) && files(new);
    let section = match (expected == new.model, same_tokens) {
        (true, true) => return Ok(()),
        (false, _) => "[model]",
        (true, false) => "data.tokenizer",
    };
    let reason = format!(
        "{section} is not what the run began with, and its weights are of that model; leave it as it is in the run's \
         recipe.toml, or begin a new run"
    );
    Err(TrainError::RunFolder { path: folder.to_owned(), reason })
}

/// Cuts a text file back to a length; one that is shorter or not there is left as it is.
fn cut(path: &Path, bytes: u64) -> Result<()> {
    match fs::read(path) {
        Ok(text) if text.len() as u64 > bytes => durable::replace_file(path, &text[..bytes as usize]),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(TrainError::io("read", path)(error)),
    }
}

/// Refuses batches whose ids alone do not fit in the host's memory: the prefetched ones, the one being drawn, the one in use, and
/// its copies on the way to the device. What the model makes of a batch is checked when its program runs.
pub(crate) fn check_batch(windows: usize, context: usize) -> Result<()> {
    // Twice, since a model needs memory too: without any to spare there is nothing to train.
    let held = 2 * (PREFETCH_DEPTH + 4);
    let ids = windows.saturating_mul(context).saturating_mul(2 * held);
    let bytes = (ids as u64).saturating_mul(size_of::<i32>() as u64);
    let what = || format!("drawing batches of {windows} windows of {context} tokens ahead");
    Ok(check_available("cpu", what, bytes).map_err(TensorError::from)?)
}
