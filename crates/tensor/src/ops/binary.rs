//! Arithmetic and logic of two operands, broadcast as NumPy does. A number as operand is a parameter of the program (see
//! [`Tensor::scalar`]); [`IntoOperand`] says which dtype it has.

use wgrad_ir::{BinaryOp, Op};

use crate::{IntoOperand, Tensor};

macro_rules! binary {
    ($pair:ident: $($(#[$doc:meta])* $method:ident $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $method(&self, other: impl IntoOperand) -> Tensor {
                let (left, other) = other.$pair(self);
                Tensor::elementwise(stringify!($method), Op::Binary(BinaryOp::$op), &[&left, &other])
            }
        )*}
    };
}

binary! { beside:
    /// `a + b`; integers wrap.
    add Add;
    /// `a - b`; integers wrap.
    sub Sub;
    /// `a * b`; integers wrap.
    mul Mul;
    /// `a / b`; integers truncate, and give 0 where `b` is 0.
    div Div;
    /// `aᵇ` (float). The gradient for `a` is 0 where `b` is 0, for `b` where `a` is 0.
    pow Pow;
    /// The larger of the two. Where they are equal, each gets half of the gradient.
    maximum Max;
    /// The smaller of the two. Where they are equal, each gets half of the gradient.
    minimum Min;
    /// Remainder with the sign of `a`, `a - b trunc(a / b)`; integers give 0 where `b` is 0.
    fmod Rem;
}

binary! { logical:
    /// Logical and (bool).
    logical_and And;
    /// Logical or (bool).
    logical_or Or;
}
