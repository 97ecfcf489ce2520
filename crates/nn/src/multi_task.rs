//! One loss from the losses of several tasks: `Σ λᵢ Lᵢ`, with weights that are given, learned or balanced.

use wgrad_tensor::{Tensor, eval, grad};

use crate::{Init, Initializer, Module, NnError, Param};

/// `Σ λᵢ Lᵢ` with fixed weights.
///
/// The weights are parameters of the program: others do not compile anew.
#[track_caller]
pub fn weighted_sum(losses: &[&Tensor], weights: &[f64]) -> Tensor {
    let Some(first) = losses.first() else {
        return Tensor::cat(&[], 0);
    };
    if losses.len() != weights.len() {
        let message =
            format!("expects a weight for each of the {} losses, got {}", losses.len(), weights.len());
        return first.invalid("weighted_sum", message);
    }
    let terms = losses.iter().zip(weights).skip(1).map(|(loss, &weight)| loss.mul(weight));
    terms.fold(first.mul(weights[0]), |sum, term| sum.add(term))
}

/// Weights by homoscedastic uncertainty (Kendall, Gal and Cipolla, *Multi-Task Learning Using Uncertainty to Weigh Losses*, 2018):
/// `Σ e^(-sᵢ) Lᵢ / cᵢ + sᵢ / 2` with learned `sᵢ = ln σᵢ²`, where `cᵢ` is 2 for regression (squared errors) and 1 for classification.
#[derive(Clone, Debug, Module)]
pub struct UncertaintyWeights {
    /// `ln σ²` of each task, initially 0.
    pub log_variance: Param,
    /// Which tasks are regressions.
    #[module(skip)]
    pub regression: Vec<bool>,
}

impl UncertaintyWeights {
    /// For as many tasks as there are entries; each says whether the task is a regression.
    pub fn new(init: &Init, regression: Vec<bool>) -> Self {
        UncertaintyWeights { log_variance: init.param([regression.len()], Initializer::Zeros), regression }
    }

    /// The weighted sum of scalar losses.
    #[track_caller]
    pub fn forward(&self, losses: &[&Tensor]) -> Tensor {
        let s = self.log_variance.tensor();
        if losses.len() != self.regression.len() {
            let message = format!(
                "expects a loss for each of the {} tasks, got {}",
                self.regression.len(),
                losses.len()
            );
            return s.invalid("uncertainty_weights", message);
        }
        let half = Tensor::constant(0.5, s.dtype(), s.device());
        let one = Tensor::constant(1.0, s.dtype(), s.device());
        let factors: Vec<Tensor> =
            self.regression.iter().map(|&r| if r { half.unsqueeze(0) } else { one.unsqueeze(0) }).collect();
        let factors = Tensor::cat(&factors.iter().collect::<Vec<_>>(), 0);
        let losses: Vec<Tensor> = losses.iter().map(|loss| loss.reshape([1])).collect();
        let losses = Tensor::cat(&losses.iter().collect::<Vec<_>>(), 0);
        s.neg().exp().mul(factors).mul(losses).add(s.mul(half)).sum_all()
    }
}

/// Weights that balance gradient norms (Chen et al., *GradNorm*, 2018): tasks that learn slowly pull harder.
///
/// With `Gᵢ = λᵢ ‖∇_W Lᵢ‖` over the shared weights `W`, and the training rate `rᵢ = (Lᵢ / Lᵢ(0)) / mean`, the weights descend on
/// `Σ |Gᵢ - mean(G) rᵢ^α|`, whose target is held constant; then they are scaled to sum to the number of tasks.
#[derive(Clone, Debug)]
pub struct GradNorm {
    /// `λᵢ`.
    pub weights: Vec<f64>,
    /// How strongly slow tasks are favoured (α); the paper uses 0.12 to 1.5.
    pub alpha: f64,
    /// Step size of the weights.
    pub lr: f64,
    initial: Option<Vec<f64>>,
}

impl GradNorm {
    /// Weights of 1.
    pub fn new(tasks: usize, alpha: f64, lr: f64) -> Self {
        GradNorm { weights: vec![1.0; tasks], alpha, lr, initial: None }
    }

    /// The loss to train on: `Σ λᵢ Lᵢ`.
    #[track_caller]
    pub fn loss(&self, losses: &[&Tensor]) -> Tensor {
        weighted_sum(losses, &self.weights)
    }

    /// The losses of the first call of [`GradNorm::update`], to save with a checkpoint.
    pub fn initial_losses(&self) -> Option<&[f64]> {
        self.initial.as_deref()
    }

    /// Takes back what [`GradNorm::initial_losses`] gave.
    pub fn restore(&mut self, weights: Vec<f64>, initial: Option<Vec<f64>>) {
        (self.weights, self.initial) = (weights, initial);
    }

    /// Moves the weights by one step, from losses of this step and the weights that all tasks share (the last shared layer is
    /// enough).
    ///
    /// # Errors
    /// The number of losses is not that of the weights; a loss or gradient norm is not finite, or the first loss of a task was not
    /// above 0; evaluation fails. The weights stay as they are then.
    pub fn update(&mut self, losses: &[&Tensor], shared: &[&Tensor]) -> Result<(), NnError> {
        let invalid = |message: String| NnError::Invalid { op: "grad_norm", message };
        let tasks = self.weights.len();
        if losses.len() != tasks || shared.is_empty() {
            let message = format!(
                "expects {tasks} losses and at least one shared weight, got {} and {}",
                losses.len(),
                shared.len()
            );
            return Err(invalid(message));
        }
        let mut wanted: Vec<Tensor> = losses.iter().map(|&loss| loss.clone()).collect();
        for loss in losses {
            let squares = grad(loss, shared)?.iter().map(|g| g.square().sum_all()).reduce(|a, b| a.add(b));
            wanted.extend(squares.map(|sum| sum.sqrt()));
        }
        eval(&wanted.iter().collect::<Vec<_>>())?;
        let numbers = wanted.iter().map(Tensor::item).collect::<Result<Vec<f64>, _>>()?;
        if let Some(bad) = numbers.iter().position(|x| !x.is_finite()) {
            let what = if bad < tasks { "loss" } else { "gradient norm" };
            return Err(invalid(format!("the {what} of task {} is {}", bad % tasks, numbers[bad])));
        }
        let (now, norms) = numbers.split_at(tasks);
        let initial = self.initial.get_or_insert_with(|| now.to_vec());
        if let Some(bad) = initial.iter().position(|&l| l <= 0.0) {
            let message = format!(
                "the first loss of task {bad} is {}; rates of training need losses above 0",
                initial[bad]
            );
            self.initial = None;
            return Err(invalid(message));
        }
        let ratios: Vec<f64> = now.iter().zip(initial.iter()).map(|(now, first)| now / first).collect();
        let mean_ratio = (ratios.iter().sum::<f64>() / tasks as f64).max(f64::MIN_POSITIVE);
        let mean = self.weights.iter().zip(norms).map(|(w, n)| w * n).sum::<f64>() / tasks as f64;
        for ((weight, norm), ratio) in self.weights.iter_mut().zip(norms).zip(&ratios) {
            let target = mean * (ratio / mean_ratio).powf(self.alpha);
            let difference = *weight * norm - target;
            let slope = if difference == 0.0 { 0.0 } else { difference.signum() * norm };
            // A weight stays above 0: a task that is switched off would never come back.
            *weight = (*weight - self.lr * slope).max(1e-6);
        }
        let scale = tasks as f64 / self.weights.iter().sum::<f64>();
        self.weights.iter_mut().for_each(|w| *w *= scale);
        Ok(())
    }
}
