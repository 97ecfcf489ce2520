//! Files of named tensors in the safetensors format.

use std::{borrow::Cow, collections::HashMap, fs, path::Path};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, View};
use wgrad_ir::{DType, Shape};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::{Tensor, eval};

pub use crate::files::write_atomically;
use crate::{
    NnError, Param,
    files::{damaged, io, numbers, to_host},
};

const FORMAT: &str = "safetensors";

/// Writes named tensors: under a temporary name in the same folder first, synced, then renamed, so that the file is never
/// half written. `metadata` goes into the header.
///
/// # Errors
/// The values could not be computed or read back, or the file could not be written.
pub fn save<'a>(
    path: &Path,
    tensors: &'a [(String, Tensor)],
    metadata: &[(&str, &str)],
) -> Result<(), NnError> {
    let bytes = to_host(&tensors.iter().map(|(_, tensor)| tensor).collect::<Vec<_>>())?;
    let entry = |((name, tensor), bytes): (&'a (String, Tensor), Vec<u8>)| {
        let (dtype, shape) = (dtype(tensor.dtype()), tensor.shape().to_vec());
        (name.as_str(), Entry { dtype, shape, bytes })
    };
    let entries: Vec<_> = tensors.iter().zip(bytes).map(entry).collect();
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let bytes = safetensors::serialize(entries, (!metadata.is_empty()).then_some(metadata))
        .map_err(|e| damaged(path, FORMAT, e.to_string()))?;
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
    let damaged = |message: String| damaged(path, FORMAT, message);
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

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
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
