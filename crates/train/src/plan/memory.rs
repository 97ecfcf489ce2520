//! What a step's memory is for.

use serde::Serialize;
use wgrad_ir::{BufferRef, Program};
use wgrad_nn::Module;
use wgrad_runtime::{Device, PlannedRun};
use wgrad_tensor::DType;

use super::{Planner, tensor_bytes};

/// Bytes that a step holds at its fullest moment, by what they are for; `peak` is their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Weights.
    pub parameters: u64,
    /// What the optimizer keeps for each of them.
    pub optimizer_state: u64,
    /// Gradients of weights: those that lie in the program's scratch when most of it is in use, and sums over micro-batches.
    pub gradients: u64,
    /// The rest of the program's scratch: what the backward pass needs of the forward pass, and what kernels hand to each other.
    pub activations: u64,
    /// Ids of one forward pass.
    pub batch: u64,
    /// Results that are not updated in place: the loss, the gradient norm, copies.
    pub results: u64,
    /// All of it: what the device must have.
    pub peak: u64,
}

impl Planner {
    pub(super) fn memory(&self, peak: u64, fullest: Option<&PlannedRun>, tokens: usize) -> MemoryPlan {
        let device = &*self.device;
        let model = self.learner.model();
        let allocated = |bytes: u64| device.allocation_bytes(bytes);
        let parameters: u64 = model
            .named_parameters()
            .iter()
            .map(|(_, param)| allocated(tensor_bytes(device, &param.tensor())))
            .sum();
        let state = self.learner.optimizer_tensors();
        let optimizer_state = state.iter().map(|t| allocated(tensor_bytes(device, t))).sum();
        let ids = (tokens * device.caps().storage_bytes(DType::I32)) as u64;
        let batch = 2 * allocated(ids);
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

/// A tensor in scratch memory: `(first step, last step, bytes, whether an update of an input reads it)`.
struct Life {
    buffer: u32,
    offset: u64,
    bytes: u64,
    first: usize,
    last: usize,
    updates: bool,
}

/// Bytes of the tensors that updates of inputs read, when most scratch memory is in use.
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
            if step.kernel.reads(a as u32) {
                let read = lives
                    .iter_mut()
                    .filter(|l| l.buffer == buffer && l.offset < end && arg.offset < l.offset + l.bytes);
                // Of what lay there one after the other, the latest is meant.
                let Some(latest) = read.max_by_key(|l| l.first) else { continue };
                latest.last = n;
                latest.updates |= updates.contains(&arg.bytes);
            }
            if writes.contains(&(a as u32)) {
                lives.push(Life {
                    buffer,
                    offset: arg.offset,
                    bytes: arg.bytes,
                    first: n,
                    last: n,
                    updates: false,
                });
            }
        }
    }
    let live_at = |n: usize| lives.iter().filter(move |l| l.first <= n && n <= l.last);
    let fullest = (0..program.steps.len()).max_by_key(|&n| live_at(n).map(|l| l.bytes).sum::<u64>());
    fullest.map_or(0, |n| live_at(n).filter(|l| l.updates).map(|l| l.bytes).sum())
}
