//! The folder of a run: what is in it, and that only one process trains in it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::checkpoint::CheckpointStore;
use crate::durable::{self, TEMPORARY_PREFIX};
use crate::error::{Result, TrainError};
use crate::recipe::Recipe;

const LOCK_FILE: &str = ".lock";

/// A run's folder:
///
/// ```text
/// recipe.toml         the recipe as it is run, with all defaults
/// metrics.jsonl       a line per step and per validation
/// loss.svg            the loss curve
/// samples.txt         text generated along the way
/// checkpoints/        step-000500, step-001000, ...
/// tokens/             the token streams, rebuilt where they are missing
/// ```
///
/// While it is open it is locked against other processes; the operating system frees the lock of one that is killed.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// A new run folder: `out`, which must not exist or be empty, or else `runs/NAME-001` with the next free number.
    ///
    /// # Errors
    /// `out` holds something, or cannot be made.
    pub fn create(out: Option<&Path>, name: &str) -> Result<Self> {
        let path = match out {
            Some(out) => {
                fs::create_dir_all(out).map_err(TrainError::io("make", out))?;
                out.to_owned()
            }
            None => numbered(Path::new("runs"), name)?,
        };
        let folder = Self::lock(path)?;
        let ours = |name: &str| name == LOCK_FILE || name.starts_with(TEMPORARY_PREFIX);
        let stranger = durable::entries(&folder.path)?
            .into_iter()
            .find(|p| !ours(&p.file_name().unwrap_or_default().to_string_lossy()));
        match stranger {
            None => Ok(folder),
            Some(found) => Err(TrainError::RunFolder {
                reason: format!(
                    "expected an empty folder for a new run, found `{}`; name another one, or continue the run that is there \
                     with `--resume {}`",
                    found.file_name().unwrap_or_default().to_string_lossy(),
                    folder.path.display()
                ),
                path: folder.path,
            }),
        }
    }

    /// The folder of a run that was begun before; what a killed process left unfinished is deleted.
    ///
    /// # Errors
    /// It is no run folder, or another process trains in it.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.join("recipe.toml").is_file() {
            return Err(TrainError::RunFolder {
                path: path.to_owned(),
                reason: "this is not a run folder: expected a `recipe.toml` in it; give the folder that `wgrad train` named"
                    .into(),
            });
        }
        let folder = Self::lock(path.to_owned())?;
        durable::remove_temporaries(path)?;
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `recipe.toml`.
    pub fn recipe(&self) -> PathBuf {
        self.path.join("recipe.toml")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `loss.svg`.
    pub fn curve(&self) -> PathBuf {
        self.path.join("loss.svg")
    }

    /// `samples.txt`.
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples.txt")
    }

    /// `tokens`.
    pub fn tokens(&self) -> PathBuf {
        self.path.join("tokens")
    }

    /// The run's checkpoints, of which the latest `keep` are kept.
    ///
    /// # Errors
    /// See [`CheckpointStore::open`].
    pub fn checkpoints(&self, keep: usize) -> Result<CheckpointStore> {
        CheckpointStore::open(self.path.join("checkpoints"), keep)
    }

    /// Writes `recipe.toml`, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_recipe(&self, recipe: &Recipe) -> Result<()> {
        durable::replace_file(&self.recipe(), recipe.to_toml()?.as_bytes())
    }

    fn lock(path: PathBuf) -> Result<Self> {
        let file = path.join(LOCK_FILE);
        let lock = File::create(&file).map_err(TrainError::io("make", &file))?;
        match lock.try_lock() {
            Ok(()) => Ok(RunFolder { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(TrainError::RunFolder {
                path,
                reason: "another process is training in this folder; wait for it or stop it".into(),
            }),
            Err(TryLockError::Error(error)) => Err(TrainError::io("lock", &file)(error)),
        }
    }
}

/// Makes `NAME-001`, or the next number that is free. Making the folder is what claims the number.
fn numbered(parent: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).map_err(TrainError::io("make", parent))?;
    for number in 1_u32.. {
        let path = parent.join(format!("{name}-{number:03}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(TrainError::io("make", &path)(error)),
        }
    }
    Err(TrainError::RunFolder { path: parent.to_owned(), reason: "it is full of runs; delete some".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_up_from_those_that_are_taken() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let name = |path: PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(name(numbered(dir.path(), "gpt").expect("made")), "gpt-001");
        assert_eq!(name(numbered(dir.path(), "gpt").expect("made")), "gpt-002");
    }

    #[test]
    fn a_folder_that_holds_something_is_refused_for_a_new_run() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        drop(RunFolder::create(Some(dir.path()), "x").expect("empty"));
        drop(RunFolder::create(Some(dir.path()), "x").expect("a lock file alone is nothing"));
        fs::write(dir.path().join("thesis.txt"), "x").expect("written");
        let error = RunFolder::create(Some(dir.path()), "x").expect_err("not empty").to_string();
        assert!(error.contains("thesis.txt") && error.contains("--resume"), "{error}");
        let error = RunFolder::open(dir.path()).expect_err("no run").to_string();
        assert!(error.contains("not a run folder"), "{error}");
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let _first = RunFolder::create(Some(dir.path()), "x").expect("empty");
        let error = RunFolder::create(Some(dir.path()), "x").expect_err("locked").to_string();
        assert!(error.contains("another process"), "{error}");
    }
}
