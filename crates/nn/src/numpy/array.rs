//! The elements of an array.

use half::f16;
use wgrad_ir::{DType, Shape};
use wgrad_runtime::DeviceHandle;
use wgrad_tensor::{Element, Tensor};

use super::header::Header;
use crate::{NnError, files::numbers};

/// The tensor that an array's bytes stand for, or what is wrong with them.
pub(super) fn decode(bytes: &[u8], device: &DeviceHandle) -> Result<Result<Tensor, String>, NnError> {
    match elements(bytes, device) {
        Ok(tensor) => match tensor.error() {
            Some(error) => Err(error.clone().into()),
            None => Ok(Ok(tensor)),
        },
        Err(message) => Ok(Err(message)),
    }
}

fn elements(bytes: &[u8], device: &DeviceHandle) -> Result<Tensor, String> {
    let (header, data) = Header::split(bytes)?;
    let kind = header.kind.as_str();
    let size = match kind {
        "b1" | "i1" | "u1" => 1,
        "f2" | "i2" | "u2" => 2,
        "f4" | "i4" | "u4" => 4,
        "f8" | "i8" | "u8" => 8,
        _ => {
            return Err(format!(
                "it holds `{kind}` elements; known are floats of 2 to 8 bytes, integers and bool: convert it by `astype`"
            ));
        }
    };
    // Extents of zero do not make the other ones harmless.
    let product = |floor: usize| {
        header.shape.iter().try_fold(size, |bytes: usize, &extent| bytes.checked_mul(extent.max(floor)))
    };
    let expected = product(1).filter(|&bytes| bytes <= isize::MAX as usize).and_then(|_| product(0));
    if expected != Some(data.len()) {
        let (shape, there) = (Shape::from(header.shape.as_slice()), data.len());
        return Err(format!(
            "{shape} of {size} bytes each does not fill the {there} bytes that follow the header"
        ));
    }
    let to = Place { header: &header, data, device };
    match kind {
        "b1" => to.place(|[b]: [u8; 1]| Some(b != 0)),
        "f2" => to.place(|b| Some(f16::from_le_bytes(b))),
        "f4" => to.place(|b| Some(f32::from_le_bytes(b))),
        "f8" => to.place(|b| Some(f64::from_le_bytes(b))),
        "i1" => to.place(|b| Some(i32::from(i8::from_le_bytes(b)))),
        "i2" => to.place(|b| Some(i32::from(i16::from_le_bytes(b)))),
        "i4" => to.place(|b| Some(i32::from_le_bytes(b))),
        "i8" => to.place(|b| i32::try_from(i64::from_le_bytes(b)).ok()),
        "u1" => to.place(|[b]: [u8; 1]| Some(b)),
        "u2" => to.place(|b| Some(i32::from(u16::from_le_bytes(b)))),
        "u4" => to.place(|b| Some(u32::from_le_bytes(b))),
        _ => to.place(|b| u32::try_from(u64::from_le_bytes(b)).ok()),
    }
}

/// Elements on their way to a tensor.
struct Place<'a> {
    header: &'a Header,
    data: &'a [u8],
    device: &'a DeviceHandle,
}

impl Place<'_> {
    fn place<T: Element, const N: usize>(
        &self,
        read: impl Fn([u8; N]) -> Option<T>,
    ) -> Result<Tensor, String> {
        let read = |mut bytes: [u8; N]| {
            if self.header.big_endian {
                bytes.reverse();
            }
            read(bytes)
        };
        let elements: Option<Vec<T>> = numbers(self.data, read).into_iter().collect();
        let elements =
            elements.ok_or_else(|| format!("it holds integers beyond the 32 bits of {}", T::DTYPE))?;
        let mut extents = self.header.shape.clone();
        if !self.header.column_major || extents.len() < 2 {
            return Ok(Tensor::from_vec(elements, extents, self.device));
        }
        extents.reverse();
        let turned: Vec<usize> = (0..extents.len()).rev().collect();
        Ok(Tensor::from_vec(elements, extents, self.device).permute(&turned))
    }
}

/// The header of a tensor's array.
pub(super) fn header(tensor: &Tensor, op: &'static str) -> Result<Vec<u8>, NnError> {
    let kind = match tensor.dtype() {
        DType::F64 => "f8",
        DType::F32 => "f4",
        DType::F16 => "f2",
        DType::I32 => "i4",
        DType::U32 => "u4",
        DType::U8 => "u1",
        DType::Bool => "b1",
        DType::BF16 => {
            let message = "NumPy has no bf16; `cast` to f32, which holds the same values".to_owned();
            return Err(NnError::Invalid { op, message });
        }
    };
    Ok(Header::bytes(kind, tensor.shape()))
}
