//! What an optimizer remembers, for checkpoints.

use wgrad_tensor::Tensor;

/// Everything that an optimizer needs to go on as if it had not been interrupted: tensors for a safetensors file, and numbers
/// for a JSON file. Settings (learning rate, betas, groups) are not part of it; they come from the recipe.
#[derive(Clone, Debug)]
pub struct OptimizerState {
    /// `PARAMETER.STATE` (`wte.weight.exp_avg`) and values, in the order of the groups.
    pub tensors: Vec<(String, Tensor)>,
    /// The rule's name, and how many updates each parameter has had.
    pub scalars: serde_json::Value,
}
