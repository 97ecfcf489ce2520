//! Files of named tensors in the safetensors format.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, View};
use wgrad_ir::{DType, Shape};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::{PendingValue, Tensor, TensorError, eval};

use crate::{NnError, Param};

/// Writes named tensors: under a temporary name in the same folder first, synced, then renamed, so that the file is never
/// half written. `metadata` goes into the header.
///
/// # Errors
/// The values could not be computed or read back, or the file could not be written.
pub fn save(path: &Path, tensors: &[(String, Tensor)], metadata: &[(&str, &str)]) -> Result<(), NnError> {
    eval(&tensors.iter().map(|(_, tensor)| tensor).collect::<Vec<_>>())?;
    // All copies are queued before the first one is waited for.
    let reads = tensors.iter().map(|(_, tensor)| Read::start(tensor)).collect::<Result<Vec<_>, _>>()?;
    let mut entries = Vec::with_capacity(tensors.len());
    for ((name, tensor), read) in tensors.iter().zip(reads) {
        let (dtype, bytes) = read.wait()?;
        entries.push((name.as_str(), Entry { dtype, shape: tensor.shape().to_vec(), bytes }));
    }
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let bytes = safetensors::serialize(entries, (!metadata.is_empty()).then_some(metadata))
        .map_err(|e| NnError::Damaged { path: path.to_owned(), message: e.to_string() })?;
    write_atomically(path, &bytes)
}

/// Reads every tensor of a file onto a device, in the dtype of the file; i64 becomes i32.
///
/// The file is not trusted: sizes and offsets are checked before anything is read at them.
///
/// # Errors
/// The file cannot be read, is not valid, or holds a dtype or a value that wgrad does not have.
pub fn load(path: &Path, device: &DeviceHandle) -> Result<Vec<(String, Tensor)>, NnError> {
    read(path, device, false)
}

/// As [`load`], for weights that are trained or used next: one that is not a number would make every result so.
///
/// # Errors
/// As [`load`], and [`NnError::NotANumber`].
pub fn load_weights(path: &Path, device: &DeviceHandle) -> Result<Vec<(String, Tensor)>, NnError> {
    read(path, device, true)
}

fn read(path: &Path, device: &DeviceHandle, weights: bool) -> Result<Vec<(String, Tensor)>, NnError> {
    let bytes = fs::read(path).map_err(|source| io("read", path, source))?;
    let damaged = |message: String| NnError::Damaged { path: path.to_owned(), message };
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let mut tensors = Vec::with_capacity(file.len());
    for (name, view) in file.iter() {
        let (shape, data) = (Shape::from(view.shape()), view.data());
        let mut nan = None;
        let tensor = match view.dtype() {
            Dtype::F64 => {
                Tensor::from_vec(floats(data, f64::from_le_bytes, f64::is_nan, &mut nan), shape, device)
            }
            Dtype::F32 => {
                Tensor::from_vec(floats(data, f32::from_le_bytes, f32::is_nan, &mut nan), shape, device)
            }
            Dtype::F16 => {
                Tensor::from_vec(floats(data, f16::from_le_bytes, f16::is_nan, &mut nan), shape, device)
            }
            Dtype::BF16 => {
                Tensor::from_vec(floats(data, bf16::from_le_bytes, bf16::is_nan, &mut nan), shape, device)
            }
            Dtype::I32 => Tensor::from_vec(numbers(data, i32::from_le_bytes), shape, device),
            Dtype::U32 => Tensor::from_vec(numbers(data, u32::from_le_bytes), shape, device),
            Dtype::I64 => {
                let narrow = |b| i32::try_from(i64::from_le_bytes(b));
                let values = numbers(data, narrow).into_iter().collect::<Result<Vec<i32>, _>>();
                let values =
                    values.map_err(|_| damaged(format!("`{name}` holds integers beyond 32 bits")))?;
                Tensor::from_vec(values, shape, device)
            }
            Dtype::U8 => Tensor::from_vec(data.to_vec(), shape, device),
            Dtype::BOOL => Tensor::from_vec(numbers(data, |[b]| b != 0), shape, device),
            other => {
                return Err(damaged(format!("`{name}` has the dtype {other:?}, which is not supported")));
            }
        };
        if let (Some(index), true) = (nan, weights) {
            return Err(NnError::NotANumber { path: path.to_owned(), name: name.to_owned(), index });
        }
        if let Some(error) = tensor.error() {
            return Err(error.clone().into());
        }
        tensors.push((name.to_owned(), tensor.named(name)));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}

/// Puts tensors into the parameters of their names; see [`Module::load_state_dict`](crate::Module::load_state_dict). `origin` is where
/// they come from, for the message.
///
/// # Errors
/// [`NnError::Mismatch`], which lists all that does not fit.
pub fn load_into(
    origin: &str,
    params: &[(String, Param)],
    tensors: &[(String, Tensor)],
    strict: bool,
) -> Result<(), NnError> {
    let given: HashMap<&str, &Tensor> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let (mut problems, mut fitting, mut used) = (Vec::new(), Vec::new(), 0);
    for (name, param) in params {
        let old = param.tensor();
        match given.get(name.as_str()) {
            Some(new) => {
                used += 1;
                if new.shape() != old.shape() {
                    problems.push(format!("`{name}` is {} instead of {}", new.shape(), old.shape()));
                } else if new.dtype().is_float() != old.dtype().is_float() {
                    problems.push(format!("`{name}` is {} instead of {}", new.dtype(), old.dtype()));
                } else {
                    let new = if new.dtype() == old.dtype() { (*new).clone() } else { new.cast(old.dtype()) };
                    fitting.push((param, name, new));
                }
            }
            None if strict => problems.push(format!("`{name}` {} is missing", old.shape())),
            None => {}
        }
    }
    if strict && used < given.len() {
        let known: std::collections::HashSet<&str> = params.iter().map(|(name, _)| name.as_str()).collect();
        let extra = tensors.iter().filter(|(name, _)| !known.contains(name.as_str()));
        problems.extend(extra.map(|(name, tensor)| format!("`{name}` {} is unexpected", tensor.shape())));
    }
    if !problems.is_empty() {
        return Err(NnError::Mismatch { origin: origin.to_owned(), problems });
    }
    // Pieces of another model's memory get memory of their own, all in one program.
    let values: Vec<Tensor> = fitting.iter().map(|(_, _, tensor)| tensor.detach()).collect();
    eval(&values.iter().collect::<Vec<_>>())?;
    for ((param, name, _), value) in fitting.iter().zip(values) {
        param.set(value.detach_realized().named(name));
    }
    Ok(())
}

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

/// A tensor on its way to a file.
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Entry {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
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

    /// Dtype and little-endian bytes.
    fn wait(self) -> Result<(Dtype, Vec<u8>), TensorError> {
        Ok(match self {
            Read::F64(read) => (Dtype::F64, bytes(&read.wait()?, |v| v.to_le_bytes())),
            Read::F32(read) => (Dtype::F32, bytes(&read.wait()?, |v| v.to_le_bytes())),
            Read::F16(read) => (Dtype::F16, bytes(&read.wait()?, |v| v.to_le_bytes())),
            Read::BF16(read) => (Dtype::BF16, bytes(&read.wait()?, |v| v.to_le_bytes())),
            Read::I32(read) => (Dtype::I32, bytes(&read.wait()?, |v| v.to_le_bytes())),
            Read::U32(read) => (Dtype::U32, bytes(&read.wait()?, |v| v.to_le_bytes())),
            Read::U8(read) => (Dtype::U8, read.wait()?),
            Read::Bool(read) => (Dtype::BOOL, bytes(&read.wait()?, |v| [u8::from(*v)])),
        })
    }
}

fn bytes<T, const N: usize>(values: &[T], encode: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(encode).collect()
}

/// The elements of a tensor's bytes, whose number the format's header check has made a multiple of the element's size.
fn numbers<T, const N: usize>(data: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|chunk| decode(*chunk)).collect()
}

/// As [`numbers`], noting where the first NaN is.
fn floats<T: Copy, const N: usize>(
    data: &[u8],
    decode: impl Fn([u8; N]) -> T,
    is_nan: impl Fn(T) -> bool,
    nan: &mut Option<usize>,
) -> Vec<T> {
    let values = numbers(data, decode);
    *nan = values.iter().position(|&value| is_nan(value));
    values
}
