//! Sums and products of all elements so far, and the product of all of them. Dimensions may count from the back.

use smallvec::SmallVec;
use wgrad_ir::{CumulateOp, Op, Shape};

use crate::Tensor;

impl Tensor {
    /// `yᵢ = x₀ + .. + xᵢ` along one axis. Sums of `u8` and `bool` are `i32`. On a device that adds in `f32`, errors grow with the square
    /// root of the length or less.
    #[track_caller]
    pub fn cumsum(&self, dim: isize) -> Tensor {
        if let Some(vector) = self.lone(dim) {
            return vector.cumsum(dim).reshape([]);
        }
        let x = self.counted();
        match self.axis(dim, 0) {
            Ok(axis) => {
                let sums = Op::Cumulate { op: CumulateOp::Sum, axis };
                Tensor::apply("cumsum", sums, &[&x.widened()]).cast(x.dtype())
            }
            Err(message) => self.fail("cumsum", message),
        }
    }

    /// `yᵢ = x₀ · .. · xᵢ` along one axis. Products of `u8` and `bool` are `i32`. Gradients of every order are right where elements are zero.
    #[track_caller]
    pub fn cumprod(&self, dim: isize) -> Tensor {
        if let Some(vector) = self.lone(dim) {
            return vector.cumprod(dim).reshape([]);
        }
        self.counted().products("cumprod", dim)
    }

    /// `Π x` over `dims`, over all axes where it names none; 1 over an empty axis. With `keepdim`, the axes stay with extent 1. Products
    /// of `u8` and `bool` are `i32`. Gradients of every order are right where elements are zero.
    #[track_caller]
    pub fn prod(&self, dims: &[isize], keepdim: bool) -> Tensor {
        let axes = match self.reduced(dims) {
            Ok(axes) => axes,
            Err(message) => return self.fail("prod", message),
        };
        let x = self.counted();
        if axes.is_empty() {
            return x;
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
            return x.sum(dims, keepdim).add(x.constant_like(1.0));
        }
        let lines: Shape = [shape.elements(), length].into();
        x.permute(&order).reshape(lines).products("prod", 1).narrow(1, length - 1, 1).reshape(shape)
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
