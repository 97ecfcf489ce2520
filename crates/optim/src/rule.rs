//! What tells one optimizer from another.

use wgrad_runtime::DeviceHandle;
use wgrad_tensor::{DType, Shape, Tensor};

use crate::OptimError;

/// The formula by which an optimizer changes parameters. A new optimizer is one implementation of this trait;
/// [`Stepper`](crate::Stepper) makes a full [`Optimizer`](crate::Optimizer) of it.
///
/// Most formulas are *elementwise*: the new value of an element is a function of that element, its gradient and its states. They
/// are given flat tensors that hold many parameters end to end, with zeros in gaps between them, so that an update is one
/// kernel. Those that need a parameter as a whole (its norm, its rows, its singular vectors) say so by
/// [`UpdateRule::is_elementwise`] and are given one parameter at a time, in its shape.
pub trait UpdateRule {
    /// The rule's name in saved states.
    fn name(&self) -> &'static str;

    /// Whether the constants make sense: PyTorch's limits, where it has the rule. Checked before each update.
    ///
    /// # Errors
    /// [`OptimError::Value`] names the first constant that does not, and what it may be.
    fn check(&self) -> Result<(), OptimError> {
        Ok(())
    }

    /// The learning rate that an optimizer of this rule begins with: PyTorch's default.
    fn default_lr(&self) -> f64 {
        1e-3
    }

    /// The names of the tensors that an elementwise rule keeps for each parameter, of the parameter's shape. Spelt as PyTorch
    /// spells them.
    fn state_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether the new value of an element is a function of that element alone.
    fn is_elementwise(&self) -> bool {
        true
    }

    /// Names and shapes of the tensors that the rule keeps for a parameter of this shape.
    fn states(&self, shape: &Shape) -> Vec<(&'static str, Shape)> {
        self.state_names().iter().map(|name| (*name, shape.clone())).collect()
    }

    /// Why a parameter of this shape cannot be updated by the rule, and what to do; `None` where it can.
    fn refuses(&self, _shape: &Shape) -> Option<String> {
        None
    }

    /// The numbers that a parameter's update takes, for its `step`-th update (from 1). They become inputs of the program.
    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64>;

    /// The new value of a parameter and its new states. `state` holds what [`UpdateRule::states`] lists, zeros before the
    /// first update; `n` holds what [`UpdateRule::numbers`] gave, as tensors of rank 0.
    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>);

    /// Changes the momentum (or `betas[0]`) of the next updates, for schedules that cycle it. `false` where the rule has none.
    fn set_momentum(&mut self, _momentum: f64) -> bool {
        false
    }
}

impl UpdateRule for Box<dyn UpdateRule> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn check(&self) -> Result<(), OptimError> {
        (**self).check()
    }

    fn default_lr(&self) -> f64 {
        (**self).default_lr()
    }

    fn state_names(&self) -> &'static [&'static str] {
        (**self).state_names()
    }

    fn is_elementwise(&self) -> bool {
        (**self).is_elementwise()
    }

    fn states(&self, shape: &Shape) -> Vec<(&'static str, Shape)> {
        (**self).states(shape)
    }

    fn refuses(&self, shape: &Shape) -> Option<String> {
        (**self).refuses(shape)
    }

    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64> {
        (**self).numbers(lr, weight_decay, step)
    }

    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>) {
        (**self).update(param, gradient, state, n)
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        (**self).set_momentum(momentum)
    }
}

/// The numbers of an update as tensors of rank 0, shared by all parameters that take the same ones.
#[derive(Clone, Debug)]
pub struct Numbers(Vec<Tensor>);

impl Numbers {
    pub(crate) fn new(values: &[f64], dtype: DType, device: &DeviceHandle) -> Self {
        Numbers(values.iter().map(|value| Tensor::scalar(*value, dtype, device)).collect())
    }

    /// As many tensors as the rule gives numbers.
    ///
    /// # Panics
    /// If `N` is not the length of what [`UpdateRule::numbers`] returned: a mistake in the rule.
    pub fn get<const N: usize>(&self) -> [&Tensor; N] {
        std::array::from_fn(|i| &self.0[i])
    }
}
