//! The update rules, one file each: formula, defaults, source.

mod adadelta;
mod adafactor;
mod adafactor_hf;
mod adagrad;
mod adam;
mod adamax;
mod adamw;
mod asgd;
mod lamb;
mod lion;
mod muon;
mod nadam;
mod radam;
mod rmsprop;
mod rprop;
mod sgd;

pub use adadelta::{Adadelta, AdadeltaConfig};
pub use adafactor::{Adafactor, AdafactorConfig};
pub use adafactor_hf::{AdafactorHf, AdafactorHfConfig};
pub use adagrad::{Adagrad, AdagradConfig};
pub use adam::{Adam, AdamConfig};
pub use adamax::{Adamax, AdamaxConfig};
pub use adamw::{AdamW, AdamWConfig};
pub use asgd::{Asgd, AsgdConfig};
pub use lamb::{Lamb, LambConfig};
pub use lion::{Lion, LionConfig};
pub use muon::{AdjustLr, Muon, MuonConfig};
pub use nadam::{NAdam, NAdamConfig};
pub use radam::{RAdam, RAdamConfig};
pub use rmsprop::{RmsProp, RmsPropConfig};
pub use rprop::{Rprop, RpropConfig};
pub use sgd::{Sgd, SgdConfig};

use wgrad_tensor::Tensor;

/// How an optimizer is made of groups and constants.
macro_rules! stepper {
    ($config:ident) => {
        impl crate::Stepper<$config> {
            /// With the default learning rate of the rule; see [`Optimizer::set_lr`](crate::Optimizer::set_lr).
            pub fn new(groups: Vec<crate::ParamGroup>, config: $config) -> Self {
                crate::Stepper::with_rule(groups, config)
            }
        }
    };
}
pub(crate) use stepper;

/// `a + w (b - a)`.
fn lerp(a: &Tensor, b: &Tensor, w: &Tensor) -> Tensor {
    a.add(b.sub(a).mul(w))
}

/// `βᵗ`, in f64 for any `t`.
fn power(beta: f64, t: u64) -> f64 {
    beta.powf(t as f64)
}

/// `-1`, 0 or 1 (0 for NaN).
fn sign(x: &Tensor) -> Tensor {
    let constant = |value| Tensor::constant(value, x.dtype(), x.device());
    let negative = x.lt(constant(0.0)).where_(&constant(-1.0), &constant(0.0));
    x.gt(constant(0.0)).where_(&constant(1.0), &negative)
}

/// `√(Σ x²)`, rank 0.
fn norm(x: &Tensor) -> Tensor {
    x.square().sum_all().sqrt()
}
