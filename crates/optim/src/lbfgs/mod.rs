//! L-BFGS.

mod flat;
mod memory;
mod wolfe;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use wgrad_nn::Param;
use wgrad_tensor::{Tensor, grad_allow_unused};

use self::{
    flat::{Flat, dot, largest, leaves},
    memory::Memory,
    wolfe::{Limits, Trial, strong_wolfe},
};
use crate::{
    Clipping, OptimError, Optimizer, OptimizerState, ParamGroup, StepOutcome,
    clip::global_norm,
    error::{check, check_not_negative},
};

/// Limited-memory BFGS (Liu and Nocedal, 1989), computed as PyTorch's `LBFGS` computes it. With gradients `g`, changes of the
/// point `s` and changes of the gradient `y`, the last `history_size` pairs of which are remembered, each iteration moves
///
/// ```text
/// d = -H g,   H by the two-loop recursion from (s, y), H₀ = (s·y) / (y·y)
/// p ← p + t d
/// ```
///
/// with `t = lr` (`lr min(1, 1 / Σ|g|)` at the first), or found by a search for the strong Wolfe conditions. It is for small,
/// smooth problems with full batches: it takes a closure that computes the loss again,
/// [`Optimizer::step_closure`], keeps `2 history_size` vectors, and has no groups, weight decay, clipping or accumulation.
#[derive(Debug)]
pub struct Lbfgs {
    config: LbfgsConfig,
    flat: Flat,
    lr: f64,
    clipping: Option<Clipping>,
    maximize: bool,
    memory: Memory,
}

/// The constants of [`Lbfgs`].
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LbfgsConfig {
    /// Iterations of a step.
    pub max_iter: usize,
    /// Evaluations of the loss per step; `max_iter * 5 / 4` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_eval: Option<usize>,
    /// A step ends when no element of the gradient is larger.
    pub tolerance_grad: f64,
    /// A step ends when neither the loss nor any parameter changes by more.
    pub tolerance_change: f64,
    /// Pairs that are remembered.
    pub history_size: usize,
    /// How steps are chosen; absent for the learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line_search_fn: Option<LineSearch>,
}

impl Default for LbfgsConfig {
    /// PyTorch's: 20 iterations, 100 pairs, tolerances 1e-7 and 1e-9, no line search; its learning rate is 1.
    fn default() -> Self {
        LbfgsConfig {
            max_iter: 20,
            max_eval: None,
            tolerance_grad: 1e-7,
            tolerance_change: 1e-9,
            history_size: 100,
            line_search_fn: None,
        }
    }
}

/// How the length of a step is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineSearch {
    /// By a search for the strong Wolfe conditions.
    StrongWolfe,
}

/// Computes the loss from the parameters as they are.
type Closure<'a> = &'a mut dyn FnMut() -> Tensor;

/// Loss and gradient at a point.
#[derive(Clone)]
struct Point {
    loss: f64,
    gradient: Tensor,
    largest: f64,
    /// As computed: the loss, and the norm of the gradient.
    outcome: (Tensor, Tensor),
    unused: Vec<String>,
}

impl LbfgsConfig {
    /// Whether the constants make sense.
    ///
    /// # Errors
    /// [`OptimError::Value`] names the first one that does not, and what it may be.
    pub fn check(&self) -> Result<(), OptimError> {
        check("max_iter", self.max_iter > 0, self.max_iter, "1 or more")?;
        check("max_eval", self.max_eval != Some(0), self.max_eval.unwrap_or(1), "1 or more")?;
        check("history_size", self.history_size > 0, self.history_size, "1 or more")?;
        check_not_negative("tolerance_grad", self.tolerance_grad)?;
        check_not_negative("tolerance_change", self.tolerance_change)
    }
}

impl Lbfgs {
    /// With a learning rate of 1. Parameters that are frozen now are left out, those that occur twice are taken once.
    ///
    /// # Errors
    /// Groups differ in their learning rate or direction, or have weight decay; parameters are not of one dtype; a constant makes no
    /// sense.
    pub fn new(groups: Vec<ParamGroup>, config: LbfgsConfig) -> Result<Self, OptimError> {
        let unsuited = |message: &str| Err(OptimError::Unsuited(message.to_owned()));
        let maximize = groups.first().is_some_and(|g| g.maximize);
        let uniform = |g: &ParamGroup| g.weight_decay == 0.0 && g.lr_scale == 1.0 && g.maximize == maximize;
        if !groups.iter().filter(|g| !g.params.is_empty()).all(uniform) {
            return unsuited(
                "L-BFGS minimises one function of all parameters: it has no weight decay and no learning rates of groups; add a \
                penalty to the loss instead",
            );
        }
        config.check()?;
        let (mut seen, mut names): (Vec<Param>, HashSet<String>) = (Vec::new(), HashSet::new());
        let mut params: Vec<(String, Param)> = Vec::new();
        for (name, param) in groups.into_iter().flat_map(|g| g.params) {
            let value = param.tensor();
            let usable = !param.is_frozen() && value.dtype().is_float() && value.elements() > 0;
            if usable && !seen.iter().any(|p| p.is_same(&param)) && names.insert(name.clone()) {
                seen.push(param.clone());
                params.push((name, param));
            }
        }
        if !params.windows(2).all(|pair| pair[0].1.tensor().dtype() == pair[1].1.tensor().dtype()) {
            return unsuited("L-BFGS takes parameters of one dtype");
        }
        let flat = Flat::new(params);
        Ok(Lbfgs { config, flat, lr: 1.0, clipping: None, maximize, memory: Memory::default() })
    }

    /// The constants.
    pub fn config(&self) -> &LbfgsConfig {
        &self.config
    }

    /// Evaluations of the loss so far.
    pub fn func_evals(&self) -> u64 {
        self.memory.func_evals
    }

    /// The loss and its gradient at the parameters as they are.
    fn evaluate(&self, closure: Closure<'_>) -> Result<Point, OptimError> {
        let values = self.flat.values();
        let loss = closure();
        let gradients = grad_allow_unused(&loss, &values.iter().collect::<Vec<_>>())?;
        let all = self.flat.params.iter().zip(&gradients);
        let unused = all.filter(|(_, g)| g.is_none()).map(|((name, _), _)| name.clone()).collect();
        let zeros = |v: &Tensor| Tensor::zeros(v.shape(), v.dtype(), v.device());
        let gradients: Vec<Tensor> =
            values.iter().zip(gradients).map(|(v, g)| g.unwrap_or_else(|| zeros(v))).collect();
        let mut gradient = self.flat.gather(&gradients);
        if self.maximize {
            gradient = gradient.neg();
        }
        let norm = global_norm([&gradient]).unwrap_or_else(|| loss.clone());
        let [loss, gradient, most, norm] = leaves([loss, gradient.clone(), largest(&gradient), norm])?;
        let sign = if self.maximize { -1.0 } else { 1.0 };
        let (value, largest) = (sign * loss.item()?, most.item()?);
        Ok(Point { loss: value, gradient, largest, outcome: (loss, norm), unused })
    }

    /// The iterations of one step, from the point where the parameters are; returns the new point and memory.
    fn iterate(
        &self,
        x: &Tensor,
        first: Point,
        closure: Closure<'_>,
    ) -> Result<(Tensor, Memory), OptimError> {
        let LbfgsConfig { max_iter, tolerance_grad, tolerance_change, .. } = self.config;
        let max_eval = self.config.max_eval.unwrap_or(max_iter * 5 / 4);
        let (mut x, mut point, mut memory) = (x.clone(), first, self.memory.clone());
        let mut evaluations = 1;
        memory.func_evals += 1;
        for iteration in 1..=max_iter {
            memory.n_iter += 1;
            let d = memory.direction(&point.gradient, self.config.history_size)?;
            let before = point.loss;
            memory.prev_flat_grad = Some(point.gradient.clone());
            let [slope, longest] = leaves([dot(&point.gradient, &d), largest(&d)])?;
            let (slope, longest) = (slope.item()?, longest.item()?);
            let mut t = self.lr;
            if memory.n_iter == 1 {
                t *= point.gradient.abs().sum_all().item()?.recip().min(1.0);
            }
            (memory.d, memory.t) = (Some(d.clone()), t);
            // Not downhill by more than rounding.
            if slope > -tolerance_change {
                break;
            }
            let moved = |x: &Tensor, t: f64| x.add(d.mul(t)).to_leaf();
            let mut used = 0;
            if self.config.line_search_fn.is_some() {
                let start = Trial { t: 0.0, loss: point.loss, slope, gradient: point.clone() };
                let iterations = max_eval.saturating_sub(evaluations);
                let limits = Limits { longest, tolerance_change, iterations };
                let found = strong_wolfe(&start, t, limits, |t| {
                    self.flat.install(&moved(&x, t)?);
                    let point = self.evaluate(closure)?;
                    let slope = dot(&point.gradient, &d).item()?;
                    Ok::<_, OptimError>(Trial { t, loss: point.loss, slope, gradient: point })
                })?;
                (t, point, used) = (found.trial.t, found.trial.gradient, found.evaluations);
                memory.t = t;
                x = moved(&x, t)?;
                self.flat.install(&x);
            } else {
                x = moved(&x, t)?;
                self.flat.install(&x);
                // The next step begins with an evaluation in any case.
                if iteration != max_iter {
                    point = self.evaluate(closure)?;
                    used = 1;
                }
            }
            evaluations += used;
            memory.func_evals += used as u64;
            let done = evaluations >= max_eval
                || point.largest <= tolerance_grad
                || longest * t.abs() <= tolerance_change
                || (point.loss - before).abs() < tolerance_change;
            if done {
                break;
            }
        }
        Ok((x, memory))
    }
}

impl Optimizer for Lbfgs {
    fn step(&mut self, _loss: &Tensor) -> Result<StepOutcome, OptimError> {
        Err(OptimError::Unsuited(
            "L-BFGS needs the loss at several points; call `step_closure` with a closure that computes it"
                .to_owned(),
        ))
    }

    fn step_closure(&mut self, closure: &mut dyn FnMut() -> Tensor) -> Result<StepOutcome, OptimError> {
        check_not_negative("lr", self.lr)?;
        let unsuited = |message: String| Err(OptimError::Unsuited(message));
        if let Some((name, _)) = self.flat.params.iter().find(|(_, param)| param.is_frozen()) {
            return unsuited(format!("`{name}` was frozen after this L-BFGS was made; make a new one"));
        }
        if let Some(name) = self.flat.changed() {
            return unsuited(format!(
                "`{name}` has changed its shape since this L-BFGS was made; make a new one"
            ));
        }
        if self.clipping.is_some() {
            return unsuited(
                "L-BFGS learns curvature from gradients as they are; do not clip them".to_owned(),
            );
        }
        let first = self.evaluate(closure)?;
        if self.flat.params.is_empty() || first.unused.len() == self.flat.params.len() {
            let message = "the loss depends on no parameter of this L-BFGS; compute it in the closure from `Param::tensor`";
            return Err(OptimError::NothingToTrain(message.to_owned()));
        }
        let (loss, grad_norm) = first.outcome.clone();
        let outcome = StepOutcome { loss, grad_norm, unused: first.unused.clone() };
        let finite = first.loss.is_finite() && first.largest.is_finite();
        if !finite || first.largest <= self.config.tolerance_grad {
            // At a minimum, or where there is no direction: whoever reads the loss will see.
            self.memory.func_evals += 1;
            return Ok(outcome);
        }
        let old = self.flat.values();
        let x = self.flat.gather(&old).to_leaf()?;
        match self.iterate(&x, first, closure) {
            Ok((x, memory)) => {
                self.flat.install(&x);
                self.memory = memory;
                Ok(outcome)
            }
            Err(error) => {
                self.flat.params.iter().zip(old).for_each(|((_, param), value)| param.set(value));
                Err(error)
            }
        }
    }

    fn accumulate(&mut self, _loss: &Tensor) -> Result<Tensor, OptimError> {
        Err(OptimError::Unsuited(
            "L-BFGS does not accumulate gradients; let the closure compute the mean loss of all micro-batches".to_owned(),
        ))
    }

    fn grads(&self, loss: &Tensor) -> Result<Vec<(String, Option<Tensor>)>, OptimError> {
        let values = self.flat.values();
        let gradients = grad_allow_unused(loss, &values.iter().collect::<Vec<_>>())?;
        Ok(self.flat.params.iter().map(|(name, _)| name.clone()).zip(gradients).collect())
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

    fn set_momentum(&mut self, _momentum: f64) -> bool {
        false
    }

    fn state_dict(&self) -> OptimizerState {
        self.memory.write(self.flat.params.iter().map(|(name, _)| name.as_str()).collect())
    }

    fn load_state_dict(&mut self, state: &OptimizerState) -> Result<(), OptimError> {
        let names = self.flat.params.iter().map(|(name, _)| name.as_str()).collect();
        let like = self.flat.values();
        let Some(like) = like.first() else { return Ok(()) };
        self.memory = Memory::read(state, names, self.flat.len(), like)?;
        Ok(())
    }
}
