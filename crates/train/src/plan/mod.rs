//! What a training step will need, told before anything runs.
//!
//! The plan is no estimate: the step itself is traced and compiled, by the code that trains, on a device that counts memory
//! and kernels instead of running them.

mod batch;
mod memory;
mod savings;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use wgrad_ir::{BufferRef, Program};
use wgrad_runtime::{
    Device, DeviceHandle, DeviceInfo, DeviceKind, PlannedRun, PlanningDevice, available_memory,
};

use crate::error::Result;
use crate::learner::Learner;
use crate::recipe::Recipe;
use crate::task::batch::HostBatch;
use crate::task::{Opening, Units};
use crate::trainer::check_batch;

pub use self::batch::LargestBatch;
pub use self::memory::MemoryPlan;
pub use self::savings::{Alternative, Savings};

/// A training step of a recipe on a device, before it runs. Bytes are those that the device allocates.
#[derive(Clone, Debug, Serialize)]
pub struct StepPlan {
    /// The device's id.
    pub device: String,
    /// Trainable numbers.
    pub parameters: usize,
    /// Examples per forward pass.
    pub batch_size: usize,
    /// Of language models: tokens per window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Forward passes per step.
    pub grad_accumulation: usize,
    /// The settings that save memory.
    #[serde(flatten)]
    pub savings: Savings,
    /// Examples that a step trains on.
    pub examples_per_step: usize,
    /// Where losses are per token: tokens that a step trains on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_step: Option<usize>,
    /// What examples are.
    #[serde(skip)]
    pub units: Units,
    /// What is held at the fullest moment of a step.
    pub memory: MemoryPlan,
    /// Bytes that the device has taken from the system by then: some that earlier steps used are kept for later ones, and given
    /// back where there are no others.
    pub pool_bytes: u64,
    /// Bytes that a run may take; absent where a driver does not tell.
    pub available_bytes: Option<u64>,
    /// Kernels per step.
    pub dispatches: usize,
    /// Kernels per step by kind.
    pub kernels: BTreeMap<&'static str, usize>,
    /// Floating-point operations of contractions per step.
    pub flops: u64,
    /// Bytes that kernels load and store per step.
    pub bytes_moved: u64,
    /// The part of them that no fusion can save.
    pub bytes_minimum: u64,
    /// The largest tensor.
    pub largest_tensor: LargestTensor,
}

/// A tensor by name, or by the kernel that makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LargestTensor {
    /// The parameter's name, or the label of the kernel.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
}

impl StepPlan {
    /// Whether the memory that is there suffices; taken to be so where a driver does not tell what is there.
    pub fn fits(&self) -> bool {
        self.available_bytes.is_none_or(|available| self.memory.peak <= available)
    }
}

/// Plans steps of one recipe on one device.
pub struct Planner {
    device: Arc<PlanningDevice>,
    learner: Learner,
    recipe: Recipe,
    savings: Savings,
    available: Option<u64>,
}

impl Planner {
    /// A planner for a device that is there.
    ///
    /// The data need not be: a vocabulary that is trained on it is taken to become as large as the recipe allows.
    ///
    /// # Errors
    /// The recipe's tokenizer cannot be read, or its model cannot be made.
    pub fn new(recipe: &Recipe, device: &DeviceHandle) -> Result<Self> {
        Self::on(recipe, PlanningDevice::like(device))
    }

    pub(crate) fn on(recipe: &Recipe, device: PlanningDevice) -> Result<Self> {
        let device = Arc::new(device);
        let handle: DeviceHandle = device.clone();
        let task = recipe.task.spec().open(recipe, &Opening::Plan, &handle, &mut |_| {})?;
        let learner = Learner::new(recipe, task, &handle)?;
        let available = available(device.info());
        let t = &recipe.train;
        let savings = Savings {
            gradient_checkpointing: t.gradient_checkpointing.unwrap_or_default(),
            loss_chunk: t.loss_chunk.unwrap_or_default(),
        };
        Ok(Planner { device, learner, recipe: recipe.clone(), savings, available })
    }

    /// Plans with so much memory, instead of what is there now.
    pub fn set_available(&mut self, bytes: u64) {
        self.available = Some(bytes);
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Plans a step with the recipe's batch.
    ///
    /// # Errors
    /// As [`Planner::plan_batch`].
    pub fn plan(&mut self) -> Result<StepPlan> {
        self.plan_batch(self.recipe.train.batch_size)
    }

    /// Plans a step with so many examples per forward pass.
    ///
    /// # Errors
    /// A tensor exceeds a limit of the device; the message names it.
    pub fn plan_batch(&mut self, examples: usize) -> Result<StepPlan> {
        let passes = self.recipe.train.grad_accumulation;
        let (units, columns) = (self.learner.task().units(), self.learner.task().columns());
        let all = examples.saturating_mul(passes);
        check_batch(all, &columns, units)?;
        let batch = HostBatch::zeros(&columns, all);
        // The first step also makes the optimizer's state; the second one is as all others.
        drop(self.learner.update(&batch, 0)?);
        let first = self.device.take_runs();
        drop(self.learner.update(&batch, 1)?);
        let runs = self.device.take_runs();
        let (peak, pool_bytes) = (self.device.peak_live_bytes(), self.device.stats().peak_bytes);
        // Between steps, weights and optimizer state are all there is.
        self.device.cache().clear();
        let resident = self.device.live_bytes();

        let programs = || runs.iter().map(|run| &*run.program);
        let mut kernels = BTreeMap::new();
        for step in programs().flat_map(|p| &p.steps) {
            *kernels.entry(step.kernel.name()).or_default() += 1;
        }
        // What this batch needed is of no interest to the next one.
        self.device.reset_peaks();
        let fullest = first.iter().chain(&runs).max_by_key(|run| run.live_bytes);
        Ok(StepPlan {
            device: self.device.info().id.clone(),
            parameters: self.learner.task().module().num_parameters(),
            batch_size: examples,
            context: units.are_tokens().then_some(units.per_example),
            grad_accumulation: passes,
            savings: self.savings,
            examples_per_step: all,
            tokens_per_step: units.are_tokens().then_some(all * units.per_example),
            units,
            memory: self.memory(peak, resident, fullest, examples),
            pool_bytes,
            available_bytes: self.available,
            dispatches: kernels.values().sum(),
            kernels,
            flops: programs().map(Program::flops).sum(),
            bytes_moved: programs().map(Program::bytes_moved).sum(),
            bytes_minimum: programs().map(Program::bytes_minimum).sum(),
            largest_tensor: self.largest_tensor(&runs),
        })
    }

    fn largest_tensor(&self, runs: &[PlannedRun]) -> LargestTensor {
        let mut largest = LargestTensor::default();
        for (name, param) in self.learner.task().module().named_parameters() {
            let bytes = tensor_bytes(&*self.device, &param.tensor());
            if bytes > largest.bytes {
                largest = LargestTensor { name: format!("`{name}`"), bytes };
            }
        }
        for step in runs.iter().flat_map(|run| &run.program.steps) {
            for arg in step.kernel.writes() {
                let arg = step.args[arg as usize];
                if arg.bytes > largest.bytes && !matches!(arg.buffer, BufferRef::Input(_)) {
                    largest =
                        LargestTensor { name: format!("the result of `{}`", step.label), bytes: arg.bytes };
                }
            }
        }
        largest
    }
}

/// Bytes of a tensor's elements on a device.
fn tensor_bytes(device: &dyn Device, tensor: &wgrad_tensor::Tensor) -> u64 {
    (tensor.shape().elements() * device.caps().storage_bytes(tensor.dtype())) as u64
}

/// What a run may take: a twentieth of the memory stays free, as runtimes leave it. Drivers of real GPUs do not tell.
fn available(info: &DeviceInfo) -> Option<u64> {
    let shared = matches!(info.kind, DeviceKind::Cpu | DeviceKind::SoftwareGpu);
    shared.then(|| {
        let bytes = available_memory();
        bytes - bytes / 20
    })
}

#[cfg(test)]
mod tests;
