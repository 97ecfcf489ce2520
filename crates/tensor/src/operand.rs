//! Operands of binary operations: tensors and Rust numbers, broadcast to one shape.

use wgrad_ir::{DType, Op, Shape};

use crate::Tensor;

/// The right-hand side of a binary operation: a tensor, or a number that takes the other operand's dtype and device.
///
/// Beside integers and truth values a number means what it means in PyTorch: a whole one is an integer (beside `bool`, an `i32`),
/// and wraps where the dtype does not hold it; any other one, 0.5 or NaN, makes both operands `f32`. Nothing is cut off.
pub trait IntoOperand: Sized {
    /// The operand beside `like`.
    fn into_operand(self, like: &Tensor) -> Tensor;

    /// Both operands of an arithmetic operation.
    fn beside(self, left: &Tensor) -> (Tensor, Tensor) {
        (left.clone(), self.into_operand(left))
    }

    /// Both operands of a logical operation, to which a number is true unless it is 0.
    fn logical(self, left: &Tensor) -> (Tensor, Tensor) {
        (left.clone(), self.into_operand(left))
    }

    /// Both operands of a comparison, which is one of numbers, whatever the dtype holds.
    fn compared(self, left: &Tensor) -> (Tensor, Tensor) {
        (left.clone(), self.into_operand(left))
    }
}

impl IntoOperand for &Tensor {
    fn into_operand(self, _: &Tensor) -> Tensor {
        self.clone()
    }
}

impl IntoOperand for Tensor {
    fn into_operand(self, _: &Tensor) -> Tensor {
        self
    }
}

impl IntoOperand for f64 {
    fn into_operand(self, like: &Tensor) -> Tensor {
        Tensor::scalar(self, like.dtype(), like.device())
    }

    fn beside(self, left: &Tensor) -> (Tensor, Tensor) {
        // What an `i64` does not hold is a float in PyTorch, too.
        let whole = self.fract() == 0.0 && self.abs() < 9e18;
        match left.dtype() {
            dtype if dtype.is_float() || left.error().is_some() => (left.clone(), self.into_operand(left)),
            _ if !whole => (left.cast(DType::F32), Tensor::scalar(self, DType::F32, left.device())),
            DType::Bool => self.beside(&left.cast(DType::I32)),
            dtype => {
                let bits = self as i64;
                let wrapped = match dtype {
                    DType::U8 => f64::from(bits as u8),
                    DType::U32 => f64::from(bits as u32),
                    _ => f64::from(bits as i32),
                };
                (left.clone(), Tensor::scalar(wrapped, dtype, left.device()))
            }
        }
    }

    fn compared(self, left: &Tensor) -> (Tensor, Tensor) {
        let held = match left.dtype() {
            DType::U8 => 0.0..=f64::from(u8::MAX),
            DType::U32 => 0.0..=f64::from(u32::MAX),
            DType::I32 => f64::from(i32::MIN)..=f64::from(i32::MAX),
            DType::Bool => 0.0..=1.0,
            _ => return (left.clone(), self.into_operand(left)),
        };
        if left.error().is_some() || self.fract() == 0.0 && held.contains(&self) {
            (left.clone(), self.into_operand(left))
        } else {
            (left.cast(DType::F32), Tensor::scalar(self, DType::F32, left.device()))
        }
    }
}

impl Tensor {
    /// The structural constant `value` in this tensor's dtype, rank 0.
    pub(crate) fn constant_like(&self, value: f64) -> Tensor {
        Tensor::constant(value, self.dtype(), self.device())
    }

    /// Adds axes of extent 1 in front up to the rank of `to`, then repeats. The caller has checked that it fits.
    #[track_caller]
    pub(crate) fn stretch(&self, name: &'static str, to: &Shape) -> Tensor {
        if self.shape() == to || self.error().is_some() {
            return self.clone();
        }
        let ones = to.rank().saturating_sub(self.rank());
        let aligned: Shape = (0..ones).map(|_| 1).chain(self.shape().iter().copied()).collect();
        let aligned =
            if ones == 0 { self.clone() } else { Tensor::apply(name, Op::Reshape(aligned), &[self]) };
        if aligned.shape() == to { aligned } else { Tensor::apply(name, Op::Expand(to.clone()), &[&aligned]) }
    }

    /// Appends an elementwise primitive, its operands broadcast as NumPy does.
    #[track_caller]
    pub(crate) fn elementwise(name: &'static str, op: Op, operands: &[&Tensor]) -> Tensor {
        if let Some(faulty) = operands.iter().find(|t| t.error().is_some()) {
            return (*faulty).clone();
        }
        let mut common = Shape::scalar();
        for operand in operands {
            match common.broadcast(operand.shape()) {
                Some(shape) => common = shape,
                None => {
                    let shapes: Vec<String> = operands.iter().map(|t| t.describe()).collect();
                    return operand.fail(
                        name,
                        format!(
                            "cannot broadcast {}: extents, aligned at the end, must be equal or 1",
                            shapes.join(" with ")
                        ),
                    );
                }
            }
        }
        match operands {
            [a] => Tensor::apply(name, op, &[a]),
            [a, b] => {
                let message = || {
                    format!(
                        "expects operands of one dtype, got {} and {}; `cast` one",
                        a.describe(),
                        b.describe()
                    )
                };
                if a.dtype() != b.dtype() {
                    return a.fail(name, message());
                }
                Tensor::apply(name, op, &[&a.stretch(name, &common), &b.stretch(name, &common)])
            }
            _ => {
                let mut stretched = Vec::with_capacity(operands.len());
                for operand in operands {
                    stretched.push(operand.stretch(name, &common));
                }
                let operands: Vec<&Tensor> = stretched.iter().collect();
                Tensor::apply(name, op, &operands)
            }
        }
    }
}
