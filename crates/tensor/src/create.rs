//! Tensors from host data, constants, counters and random streams.

use std::{f64::consts::TAU, panic::Location};

use wgrad_ir::{DType, Literal, Op, RandomKind, Shape};
use wgrad_runtime::DeviceHandle;

use crate::{Element, Tensor, TensorError, tensor::Source};

/// Which random numbers to draw: equal keys give equal numbers, on every device.
///
/// `seed` and `step` are parameters of the compiled program; `stream` is part of its structure, and tells the draws of one step
/// apart (one per dropout, say).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RandomKey {
    /// The run's seed.
    pub seed: u64,
    /// The training step, so that each step draws afresh.
    pub step: u32,
    /// Which of the draws of a step.
    pub stream: u32,
}

impl Tensor {
    /// Uploads elements in row-major order. Carries an error where their number is not the shape's, or the upload fails.
    #[track_caller]
    pub fn from_vec<T: Element>(elements: Vec<T>, shape: impl Into<Shape>, device: &DeviceHandle) -> Tensor {
        Tensor::from_slice(&elements, shape, device)
    }

    /// As [`Tensor::from_vec`], from a slice.
    #[track_caller]
    pub fn from_slice<T: Element>(elements: &[T], shape: impl Into<Shape>, device: &DeviceHandle) -> Tensor {
        let shape = shape.into();
        if elements.len() != shape.elements() {
            let message = format!(
                "{} elements do not fill {}{shape}, which has {}",
                elements.len(),
                T::DTYPE,
                shape.elements()
            );
            let error = TensorError::Op { op: "from_vec", message, location: Location::caller() };
            return Tensor::faulty(error, T::DTYPE, device.clone());
        }
        let range = elements.iter().try_fold(None, |range: Option<(i64, i64)>, x| {
            let x = x.as_index()?;
            Some(Some(range.map_or((x, x), |(low, high)| (low.min(x), high.max(x)))))
        });
        match device.upload(T::bytes(elements), T::DTYPE) {
            Ok(buffer) => Tensor::leaf(buffer, shape, T::DTYPE, device.clone(), range.flatten()),
            Err(error) => Tensor::faulty(error.into(), T::DTYPE, device.clone()),
        }
    }

    /// A number that may change from step to step (a learning rate, say), rank 0. It becomes a parameter of the programs in
    /// which it occurs: another value does not compile anew.
    pub fn scalar(value: f64, dtype: DType, device: &DeviceHandle) -> Tensor {
        Tensor::literal(Literal::from_f64(dtype, value), device)
    }

    pub(crate) fn literal(value: Literal, device: &DeviceHandle) -> Tensor {
        let range = value.dtype().is_int().then(|| (value.as_f64() as i64, value.as_f64() as i64));
        Tensor::new(Source::Scalar(value), Shape::scalar(), value.dtype(), device.clone(), range)
    }

    /// A number that belongs to a formula, rank 0. It is part of the compiled program: another value compiles anew, and the
    /// compiler may simplify with it.
    pub fn constant(value: f64, dtype: DType, device: &DeviceHandle) -> Tensor {
        Tensor::nullary(Op::Const(Literal::from_f64(dtype, value)), Shape::scalar(), dtype, device)
    }

    /// All zeros (`false`).
    pub fn zeros(shape: impl Into<Shape>, dtype: DType, device: &DeviceHandle) -> Tensor {
        Tensor::constant(0.0, dtype, device).stretch("zeros", &shape.into())
    }

    /// All ones (`true`).
    pub fn ones(shape: impl Into<Shape>, dtype: DType, device: &DeviceHandle) -> Tensor {
        Tensor::constant(1.0, dtype, device).stretch("ones", &shape.into())
    }

    /// `value` everywhere; the value may change from step to step, as [`Tensor::scalar`]'s.
    pub fn full(shape: impl Into<Shape>, value: f64, dtype: DType, device: &DeviceHandle) -> Tensor {
        Tensor::scalar(value, dtype, device).stretch("full", &shape.into())
    }

    /// `0, 1, ..., len - 1` as `i32`.
    pub fn arange(len: usize, device: &DeviceHandle) -> Tensor {
        Tensor::nullary(Op::Iota { len }, Shape::from([len]), DType::I32, device)
    }

    /// `start, start + step, ...` before `end` (PyTorch's `arange` with three numbers), `⌈(end - start) / step⌉` of them. Start and step are
    /// parameters of the program.
    #[track_caller]
    pub fn arange_by(start: f64, end: f64, step: f64, dtype: DType, device: &DeviceHandle) -> Tensor {
        let count = ((end - start) / step).ceil();
        // Not a number is refused too.
        if !(0.0..2147483648.0).contains(&count) {
            let message = format!("from {start} to {end} by {step} are {count} elements");
            return Tensor::scalar(start, dtype, device).fail("arange", message);
        }
        let counter = Tensor::arange(count as usize, device).cast(dtype);
        counter.mul(step).add(start)
    }

    /// `steps` numbers from `start` to `end`, both included, in equal steps (float); a single one is `start`.
    #[track_caller]
    pub fn linspace(start: f64, end: f64, steps: usize, dtype: DType, device: &DeviceHandle) -> Tensor {
        let step = if steps > 1 { (end - start) / (steps - 1) as f64 } else { 0.0 };
        let counter = Tensor::arange(steps, device);
        if !dtype.is_float() {
            return counter.fail("linspace", format!("expects a float dtype, got {dtype}"));
        }
        // From both ends to the middle, so that the last one is exact too.
        let front = counter.cast(dtype);
        let back = counter.flip(&[0]).cast(dtype);
        let first = counter.lt(Tensor::constant((steps / 2).max(1) as f64, DType::I32, device));
        first.where_(&front.mul(step).add(start), &back.mul(-step).add(end))
    }

    /// Ones on the diagonal of `[rows, columns]`, zeros elsewhere.
    pub fn eye(rows: usize, columns: usize, dtype: DType, device: &DeviceHandle) -> Tensor {
        let number = Tensor::arange(rows, device).unsqueeze(1);
        number.eq(Tensor::arange(columns, device).unsqueeze(0)).cast(dtype)
    }

    /// Zeros in this tensor's shape and dtype.
    pub fn zeros_like(&self) -> Tensor {
        Tensor::zeros(self.shape(), self.dtype(), self.device())
    }

    /// Ones in this tensor's shape and dtype.
    pub fn ones_like(&self) -> Tensor {
        Tensor::ones(self.shape(), self.dtype(), self.device())
    }

    /// Uniform `f32` in `[0, 1)`, multiples of 2⁻²⁴, bit-identical on every device (Philox4x32-10; see [`wgrad_ir::philox`]).
    pub fn random_uniform(shape: impl Into<Shape>, key: &RandomKey, device: &DeviceHandle) -> Tensor {
        Tensor::random("random_uniform", RandomKind::Uniform, shape.into(), key, device)
    }

    /// Uniform `u32` words, bit-identical on every device.
    pub fn random_bits(shape: impl Into<Shape>, key: &RandomKey, device: &DeviceHandle) -> Tensor {
        Tensor::random("random_bits", RandomKind::Bits, shape.into(), key, device)
    }

    /// Standard normal `f32` by Box and Muller: `√(-2 ln(1 - u₁)) cos(2π u₂)`, where `u₁` and `u₂` are the first and second half
    /// of a uniform draw of twice as many elements. Devices agree to about 1e-5.
    pub fn random_normal(shape: impl Into<Shape>, key: &RandomKey, device: &DeviceHandle) -> Tensor {
        let shape = shape.into();
        let pair: Shape = [2].into_iter().chain(shape.iter().copied()).collect();
        let u = Tensor::random_uniform(pair, key, device);
        let (u1, u2) = (u.narrow(0, 0, 1).reshape(&shape), u.narrow(0, 1, 1).reshape(&shape));
        let radius = u1.constant_like(1.0).sub(&u1).log().mul(u1.constant_like(-2.0)).sqrt();
        radius.mul(u2.mul(u2.constant_like(TAU)).cos())
    }

    fn random(
        name: &'static str,
        kind: RandomKind,
        shape: Shape,
        key: &RandomKey,
        device: &DeviceHandle,
    ) -> Tensor {
        let [low, high, step] = [key.seed as u32, (key.seed >> 32) as u32, key.step]
            .map(|word| Tensor::literal(Literal::u32(word), device));
        Tensor::apply(name, Op::Random { stream: key.stream, kind, shape }, &[&low, &high, &step])
    }

    fn nullary(op: Op, shape: Shape, dtype: DType, device: &DeviceHandle) -> Tensor {
        let range = match &op {
            Op::Iota { len } if *len > 0 => Some((0, *len as i64 - 1)),
            Op::Const(value) if dtype.is_int() => Some((value.as_f64() as i64, value.as_f64() as i64)),
            _ => None,
        };
        Tensor::new(Source::Op(op, Default::default()), shape, dtype, device.clone(), range)
    }
}
