//! Averages of weights: exponential moving average, stochastic weight averaging, lookahead. All three move a set of weights
//! towards a target, `θ ← θ + α (θ_target - θ)`; they differ in `α` and in when.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use wgrad_nn::Param;
use wgrad_tensor::{Donation, Tensor, TensorError, eval_donating};

use crate::{Clipping, GradScaler, OptimError, Optimizer, OptimizerState, StepOutcome};

/// `θ + α (θ_target - θ)` for each weight, in one program and in the memory of the old ones where nobody else needs them. All
/// tensors are leaves.
///
/// # Errors
/// A tensor cannot be computed; `weights` are as before then.
pub fn lerp(weights: &mut [Tensor], targets: &[Tensor], alpha: f64) -> Result<(), TensorError> {
    let towards = |(w, t): (&Tensor, &Tensor)| w.add(t.sub(w).mul(alpha));
    let moved: Vec<Tensor> = weights.iter().zip(targets).map(towards).collect();
    let leaves: Vec<&Tensor> = weights.iter().collect();
    let wanted: Vec<&Tensor> = moved.iter().collect();
    let donation = Donation { leaves: &leaves, holders: &leaves, by: "an average of weights" };
    eval_donating(&wanted, &donation)?;
    for (weight, moved) in weights.iter_mut().zip(&moved) {
        *weight = moved.to_leaf()?;
    }
    Ok(())
}

/// How weights are averaged.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Averaging {
    /// Exponential moving average: `α = 1 - decay` (PyTorch's `get_ema_multi_avg_fn`).
    Ema {
        /// How much of the average stays.
        decay: f64,
    },
    /// Stochastic weight averaging (Izmailov et al., 2018): the mean of all updates, `α = 1 / (n + 1)` after `n` (PyTorch's
    /// `AveragedModel` by default).
    Swa,
}

/// Averages of parameters beside the parameters themselves, as PyTorch's `AveragedModel`. The first update copies.
#[derive(Debug)]
pub struct AveragedModel {
    averaging: Averaging,
    params: Vec<(String, Param)>,
    averages: Vec<Tensor>,
    n_averaged: u64,
    /// Whether the parameters hold the averages, and `averages` what they held.
    swapped: bool,
}

impl AveragedModel {
    /// Averages of these parameters (`module.named_parameters()`), none taken yet.
    pub fn new(params: Vec<(String, Param)>, averaging: Averaging) -> Self {
        AveragedModel { averaging, params, averages: Vec::new(), n_averaged: 0, swapped: false }
    }

    /// Takes the parameters as they are into the averages.
    ///
    /// # Errors
    /// A parameter cannot be computed; the averages are in the model ([`AveragedModel::swap`]); a decay is not in `0..=1`.
    pub fn update_parameters(&mut self) -> Result<(), OptimError> {
        if self.swapped {
            let message = "the model holds its averages; swap them back before it is averaged again";
            return Err(OptimError::Unsuited(message.to_owned()));
        }
        if let Averaging::Ema { decay } = self.averaging {
            crate::error::check("decay", (0.0..=1.0).contains(&decay), decay, "in 0..=1")?;
        }
        let now: Vec<Tensor> = self.params.iter().map(|(_, param)| param.tensor()).collect();
        if self.n_averaged == 0 {
            self.averages = now.iter().map(copied).collect::<Result<_, _>>()?;
        } else {
            let alpha = match self.averaging {
                Averaging::Ema { decay } => 1.0 - decay,
                Averaging::Swa => 1.0 / (self.n_averaged + 1) as f64,
            };
            lerp(&mut self.averages, &now, alpha)?;
        }
        self.n_averaged += 1;
        Ok(())
    }

    /// Exchanges parameters and averages: once for an evaluation of the averaged model, and again to go on training. Before the
    /// first update nothing happens.
    pub fn swap(&mut self) {
        for ((_, param), average) in self.params.iter().zip(&mut self.averages) {
            let now = param.tensor();
            param.set(std::mem::replace(average, now));
        }
        self.swapped = !self.swapped && self.n_averaged > 0;
    }

    /// Updates so far.
    pub fn n_averaged(&self) -> u64 {
        self.n_averaged
    }

    /// Names and averages, in the order of the parameters; empty before the first update.
    pub fn averages(&self) -> Vec<(String, Tensor)> {
        let average = |((name, param), average): (&(String, Param), &Tensor)| {
            (name.clone(), if self.swapped { param.tensor() } else { average.clone() })
        };
        self.params.iter().zip(&self.averages).map(average).collect()
    }

    /// For a checkpoint.
    pub fn state_dict(&self) -> OptimizerState {
        OptimizerState { tensors: self.averages(), scalars: json!({ "n_averaged": self.n_averaged }) }
    }

    /// Goes on from a saved state, bit for bit.
    ///
    /// # Errors
    /// The state is of other parameters; nothing has changed then.
    pub fn load_state_dict(&mut self, state: &OptimizerState) -> Result<(), OptimError> {
        let unfit = |problem: String| OptimError::State { problems: vec![problem] };
        let count = state.scalars.get("n_averaged").and_then(serde_json::Value::as_u64);
        let count = count.ok_or_else(|| unfit("`n_averaged` is missing".to_owned()))?;
        let averages = if count == 0 { Vec::new() } else { read(&self.params, &state.tensors, "")? };
        (self.averages, self.n_averaged, self.swapped) = (averages, count, false);
        Ok(())
    }
}

/// Lookahead (Zhang et al., 2019) around another optimizer: after every `k` updates, slow weights move towards the fast ones that
/// the inner optimizer trains, `θ ← θ + α (θ_fast - θ)`, and the fast ones begin again from there.
#[derive(Debug)]
pub struct Lookahead<O> {
    inner: O,
    params: Vec<(String, Param)>,
    slow: Vec<Tensor>,
    k: u64,
    alpha: f64,
    updates: u64,
}

impl<O: Optimizer> Lookahead<O> {
    /// Around `inner`, for the parameters that it trains; the paper's `k` is 5 and its `alpha` 0.5.
    ///
    /// # Errors
    /// A parameter cannot be computed; `k` is 0 or `alpha` not in 0 to 1.
    pub fn new(inner: O, params: Vec<(String, Param)>, k: u64, alpha: f64) -> Result<Self, OptimError> {
        crate::error::check("k", k > 0, k, "1 or more")?;
        crate::error::check("alpha", (0.0..=1.0).contains(&alpha), alpha, "in 0..=1")?;
        let slow = params.iter().map(|(_, param)| copied(&param.tensor())).collect::<Result<_, _>>()?;
        Ok(Lookahead { inner, params, slow, k, alpha, updates: 0 })
    }

    /// The inner optimizer.
    pub fn inner(&self) -> &O {
        &self.inner
    }

    fn look(&mut self) -> Result<(), OptimError> {
        self.updates += 1;
        if self.updates.is_multiple_of(self.k) {
            let fast: Vec<Tensor> = self.params.iter().map(|(_, param)| param.tensor()).collect();
            lerp(&mut self.slow, &fast, self.alpha)?;
            for ((_, param), slow) in self.params.iter().zip(&self.slow) {
                param.set(copied(slow)?);
            }
        }
        Ok(())
    }
}

impl<O: Optimizer> Optimizer for Lookahead<O> {
    fn step(&mut self, loss: &Tensor) -> Result<StepOutcome, OptimError> {
        let outcome = self.inner.step(loss)?;
        self.look()?;
        Ok(outcome)
    }

    fn step_closure(&mut self, closure: &mut dyn FnMut() -> Tensor) -> Result<StepOutcome, OptimError> {
        let outcome = self.inner.step_closure(closure)?;
        self.look()?;
        Ok(outcome)
    }

    fn accumulate(&mut self, loss: &Tensor) -> Result<Tensor, OptimError> {
        self.inner.accumulate(loss)
    }

    fn grads(&self, loss: &Tensor) -> Result<Vec<(String, Option<Tensor>)>, OptimError> {
        self.inner.grads(loss)
    }

    fn set_lr(&mut self, lr: f64) {
        self.inner.set_lr(lr);
    }

    fn lr(&self) -> f64 {
        self.inner.lr()
    }

    fn set_clipping(&mut self, clipping: Option<Clipping>) {
        self.inner.set_clipping(clipping);
    }

    fn set_grad_scaler(&mut self, scaler: Option<GradScaler>) -> bool {
        self.inner.set_grad_scaler(scaler)
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        self.inner.set_momentum(momentum)
    }

    fn state_dict(&self) -> OptimizerState {
        let OptimizerState { mut tensors, scalars } = self.inner.state_dict();
        let slow = self.params.iter().zip(&self.slow);
        tensors.extend(slow.map(|((name, _), slow)| (format!("{SLOW}{name}"), slow.clone())));
        OptimizerState { tensors, scalars: json!({ "lookahead": self.updates, "inner": scalars }) }
    }

    fn load_state_dict(&mut self, state: &OptimizerState) -> Result<(), OptimError> {
        let updates = state.scalars.get("lookahead").and_then(serde_json::Value::as_u64);
        let (Some(updates), Some(scalars)) = (updates, state.scalars.get("inner")) else {
            return Err(OptimError::State { problems: vec!["it was not written by lookahead".to_owned()] });
        };
        let (slow, inner): (Vec<_>, Vec<_>) =
            state.tensors.iter().cloned().partition(|(name, _)| name.starts_with(SLOW));
        let slow = read(&self.params, &slow, SLOW)?;
        self.inner.load_state_dict(&OptimizerState { tensors: inner, scalars: scalars.clone() })?;
        (self.slow, self.updates) = (slow, updates);
        Ok(())
    }
}

/// What slow weights are called in saved states.
const SLOW: &str = "slow.";

/// A leaf with memory of its own.
fn copied(tensor: &Tensor) -> Result<Tensor, TensorError> {
    // A sum is computed, where a view or a leaf would be shared with its owner.
    tensor.add(Tensor::scalar(0.0, tensor.dtype(), tensor.device())).to_leaf()
}

/// The saved tensor of each parameter.
fn read(
    params: &[(String, Param)],
    saved: &[(String, Tensor)],
    prefix: &str,
) -> Result<Vec<Tensor>, OptimError> {
    let given: HashMap<&str, &Tensor> = saved.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut problems = Vec::new();
    let mut found = Vec::with_capacity(params.len());
    for (name, param) in params {
        let (key, value) = (format!("{prefix}{name}"), param.tensor());
        match given.get(key.as_str()) {
            Some(t) if t.shape() == value.shape() && t.dtype() == value.dtype() => {
                found.push(copied(&t.to_device(value.device()))?);
            }
            Some(t) => problems.push(format!(
                "`{key}` is {}{} instead of {}{}",
                t.dtype(),
                t.shape(),
                value.dtype(),
                value.shape()
            )),
            None => problems.push(format!("`{key}` is missing")),
        }
    }
    if saved.len() > params.len() {
        problems.push(format!("{} tensors belong to no parameter", saved.len() - params.len()));
    }
    if problems.is_empty() { Ok(found) } else { Err(OptimError::State { problems }) }
}
