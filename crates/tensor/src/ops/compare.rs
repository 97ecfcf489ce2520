//! Comparisons (broadcast; the result is `bool`), and choices by them.

use wgrad_ir::{CompareOp, Op};

use crate::{IntoOperand, Tensor};

macro_rules! compare {
    ($($(#[$doc:meta])* $method:ident $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $method(&self, other: impl IntoOperand) -> Tensor {
                let (left, other) = other.compared(self);
                Tensor::elementwise(stringify!($method), Op::Compare(CompareOp::$op), &[&left, &other])
            }
        )*}
    };
}

compare! {
    /// `a == b`
    eq Eq;
    /// `a != b`
    ne Ne;
    /// `a < b`
    lt Lt;
    /// `a <= b`
    le Le;
    /// `a > b`
    gt Gt;
    /// `a >= b`
    ge Ge;
}

impl Tensor {
    /// `self ? a : b` elementwise; `self` is `bool`, all three are broadcast.
    #[track_caller]
    pub fn where_(&self, a: &Tensor, b: &Tensor) -> Tensor {
        Tensor::elementwise("where", Op::Select, &[self, a, b])
    }

    /// `value` where `mask` (bool) holds, else the element; the value is a parameter of the program.
    #[track_caller]
    pub fn masked_fill(&self, mask: &Tensor, value: f64) -> Tensor {
        let value = Tensor::scalar(value, self.dtype(), self.device());
        Tensor::elementwise("masked_fill", Op::Select, &[mask, &value, self])
    }
}
