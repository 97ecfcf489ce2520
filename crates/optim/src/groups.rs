//! Which parameters are trained, and with which settings.

use wgrad_nn::{Module, Param};

use crate::{OptimError, error::check_not_negative};

/// Parameters that share their settings.
#[derive(Clone, Debug)]
pub struct ParamGroup {
    /// Names and parameters.
    pub params: Vec<(String, Param)>,
    /// Weight decay of this group.
    pub weight_decay: f64,
    /// The learning rate of this group is the optimizer's times this.
    pub lr_scale: f64,
    /// Whether these parameters climb the loss instead of descending it: their gradients enter with the other sign.
    pub maximize: bool,
}

impl ParamGroup {
    /// Parameters with their names.
    pub fn new(params: Vec<(String, Param)>, weight_decay: f64) -> Self {
        ParamGroup { params, weight_decay, lr_scale: 1.0, maximize: false }
    }

    /// The parameters of a module that `wanted` picks by name and value, in the module's order.
    pub fn of(
        module: &(impl Module + ?Sized),
        weight_decay: f64,
        mut wanted: impl FnMut(&str, &Param) -> bool,
    ) -> Self {
        let params =
            module.named_parameters().into_iter().filter(|(name, param)| wanted(name, param)).collect();
        ParamGroup::new(params, weight_decay)
    }

    /// Whether the settings make sense.
    ///
    /// # Errors
    /// [`OptimError::Value`]: weight decay or the factor of the learning rate is negative or not finite.
    pub fn check(&self) -> Result<(), OptimError> {
        check_not_negative("weight_decay", self.weight_decay)?;
        check_not_negative("lr_scale", self.lr_scale)
    }

    /// The same parameters with their learning rate multiplied.
    #[must_use]
    pub fn with_lr_scale(mut self, lr_scale: f64) -> Self {
        self.lr_scale = lr_scale;
        self
    }

    /// The same parameters, made to climb the loss.
    #[must_use]
    pub fn maximizing(mut self) -> Self {
        self.maximize = true;
        self
    }
}

/// One group with every parameter.
pub fn all_parameters(module: &(impl Module + ?Sized), weight_decay: f64) -> Vec<ParamGroup> {
    vec![ParamGroup::of(module, weight_decay, |_, _| true)]
}

/// Two groups, the usual ones for transformers: parameters of two or more dimensions (matrices and tables) decay, biases and
/// the weights of norms do not.
pub fn decay_matrices_only(module: &(impl Module + ?Sized), weight_decay: f64) -> Vec<ParamGroup> {
    vec![
        ParamGroup::of(module, weight_decay, |_, param| param.tensor().rank() >= 2),
        ParamGroup::of(module, 0.0, |_, param| param.tensor().rank() < 2),
    ]
}
