//! Sums and products of all elements so far, and the product of all of them. Dimensions may count from the back.

use smallvec::SmallVec;
use wgrad_ir::{CumulateOp, Op, Shape};

use crate::Tensor;

impl Tensor {
    /// `yᵢ = x₀ + .. + xᵢ` along one axis. On a device that adds in `f32`, errors grow with the square root of the length or less.
    #[track_caller]
    pub fn cumsum(&self, dim: isize) -> Tensor {
        match self.axis(dim, 0) {
            Ok(axis) => {
                let sums = Op::Cumulate { op: CumulateOp::Sum, axis };
                Tensor::apply("cumsum", sums, &[&self.widened()]).cast(self.dtype())
            }
            Err(message) => self.fail("cumsum", message),
        }
    }

    /// `yᵢ = x₀ · .. · xᵢ` along one axis. Gradients of every order are right where elements are zero.
    #[track_caller]
    pub fn cumprod(&self, dim: isize) -> Tensor {
        self.products("cumprod", dim)
    }

    /// `Π x` over `dims`; 1 over an empty axis. With `keepdim`, the axes stay with extent 1; an empty `dims` reduces nothing. Gradients
    /// of every order are right where elements are zero.
    #[track_caller]
    pub fn prod(&self, dims: &[isize], keepdim: bool) -> Tensor {
        let axes = match self.axes(dims) {
            Ok(axes) => axes,
            Err(message) => return self.fail("prod", message),
        };
        if axes.is_empty() {
            return self.clone();
        }
        let kept = || (0..self.rank()).filter(|axis| !axes.contains(axis));
        let shape: Shape = match keepdim {
            true => self.shape().keep_dims(&axes),
            false => kept().map(|axis| self.shape()[axis]).collect(),
        };
        // The reduced axes as one, the last.
        let order: SmallVec<[usize; 6]> = kept().chain(axes.iter().copied()).collect();
        let length: usize = axes.iter().map(|&axis| self.shape()[axis]).product();
        if length == 0 {
            // A sum of nothing, so that there is a gradient, of no elements.
            return self.sum(dims, keepdim).add(self.constant_like(1.0));
        }
        let lines: Shape = [shape.elements(), length].into();
        self.permute(&order).reshape(lines).products("prod", 1).narrow(1, length - 1, 1).reshape(shape)
    }

    /// Products so far as a linear recurrence, `yᵢ = xᵢ yᵢ₋₁` from `y₀ = x₀` on: no gradient of it divides.
    #[track_caller]
    fn products(&self, name: &'static str, dim: isize) -> Tensor {
        let axis = match self.axis(dim, 0) {
            Ok(axis) => axis,
            Err(message) => return self.fail(name, message),
        };
        let length = self.shape()[axis];
        if length == 0 {
            return self.clone();
        }
        let mut widths = vec![(0, 0); self.rank()];
        widths[axis].1 = length - 1;
        let x = self.widened();
        let first = x.narrow(dim, 0, 1).pad(&widths, 0.0);
        Tensor::apply(name, Op::Cumulate { op: CumulateOp::Linear, axis }, &[&x, &first]).cast(self.dtype())
    }
}
