//! Reading elements back to the host.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use wgrad_ir::{DType, Op};
use wgrad_runtime::{Buffer, Readback};

use crate::{Element, Tensor, TensorError, tensor::Source};

/// Elements on their way to the host: [`wait`](PendingValue::wait) for them, or await them.
pub struct PendingValue<T> {
    bytes: Readback,
    element: PhantomData<fn() -> T>,
}

impl<T: Element> PendingValue<T> {
    /// Blocks until the elements are here.
    ///
    /// # Errors
    /// The device was lost, or a kernel met an index out of range.
    pub fn wait(self) -> Result<Vec<T>, TensorError> {
        Ok(T::from_bytes(&self.bytes.wait()?))
    }
}

impl<T: Element> Future for PendingValue<T> {
    type Output = Result<Vec<T>, TensorError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.bytes)
            .poll(context)
            .map(|bytes| bytes.map(|b| T::from_bytes(&b)).map_err(TensorError::from))
    }
}

impl<T> fmt::Debug for PendingValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PendingValue").field(&self.bytes).finish()
    }
}

/// The first element of a slice, if it takes elements that lie side by side.
fn contiguous_from(ranges: &[(usize, usize, usize)], shape: &[usize]) -> Option<usize> {
    let (mut start, mut stride) = (0, 1);
    // Inner axes must be whole, up to the one that is cut; outer ones have one index.
    let mut whole = true;
    for (&(first, len, step), &extent) in ranges.iter().zip(shape).rev() {
        if len == 0 || !whole && len > 1 || len > 1 && step != 1 {
            return None;
        }
        whole &= len == extent;
        start += first * stride;
        stride *= extent;
    }
    Some(start)
}

impl Tensor {
    /// Evaluates and starts the copy.
    pub(crate) fn read_bytes(&self) -> Result<Readback, TensorError> {
        let place = match self.place() {
            Some(place) => Some(place),
            None => {
                self.realize()?;
                self.place()
            }
        };
        match place {
            Some((buffer, start)) => {
                Ok(self.device().read_range(&buffer, self.dtype(), start..start + self.elements())?)
            }
            None => Ok(Readback::ready(Ok(Vec::new()))),
        }
    }

    /// Memory that holds the elements in row-major order, and which of its elements is the first: the tensor's own, or that of the
    /// tensor of which it is a contiguous piece. `None` where something is to be computed first.
    pub(crate) fn place(&self) -> Option<(Buffer, usize)> {
        let (mut tensor, mut start) = (self, 0);
        loop {
            if let Some(buffer) = tensor.0.elements.get() {
                return Some((buffer, start));
            }
            match &tensor.0.source {
                Source::Op(Op::Reshape(_), operands) => tensor = operands.first()?,
                Source::Op(Op::Slice { ranges }, operands) => {
                    tensor = operands.first()?;
                    start += contiguous_from(ranges, tensor.shape())?;
                }
                _ => return None,
            }
        }
    }

    /// Evaluates, starts to copy the elements to the host, and returns at once: work that is queued later does not delay the copy.
    /// A training loop reads its loss one step late in this way, and the device never waits.
    ///
    /// # Errors
    /// As [`eval`](crate::eval); `T` is not the tensor's dtype.
    #[track_caller]
    pub fn read<T: Element>(&self) -> Result<PendingValue<T>, TensorError> {
        self.check()?;
        if T::DTYPE != self.dtype() {
            let fault = self.fail(
                "read",
                format!(
                    "holds {}, not {} elements; `cast` first, or ask for those",
                    self.describe(),
                    T::DTYPE
                ),
            );
            fault.check()?;
        }
        Ok(PendingValue { bytes: self.read_bytes()?, element: PhantomData })
    }

    /// The elements in row-major order; blocks until they are here.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    #[track_caller]
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        self.read()?.wait()
    }

    /// The elements in row-major order, without blocking: for executors and for browsers.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub async fn to_vec_async<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        self.read::<T>()?.await
    }

    /// The elements of any dtype as `f64` (exact; `true` is 1).
    ///
    /// # Errors
    /// As [`eval`](crate::eval).
    pub fn to_f64_vec(&self) -> Result<Vec<f64>, TensorError> {
        fn widen<T: Element>(bytes: &[u8]) -> Vec<f64> {
            T::from_bytes(bytes).into_iter().map(T::as_f64).collect()
        }
        let bytes = self.read_bytes()?.wait()?;
        Ok(match self.dtype() {
            DType::F64 => widen::<f64>(&bytes),
            DType::F32 => widen::<f32>(&bytes),
            DType::F16 => widen::<half::f16>(&bytes),
            DType::BF16 => widen::<half::bf16>(&bytes),
            DType::I32 => widen::<i32>(&bytes),
            DType::U32 => widen::<u32>(&bytes),
            DType::U8 => widen::<u8>(&bytes),
            DType::Bool => widen::<bool>(&bytes),
        })
    }

    /// The one element of a tensor of any dtype; `true` is 1.
    ///
    /// # Errors
    /// The tensor does not have exactly one element; as [`eval`](crate::eval).
    #[track_caller]
    pub fn item(&self) -> Result<f64, TensorError> {
        self.check()?;
        if self.elements() != 1 {
            self.fail("item", format!("expects one element, got {}; reduce it first", self.describe()))
                .check()?;
        }
        Ok(self.to_f64_vec()?.first().copied().unwrap_or(f64::NAN))
    }
}
