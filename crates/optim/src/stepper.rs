//! The machinery that all optimizers share: one training step as one program.

use std::{
    collections::{HashMap, HashSet},
    slice,
};

use wgrad_nn::Param;
use wgrad_tensor::{DType, Donation, Shape, Tensor, eval_donating, grad_allow_unused};

use crate::{
    GradScaler, Numbers, OptimError, Optimizer, OptimizerState, ParamGroup, StepOutcome, UpdateRule,
    arena::{Arena, Member, Part, build, with_name},
    clip::{Clipping, clip_adaptive, clip_coefficient, clip_value, global_norm},
    error::check_not_negative,
    saved,
};

/// An [`Optimizer`] from an [`UpdateRule`], or from one for each group of parameters.
#[derive(Debug)]
pub struct Stepper<R> {
    /// One for each group.
    rules: Vec<R>,
    groups: Vec<ParamGroup>,
    lr: f64,
    clipping: Option<Clipping>,
    scaler: Option<GradScaler>,
    /// In the order of their first parameters.
    arenas: Vec<Arena>,
    accumulated: Option<Accumulated>,
}

/// The loss over micro-batches; the gradients are in the arenas.
#[derive(Debug)]
struct Accumulated {
    count: usize,
    loss: Tensor,
}

/// A step before it has run.
struct Traced {
    loss: Tensor,
    grad_norm: Tensor,
    /// Number of an arena, its new values and its new states.
    updates: Vec<(usize, Tensor, Vec<Tensor>)>,
    /// The state of the scaler.
    scaler: Option<[Tensor; 2]>,
}

impl<R: UpdateRule> Stepper<R> {
    /// An optimizer with the rule's default learning rate and no clipping. A parameter that occurs twice belongs to the first
    /// group.
    ///
    /// The parameters are moved into the optimizer's memory here: each becomes a slice of a tensor that holds many.
    pub fn with_rule(groups: Vec<ParamGroup>, rule: R) -> Self
    where
        R: Clone,
    {
        Stepper::with_rules(groups.into_iter().map(|group| (group, rule.clone())).collect())
    }

    /// As [`Stepper::with_rule`], each group by a rule of its own: other betas for one of them, or, with `Box<dyn UpdateRule>`, Muon
    /// for matrices and AdamW for the rest. All are updated by one program. The learning rate is the first rule's default.
    pub fn with_rules(groups: Vec<(ParamGroup, R)>) -> Self {
        let (mut groups, rules): (Vec<ParamGroup>, Vec<R>) = groups.into_iter().unzip();
        let (mut names, mut seen): (HashSet<String>, Vec<Param>) = (HashSet::new(), Vec::new());
        for group in &mut groups {
            group.params.retain(|(name, param)| {
                let new = !seen.iter().any(|p| p.is_same(param)) && names.insert(name.clone());
                if new {
                    seen.push(param.clone());
                }
                new
            });
        }
        let lr = rules.first().map_or(1e-3, UpdateRule::default_lr);
        let mut stepper = Stepper {
            rules,
            groups,
            lr,
            clipping: None,
            scaler: None,
            arenas: Vec::new(),
            accumulated: None,
        };
        // Where this fails, the parameters stay where they are, and the first step tries again and tells.
        if let Ok(arenas) = build(stepper.members(|param| !param.is_frozen()), &|_, _| Vec::new()) {
            arenas.iter().for_each(Arena::install);
            stepper.arenas = arenas;
        }
        stepper
    }

    /// The groups.
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// The rules with their constants, one for each group.
    pub fn rules(&self) -> &[R] {
        &self.rules
    }

    /// Refuses settings that no step can be made with.
    fn check(&self) -> Result<(), OptimError> {
        check_not_negative("lr", self.lr)?;
        self.clipping.map_or(Ok(()), |clipping| clipping.check())?;
        self.scaler.as_ref().map_or(Ok(()), GradScaler::check)?;
        self.rules.iter().try_for_each(UpdateRule::check)?;
        self.groups.iter().try_for_each(ParamGroup::check)
    }

    /// Names and shapes of what the rule of a group keeps.
    fn states(&self) -> impl Fn(usize, &Shape) -> Vec<(&'static str, Shape)> + use<'_, R> {
        |group, shape| self.rules[group].states(shape)
    }

    /// The names of all rules, each once.
    fn rule_name(&self) -> String {
        let mut names: Vec<&str> = self.rules.iter().map(UpdateRule::name).collect();
        names.dedup();
        names.join("+")
    }

    /// Group, name and parameter, in order: the number of a parameter is its place here.
    fn params(&self) -> impl Iterator<Item = (usize, &str, &Param)> {
        let groups = self.groups.iter().enumerate();
        groups.flat_map(|(group, g)| g.params.iter().map(move |(name, param)| (group, name.as_str(), param)))
    }

    /// The floating-point parameters that are `wanted`, to be laid out as never updated.
    fn members(&self, wanted: impl Fn(&Param) -> bool) -> Vec<Member> {
        let all = self.params().enumerate().filter(|(_, (_, _, param))| wanted(param));
        let members = all.map(|(index, (group, name, param))| Member {
            group,
            steps: 0,
            index,
            name: name.to_owned(),
            param: param.clone(),
            value: param.tensor(),
            state: None,
            sum: None,
            shaped: !self.rules[group].is_elementwise(),
            used: true,
        });
        members.filter(|m| m.value.dtype().is_float() && m.value.elements() > 0).collect()
    }

    /// The gradients of `loss`, numbered as the parameters are; `None` for frozen ones.
    fn gradients(&self, loss: &Tensor) -> Result<Vec<Option<Tensor>>, OptimError> {
        let values: Vec<Option<Tensor>> =
            self.params().map(|(_, _, param)| (!param.is_frozen()).then(|| param.tensor())).collect();
        let active: Vec<&Tensor> = values.iter().flatten().collect();
        if active.is_empty() {
            let message = "no parameter to train: every one is frozen, or the optimizer was given none";
            return Err(OptimError::NothingToTrain(message.to_owned()));
        }
        let mut found = grad_allow_unused(loss, &active)?.into_iter();
        Ok(values.iter().map(|value| value.as_ref().and_then(|_| found.next().flatten())).collect())
    }

    /// As [`Stepper::gradients`], of the loss as the scaler wants it.
    fn scaled_gradients(&self, loss: &Tensor) -> Result<Vec<Option<Tensor>>, OptimError> {
        match &self.scaler {
            Some(scaler) => self.gradients(&scaler.scaled(loss)),
            None => self.gradients(loss),
        }
    }

    /// Brings the arenas up to date for a step with these gradients: what has been set from outside is copied in, what no longer
    /// takes part is laid elsewhere. No value changes thereby. Afterwards all parts of an arena have a gradient, or none has.
    fn arrange(&mut self, gradients: &[Option<Tensor>]) -> Result<(), OptimError> {
        let mut placed = vec![false; gradients.len()];
        let (mut members, mut problems, mut stays) = (Vec::new(), Vec::new(), Vec::new());
        for arena in &self.arenas {
            let used = |part: &Part| {
                !part.param.is_frozen() && (arena.sum.is_some() || gradients[part.index].is_some())
            };
            arena.parts.iter().for_each(|part| placed[part.index] = true);
            let count = arena.parts.iter().filter(|part| used(part)).count();
            let stay = count == 0 || count == arena.parts.len() && arena.is_current();
            stays.push(stay);
            if !stay {
                for member in arena.members(used) {
                    member.map_or_else(|problem| problems.push(problem), |member| members.push(member));
                }
            }
        }
        if !problems.is_empty() {
            return Err(OptimError::State { problems });
        }
        if placed.iter().zip(gradients).any(|(placed, gradient)| !placed && gradient.is_some()) {
            let fresh = self.members(|_| true).into_iter();
            members.extend(fresh.filter(|m| !placed[m.index] && gradients[m.index].is_some()));
        }
        if members.is_empty() {
            return Ok(());
        }
        let new = build(members, &self.states())?;
        new.iter().for_each(Arena::install);
        let mut stays = stays.into_iter();
        self.arenas.retain(|_| stays.next().unwrap_or(true));
        self.arenas.extend(new);
        self.arenas.sort_by_key(|arena| arena.parts.first().map(|part| part.index));
        Ok(())
    }

    /// Refuses parameters that their rules cannot update.
    fn suits(&self, gradients: &[Option<Tensor>]) -> Result<(), OptimError> {
        let refused = self.params().enumerate().find_map(|(index, (group, name, param))| {
            gradients[index].as_ref()?;
            let (rule, value) = (&self.rules[group], param.tensor());
            let reason = rule.refuses(value.shape())?;
            let (rule, shape) = (rule.name(), value.shape());
            Some(format!("{rule} cannot update `{name}` of shape {shape}: {reason}"))
        });
        refused.map_or(Ok(()), |message| Err(OptimError::Unsuited(message)))
    }

    /// Gives arenas that are updated for the first time states of zeros. They are stored, not written into the expression, so that
    /// the first step runs the same program as all others.
    fn remember(&mut self, gradients: &[Option<Tensor>]) -> Result<(), OptimError> {
        let rules = &self.rules;
        let states = |group: usize, shape: &Shape| rules[group].states(shape);
        for arena in self.arenas.iter_mut().filter(|a| a.state.is_none()) {
            if arena.gradient(gradients).is_none() {
                continue;
            }
            // One by one: in one program, equal states would be one tensor.
            let zeros = |(_, shape): &(&str, Shape)| {
                let zeros = Tensor::zeros(shape, arena.value.dtype(), arena.value.device());
                zeros.realize().map(|()| zeros)
            };
            let state = states(arena.group, arena.shape()).iter().map(zeros).collect::<Result<Vec<_>, _>>();
            let state = state.map_err(|error| with_name(error, slice::from_ref(arena)))?;
            arena.put_state(&states, &state);
        }
        Ok(())
    }

    /// Norm, clipping and updates as expressions. Nothing but these holds the gradients afterwards.
    fn trace(&self, loss: &Tensor, gradients: Vec<Option<Tensor>>) -> Option<Traced> {
        let flat = self.arenas.iter().map(|arena| arena.gradient(&gradients));
        let mut flat: Vec<Option<Tensor>> = flat.collect();
        let mut mean_loss = loss.clone();
        if let Some(old) = &self.accumulated {
            let share =
                |t: &Tensor| t.mul(Tensor::scalar(1.0 / (old.count + 1) as f64, t.dtype(), t.device()));
            mean_loss = share(&old.loss.add(loss));
            flat.iter_mut().flatten().for_each(|g| *g = share(g));
        }
        if let Some(scaler) = &self.scaler {
            flat.iter_mut().flatten().for_each(|g| *g = scaler.unscaled(g));
        }
        let grad_norm = global_norm(flat.iter().flatten())?;
        // No comparison holds for a NaN.
        let finite = self.scaler.as_ref().map(|_| grad_norm.lt(f64::from(f32::MAX)));
        let coefficient = match self.clipping {
            Some(Clipping::Norm(max_norm)) => Some(clip_coefficient(&grad_norm, max_norm)),
            _ => None,
        };
        let mut updates = Vec::new();
        // Arenas of one group that have had equally many updates share their numbers.
        let mut numbers: HashMap<(usize, u64, DType), Numbers> = HashMap::new();
        for (number, (arena, gradient)) in self.arenas.iter().zip(flat).enumerate() {
            let (Some(gradient), Some(state)) = (gradient, &arena.state) else { continue };
            let mut gradient = match (self.clipping, &coefficient) {
                (Some(Clipping::Value(value)), _) => clip_value(&gradient, value),
                (Some(Clipping::Adaptive { clip_factor, eps }), _) => {
                    arena.map_parts(&gradient, |p, g| clip_adaptive(p, g, clip_factor, eps))
                }
                (_, Some(c)) => gradient.mul(c.cast(gradient.dtype())),
                (_, None) => gradient,
            };
            let (group, rule) = (&self.groups[arena.group], &self.rules[arena.group]);
            if group.maximize {
                gradient = gradient.neg();
            }
            let (dtype, steps) = (arena.value.dtype(), arena.steps + 1);
            let n = numbers.entry((arena.group, steps, dtype)).or_insert_with(|| {
                let values = rule.numbers(self.lr * group.lr_scale, group.weight_decay, steps);
                Numbers::new(&values, dtype, arena.value.device())
            });
            let seen = |flat: &Tensor| flat.reshape(arena.shape());
            let (value, state) = rule.update(&seen(&arena.value), &seen(&gradient), state, n);
            let value = value.reshape(arena.value.shape());
            let (value, state) = match &finite {
                None => (value, state),
                Some(finite) => {
                    let old = arena.state.iter().flatten();
                    let state = state.iter().zip(old).map(|(new, old)| finite.where_(new, old)).collect();
                    (finite.where_(&value, &arena.value), state)
                }
            };
            updates.push((number, value, state));
        }
        let scaler = self.scaler.as_ref().zip(finite.as_ref()).map(|(scaler, finite)| scaler.next(finite));
        Some(Traced { loss: mean_loss, grad_norm, updates, scaler })
    }

    /// Computes a traced step, in the memory of the old values and states where nobody else needs them.
    fn run(&self, loss: &Tensor, traced: &Traced) -> Result<(), OptimError> {
        let mut wanted = vec![&traced.loss, &traced.grad_norm];
        if self.accumulated.is_some() {
            wanted.push(loss);
        }
        wanted.extend(traced.scaler.iter().flatten());
        let (mut leaves, mut holders) = (Vec::new(), Vec::new());
        for (number, value, state) in &traced.updates {
            wanted.push(value);
            wanted.extend(state);
            let arena = &self.arenas[*number];
            leaves.push(&arena.value);
            leaves.extend(arena.state.iter().flatten());
            // The parameter's cell and the arena hold each part.
            holders.extend(arena.parts.iter().flat_map(|part| [&part.bound, &part.bound]));
        }
        let sums = self.arenas.iter().filter_map(|arena| arena.sum.as_ref());
        leaves.extend(sums);
        holders.extend(&leaves);
        let donation = Donation { leaves: &leaves, holders: &holders, by: "the optimizer's step" };
        Ok(eval_donating(&wanted, &donation).map_err(|error| with_name(error, &self.arenas))?)
    }

    /// Whether a step with these gradients changes something.
    fn has_gradient(&self, gradients: &[Option<Tensor>]) -> bool {
        let gathered = self
            .arenas
            .iter()
            .any(|arena| arena.sum.is_some() && arena.parts.iter().any(|part| !part.param.is_frozen()));
        gathered || gradients.iter().any(Option::is_some)
    }
}

impl<R: UpdateRule> Optimizer for Stepper<R> {
    fn step(&mut self, loss: &Tensor) -> Result<StepOutcome, OptimError> {
        self.check()?;
        let gradients = self.scaled_gradients(loss)?;
        let nothing = || {
            let message = "the loss depends on none of the trainable parameters; compute it anew for each step, from the model's \
                tensors as they are then (`Param::tensor`), and not from detached ones: making the optimizer and every step \
                give parameters new tensors, so that a loss computed before is one of the old ones";
            OptimError::NothingToTrain(message.to_owned())
        };
        if !self.has_gradient(&gradients) {
            return Err(nothing());
        }
        self.arrange(&gradients)?;
        self.suits(&gradients)?;
        self.remember(&gradients)?;
        let traced = self.trace(loss, gradients).ok_or_else(nothing)?;
        self.run(loss, &traced)?;

        let mut updated = vec![false; self.params().count()];
        let rules = &self.rules;
        let states = |group: usize, shape: &Shape| rules[group].states(shape);
        for (number, value, state) in &traced.updates {
            let arena = &mut self.arenas[*number];
            arena.steps += 1;
            arena.put(value);
            arena.put_state(&states, state);
            arena.parts.iter().for_each(|part| updated[part.index] = true);
        }
        if let (Some(scaler), Some(state)) = (&mut self.scaler, &traced.scaler) {
            scaler.put(state);
        }
        self.arenas.iter_mut().for_each(|arena| arena.sum = None);
        self.accumulated = None;
        let idle =
            self.params().zip(updated).filter(|((_, _, param), updated)| !updated && !param.is_frozen());
        let unused = idle.map(|((_, name, _), _)| name.to_owned()).collect();
        let (loss, grad_norm) = (traced.loss.detach_realized(), traced.grad_norm.detach_realized());
        Ok(StepOutcome { loss, grad_norm, unused })
    }

    fn accumulate(&mut self, loss: &Tensor) -> Result<Tensor, OptimError> {
        self.check()?;
        let gradients = self.scaled_gradients(loss)?;
        self.arrange(&gradients)?;
        let sums: Vec<Option<Tensor>> = self.arenas.iter().map(|arena| arena.gradient(&gradients)).collect();
        drop(gradients);
        let (count, total) = match &self.accumulated {
            Some(old) => (old.count + 1, old.loss.add(loss)),
            None => (1, loss.clone()),
        };
        let mut wanted = vec![loss, &total];
        wanted.extend(sums.iter().flatten());
        let leaves: Vec<&Tensor> = self.arenas.iter().filter_map(|arena| arena.sum.as_ref()).collect();
        let donation = Donation { leaves: &leaves, holders: &leaves, by: "the optimizer's sum of gradients" };
        eval_donating(&wanted, &donation)?;
        for (arena, sum) in self.arenas.iter_mut().zip(&sums) {
            if let Some(sum) = sum {
                arena.sum = Some(sum.detach_realized());
            }
        }
        self.accumulated = Some(Accumulated { count, loss: total.detach_realized() });
        Ok(loss.detach_realized())
    }

    fn grads(&self, loss: &Tensor) -> Result<Vec<(String, Option<Tensor>)>, OptimError> {
        let gradients = self.gradients(loss)?;
        let active = self.params().zip(gradients).filter(|((_, _, param), _)| !param.is_frozen());
        Ok(active.map(|((_, name, _), gradient)| (name.to_owned(), gradient)).collect())
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_clipping(&mut self, clipping: Option<Clipping>) {
        self.clipping = clipping;
    }

    fn set_grad_scaler(&mut self, scaler: Option<GradScaler>) -> bool {
        self.scaler = scaler;
        true
    }

    fn set_momentum(&mut self, momentum: f64) -> bool {
        // Every rule is told.
        let told: Vec<bool> = self.rules.iter_mut().map(|rule| rule.set_momentum(momentum)).collect();
        told.contains(&true)
    }

    fn state_dict(&self) -> OptimizerState {
        let mut state = saved::write(&self.rule_name(), &self.states(), &self.arenas);
        state.tensors.extend(self.scaler.iter().flat_map(GradScaler::saved));
        state
    }

    fn load_state_dict(&mut self, state: &OptimizerState) -> Result<(), OptimError> {
        let mut scaler = self.scaler.clone();
        if let Some(scaler) = &mut scaler {
            scaler.load(&state.tensors);
        }
        let mut state = state.clone();
        state.tensors.retain(|(name, _)| !GradScaler::owns(name));
        let members = saved::read(&state, &self.rule_name(), &self.states(), self.members(|_| true))?;
        let arenas = build(members, &self.states())?;
        arenas.iter().for_each(Arena::install);
        self.arenas = arenas;
        self.scaler = scaler;
        self.accumulated = None;
        Ok(())
    }
}
