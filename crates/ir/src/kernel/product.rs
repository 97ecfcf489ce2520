//! Products and convolutions, with what follows them.

use super::{Expr, ExprNode, Operand, Store};
use crate::{ConvSpec, DType, Shape};

/// A batched matrix product and what follows it elementwise: bias, activation, the activation's gradient, residuals.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MatMulKernel {
    /// Batch extents.
    pub batch: Shape,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of the contraction; a product of length 0 is 0.
    pub k: usize,
    /// Element type of the product and its terms.
    pub dtype: DType,
    /// Element types of `a` and `b` in memory: `dtype`, or a 16-bit float that is converted to it when it is loaded.
    pub operands: [DType; 2],
    /// `[batch.., m, k]`.
    pub a: Operand,
    /// `[batch.., k, n]`.
    pub b: Operand,
    /// The epilogue over `[batch.., m, n]`, operands first; [`Expr::Product`] is the product's element.
    pub exprs: Vec<ExprNode>,
    /// The results, at least one. No stored buffer is also loaded or an operand.
    pub stores: Vec<Store>,
    /// A buffer for `Σ_k b[k, n]`, row-major `[batch.., n]`, in a fixed order: where `b` is the cotangent of a product with a bias, the
    /// bias's gradient, for which `b` need not be read again.
    pub column_sums: Option<u32>,
    /// How a device that would idle over few results may share the contraction out; what is computed is the same.
    pub split: Option<SplitK>,
}

/// A contraction in parts of equal length: partial products first, then their sums in the order of the parts, and what follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SplitK {
    /// How many, at least two; they divide the length.
    pub parts: usize,
    /// Scratch for the partial products, row-major `[parts, batch.., m, n]`.
    pub products: u32,
    /// Scratch for the column sums of the parts, row-major `[parts, batch.., n]`, where column sums are wanted.
    pub sums: Option<u32>,
}

impl SplitK {
    /// The scratch arguments.
    pub fn scratch(&self) -> impl Iterator<Item = u32> + use<> {
        [Some(self.products), self.sums].into_iter().flatten()
    }
}

impl MatMulKernel {
    /// The extents of the product.
    pub fn space(&self) -> Shape {
        self.batch.iter().copied().chain([self.m, self.n]).collect()
    }

    /// Whether the product itself is the only result, stored row-major: nothing is fused.
    pub fn is_plain(&self) -> bool {
        let [store] = self.stores.as_slice() else { return false };
        if self.column_sums.is_some() {
            return false;
        }
        matches!(self.exprs[store.value.index()].expr, Expr::Product) && store.view.is_contiguous()
    }
}

/// A convolution and what follows it elementwise. The matrix of all windows that the product would need never exists in memory:
/// devices form it a tile at a time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConvKernel {
    /// Strides, paddings (not negative) and dilations; every `spread` is 1.
    pub spec: ConvSpec,
    /// Element type of the product and its terms.
    pub dtype: DType,
    /// Element types of `x` and `w` in memory: `dtype`, or a 16-bit float that is converted to it when it is loaded.
    pub operands: [DType; 2],
    /// `[n, g, c, sp..]`.
    pub x: Operand,
    /// `[g, o, c, taps..]`.
    pub w: Operand,
    /// The epilogue over the result's shape, operands first; [`Expr::Product`] is the element of the convolution.
    pub exprs: Vec<ExprNode>,
    /// The results, at least one. No stored buffer is also loaded or an operand.
    pub stores: Vec<Store>,
}

impl ConvKernel {
    /// The extents of the result; empty where the operands do not fit.
    pub fn result(&self) -> Shape {
        self.spec.result(&self.x.view.shape, &self.w.view.shape).unwrap_or_default()
    }

    /// Terms of one result: channels times taps.
    pub fn terms(&self) -> usize {
        self.w.view.shape[2..].iter().product()
    }

    /// Results of one channel of one image.
    pub fn places(&self) -> usize {
        self.result()[3..].iter().product()
    }

    /// Whether the convolution itself is the only result, stored row-major: nothing is fused.
    pub fn is_plain(&self) -> bool {
        let [store] = self.stores.as_slice() else { return false };
        matches!(self.exprs[store.value.index()].expr, Expr::Product) && store.view.is_contiguous()
    }
}
