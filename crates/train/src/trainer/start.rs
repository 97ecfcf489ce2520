//! Begins and continues runs: from a recipe, and from what a run folder holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use wgrad_tensor::DeviceHandle;

use super::Trainer;
use crate::checkpoint::{Checkpoint, TrainState};
use crate::durable;
use crate::error::{Result, TrainError};
use crate::interrupt::Interrupt;
use crate::learner::Learner;
use crate::metrics::MetricsFile;
use crate::profile::Profile;
use crate::progress::{Progress, Waiting};
use crate::recipe::{Override, Recipe};
use crate::run_folder::RunFolder;
use crate::task::{Opening, Task};

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

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All steps are done.
    Finished {
        /// The validation loss after the last step, in nats per token (or image, or text).
        validation_loss: f64,
        /// What else was measured then, by name: `accuracy`.
        metrics: Vec<(String, f64)>,
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
/// `out` holds something; the data, the device or the disk fail; the loss is not finite. Checkpoints written before the
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
/// As [`train`]; the folder is not a run's, all its checkpoints are damaged, or data, seed or model are others than before.
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
        let (checkpoint, state) = Checkpoint::find(folder, warn)?;
        eprintln!("continuing after step {} from {}", state.step, checkpoint.path.display());
        Trainer::restore(recipe.clone(), run, &checkpoint, &state, options)?
    };
    // Only a recipe that fits the checkpoint replaces the old one.
    if changed {
        trainer.folder.write_recipe(&recipe)?;
    }
    trainer.run()
}

impl Trainer {
    fn begin(recipe: Recipe, folder: RunFolder, options: RunOptions) -> Result<Self> {
        let cache = folder.tokens();
        let task = open(&recipe, &Opening::Begin { cache: Some(&cache) }, &options)?;
        let train_id = task.fingerprint()?;
        let learner = Learner::new(&recipe, task, &options.device)?;
        let (empty, crc) = (0, crc32fast::hash(&[]));
        let metrics = MetricsFile::cut_back(&folder.metrics(), 0, empty, crc, |_| {})?;
        Self::assemble(recipe, folder, options, train_id, learner, metrics, None)
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
        let cache = folder.tokens();
        let opening = Opening::Resume { cache: &cache, checkpoint: &checkpoint.path };
        let task = open(&recipe, &opening, &options)?;
        // Everything is compared before anything in the folder is cut back.
        let found = task.fingerprint()?;
        if found != (state.train_tokens, state.train_crc32) {
            let units = task.units();
            return Err(unfit(format!(
                "the training {} is another one now: {} {}s with checksum {:08x} instead of {} with {:08x}; restore \
                 the {}, or begin a new run",
                units.data, found.0, units.unit, found.1, state.train_tokens, state.train_crc32, units.data
            )));
        }
        let learner = Learner::restore(&recipe, task, &checkpoint.path, &options.device)?;
        let metrics = MetricsFile::cut_back(
            &folder.metrics(),
            state.step,
            state.metrics_bytes,
            state.metrics_crc32,
            warn,
        )?;
        let trainer = Self::assemble(recipe, folder, options, found, learner, metrics, Some(state))?;
        trainer.store.discard_after(state.step)?;
        trainer.store.prune()?;
        Ok(trainer)
    }

    fn assemble(
        recipe: Recipe,
        folder: RunFolder,
        options: RunOptions,
        train_id: (u64, u32),
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
            train_id,
            progress: Progress::new(recipe.train.steps, step),
            saved: state.map(|s| s.step),
            best_loss: state.and_then(|s| s.best_loss),
            last: state.and_then(|s| Some((s.last_loss?, s.last_metrics.clone()))),
            recipe,
            folder,
            options,
            learner,
            metrics,
            step,
            pending: None,
            compiling: None,
            clock: Instant::now(),
            samples_bytes,
            sample_due: state.is_some_and(|s| s.sample_due),
        })
    }
}

/// Opens a recipe's task, and says that this takes a while.
fn open(recipe: &Recipe, opening: &Opening<'_>, options: &RunOptions) -> Result<Box<dyn Task>> {
    let _reading = Waiting::new("reading the data");
    recipe.task.spec().open(recipe, opening, &options.device, &mut warn)
}

pub(crate) fn warn(warning: String) {
    eprintln!("warning: {warning}");
}

/// Refuses to continue a run as another model: what the weights mean is decided when a run begins.
fn check_same_model(old: &Recipe, new: &Recipe, folder: &Path) -> Result<()> {
    let adapters = (old.lora != new.lora).then_some("[lora]");
    let Some(section) = old.task.spec().changed(&new.task).or(adapters) else { return Ok(()) };
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
