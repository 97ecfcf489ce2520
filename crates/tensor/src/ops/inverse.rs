//! Inverse trigonometric functions, composed of others.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4};

use wgrad_ir::DType;

use crate::{Tensor, function_with_gradient};

impl Tensor {
    /// The angle in `(-π/2, π/2)` whose tangent is `x` (float): Gregory's series after reduction to `|x| <= tan(π/8)`.
    #[track_caller]
    pub fn atan(&self) -> Tensor {
        if !self.dtype().is_float() {
            return self.fail("atan", format!("expects floats, got {}; `cast` first", self.describe()));
        }
        let y = function_with_gradient(
            "atan",
            &[self],
            1,
            |x| vec![arctangent(&x[0])],
            |back| {
                let x = &back.operands[0];
                vec![back.cotangents[0].div(x.square().add(x.constant_like(1.0)))]
            },
        );
        y[0].clone()
    }
}

fn arctangent(x: &Tensor) -> Tensor {
    let c = |value: f64| x.constant_like(value);
    let z = x.abs();
    // atan z = π/2 - atan(1/z) beyond 1; atan z = π/4 + atan((z - 1)/(z + 1)) beyond tan(π/8).
    let inverted = z.gt(c(1.0));
    let t = inverted.where_(&z.maximum(c(1.0)).reciprocal(), &z);
    let shifted = t.gt(c(std::f64::consts::SQRT_2 - 1.0));
    let t = shifted.where_(&t.sub(c(1.0)).div(t.add(c(1.0))), &t);
    // Σ (-1)ⁿ t^(2n+1)/(2n+1): t² <= 0.172, so the first term left out is below half a unit in the last place.
    let terms = if x.dtype() == DType::F64 { 20 } else { 9 };
    let square = t.square();
    let coefficient = |n: i32| if n % 2 == 0 { 1.0 } else { -1.0 } / f64::from(2 * n + 1);
    let series = (0..terms - 1)
        .rev()
        .fold(c(coefficient(terms - 1)), |sum, n| sum.mul(&square).add(c(coefficient(n))));
    let angle = t.mul(series);
    let angle = shifted.where_(&angle.add(c(FRAC_PI_4)), &angle);
    let angle = inverted.where_(&c(FRAC_PI_2).sub(&angle), &angle);
    x.lt(c(0.0)).where_(&angle.neg(), &angle)
}
