//! What files of tensors share: elements as bytes, and files that are never half written.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use wgrad_ir::DType;
use wgrad_tensor::{PendingValue, Tensor, TensorError, eval};

use crate::NnError;

/// Writes a file under a temporary name beside it, syncs it, and renames it.
///
/// # Errors
/// The folder is not there, is not writable, or full; a file that was there before is then unchanged.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), NnError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary: PathBuf = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // What is left of a failed attempt is of no use; that it could not be removed either changes nothing.
        let _ = fs::remove_file(&temporary);
        io("write", path, source)
    })
}

pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> NnError {
    NnError::Io { action, path: path.to_owned(), source }
}

pub(crate) fn damaged(path: &Path, format: &'static str, message: String) -> NnError {
    NnError::Damaged { path: path.to_owned(), format, message }
}

/// The elements of each tensor as little-endian bytes, `bool` as one byte.
pub(crate) fn to_host(tensors: &[&Tensor]) -> Result<Vec<Vec<u8>>, TensorError> {
    eval(tensors)?;
    // All copies are queued before the first one is waited for.
    let reads = tensors.iter().map(|tensor| Read::start(tensor)).collect::<Result<Vec<_>, _>>()?;
    reads.into_iter().map(Read::wait).collect()
}

/// A tensor on its way to the host.
enum Read {
    F64(PendingValue<f64>),
    F32(PendingValue<f32>),
    F16(PendingValue<f16>),
    BF16(PendingValue<bf16>),
    I32(PendingValue<i32>),
    U32(PendingValue<u32>),
    U8(PendingValue<u8>),
    Bool(PendingValue<bool>),
}

impl Read {
    fn start(tensor: &Tensor) -> Result<Self, TensorError> {
        Ok(match tensor.dtype() {
            DType::F64 => Read::F64(tensor.read()?),
            DType::F32 => Read::F32(tensor.read()?),
            DType::F16 => Read::F16(tensor.read()?),
            DType::BF16 => Read::BF16(tensor.read()?),
            DType::I32 => Read::I32(tensor.read()?),
            DType::U32 => Read::U32(tensor.read()?),
            DType::U8 => Read::U8(tensor.read()?),
            DType::Bool => Read::Bool(tensor.read()?),
        })
    }

    fn wait(self) -> Result<Vec<u8>, TensorError> {
        Ok(match self {
            Read::F64(read) => bytes(&read.wait()?, |v| v.to_le_bytes()),
            Read::F32(read) => bytes(&read.wait()?, |v| v.to_le_bytes()),
            Read::F16(read) => bytes(&read.wait()?, |v| v.to_le_bytes()),
            Read::BF16(read) => bytes(&read.wait()?, |v| v.to_le_bytes()),
            Read::I32(read) => bytes(&read.wait()?, |v| v.to_le_bytes()),
            Read::U32(read) => bytes(&read.wait()?, |v| v.to_le_bytes()),
            Read::U8(read) => read.wait()?,
            Read::Bool(read) => bytes(&read.wait()?, |v| [u8::from(*v)]),
        })
    }
}

fn bytes<T, const N: usize>(values: &[T], encode: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(encode).collect()
}

/// The elements of little-endian bytes, whose number is a multiple of the element's size: what is over is left out.
pub(crate) fn numbers<T, const N: usize>(data: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|chunk| decode(*chunk)).collect()
}
