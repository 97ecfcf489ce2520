//! Loss scaling for training in f16 (Micikevicius et al., *Mixed Precision Training*, 2018).

use wgrad_tensor::{DType, DeviceHandle, Tensor};

use crate::{OptimError, error::check};

/// A dynamic loss scale, as PyTorch's `GradScaler` keeps it: the loss is multiplied by the scale before it is differentiated, so that
/// small gradients survive in f16, and the gradients are divided by it before they are used. A step whose gradients are not all
/// finite changes no parameter and no state, and lowers the scale; after `growth_interval` finite steps in succession it is raised.
///
/// All of it happens on the device, within the step's program: the host never waits to learn whether a step was skipped. So a
/// skipped step counts as one for schedules and for bias corrections (PyTorch's count for the latter does not move then).
#[derive(Clone, Debug)]
pub struct GradScaler {
    /// The scale and the number of finite steps since it last changed, `f32`, rank 0.
    state: [Tensor; 2],
    /// The scale to begin with.
    first: f64,
    /// What the scale is multiplied by after enough finite steps.
    pub growth_factor: f64,
    /// What it is multiplied by after a step with gradients that are not finite.
    pub backoff_factor: f64,
    /// How many finite steps are enough.
    pub growth_interval: u32,
}

/// The names of the state in a checkpoint.
const NAMES: [&str; 2] = ["grad_scaler.scale", "grad_scaler.growth_tracker"];

impl GradScaler {
    /// PyTorch's defaults: a scale of 65,536, doubled after 2000 finite steps and halved after one that is not.
    pub fn new(device: &DeviceHandle) -> Self {
        GradScaler::with_scale(65536.0, device)
    }

    /// Another scale to begin with.
    pub fn with_scale(scale: f64, device: &DeviceHandle) -> Self {
        let leaf = |x: f64| Tensor::from_vec(vec![x as f32], [], device);
        GradScaler {
            state: [leaf(scale), leaf(0.0)],
            first: scale,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
        }
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// [`OptimError::Value`] names the one that does not, and what it may be.
    pub fn check(&self) -> Result<(), OptimError> {
        let GradScaler { first, growth_factor, backoff_factor, growth_interval, .. } = *self;
        check("scale", first > 0.0 && first.is_finite(), first, "above 0 and finite")?;
        check(
            "growth_factor",
            growth_factor >= 1.0 && growth_factor.is_finite(),
            growth_factor,
            "1 or more",
        )?;
        check("backoff_factor", 0.0 < backoff_factor && backoff_factor < 1.0, backoff_factor, "in 0..1")?;
        check("growth_interval", growth_interval > 0, growth_interval, "1 or more")
    }

    /// The scale of the next step.
    pub fn scale(&self) -> &Tensor {
        &self.state[0]
    }

    /// The loss to differentiate.
    pub(crate) fn scaled(&self, loss: &Tensor) -> Tensor {
        loss.mul(self.scale().cast(loss.dtype()))
    }

    /// The gradient of the loss from that of the scaled one.
    pub(crate) fn unscaled(&self, gradient: &Tensor) -> Tensor {
        gradient.mul(self.scale().reciprocal().cast(gradient.dtype()))
    }

    /// The state after a step whose gradients were `finite`, or not.
    pub(crate) fn next(&self, finite: &Tensor) -> [Tensor; 2] {
        let [scale, good] = &self.state;
        let number = |x: f64| Tensor::constant(x, DType::F32, scale.device());
        let good = good.add(number(1.0));
        let full = good.ge(number(f64::from(self.growth_interval)));
        let grown = full.where_(&scale.mul(number(self.growth_factor)), scale);
        [
            finite.where_(&grown, &scale.mul(number(self.backoff_factor))),
            finite.logical_and(full.logical_not()).where_(&good, &number(0.0)),
        ]
    }

    /// Keeps a state that has been computed.
    pub(crate) fn put(&mut self, state: &[Tensor; 2]) {
        self.state = state.each_ref().map(Tensor::detach_realized);
    }

    /// The state under its names in a checkpoint.
    pub(crate) fn saved(&self) -> impl Iterator<Item = (String, Tensor)> {
        NAMES.iter().zip(&self.state).map(|(name, tensor)| ((*name).to_owned(), tensor.clone().named(*name)))
    }

    /// Whether a tensor of a checkpoint is part of a scaler's state.
    pub(crate) fn owns(name: &str) -> bool {
        NAMES.contains(&name)
    }

    /// Goes on from a checkpoint's state, where there is one.
    pub(crate) fn load(&mut self, tensors: &[(String, Tensor)]) {
        for (own, name) in self.state.iter_mut().zip(NAMES) {
            let found = tensors.iter().find(|(n, t)| n == name && t.rank() == 0 && t.dtype() == DType::F32);
            if let Some((_, tensor)) = found {
                *own = tensor.to_device(own.device());
            }
        }
    }
}
