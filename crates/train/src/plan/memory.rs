//! What a step's memory is for.

use serde::Serialize;
use wgrad_ir::{BufferRef, Program};
use wgrad_runtime::{Device, PlannedRun};

use super::{Planner, tensor_bytes};
use crate::task::batch::Column;

/// Bytes that a step holds at its fullest moment, by what they are for; `peak` is their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Weights.
    pub parameters: u64,
    /// What the optimizer keeps for each of them.
    pub optimizer_state: u64,
    /// Gradients of weights: the most of the program's scratch that they take at once, and sums over micro-batches.
    pub gradients: u64,
    /// The rest of the program's scratch: what the backward pass needs of the forward pass, and what kernels hand to each other.
    pub activations: u64,
    /// Examples of one forward pass.
    pub batch: u64,
    /// Results that are not updated in place: the loss, the gradient norm, copies.
    pub results: u64,
    /// All of it: what the device must have.
    pub peak: u64,
}

impl Planner {
    /// Tells apart what is held at the fullest moment; `resident` bytes of it stay from step to step.
    pub(super) fn memory(
        &self,
        peak: u64,
        resident: u64,
        fullest: Option<&PlannedRun>,
        examples: usize,
    ) -> MemoryPlan {
        let device = &*self.device;
        let allocated = |bytes: u64| device.allocation_bytes(bytes);
        // Weights and states lie in common buffers, of which each has its share.
        let named = self.learner.task().module().named_tensors();
        let weights: u64 = named.iter().map(|(_, param)| tensor_bytes(device, &param.tensor())).sum();
        let states: u64 = self.learner.optimizer_tensors().iter().map(|t| tensor_bytes(device, t)).sum();
        let share = u128::from(resident) * u128::from(weights) / u128::from((weights + states).max(1));
        let parameters = share as u64;
        let optimizer_state = resident - parameters;
        let columns = self.learner.task().columns();
        let bytes = |c: &Column| (examples * c.elements() * device.caps().storage_bytes(c.dtype)) as u64;
        let batch = columns.iter().map(|column| allocated(bytes(column))).sum();
        let scratch = fullest.map_or(0, |run| run.scratch_bytes);
        let inside = fullest.map_or(0, |run| gradients_in_scratch(&run.program)).min(scratch);
        let rest = peak.saturating_sub(parameters + optimizer_state + batch + scratch);
        // With several passes the sums of gradients are tensors of their own, of the parameters' sizes.
        let sums = if self.recipe.train.grad_accumulation > 1 { rest.min(parameters) } else { 0 };
        MemoryPlan {
            parameters,
            optimizer_state,
            gradients: sums + inside,
            activations: scratch - inside,
            batch,
            results: rest - sums,
            peak,
        }
    }
}

/// A tensor, or a part of one, in scratch memory.
struct Life {
    buffer: u32,
    offset: u64,
    bytes: u64,
    /// The step that writes it, and the last one that reads it.
    first: usize,
    last: usize,
    /// Whether another one lies there by now.
    over: bool,
    /// Whether a step that updates an input of the size of what it reads reads it.
    updates: bool,
}

/// The most bytes that tensors which updates of inputs read take at once.
fn gradients_in_scratch(program: &Program) -> u64 {
    let mut lives: Vec<Life> = Vec::new();
    for (n, step) in program.steps.iter().enumerate() {
        let writes = step.kernel.writes();
        let updates: Vec<u64> = writes
            .iter()
            .map(|&a| step.args[a as usize])
            .filter(|arg| matches!(arg.buffer, BufferRef::Input(_)))
            .map(|arg| arg.bytes)
            .collect();
        for (a, arg) in step.args.iter().enumerate() {
            let BufferRef::Temp(buffer) = arg.buffer else { continue };
            let end = arg.offset + arg.bytes;
            let there = |l: &&mut Life| {
                l.buffer == buffer && !l.over && l.offset < end && arg.offset < l.offset + l.bytes
            };
            if step.kernel.reads(a as u32) {
                for life in lives.iter_mut().filter(there) {
                    life.last = n;
                    life.updates |= updates.contains(&arg.bytes);
                }
            }
            if writes.contains(&(a as u32)) {
                lives.iter_mut().filter(there).for_each(|life| life.over = true);
                let (offset, bytes) = (arg.offset, arg.bytes);
                lives.push(Life { buffer, offset, bytes, first: n, last: n, over: false, updates: false });
            }
        }
    }
    let gradients = || lives.iter().filter(|l| l.updates);
    let live_at = |n| gradients().filter(|l| l.first <= n && n <= l.last).map(|l| l.bytes).sum();
    (0..program.steps.len()).map(live_at).max().unwrap_or(0)
}
