//! What is largest, smallest, in order, or true: results that are places as much as values.

use wgrad_ir::{DType, Op};

use crate::Tensor;

impl Tensor {
    /// The largest element along an axis and its index (`i32`), the first of equal ones; the gradient goes to that one element. NaN
    /// counts as largest.
    #[track_caller]
    pub fn max(&self, dim: isize, keepdim: bool) -> (Tensor, Tensor) {
        let index = self.extremum("max", dim, true);
        (self.picked(&index, dim, keepdim), index.dropped(dim, keepdim))
    }

    /// The smallest element along an axis and its index (`i32`), the first of equal ones; the gradient goes to that one element. NaN
    /// counts as smallest.
    #[track_caller]
    pub fn min(&self, dim: isize, keepdim: bool) -> (Tensor, Tensor) {
        let index = self.extremum("min", dim, false);
        (self.picked(&index, dim, keepdim), index.dropped(dim, keepdim))
    }

    /// Where along an axis the largest element is (`i32`), the first of equal ones.
    #[track_caller]
    pub fn argmax(&self, dim: isize, keepdim: bool) -> Tensor {
        self.extremum("argmax", dim, true).dropped(dim, keepdim)
    }

    /// Where along an axis the smallest element is (`i32`), the first of equal ones.
    #[track_caller]
    pub fn argmin(&self, dim: isize, keepdim: bool) -> Tensor {
        self.extremum("argmin", dim, false).dropped(dim, keepdim)
    }

    /// The index of an extremum, the axis kept.
    #[track_caller]
    fn extremum(&self, name: &'static str, dim: isize, largest: bool) -> Tensor {
        if self.lone(dim).is_some() {
            return Tensor::constant(0.0, DType::I32, self.device());
        }
        let axis = match self.axis(dim, 0) {
            Ok(axis) => axis,
            Err(message) => return self.fail(name, message),
        };
        let n = self.shape()[axis];
        if n == 0 {
            return self.fail(name, format!("axis {dim} of {} is empty", self.describe()));
        }
        let x = self.detach();
        let best = if largest { x.amax(&[dim], true) } else { x.amin(&[dim], true) };
        let mut attains = x.eq(&best);
        if x.dtype().is_float() {
            attains = attains.logical_or(x.isnan());
        }
        // The last one where none equals what was found, so that an index is never out of range.
        let place = self.counter(axis);
        let last = Tensor::constant(n as f64 - 1.0, DType::I32, self.device());
        attains.where_(&place, &last).amin(&[dim], true)
    }

    /// `0, 1, ...` along an axis, extents of one elsewhere.
    #[track_caller]
    fn counter(&self, axis: usize) -> Tensor {
        let mut along = vec![1; self.rank()];
        along[axis] = self.shape()[axis];
        Tensor::arange(self.shape()[axis], self.device()).reshape(along)
    }

    /// The element at an index whose axis was kept.
    #[track_caller]
    fn picked(&self, index: &Tensor, dim: isize, keepdim: bool) -> Tensor {
        match (self.axis(dim, 0), index.error()) {
            _ if self.lone(dim).is_some() => self.clone(),
            (Ok(axis), None) => {
                let hit = self.counter(axis).eq(index);
                hit.where_(self, &self.constant_like(0.0)).sum(&[dim], keepdim)
            }
            _ => index.clone(),
        }
    }

    #[track_caller]
    fn dropped(&self, dim: isize, keepdim: bool) -> Tensor {
        if keepdim || self.rank() == 0 || self.error().is_some() { self.clone() } else { self.squeeze(dim) }
    }

    /// The indices (`i32`) that put an axis in ascending or descending order; equal elements keep theirs. NaN counts as largest.
    #[track_caller]
    pub fn argsort(&self, dim: isize, descending: bool) -> Tensor {
        if self.lone(dim).is_some() {
            return Tensor::constant(0.0, DType::I32, self.device());
        }
        let axis = match self.axis(dim, 0) {
            Ok(axis) => axis,
            Err(message) => return self.fail("argsort", message),
        };
        if self.elements() == 0 {
            return Tensor::zeros(self.shape(), DType::I32, self.device());
        }
        let last = self.rank() - 1;
        let rows = self.widened().move_axis(axis, last);
        Tensor::apply("argsort", Op::Sort { descending }, &[&rows]).move_axis(last, axis)
    }

    /// An axis in ascending or descending order, and where its elements were (`i32`); equal elements keep their order. NaN counts as
    /// largest.
    #[track_caller]
    pub fn sort(&self, dim: isize, descending: bool) -> (Tensor, Tensor) {
        let order = self.argsort(dim, descending);
        (self.gather_within(dim, &order), order)
    }

    /// The `k` largest (or smallest) elements along an axis, in order, and where they were (`i32`).
    #[track_caller]
    pub fn topk(&self, k: usize, dim: isize, largest: bool) -> (Tensor, Tensor) {
        if let Some(vector) = self.lone(dim) {
            let (values, order) = vector.topk(k, 0, largest);
            return if k == 1 { (values.reshape([]), order.reshape([])) } else { (values, order) };
        }
        let fail = |message: String| {
            let fault = self.fail("topk", message);
            (fault.clone(), fault)
        };
        match self.axis(dim, 0) {
            Ok(axis) if k > self.shape()[axis] => {
                return fail(format!(
                    "expects at most as many as axis {dim} of {} is long, got {k}",
                    self.describe()
                ));
            }
            Ok(_) => {}
            Err(message) => return fail(message),
        }
        let order = self.argsort(dim, largest).narrow(dim, 0, k);
        (self.gather_within(dim, &order), order)
    }

    /// Whether any element along the axes is true (bool); false over an empty axis. Without axes, the elements as they are.
    #[track_caller]
    pub fn any(&self, dims: &[isize], keepdim: bool) -> Tensor {
        if self.error().is_none() && self.dtype() != DType::Bool {
            return self.fail("any", format!("expects truth values, got {}; compare first", self.describe()));
        }
        if dims.is_empty() {
            return self.clone();
        }
        self.sum(dims, keepdim).cast(DType::Bool)
    }

    /// Whether all elements along the axes are true (bool); true over an empty axis. Without axes, the elements as they are.
    #[track_caller]
    pub fn all(&self, dims: &[isize], keepdim: bool) -> Tensor {
        if self.error().is_none() && self.dtype() != DType::Bool {
            return self.fail("all", format!("expects truth values, got {}; compare first", self.describe()));
        }
        if dims.is_empty() {
            return self.clone();
        }
        self.logical_not().sum(dims, keepdim).cast(DType::Bool).logical_not()
    }
}
