//! Inputs on which operations are tried: deterministic numbers in given shapes.

use serde_json::Value;
use wgrad::prelude::*;

/// Inputs and attributes of one trial.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The tensors, in order.
    pub inputs: Vec<Input>,
    /// An object, or null.
    pub attrs: Value,
}

/// One tensor of a trial.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name in the call.
    pub name: &'static str,
    /// Extents.
    pub shape: Vec<usize>,
    /// Elements.
    pub values: Values,
    /// Whether its gradient is asked for, where the operation has one.
    pub gradient: bool,
}

/// The elements of an input.
#[derive(Clone, Debug)]
pub enum Values {
    /// Spread over `[low, high]`, no two equal; in the dtype that is being tried.
    Floats(f64, f64),
    /// In `low..high`, as `i32`.
    Ints(i32, i32),
    /// Truth values, two of five true.
    Bools,
    /// These; in the dtype that is being tried.
    Given(Vec<f64>),
}

/// Where the elements of an input lie. Results must not depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Row-major.
    Contiguous,
    /// Axes in reverse order in memory.
    Transposed,
    /// Every other element of a longer last axis.
    Strided,
}

/// Floats in `[-1.9, 1.9]`.
pub fn floats(name: &'static str, shape: &[usize]) -> Input {
    Input { name, shape: shape.to_vec(), values: Values::Floats(-1.9, 1.9), gradient: true }
}

/// `i32` in `low..high`, with repetitions.
pub fn ints(name: &'static str, shape: &[usize], low: i32, high: i32) -> Input {
    Input { name, shape: shape.to_vec(), values: Values::Ints(low, high), gradient: false }
}

/// Truth values.
pub fn bools(name: &'static str, shape: &[usize]) -> Input {
    Input { name, shape: shape.to_vec(), values: Values::Bools, gradient: false }
}

/// Floats of one's choice.
pub fn given(name: &'static str, shape: &[usize], values: &[f64]) -> Input {
    Input { name, shape: shape.to_vec(), values: Values::Given(values.to_vec()), gradient: true }
}

impl Input {
    /// Floats in another range.
    pub fn within(mut self, low: f64, high: f64) -> Self {
        self.values = Values::Floats(low, high);
        self
    }

    /// Without asking for its gradient.
    pub fn constant(mut self) -> Self {
        self.gradient = false;
        self
    }

    /// The elements in row-major order. `position` among the inputs makes inputs differ.
    pub fn elements(&self, position: usize) -> Vec<f64> {
        let count = self.shape.iter().product();
        let golden = 0.618_033_988_749_895;
        let share = |i: usize| ((i + 1 + 31 * position) as f64 * golden).fract();
        match &self.values {
            Values::Floats(low, high) => (0..count).map(|i| low + (high - low) * share(i)).collect(),
            Values::Ints(low, high) => {
                (0..count).map(|i| (f64::from(*low) + f64::from(high - low) * share(i)).floor()).collect()
            }
            Values::Bools => (0..count).map(|i| f64::from(u8::from(share(i) < 0.4))).collect(),
            Values::Given(values) => values.clone(),
        }
    }

    /// The dtype it has where operations are tried in `dtype`.
    pub fn dtype(&self, dtype: DType) -> DType {
        match self.values {
            Values::Ints(..) => DType::I32,
            Values::Bools => DType::Bool,
            Values::Floats(..) | Values::Given(_) => dtype,
        }
    }
}

impl Sample {
    /// With attributes: `Sample::of([..]).attrs(json!({"dim": 1}))`.
    pub fn attrs(mut self, attrs: Value) -> Self {
        self.attrs = attrs;
        self
    }

    /// Trial inputs.
    pub fn of<const N: usize>(inputs: [Input; N]) -> Self {
        Sample { inputs: inputs.into(), attrs: Value::Null }
    }

    /// Number of elements of all inputs.
    pub fn size(&self) -> usize {
        self.inputs.iter().map(|i| i.shape.iter().product::<usize>()).sum()
    }

    /// The inputs' elements, each in row-major order.
    pub fn elements(&self) -> Vec<Vec<f64>> {
        self.inputs.iter().enumerate().map(|(i, input)| input.elements(i)).collect()
    }

    /// The inputs as tensors on a device, in the given layout; floats in `dtype`.
    pub fn tensors(&self, device: &DeviceHandle, dtype: DType, layout: Layout) -> Vec<(String, Tensor)> {
        self.tensors_of(&self.elements(), device, dtype, layout)
    }

    /// As [`Sample::tensors`], with other elements.
    pub fn tensors_of(
        &self,
        elements: &[Vec<f64>],
        device: &DeviceHandle,
        dtype: DType,
        layout: Layout,
    ) -> Vec<(String, Tensor)> {
        let place = |(input, values): (&Input, &Vec<f64>)| {
            let tensor = placed(values, &input.shape, input.dtype(dtype), layout, device);
            (input.name.to_owned(), tensor)
        };
        self.inputs.iter().zip(elements).map(place).collect()
    }
}

impl<const N: usize> From<[Input; N]> for Sample {
    fn from(inputs: [Input; N]) -> Self {
        Sample::of(inputs)
    }
}

impl From<Vec<Input>> for Sample {
    fn from(inputs: Vec<Input>) -> Self {
        Sample { inputs, attrs: Value::Null }
    }
}

fn placed(values: &[f64], shape: &[usize], dtype: DType, layout: Layout, device: &DeviceHandle) -> Tensor {
    let rank = shape.len();
    match layout {
        Layout::Transposed if rank >= 2 => {
            let reverse: Vec<usize> = (0..rank).rev().collect();
            let turned: Vec<usize> = shape.iter().rev().copied().collect();
            let mut memory = Vec::with_capacity(values.len());
            for at in 0..values.len() {
                // Element `at` of the reversed tensor, as a row-major position of the original.
                let (mut rest, mut position, mut stride) = (at, 0, values.len());
                for &extent in shape {
                    stride /= extent;
                    position += rest % extent * stride;
                    rest /= extent;
                }
                memory.push(values[position]);
            }
            upload(&memory, &turned, dtype, device).permute(&reverse)
        }
        Layout::Strided if rank >= 1 => {
            // What lies between must not be seen; of integers it must be a valid index all the same.
            let between = |x: f64| if dtype.is_float() { x + 1000.0 } else { x };
            let memory: Vec<f64> = values.iter().flat_map(|&x| [x, between(x)]).collect();
            let mut wide = shape.to_vec();
            wide[rank - 1] *= 2;
            upload(&memory, &wide, dtype, device).slice(-1, 0, wide[rank - 1], 2)
        }
        _ => upload(values, shape, dtype, device),
    }
}

/// Elements as a leaf of a dtype.
fn upload(values: &[f64], shape: &[usize], dtype: DType, device: &DeviceHandle) -> Tensor {
    match dtype {
        DType::F64 => Tensor::from_slice(values, shape, device),
        DType::F32 => Tensor::from_vec(values.iter().map(|&x| x as f32).collect(), shape, device),
        DType::F16 | DType::BF16 => {
            Tensor::from_vec(values.iter().map(|&x| x as f32).collect(), shape, device).cast(dtype)
        }
        DType::I32 => Tensor::from_vec(values.iter().map(|&x| x.round() as i32).collect(), shape, device),
        DType::U8 => Tensor::from_vec(values.iter().map(|&x| x.abs() as u8).collect(), shape, device),
        DType::U32 => Tensor::from_vec(values.iter().map(|&x| x.abs() as u32).collect(), shape, device),
        DType::Bool => Tensor::from_vec(values.iter().map(|&x| x > 0.0).collect(), shape, device),
    }
}
