//! File operations that a killed process or a power cut leaves either done or not done.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Result, TrainError};

/// Names that begin with this are work in progress: nothing reads them, and a resumed run deletes them.
pub(crate) const TEMPORARY_PREFIX: &str = ".tmp-";

/// Writes a file under a temporary name, syncs it, and renames it into place: a reader sees the old contents or the new ones.
pub(crate) fn replace_file(path: &Path, contents: &[u8]) -> Result<()> {
    let temporary = temporary_sibling(path);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
        // The temporary file may be what fills the disk; that it goes is a courtesy and cannot be reported better.
        let _ = fs::remove_file(&temporary);
        return Err(TrainError::io("write", path)(error));
    }
    sync_folder(parent(path))
}

/// Makes the names in a folder durable. Only Unix lets one sync a folder; elsewhere the file system sees to it.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(TrainError::io("sync", path))?;
    }
    Ok(())
}

/// Makes the contents of every file in a folder durable, then the folder.
pub(crate) fn sync_files(folder: &Path) -> Result<()> {
    for path in entries(folder)? {
        File::open(&path).and_then(|file| file.sync_all()).map_err(TrainError::io("sync", &path))?;
    }
    sync_folder(folder)
}

/// `.tmp-NAME` beside `path`.
pub(crate) fn temporary_sibling(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{TEMPORARY_PREFIX}{name}"))
}

/// Deletes what a killed process left unfinished in a folder.
pub(crate) fn remove_temporaries(folder: &Path) -> Result<()> {
    for path in entries(folder)? {
        let temporary =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY_PREFIX));
        if temporary {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(TrainError::io("delete", &path))?;
        }
    }
    Ok(())
}

/// The paths in a folder, sorted.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>());
    let mut paths = listed.map_err(TrainError::io("list", folder))?;
    paths.sort();
    Ok(paths)
}

/// The folder that holds `path`; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("f");
        replace_file(&path, b"one").expect("written");
        replace_file(&path, b"two!").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"two!");
        assert_eq!(entries(dir.path()).expect("listed"), [path]);
    }

    #[test]
    fn only_temporaries_are_removed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join(".tmp-folder")).expect("made");
        fs::write(dir.path().join(".tmp-folder/f"), "x").expect("written");
        fs::write(dir.path().join(".tmp-file"), "x").expect("written");
        fs::write(dir.path().join("kept"), "x").expect("written");
        remove_temporaries(dir.path()).expect("removed");
        assert_eq!(entries(dir.path()).expect("listed"), [dir.path().join("kept")]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named_in_the_error() {
        let error = replace_file(Path::new("/nowhere/at/all"), b"").expect_err("no folder").to_string();
        assert!(error.contains("cannot write `/nowhere/at/all`"), "{error}");
    }
}
