//! What a forward pass must know besides its operands.

use std::sync::atomic::{AtomicU32, Ordering};

use wgrad_tensor::RandomKey;

/// Training or evaluation, and the random numbers of one forward pass.
///
/// Each call that draws takes the next stream, so that the draws of one pass differ from each other and are the same
/// whenever seed and step are. The numbers are Philox words, equal on every device: so are the masks of dropout. Make a new
/// context for each pass; seed and step are inputs of the compiled program, streams are part of it.
#[derive(Debug)]
pub struct Context {
    training: bool,
    seed: u64,
    step: u32,
    stream: AtomicU32,
}

impl Context {
    /// A training pass: dropout is on. `step` tells the passes of a run apart; with gradient accumulation each micro-batch has its own.
    pub fn train(seed: u64, step: u32) -> Self {
        Context { training: true, seed, step, stream: AtomicU32::new(0) }
    }

    /// An evaluation pass: dropout is off.
    pub fn eval() -> Self {
        Context { training: false, seed: 0, step: 0, stream: AtomicU32::new(0) }
    }

    /// Whether this is a training pass.
    pub fn is_training(&self) -> bool {
        self.training
    }

    /// The key of a draw that no other draw of this pass has.
    pub fn next_key(&self) -> RandomKey {
        let stream = self.stream.fetch_add(1, Ordering::Relaxed);
        RandomKey { seed: self.seed, step: self.step, stream }
    }
}
