//! The machinery that all optimizers share: one training step as one program.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::json;
use wgrad_nn::Param;
use wgrad_tensor::{DType, Tensor, eval, grad_allow_unused};

use crate::{
    Numbers, OptimError, OptimizerState, ParamGroup, UpdateRule,
    clip::{clip_coefficient, global_norm},
};

/// Something that changes parameters so that a loss falls.
pub trait Optimizer {
    /// One update. Traces gradients, clipping and update onto the loss, evaluates everything as one program and rebinds the
    /// parameters. Gradients that [`Optimizer::accumulate`] has gathered enter with the same weight as the new ones.
    ///
    /// Frozen parameters are left alone, and so are those that the loss does not depend on (they are listed in
    /// [`StepOutcome::unused`]); neither decays.
    ///
    /// # Errors
    /// The loss, a gradient or the update cannot be computed, or nothing is left to train. Nothing has changed then.
    fn step(&mut self, loss: &Tensor) -> Result<StepOutcome, OptimError>;

    /// Adds the gradients of a micro-batch to those of the next [`Optimizer::step`], which takes the mean of all micro-batches,
    /// its own included. Returns the loss, computed and without history.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    fn accumulate(&mut self, loss: &Tensor) -> Result<Tensor, OptimError>;

    /// The gradients of a loss for the trainable parameters, lazy and unclipped; `None` where the loss does not depend on it.
    ///
    /// # Errors
    /// A tensor carries an error, or an operation has no gradient.
    fn grads(&self, loss: &Tensor) -> Result<Vec<(String, Option<Tensor>)>, OptimError>;

    /// The learning rate of the next steps.
    fn set_lr(&mut self, lr: f64);

    /// The learning rate.
    fn lr(&self) -> f64;

    /// The global norm to which gradients are clipped from now on, or `None` for no clipping (the default).
    fn set_clip_grad_norm(&mut self, max_norm: Option<f64>);

    /// What it remembers, for a checkpoint. Accumulated gradients are not part of it: save after a step.
    fn state_dict(&self) -> OptimizerState;

    /// Goes on from a saved state, bit for bit.
    ///
    /// # Errors
    /// The state is of another kind of optimizer or of other parameters; nothing has changed then.
    fn load_state_dict(&mut self, state: &OptimizerState) -> Result<(), OptimError>;
}

/// What one step did. The tensors are computed and hold no history: read them when it suits, for example a step later, so that
/// the device need not wait.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// The loss before the update, rank 0; the mean over micro-batches where gradients were accumulated.
    pub loss: Tensor,
    /// The global norm of the gradients before clipping, rank 0.
    pub grad_norm: Tensor,
    /// Trainable parameters that the loss does not depend on. They were not changed.
    pub unused: Vec<String>,
}

/// An [`Optimizer`] from an [`UpdateRule`].
#[derive(Debug)]
pub struct Stepper<R> {
    rule: R,
    groups: Vec<ParamGroup>,
    lr: f64,
    clip: Option<f64>,
    memory: HashMap<String, Memory>,
    accumulated: Option<Accumulated>,
}

/// What is kept for one parameter.
#[derive(Clone, Debug)]
struct Memory {
    steps: u64,
    tensors: Vec<Tensor>,
}

/// Sums over micro-batches.
#[derive(Debug)]
struct Accumulated {
    count: usize,
    loss: Tensor,
    gradients: HashMap<String, Tensor>,
}

/// A parameter that takes part in a step.
struct Active<'a> {
    group: usize,
    name: &'a str,
    param: &'a Param,
    value: Tensor,
}

impl<R: UpdateRule> Stepper<R> {
    /// An optimizer with a learning rate of 1e-3 and no clipping. A parameter in two groups belongs to the first one.
    pub fn with_rule(mut groups: Vec<ParamGroup>, rule: R) -> Self {
        let mut seen: HashSet<String> = HashSet::new();
        for group in &mut groups {
            group.params.retain(|(name, _)| seen.insert(name.clone()));
        }
        Stepper { rule, groups, lr: 1e-3, clip: None, memory: HashMap::new(), accumulated: None }
    }

    /// The groups.
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// The rule with its constants.
    pub fn rule(&self) -> &R {
        &self.rule
    }

    fn active(&self) -> Result<Vec<Active<'_>>, OptimError> {
        let all =
            self.groups.iter().enumerate().flat_map(|(group, g)| g.params.iter().map(move |p| (group, p)));
        let active: Vec<Active<'_>> = all
            .filter(|(_, (_, param))| !param.is_frozen())
            .map(|(group, (name, param))| Active { group, name, param, value: param.tensor() })
            .collect();
        if active.is_empty() {
            let message = "no parameter to train: every one is frozen, or the optimizer was given none";
            return Err(OptimError::NothingToTrain(message.to_owned()));
        }
        Ok(active)
    }

    /// Gradients of `loss` plus those gathered so far, in the order of `active`.
    fn sums(&self, active: &[Active<'_>], loss: &Tensor) -> Result<Vec<Option<Tensor>>, OptimError> {
        let values: Vec<&Tensor> = active.iter().map(|a| &a.value).collect();
        let new = grad_allow_unused(loss, &values)?;
        let Some(old) = &self.accumulated else { return Ok(new) };
        let sum = |(new, a): (Option<Tensor>, &Active<'_>)| match (new, old.gradients.get(a.name)) {
            (Some(new), Some(old)) => Some(old.add(&new)),
            (new, old) => new.or_else(|| old.cloned()),
        };
        Ok(new.into_iter().zip(active).map(sum).collect())
    }

    /// Gives parameters that are updated for the first time a state of zeros. They are stored, not written into the expression, so
    /// that the first step runs the same program as all others.
    fn remember(&mut self, names: &[(String, Tensor)]) -> Result<(), OptimError> {
        let states = self.rule.state_names();
        let fresh = names.iter().filter(|(name, _)| !self.memory.contains_key(name)).map(|(name, value)| {
            let zeros = || Tensor::zeros(value.shape(), value.dtype(), value.device());
            (name.clone(), states.iter().map(|_| zeros()).collect())
        });
        let fresh: Vec<(String, Vec<Tensor>)> = fresh.collect();
        eval(&fresh.iter().flat_map(|(_, tensors)| tensors).collect::<Vec<_>>())?;
        for (name, tensors) in fresh {
            let tensors = tensors.iter().map(Tensor::detach_realized).collect();
            self.memory.insert(name, Memory { steps: 0, tensors });
        }
        Ok(())
    }
}

impl<R: UpdateRule> Optimizer for Stepper<R> {
    fn step(&mut self, loss: &Tensor) -> Result<StepOutcome, OptimError> {
        let active = self.active()?;
        let mut gradients = self.sums(&active, loss)?;
        let with_gradient = active.iter().zip(&gradients).filter(|(_, gradient)| gradient.is_some());
        let names: Vec<(String, Tensor)> =
            with_gradient.map(|(a, _)| (a.name.to_owned(), a.value.clone())).collect();
        self.remember(&names)?;
        let active = self.active()?;
        let mut mean_loss = loss.clone();
        if let Some(old) = &self.accumulated {
            let share =
                |t: &Tensor| t.mul(Tensor::scalar(1.0 / (old.count + 1) as f64, t.dtype(), t.device()));
            mean_loss = share(&old.loss.add(loss));
            gradients.iter_mut().flatten().for_each(|g| *g = share(g));
        }
        let Some(grad_norm) = global_norm(gradients.iter().flatten()) else {
            let message = "the loss depends on none of the trainable parameters; compute it from the model's tensors \
                of this step (`Param::tensor`), not from detached or older ones";
            return Err(OptimError::NothingToTrain(message.to_owned()));
        };
        let coefficient = self.clip.map(|max_norm| clip_coefficient(&grad_norm, max_norm));

        let (mut updates, mut unused) = (Vec::new(), Vec::new());
        // Parameters of one group that have had equally many updates share their numbers.
        let mut numbers: HashMap<(usize, u64, DType), Numbers> = HashMap::new();
        for (a, gradient) in active.into_iter().zip(gradients) {
            let Some(gradient) = gradient else {
                unused.push(a.name.to_owned());
                continue;
            };
            let gradient = coefficient
                .as_ref()
                .map_or_else(|| gradient.clone(), |c| gradient.mul(c.cast(gradient.dtype())));
            let Some(memory) = self.memory.get(a.name) else { continue };
            let steps = memory.steps + 1;
            let (group, dtype) = (&self.groups[a.group], a.value.dtype());
            let n = numbers.entry((a.group, steps, dtype)).or_insert_with(|| {
                let values = self.rule.numbers(self.lr * group.lr_scale, group.weight_decay, steps);
                Numbers::new(&values, dtype, a.value.device())
            });
            let (value, tensors) = self.rule.update(&a.value, &gradient, &memory.tensors, n);
            updates.push((a.name.to_owned(), a.param.clone(), value, Memory { steps, tensors }));
        }

        let mut wanted = vec![&mean_loss, &grad_norm];
        for (_, _, value, memory) in &updates {
            wanted.push(value);
            wanted.extend(&memory.tensors);
        }
        eval(&wanted)?;
        for (name, param, value, memory) in updates {
            param.set(value.detach_realized().named(&name));
            let leaf =
                |(state, tensor): (&&str, Tensor)| tensor.detach_realized().named(format!("{name}.{state}"));
            let tensors = self.rule.state_names().iter().zip(memory.tensors).map(leaf).collect();
            self.memory.insert(name, Memory { steps: memory.steps, tensors });
        }
        self.accumulated = None;
        Ok(StepOutcome { loss: mean_loss.detach_realized(), grad_norm: grad_norm.detach_realized(), unused })
    }

    fn accumulate(&mut self, loss: &Tensor) -> Result<Tensor, OptimError> {
        let active = self.active()?;
        let sums = self.sums(&active, loss)?;
        let (count, total) = match &self.accumulated {
            Some(old) => (old.count + 1, old.loss.add(loss)),
            None => (1, loss.clone()),
        };
        let mut wanted = vec![loss, &total];
        wanted.extend(sums.iter().flatten());
        eval(&wanted)?;
        let named = active.iter().zip(&sums);
        let gradients =
            named.filter_map(|(a, sum)| Some((a.name.to_owned(), sum.as_ref()?.detach_realized()))).collect();
        self.accumulated = Some(Accumulated { count, loss: total.detach_realized(), gradients });
        Ok(loss.detach_realized())
    }

    fn grads(&self, loss: &Tensor) -> Result<Vec<(String, Option<Tensor>)>, OptimError> {
        let active = self.active()?;
        let values: Vec<&Tensor> = active.iter().map(|a| &a.value).collect();
        let gradients = grad_allow_unused(loss, &values)?;
        Ok(active.iter().map(|a| a.name.to_owned()).zip(gradients).collect())
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_clip_grad_norm(&mut self, max_norm: Option<f64>) {
        self.clip = max_norm;
    }

    fn state_dict(&self) -> OptimizerState {
        let (mut tensors, mut steps) = (Vec::new(), BTreeMap::new());
        for (name, _) in self.groups.iter().flat_map(|g| &g.params) {
            let Some(memory) = self.memory.get(name) else { continue };
            steps.insert(name.as_str(), memory.steps);
            let named = self.rule.state_names().iter().zip(&memory.tensors);
            tensors.extend(named.map(|(state, tensor)| (format!("{name}.{state}"), tensor.clone())));
        }
        OptimizerState { tensors, scalars: json!({ "rule": self.rule.name(), "steps": steps }) }
    }

    fn load_state_dict(&mut self, state: &OptimizerState) -> Result<(), OptimError> {
        let mut problems = Vec::new();
        let rule = state.scalars.get("rule").and_then(|v| v.as_str()).unwrap_or("nothing known");
        if rule != self.rule.name() {
            problems.push(format!("it was written by {rule}, not by {}", self.rule.name()));
        }
        let none = serde_json::Map::new();
        let steps = state.scalars.get("steps").and_then(|v| v.as_object()).unwrap_or_else(|| {
            problems.push("`steps` is missing".to_owned());
            &none
        });
        let given: HashMap<&str, &Tensor> = state.tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let params: HashMap<&str, &Param> =
            self.groups.iter().flat_map(|g| &g.params).map(|(name, param)| (name.as_str(), param)).collect();
        let (mut memory, mut used) = (HashMap::new(), 0);
        for (name, steps) in steps {
            let (Some(param), Some(steps)) = (params.get(name.as_str()), steps.as_u64()) else {
                problems
                    .push(format!("`{name}` is not a parameter of this optimizer, or its step is no number"));
                continue;
            };
            let value = param.tensor();
            let mut tensors = Vec::new();
            for key in self.rule.state_names().iter().map(|s| format!("{name}.{s}")) {
                match given.get(key.as_str()) {
                    Some(t) if t.shape() == value.shape() && t.dtype() == value.dtype() => {
                        used += 1;
                        tensors.push(t.to_device(value.device()).named(&key));
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
            memory.insert(name.clone(), Memory { steps, tensors });
        }
        if problems.is_empty() && used < given.len() {
            problems.push(format!("{} tensors belong to no parameter of this optimizer", given.len() - used));
        }
        if !problems.is_empty() {
            return Err(OptimError::State { problems });
        }
        self.memory = memory;
        self.accumulated = None;
        Ok(())
    }
}
