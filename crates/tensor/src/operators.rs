//! `+ - * /` and unary `-` for tensors and numbers, owned or borrowed, on either side.

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::{IntoOperand, Tensor};

macro_rules! operators {
    ($($trait:ident $method:ident;)*) => {$(
        operators!(@tensor $trait $method, Tensor, Tensor);
        operators!(@tensor $trait $method, Tensor, &Tensor);
        operators!(@tensor $trait $method, &Tensor, Tensor);
        operators!(@tensor $trait $method, &Tensor, &Tensor);
        operators!(@number $trait $method, Tensor);
        operators!(@number $trait $method, &Tensor);
    )*};
    (@tensor $trait:ident $method:ident, $left:ty, $right:ty) => {
        impl $trait<$right> for $left {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: $right) -> Tensor {
                // Named in full: inside this impl, `self.add` would be this very method.
                let (left, right): (&Tensor, &Tensor) = (&self, &other);
                Tensor::$method(left, right)
            }
        }
    };
    (@number $trait:ident $method:ident, $tensor:ty) => {
        impl $trait<f64> for $tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: f64) -> Tensor {
                let tensor: &Tensor = &self;
                Tensor::$method(tensor, other)
            }
        }
        impl $trait<$tensor> for f64 {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: $tensor) -> Tensor {
                let (tensor, number) = self.beside(&other);
                Tensor::$method(&number, tensor)
            }
        }
    };
}

operators! {
    Add add;
    Sub sub;
    Mul mul;
    Div div;
}

impl Neg for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        Tensor::neg(self)
    }
}

impl Neg for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        Tensor::neg(&self)
    }
}
