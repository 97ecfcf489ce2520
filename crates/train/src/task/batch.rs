//! What a step learns from: named arrays on the host, then named tensors.

use wgrad_nn::Context;
use wgrad_tensor::{DType, DeviceHandle, Tensor};

/// One array of a batch: its name, and what a row of it (one example) is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// As Hugging Face's models call their inputs: `input_ids`, `pixel_values`, `labels`.
    pub(crate) name: &'static str,
    /// The dtype of its elements.
    pub(crate) dtype: DType,
    /// The shape of one example; the longest one, where lengths vary.
    pub(crate) shape: Vec<usize>,
}

impl Column {
    pub(crate) fn new(name: &'static str, dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Column { name, dtype, shape: shape.into() }
    }

    /// Elements of one example.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().fold(1, |product, &extent| product.saturating_mul(extent))
    }
}

/// Elements on the host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    F32(Vec<f32>),
    I32(Vec<i32>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

macro_rules! values {
    ($($variant:ident of $type:ty),*) => {
        $(impl From<Vec<$type>> for Values {
            fn from(values: Vec<$type>) -> Self {
                Values::$variant(values)
            }
        })*

        impl Values {
            fn zeros(dtype: DType, count: usize) -> Self {
                match dtype {
                    DType::I32 => Values::I32(vec![0; count]),
                    DType::U8 => Values::U8(vec![0; count]),
                    DType::Bool => Values::Bool(vec![false; count]),
                    _ => Values::F32(vec![0.0; count]),
                }
            }

            fn len(&self) -> usize {
                match self {
                    $(Values::$variant(values) => values.len(),)*
                }
            }

            fn upload(&self, range: std::ops::Range<usize>, shape: &[usize], device: &DeviceHandle) -> Tensor {
                match self {
                    $(Values::$variant(values) => {
                        Tensor::from_slice(values.get(range).unwrap_or_default(), shape, device)
                    })*
                }
            }
        }
    };
}

values!(F32 of f32, I32 of i32, U8 of u8, Bool of bool);

/// The examples of a step on the host: named arrays with one example per row, those of one pass after those of another.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HostBatch {
    columns: Vec<(Column, Values)>,
}

impl HostBatch {
    /// Adds an array of rows of the given shape.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, row: &[usize], values: impl Into<Values>) -> Self {
        let values = values.into();
        let dtype = match values {
            Values::F32(_) => DType::F32,
            Values::I32(_) => DType::I32,
            Values::U8(_) => DType::U8,
            Values::Bool(_) => DType::Bool,
        };
        self.columns.push((Column::new(name, dtype, row), values));
        self
    }

    /// So many examples of zeros: where only shapes matter.
    pub(crate) fn zeros(columns: &[Column], examples: usize) -> Self {
        let zeros = |c: &Column| (c.clone(), Values::zeros(c.dtype, examples * c.elements()));
        HostBatch { columns: columns.iter().map(zeros).collect() }
    }

    /// The examples of pass `part` out of `parts`, on a device.
    pub(crate) fn upload(&self, part: usize, parts: usize, device: &DeviceHandle) -> Batch {
        let upload = |(column, values): &(Column, Values)| {
            let width = column.elements().max(1);
            let rows = values.len() / width / parts.max(1);
            let shape: Vec<usize> = std::iter::once(rows).chain(column.shape.iter().copied()).collect();
            let range = part * rows * width..(part + 1) * rows * width;
            (column.name, values.upload(range, &shape, device))
        };
        Batch { tensors: self.columns.iter().map(upload).collect(), device: device.clone() }
    }
}

/// The examples of one pass as tensors `[examples, ..]`.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    tensors: Vec<(&'static str, Tensor)>,
    device: DeviceHandle,
}

impl Batch {
    /// The tensor of that name; one that carries an error where there is none.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> Tensor {
        let found = self.tensors.iter().find(|(n, _)| *n == name);
        found.map_or_else(
            || {
                let names: Vec<&str> = self.tensors.iter().map(|(name, _)| *name).collect();
                let message = format!("has no column `{name}`, only {}", names.join(", "));
                Tensor::constant(0.0, DType::F32, &self.device).invalid("batch", message)
            },
            |(_, tensor)| tensor.clone(),
        )
    }
}

/// The context of the forward pass of micro-batch `micro` of `passes` of update `step`. Each has a number of its own, and thereby
/// masks of its own; the counter may wrap.
pub(crate) fn training_context(seed: u64, step: u64, micro: usize, passes: usize) -> Context {
    let pass = step.wrapping_mul(passes as u64).wrapping_add(micro as u64) as u32;
    Context::train(seed, pass)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wgrad_cpu::CpuDevice;

    use super::*;

    #[test]
    fn the_parts_of_a_batch_are_its_rows_in_order() {
        let device: DeviceHandle = Arc::new(CpuDevice::new());
        let batch = HostBatch::default()
            .with("pixel_values", &[1, 2], (0..8).map(|i| i as u8).collect::<Vec<_>>())
            .with("labels", &[], vec![5, 6, 7, 8]);
        let part = batch.upload(1, 2, &device);
        let pixels = part.get("pixel_values");
        assert_eq!(pixels.shape().dims(), [2, 1, 2]);
        assert_eq!(pixels.to_vec::<u8>().expect("bytes"), [4, 5, 6, 7]);
        assert_eq!(part.get("labels").to_vec::<i32>().expect("labels"), [7, 8]);
        let error = part.get("input_ids").to_vec::<f32>().expect_err("no such column").to_string();
        assert!(error.contains("`input_ids`") && error.contains("pixel_values, labels"), "{error}");
        let columns: Vec<Column> = batch.columns.iter().map(|(column, _)| column.clone()).collect();
        assert_eq!(HostBatch::zeros(&columns, 3).upload(0, 1, &device).get("labels").shape().dims(), [3]);
    }
}
