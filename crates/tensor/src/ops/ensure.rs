//! What elements must be, where the host cannot see them: devices look it up, and the next read reports what is not so.

use crate::Tensor;

impl Tensor {
    /// The same elements; where `good` (bool, broadcast to them) does not hold everywhere, it is an error to evaluate them or anything
    /// that is computed from them. The gradient is that of the identity.
    ///
    /// ```
    /// # let device: wgrad_tensor::DeviceHandle = std::sync::Arc::new(wgrad_cpu::CpuDevice::new());
    /// use wgrad_tensor::Tensor;
    /// let x = Tensor::from_vec(vec![0.2f32, 1.5], [2], &device);
    /// assert!(x.ensure(&x.lt(2.0)).to_vec::<f32>().is_ok());
    /// assert!(x.ensure(&x.lt(1.0)).to_vec::<f32>().is_err());
    /// ```
    #[track_caller]
    #[must_use]
    pub fn ensure(&self, good: &Tensor) -> Tensor {
        // Entry 0 of a table of one, or one that is out of range; of it the host claims nothing.
        let entry = good.logical_not().cast(wgrad_ir::DType::I32);
        let zero = Tensor::arange(1, self.device()).embedding(&entry).cast(self.dtype());
        if self.dtype() == wgrad_ir::DType::Bool { self.logical_or(&zero) } else { self.add(&zero) }
    }

    /// The same integers, all of which must be in `0..count`: one that is not is an error that the result carries where the host
    /// knows them, else one of its evaluation.
    #[track_caller]
    #[must_use]
    pub fn ensure_below(&self, count: usize) -> Tensor {
        let (low, high) = self.int_range().unwrap_or((-1, -1));
        let known = low >= 0 && high < count as i64;
        if known || count == 0 || self.error().is_some() || !self.dtype().is_int() {
            return self.clone();
        }
        Tensor::arange(count, self.device()).cast(self.dtype()).embedding(self)
    }
}
