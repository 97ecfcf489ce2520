//! The task and the optimizer of a recipe, as one thing that learns from batches.

use std::fs;
use std::path::Path;

use wgrad_nn::{
    Context, Init,
    lora::{LoraConfig, add_lora, draw_lora_dropout, load_adapters, save_lora},
    safetensors,
};
use wgrad_optim::{
    AveragedModel, GradScaler, LrScheduler, Optimizer, OptimizerSpec, OptimizerState, Rate, Sgd, SgdConfig,
    StepOutcome,
};
use wgrad_tensor::{DeviceHandle, Tensor};

use crate::error::{Result, TrainError};
use crate::recipe::{AverageRecipe, Precision, Recipe};
use crate::task::Task;
use crate::task::batch::{HostBatch, training_context};

/// The optimizer's files in a checkpoint: its tensors and its numbers.
const OPTIMIZER_TENSORS: &str = "optimizer.safetensors";
const OPTIMIZER_NUMBERS: &str = "optimizer.json";

/// Where averages are kept, `model.safetensors` holds them, and this the weights that are trained.
const TRAINED: &str = "trained.safetensors";

/// How many updates are in the averages, among the optimizer's numbers.
const AVERAGED: &str = "n_averaged";

/// Where the schedule's state is among those numbers.
const SCHEDULE: &str = "schedule";

pub(crate) struct Learner {
    task: Box<dyn Task>,
    /// Where adapters are trained.
    lora: Option<LoraConfig>,
    optimizer: Box<dyn Optimizer>,
    scheduler: LrScheduler,
    average: Option<(AveragedModel, AverageRecipe)>,
    device: DeviceHandle,
    seed: u64,
    micro_batches: usize,
    precision: Precision,
    /// Whether a step computes the loss several times.
    needs_closure: bool,
}

impl Learner {
    /// With the weights that the task was opened with.
    pub(crate) fn new(recipe: &Recipe, task: Box<dyn Task>, device: &DeviceHandle) -> Result<Self> {
        let base = recipe.task.spec().adapts();
        let lora = recipe.lora.as_ref().map(|lora| lora.config(base.as_deref()).expanded(task.module()));
        if let Some(config) = &lora {
            add_lora(task.module(), config, &Init::new(device, recipe.train.seed))?;
        }
        recipe.train.apply_freezing(task.module())?;
        let mut optimizer = recipe.optimizer.build(task.module(), recipe.train.clipping())?;
        let precision = recipe.train.precision;
        if precision == Precision::F16 {
            // `validate` has refused optimizers that cannot.
            optimizer.set_grad_scaler(Some(GradScaler::new(device)));
        }
        Ok(Learner {
            optimizer,
            scheduler: recipe.scheduler()?,
            average: recipe.average.map(|average| {
                let parameters = task.module().named_parameters();
                (AveragedModel::new(parameters, average.averaging()), average)
            }),
            task,
            lora,
            device: device.clone(),
            seed: recipe.train.seed,
            micro_batches: recipe.train.grad_accumulation,
            precision,
            needs_closure: matches!(recipe.optimizer.spec, OptimizerSpec::Lbfgs(_)),
        })
    }

    /// With weights and optimizer state from a checkpoint's folder.
    pub(crate) fn restore(
        recipe: &Recipe,
        task: Box<dyn Task>,
        folder: &Path,
        device: &DeviceHandle,
    ) -> Result<Self> {
        let mut learner = Self::new(recipe, task, device)?;
        match &learner.lora {
            Some(_) => load_adapters(learner.task.module(), folder, &Init::new(device, 0))?,
            None => learner.task.load(folder)?,
        }
        let tensors = safetensors::load(&folder.join(OPTIMIZER_TENSORS), device)?;
        let path = folder.join(OPTIMIZER_NUMBERS);
        let json = fs::read(&path).map_err(TrainError::io("read", &path))?;
        let scalars: serde_json::Value =
            serde_json::from_slice(&json).map_err(|error| TrainError::Checkpoint {
                path: folder.to_owned(),
                reason: format!("`{OPTIMIZER_NUMBERS}`: {error}"),
            })?;
        if let (Some((average, _)), Some(count)) = (&mut learner.average, scalars.get(AVERAGED)) {
            average.update_parameters()?;
            let OptimizerState { tensors, .. } = average.state_dict();
            let scalars = serde_json::json!({ "n_averaged": count });
            average.load_state_dict(&OptimizerState { tensors, scalars })?;
        }
        let trained = folder.join(TRAINED);
        if trained.is_file() {
            learner.task.module().load_safetensors(&trained, true)?;
        }
        if let Some(state) = scalars.get(SCHEDULE) {
            learner.scheduler.load_state_dict(state)?;
        }
        learner.optimizer.load_state_dict(&OptimizerState { tensors, scalars })?;
        Ok(learner)
    }

    /// Writes model and optimizer into a checkpoint's folder.
    pub(crate) fn save(&mut self, folder: &Path) -> Result<()> {
        let mut state = self.optimizer.state_dict();
        state.scalars[SCHEDULE] = self.scheduler.state_dict();
        if let Some((average, _)) = self.average.as_ref().filter(|(average, _)| average.n_averaged() > 0) {
            state.scalars[AVERAGED] = average.n_averaged().into();
            self.task.module().save_safetensors(&folder.join(TRAINED))?;
        }
        let lora = self.lora.clone();
        self.averaged(|task| {
            match &lora {
                Some(config) => save_lora(task.module(), config, folder)?,
                None => task.save(folder)?,
            }
            task.save_beside(folder)
        })?;
        safetensors::save(&folder.join(OPTIMIZER_TENSORS), &state.tensors, &[])?;
        let path = folder.join(OPTIMIZER_NUMBERS);
        fs::write(&path, state.scalars.to_string()).map_err(TrainError::io("write", &path))
    }

    /// Does something with the task while its model holds its averages, where they are kept.
    pub(crate) fn averaged<T>(&mut self, work: impl FnOnce(&dyn Task) -> T) -> T {
        if self.lora.is_some() {
            draw_lora_dropout(self.task.module(), &Context::eval());
        }
        self.swap();
        let result = work(&*self.task);
        self.swap();
        result
    }

    fn swap(&mut self) {
        if let Some((average, _)) = &mut self.average {
            average.swap();
        }
    }

    /// The tensors that the optimizer keeps.
    pub(crate) fn optimizer_tensors(&self) -> Vec<Tensor> {
        self.optimizer.state_dict().tensors.into_iter().map(|(_, tensor)| tensor).collect()
    }

    pub(crate) fn task(&self) -> &dyn Task {
        &*self.task
    }

    pub(crate) fn task_mut(&mut self) -> &mut dyn Task {
        &mut *self.task
    }

    /// The learning rate of update `step`, counted from 0.
    pub(crate) fn lr(&self, step: u64) -> f64 {
        self.scheduler.lr(step)
    }

    /// Queues update `step`, counted from 0, on a batch of all its micro-batches' examples.
    pub(crate) fn update(&mut self, batch: &HostBatch, step: u64) -> Result<StepOutcome> {
        if let Some(momentum) = self.scheduler.momentum(step) {
            self.optimizer.set_momentum(momentum);
        }
        let outcome = self.update_at(batch, step, self.scheduler.lr(step))?;
        if let Some((average, recipe)) = &mut self.average
            && recipe.takes(step + 1)
        {
            average.update_parameters()?;
        }
        Ok(outcome)
    }

    /// As [`Learner::update`], with a learning rate of one's own.
    pub(crate) fn update_at(&mut self, batch: &HostBatch, step: u64, lr: f64) -> Result<StepOutcome> {
        self.optimizer.set_lr(lr);
        let last = self.micro_batches - 1;
        if self.needs_closure {
            // Out of the way, so that the closure can borrow the rest.
            let mut optimizer =
                std::mem::replace(&mut self.optimizer, Box::new(Sgd::new(Vec::new(), SgdConfig::default())));
            let share = 1.0 / self.micro_batches as f64;
            let mean = || {
                (0..last)
                    .fold(self.loss(batch, last, step), |sum, micro| sum.add(self.loss(batch, micro, step)))
            };
            let outcome = optimizer.step_closure(&mut || mean().mul(share));
            self.optimizer = optimizer;
            return Ok(outcome?);
        }
        for micro in 0..last {
            let loss = self.loss(batch, micro, step);
            self.optimizer.accumulate(&loss)?;
        }
        let loss = self.loss(batch, last, step);
        Ok(self.optimizer.step(&loss)?)
    }

    /// Takes a validation loss, by which some schedules choose their rates. Returns how an error ratio came about.
    pub(crate) fn observe(&mut self, loss: f64) -> Result<Option<Rate>> {
        Ok(self.scheduler.observe(loss)?)
    }

    /// The training loss of one micro-batch.
    fn loss(&self, batch: &HostBatch, micro: usize, step: u64) -> Tensor {
        let part = batch.upload(micro, self.micro_batches, &self.device);
        let ctx = training_context(self.seed, step, micro, self.micro_batches);
        if self.lora.is_some() {
            draw_lora_dropout(self.task.module(), &ctx);
        }
        self.task.loss(&part, &ctx).autocast(self.precision.dtype())
    }

    /// The first parameter, in the model's order, that holds values which are not finite, with their number.
    pub(crate) fn first_bad_tensor(&self) -> Result<Option<String>> {
        for (name, tensor) in self.task.module().state_dict() {
            let values = tensor.to_f64_vec()?;
            let bad = values.iter().filter(|v| !v.is_finite()).count();
            if bad > 0 {
                return Ok(Some(format!(
                    "{bad} of the {} elements of `{name}` are not finite",
                    values.len()
                )));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(settings: &[&str]) -> Recipe {
        let text = include_str!("../../../recipes/gpt-tiny.toml");
        let overrides: Vec<_> = settings.iter().map(|s| s.parse().expect("key=value")).collect();
        Recipe::from_toml(text, "tiny", &overrides).expect("valid")
    }

    #[test]
    fn a_constant_schedule_warms_up_and_stays() {
        let settings =
            ["schedule.name=constant", "schedule.min_lr=0", "optimizer.lr=0.5", "schedule.warmup_steps=4"];
        let schedule = tiny(&settings).scheduler().expect("valid");
        let rates: Vec<f64> = [0, 1, 3, 4, 100, 199].iter().map(|&i| schedule.lr(i)).collect();
        assert_eq!(rates, [0.125, 0.25, 0.5, 0.5, 0.5, 0.5]);
    }

    /// `reference_loss.py`'s formula: 0 to 1e-3 over 100 steps, then a cosine to 1e-4 at step 2000.
    #[test]
    fn the_schedule_of_gpt_nano_is_the_reference_program_s() {
        let text = include_str!("../../../recipes/gpt-nano.toml");
        let recipe = Recipe::from_toml(text, "nano", &[]).expect("valid");
        let schedule = recipe.scheduler().expect("valid");
        for i in [0_u64, 50, 99, 100, 777, 1999] {
            let expected = if i < 100 {
                1e-3 * (i + 1) as f64 / 100.0
            } else {
                1e-4 + 0.5 * (1e-3 - 1e-4) * (1.0 + (std::f64::consts::PI * (i - 100) as f64 / 1900.0).cos())
            };
            assert!((schedule.lr(i) - expected).abs() < 1e-12, "{i}");
        }
    }
}
