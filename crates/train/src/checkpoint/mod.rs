//! Checkpoints: folders that are complete or not there at all.
//!
//! A checkpoint is written under a temporary name, each file is synced, a manifest with checksums is added, and the folder is
//! renamed; its parent is synced last. So a process that is killed at any moment leaves the checkpoints that it had, and
//! perhaps a temporary folder, which the next run deletes.

mod manifest;
mod state;

use std::fs;
use std::path::{Path, PathBuf};

pub use self::state::TrainState;
use crate::durable::{self, TEMPORARY_PREFIX};
use crate::error::{Result, TrainError};

const PREFIX: &str = "step-";

/// The checkpoints of a run: `step-000500`, `step-001000`, ... in one folder.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    folder: PathBuf,
    keep: usize,
}

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Updates that it contains.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
}

impl CheckpointStore {
    /// The store in `folder` (made if need be), which keeps the latest `keep` checkpoints.
    ///
    /// # Errors
    /// The folder cannot be made, or leftovers of a killed process not be deleted.
    pub fn open(folder: PathBuf, keep: usize) -> Result<Self> {
        fs::create_dir_all(&folder).map_err(TrainError::io("make", &folder))?;
        durable::remove_temporaries(&folder)?;
        durable::sync_folder(durable::parent(&folder))?;
        Ok(CheckpointStore { folder, keep: keep.max(1) })
    }

    /// The checkpoints that there are, by step. They are complete unless something damaged them later.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn list(&self) -> Result<Vec<Checkpoint>> {
        list(&self.folder)
    }

    /// Writes the checkpoint of `step`: `fill` puts its files (no folders) into the folder it is given. An existing checkpoint
    /// of that step is replaced. Then all but the latest ones are deleted.
    ///
    /// # Errors
    /// Those of `fill`, or of the file system. The checkpoints that were there are there still.
    pub fn save(&self, step: u64, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Checkpoint> {
        let path = self.folder.join(format!("{PREFIX}{step:06}"));
        let temporary = durable::temporary_sibling(&path);
        let written = write(&temporary, fill).and_then(|()| {
            if path.exists() {
                self.discard(&path)?;
            }
            fs::rename(&temporary, &path).map_err(TrainError::io("rename", &temporary))
        });
        if let Err(error) = written {
            // It may be what fills the disk; the error worth reporting is the first one.
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        durable::sync_folder(&self.folder)?;
        self.prune()?;
        Ok(Checkpoint { step, path })
    }

    /// Deletes all but the latest checkpoints. [`save`](Self::save) does so itself; a resumed run does it for a process that was
    /// killed between the two.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn prune(&self) -> Result<()> {
        let all = self.list()?;
        for old in &all[..all.len().saturating_sub(self.keep)] {
            self.discard(&old.path)?;
        }
        Ok(())
    }

    /// Deletes checkpoints later than `step`: they belong to a future that a resumed run lives through again.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn discard_after(&self, step: u64) -> Result<()> {
        for later in self.list()?.iter().filter(|c| c.step > step) {
            self.discard(&later.path)?;
        }
        Ok(())
    }

    /// Deletes a checkpoint such that a kill in the middle leaves no half of it under its name.
    fn discard(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let doomed = self.folder.join(format!("{TEMPORARY_PREFIX}old-{name}"));
        fs::rename(path, &doomed).map_err(TrainError::io("rename", path))?;
        fs::remove_dir_all(&doomed).map_err(TrainError::io("delete", &doomed))
    }
}

impl Checkpoint {
    /// The checkpoint in `path`, with every file compared with its manifest.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`] names the file that is missing or damaged.
    pub fn open(path: &Path) -> Result<(Self, TrainState)> {
        manifest::verify(path)?;
        let state = TrainState::load(path)?;
        Ok((Checkpoint { step: state.step, path: path.to_owned() }, state))
    }

    /// Whether `path` itself is a checkpoint, damaged or not.
    pub fn is_at(path: &Path) -> bool {
        path.join(manifest::MANIFEST_FILE).exists()
    }

    /// The checkpoint that `path` means: itself, or the latest valid one of a run folder or of its `checkpoints`. A damaged
    /// one is passed over; `warn` gets a sentence about it.
    ///
    /// # Errors
    /// There is none that is valid.
    pub fn find(path: &Path, mut warn: impl FnMut(String)) -> Result<(Self, TrainState)> {
        if Self::is_at(path) {
            return Self::open(path);
        }
        let inner = path.join("checkpoints");
        let folder = if inner.is_dir() { inner.as_path() } else { path };
        let mut first_error = None;
        for candidate in list(folder)?.iter().rev() {
            match Self::open(&candidate.path) {
                Ok(found) => return Ok(found),
                Err(error) => {
                    warn(format!("{error}; an earlier one is tried"));
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| TrainError::RunFolder {
            path: path.to_owned(),
            reason: "no checkpoint was found here: expected a checkpoint's folder, or a run folder with at least one in \
                `checkpoints`; a run writes its first one after `train.checkpoint_every` steps"
                .into(),
        }))
    }
}

fn write(temporary: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if temporary.exists() {
        fs::remove_dir_all(temporary).map_err(TrainError::io("delete", temporary))?;
    }
    fs::create_dir(temporary).map_err(TrainError::io("make", temporary))?;
    fill(temporary)?;
    manifest::write(temporary)?;
    durable::sync_files(temporary)
}

fn list(folder: &Path) -> Result<Vec<Checkpoint>> {
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok();
    let mut found: Vec<Checkpoint> = durable::entries(folder)?
        .into_iter()
        .filter_map(|path| Some(Checkpoint { step: step(&path)?, path }))
        .collect();
    found.sort_by_key(|c| c.step);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::entries;

    fn fill(step: u64) -> impl FnOnce(&Path) -> Result<()> {
        move |folder| {
            fs::write(folder.join("model.bin"), vec![step as u8; 1000]).expect("written");
            state::test_state(step).save(folder)
        }
    }

    fn store(keep: usize) -> (tempfile::TempDir, CheckpointStore) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = CheckpointStore::open(dir.path().join("checkpoints"), keep).expect("a store");
        (dir, store)
    }

    fn latest(dir: &Path) -> (Result<(Checkpoint, TrainState)>, Vec<String>) {
        let mut warnings = Vec::new();
        let found = Checkpoint::find(dir, |warning| warnings.push(warning));
        (found, warnings)
    }

    #[test]
    fn the_latest_checkpoints_are_kept() {
        let (dir, store) = store(2);
        for step in [5, 10, 1_000_000, 15] {
            store.save(step, fill(step)).expect("saved");
        }
        let steps: Vec<u64> = store.list().expect("listed").iter().map(|c| c.step).collect();
        assert_eq!(steps, [15, 1_000_000]);
        assert_eq!(entries(&store.folder).expect("listed").len(), 2, "nothing else is left");
        let (found, warnings) = latest(dir.path());
        assert_eq!((found.expect("valid").0.step, warnings.len()), (1_000_000, 0));
    }

    #[test]
    fn a_checkpoint_that_fails_to_be_written_leaves_the_others_and_no_trace() {
        let (dir, store) = store(3);
        store.save(5, fill(5)).expect("saved");
        let full =
            |_: &Path| Err(TrainError::io("write", Path::new("x"))(std::io::ErrorKind::StorageFull.into()));
        assert!(store.save(10, full).is_err());
        assert_eq!(entries(&store.folder).expect("listed").len(), 1);
        assert_eq!(latest(dir.path()).0.expect("valid").0.step, 5);
    }

    #[test]
    fn a_checkpoint_of_the_same_step_is_replaced() {
        let (_dir, store) = store(3);
        store.save(5, fill(5)).expect("saved");
        let again = store.save(5, fill(5)).expect("saved");
        assert_eq!(store.list().expect("listed"), [again]);
    }

    #[test]
    fn leftovers_of_a_killed_process_are_deleted() {
        let (dir, store) = store(3);
        store.save(5, fill(5)).expect("saved");
        fs::create_dir(store.folder.join(".tmp-step-000010")).expect("made");
        fs::write(store.folder.join(".tmp-step-000010/model.bin"), "half").expect("written");
        assert_eq!(latest(dir.path()).0.expect("valid").0.step, 5, "a reader does not mind them");
        let store = CheckpointStore::open(store.folder, 3).expect("opened");
        assert_eq!(entries(&store.folder).expect("listed").len(), 1);
    }

    #[test]
    fn the_future_of_a_resumed_run_is_deleted() {
        let (_dir, store) = store(5);
        for step in [5, 10, 15] {
            store.save(step, fill(step)).expect("saved");
        }
        store.discard_after(5).expect("discarded");
        assert_eq!(store.list().expect("listed").len(), 1);
    }

    /// Truncates, empties, deletes and flips bits of every file in turn.
    #[test]
    fn every_damage_to_every_file_is_found_and_the_earlier_checkpoint_is_taken() {
        let (dir, store) = store(3);
        store.save(5, fill(5)).expect("saved");
        let path = store.save(10, fill(10)).expect("saved").path;
        for file in entries(&path).expect("listed") {
            let good = fs::read(&file).expect("read");
            let mut versions = vec![good[..good.len() - 1].to_vec(), good[..good.len() / 2].to_vec(), vec![]];
            for at in 0..good.len() {
                let mut flipped = good.clone();
                flipped[at] ^= 1 << (at % 8);
                versions.push(flipped);
            }
            for bad in versions {
                fs::write(&file, bad).expect("written");
                let error = Checkpoint::open(&path).expect_err("damaged").to_string();
                let name = file.file_name().expect("a name").to_string_lossy().into_owned();
                assert!(error.contains("step-000010") && error.contains(&name), "{error}");
            }
            fs::remove_file(&file).expect("deleted");
            assert!(Checkpoint::open(&path).is_err());
            if !file.ends_with(manifest::MANIFEST_FILE) {
                let (found, warnings) = latest(dir.path());
                assert_eq!((found.expect("the earlier one").0.step, warnings.len()), (5, 1));
            }
            fs::write(&file, good).expect("restored");
            assert_eq!(latest(dir.path()).0.expect("valid").0.step, 10);
        }
    }

    #[test]
    fn where_no_checkpoint_is_valid_the_error_says_why() {
        let (dir, store) = store(3);
        let error = latest(dir.path()).0.expect_err("none").to_string();
        assert!(error.contains("no checkpoint was found here"), "{error}");
        let path = store.save(5, fill(5)).expect("saved").path;
        fs::write(path.join("model.bin"), "short").expect("written");
        let error = latest(dir.path()).0.expect_err("damaged").to_string();
        assert!(error.contains("`model.bin` should have 1000 bytes and has 5"), "{error}");
    }
}
