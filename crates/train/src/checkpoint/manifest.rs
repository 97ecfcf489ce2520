//! The list of a checkpoint's files with their sizes and checksums.
//!
//! ```text
//! wgrad checkpoint 1
//! 5ad10b47 3501234 model.safetensors
//! ...
//! end 0f3c22e1
//! ```
//!
//! A line holds CRC-32, bytes and name of a file; the last line the CRC-32 of all that stands above it. Plain text, so that a
//! damaged checkpoint can be looked at.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use crate::durable;
use crate::error::{Result, TrainError};

/// The manifest's file name.
pub(crate) const MANIFEST_FILE: &str = "manifest.txt";
const HEADER: &str = "wgrad checkpoint 1\n";

/// Writes the manifest of all files that are in `folder`.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let mut text = HEADER.to_owned();
    for path in durable::entries(folder)? {
        let (crc, bytes) = checksum(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        text.push_str(&format!("{crc:08x} {bytes} {name}\n"));
    }
    text.push_str(&format!("end {:08x}\n", crc32fast::hash(text.as_bytes())));
    let path = folder.join(MANIFEST_FILE);
    fs::write(&path, text).map_err(TrainError::io("write", &path))
}

/// Checks every file against the manifest. Files that it does not name are none of its business.
///
/// # Errors
/// [`TrainError::Checkpoint`] names the first file that is missing or differs.
pub(crate) fn verify(folder: &Path) -> Result<()> {
    let damaged = |reason: String| Err(TrainError::Checkpoint { path: folder.to_owned(), reason });
    let text = match fs::read_to_string(folder.join(MANIFEST_FILE)) {
        Ok(text) => text,
        Err(error) => return damaged(format!("its `{MANIFEST_FILE}` cannot be read: {error}")),
    };
    let Some(files) = body(&text) else {
        return damaged(format!("its `{MANIFEST_FILE}` is damaged: its own checksum does not fit"));
    };
    for line in files.lines() {
        let mut words = line.splitn(3, ' ');
        let (Some(crc), Some(bytes), Some(name)) = (words.next(), words.next(), words.next()) else {
            return damaged(format!("`{MANIFEST_FILE}` has a line that names no file: `{line}`"));
        };
        let (found_crc, found_bytes) = match checksum(&folder.join(name)) {
            Ok(found) => found,
            Err(error) => return damaged(error.to_string()),
        };
        if found_bytes.to_string() != bytes {
            return damaged(format!("`{name}` should have {bytes} bytes and has {found_bytes}"));
        }
        if format!("{found_crc:08x}") != crc {
            return damaged(format!(
                "`{name}` is damaged: its checksum should be {crc} and is {found_crc:08x}"
            ));
        }
    }
    Ok(())
}

/// The lines between the first and the last one, if these are right.
fn body(text: &str) -> Option<&str> {
    let (checked, end) = text.split_at(text.strip_suffix('\n')?.rfind('\n')? + 1);
    let crc = end.strip_prefix("end ")?.strip_suffix('\n')?;
    (crc == format!("{:08x}", crc32fast::hash(checked.as_bytes())))
        .then(|| checked.strip_prefix(HEADER))
        .flatten()
}

/// CRC-32 and length of a file.
fn checksum(path: &Path) -> Result<(u32, u64)> {
    let open = File::open(path).map_err(TrainError::io("read", path))?;
    let mut reader = BufReader::with_capacity(1 << 16, open);
    let mut hasher = crc32fast::Hasher::new();
    let mut bytes = 0;
    let mut block = vec![0; 1 << 16];
    loop {
        match reader.read(&mut block).map_err(TrainError::io("read", path))? {
            0 => return Ok((hasher.finalize(), bytes)),
            n => {
                hasher.update(&block[..n]);
                bytes += n as u64;
            }
        }
    }
}
