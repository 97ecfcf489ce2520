//! What tells one optimizer from another.

use wgrad_runtime::DeviceHandle;
use wgrad_tensor::{DType, Tensor};

/// The formula by which an optimizer changes parameters, element by element. A new optimizer is one implementation of this trait;
/// [`Stepper`](crate::Stepper) makes a full [`Optimizer`](crate::Optimizer) of it.
pub trait UpdateRule {
    /// The rule's name in saved states.
    fn name(&self) -> &'static str;

    /// The names of the tensors that the rule keeps for each parameter, of the parameter's shape. Spelt as PyTorch spells them.
    fn state_names(&self) -> &'static [&'static str];

    /// The numbers that a parameter's update takes, for its `step`-th update (from 1). They become inputs of the program.
    fn numbers(&self, lr: f64, weight_decay: f64, step: u64) -> Vec<f64>;

    /// The new value of a parameter and its new states. `state` holds what [`UpdateRule::state_names`] lists, zeros before the
    /// first update; `n` holds what [`UpdateRule::numbers`] gave, as tensors of rank 0.
    ///
    /// All tensors are flat: they hold many parameters end to end, with zeros in gaps between them. So the new value of an element
    /// must be a function of that element alone.
    fn update(
        &self,
        param: &Tensor,
        gradient: &Tensor,
        state: &[Tensor],
        n: &Numbers,
    ) -> (Tensor, Vec<Tensor>);
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
