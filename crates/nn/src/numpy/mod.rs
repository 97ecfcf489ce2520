//! Arrays of NumPy: `.npy` files, and `.npz` archives of them.
//!
//! Floats, integers and truth values are read in either byte order, row-major or column-major. wgrad has fewer integers than NumPy: `i64`, `i16`,
//! `i8` and `u16` become `i32`, and `u64` becomes `u32`, if every value fits. NumPy has no `bf16`.
//!
//! Files are not trusted: what a header says is checked against the bytes that there are before anything is allocated for it.
//! The format is that of NumPy's `numpy.lib.format`.

use std::{
    fs,
    io::{Cursor, Read, Write},
    path::Path,
};

use wgrad_runtime::DeviceHandle;
use wgrad_tensor::Tensor;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{
    NnError,
    files::{damaged, io, to_host, write_atomically},
};

mod array;
mod header;

const NPY: &str = "NumPy .npy";
const NPZ: &str = "NumPy .npz";

/// Reads an array onto a device, in the dtype of the file where wgrad has it.
///
/// # Errors
/// The file cannot be read, is not valid, or holds a dtype (complex numbers, records, strings, objects) or a value that wgrad does
/// not have.
pub fn load_npy(path: &Path, device: &DeviceHandle) -> Result<Tensor, NnError> {
    let bytes = fs::read(path).map_err(|source| io("read", path, source))?;
    array::decode(&bytes, device)?.map_err(|message| damaged(path, NPY, message))
}

/// Writes an array, row-major and little-endian, as `numpy.save` does. The file is never half written.
///
/// # Errors
/// The tensor is `bf16`; its value could not be computed or read back; the file could not be written.
pub fn save_npy(path: &Path, tensor: &Tensor) -> Result<(), NnError> {
    let elements = to_host(&[tensor])?.pop().unwrap_or_default();
    let mut bytes = array::header(tensor, "save_npy")?;
    bytes.extend(elements);
    write_atomically(path, &bytes)
}

/// Reads every array of an archive, compressed or not, by name.
///
/// # Errors
/// As [`load_npy`], for each of them; the archive is damaged, or holds anything but arrays.
pub fn load_npz(path: &Path, device: &DeviceHandle) -> Result<Vec<(String, Tensor)>, NnError> {
    let bytes = fs::read(path).map_err(|source| io("read", path, source))?;
    let damaged = |message: String| damaged(path, NPZ, message);
    let whole = bytes.len() as u64;
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(e.to_string()))?;
    // Members that share bytes are how small archives become arbitrarily large.
    if archive.has_overlapping_entries().map_err(|e| damaged(e.to_string()))? {
        return Err(damaged("members overlap".into()));
    }
    let mut tensors: Vec<(String, Tensor)> = Vec::with_capacity(archive.len());
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).map_err(|e| damaged(e.to_string()))?;
        let file = String::from_utf8_lossy(member.name_raw()).into_owned();
        let Some(name) = file.strip_suffix(".npy") else {
            return Err(damaged(format!("`{file}` is not an array")));
        };
        let size = member.size();
        // No more than this comes out of so many compressed bytes.
        if size > whole.saturating_mul(LARGEST_RATIO) {
            return Err(damaged(format!("`{file}` of {size} bytes cannot come from an archive of {whole}")));
        }
        let mut array = Vec::new();
        let read = member.by_ref().take(size.saturating_add(1)).read_to_end(&mut array);
        read.map_err(|e| damaged(format!("`{file}`: {e}")))?;
        if array.len() as u64 != size {
            return Err(damaged(format!("`{file}` has not the {size} bytes that it says")));
        }
        let tensor =
            array::decode(&array, device)?.map_err(|message| damaged(format!("`{file}`: {message}")))?;
        tensors.push((name.to_owned(), tensor.named(name)));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}

/// Writes named arrays, uncompressed, as `numpy.savez` does. The file is never half written.
///
/// # Errors
/// As [`save_npy`], for each of them; two have one name.
pub fn save_npz(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), NnError> {
    let arrays = to_host(&tensors.iter().map(|(_, tensor)| tensor).collect::<Vec<_>>())?;
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let failed = |e: zip::result::ZipError| NnError::Invalid { op: "save_npz", message: e.to_string() };
    for ((name, tensor), elements) in tensors.iter().zip(arrays) {
        let header = array::header(tensor, "save_npz")?;
        let large = header.len() + elements.len() >= u32::MAX as usize;
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
        archive.start_file(format!("{name}.npy"), options).map_err(failed)?;
        let written = archive.write_all(&header).and_then(|()| archive.write_all(&elements));
        written.map_err(|source| io("write", path, source))?;
    }
    write_atomically(path, archive.finish().map_err(failed)?.get_ref())
}

/// Deflate makes at most this many bytes of one.
const LARGEST_RATIO: u64 = 1032;
