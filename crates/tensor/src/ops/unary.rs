//! Elementwise functions of one operand.

use wgrad_ir::{DType, Op, UnaryOp};

use crate::Tensor;

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $method(&self) -> Tensor {
                Tensor::elementwise(stringify!($method), Op::Unary(UnaryOp::$op), &[self])
            }
        )*}
    };
}

unary! {
    /// `-x` (float, i32).
    neg Neg;
    /// `|x|` (float, i32); the gradient at 0 is 0.
    abs Abs;
    /// `eˣ` (float).
    exp Exp;
    /// Natural logarithm (float).
    log Log;
    /// `√x` (float).
    sqrt Sqrt;
    /// `1/√x` (float).
    rsqrt Rsqrt;
    /// `1/x` (float).
    reciprocal Recip;
    /// Hyperbolic tangent (float).
    tanh Tanh;
    /// The error function `2/√π ∫₀ˣ e^(-t²) dt` (float).
    erf Erf;
    /// Sine of radians (float).
    sin Sin;
    /// Cosine of radians (float).
    cos Cos;
    /// Largest integer not above `x` (float); its gradient is 0.
    floor Floor;
    /// Logical negation (bool).
    logical_not Not;
}

impl Tensor {
    /// `x²`, as a product.
    #[track_caller]
    pub fn square(&self) -> Tensor {
        Tensor::elementwise("square", Op::Binary(wgrad_ir::BinaryOp::Mul), &[self, self])
    }

    /// The elements as another dtype: float to integer truncates and saturates, to `bool` is `x != 0`. Gradients pass between
    /// floats only. Carries an error where the device does not compute in that dtype.
    #[track_caller]
    pub fn cast(&self, dtype: DType) -> Tensor {
        if self.dtype() == dtype {
            return self.clone();
        }
        if let Some(error) = self.error() {
            // In the dtype all the same: so what widens its operands finds them wide.
            return Tensor::faulty(error.clone(), dtype, self.device().clone());
        }
        if dtype == DType::F64 && !self.device().caps().f64 {
            return self.fail("cast", format!("{} does not compute in f64", self.device().info().id));
        }
        Tensor::elementwise("cast", Op::Cast(dtype), &[self])
    }

    /// The same elements, through which no gradient flows.
    #[track_caller]
    pub fn detach(&self) -> Tensor {
        if let Some(buffer) = self.0.elements.get() {
            let leaf =
                Tensor::leaf(buffer, self.shape().clone(), self.dtype(), self.device().clone(), self.0.range);
            return match self.name() {
                Some(name) => leaf.named(name),
                None => leaf,
            };
        }
        Tensor::elementwise("detach", Op::StopGradient, &[self])
    }
}
