//! The workloads: the same shapes, optimizer and generated batches as the harnesses of other frameworks use.

use wgrad::{
    models::{Gpt2Config, Gpt2Init, Gpt2LMHead},
    nn::{Activation, Init},
    optim::{AdamW, AdamWConfig, all_parameters},
    prelude::*,
};

use crate::Result;

/// Something to time: one call queues one step.
pub(crate) trait Step {
    /// Queues the work of one step.
    fn run(&mut self) -> Result;
    /// Tokens that a step trains on.
    fn tokens(&self) -> Option<usize>;
    /// Trainable numbers.
    fn params(&self) -> Option<usize>;
}

/// `C = A B` of square f32 matrices.
pub(crate) struct MatMul {
    a: Tensor,
    b: Tensor,
}

impl MatMul {
    /// Matrices of `n` rows of numbers in (-1, 1).
    pub(crate) fn new(n: usize, device: &DeviceHandle) -> Self {
        let mut lcg = Lcg(7);
        let mut matrix = || {
            let values: Vec<f32> = (0..n * n).map(|_| (lcg.next() % 2001) as f32 / 1000.0 - 1.0).collect();
            Tensor::from_vec(values, [n, n], device)
        };
        MatMul { a: matrix(), b: matrix() }
    }
}

impl Step for MatMul {
    fn run(&mut self) -> Result {
        Ok(eval(&[&self.a.matmul(&self.b)])?)
    }

    fn tokens(&self) -> Option<usize> {
        None
    }

    fn params(&self) -> Option<usize> {
        None
    }
}

/// A training step of a GPT: batch, forward, backward, AdamW.
pub(crate) struct LanguageModel {
    model: Gpt2LMHead,
    optimizer: AdamW,
    batches: Lcg,
    batch: usize,
    context: usize,
    device: DeviceHandle,
}

/// `gpt-nano` or `gpt-mini`: pre-norm GPT over bytes, learned positions, exact GELU, untied head without bias, no dropout.
///
/// # Errors
/// The name is not known, or the model does not fit on the device.
pub(crate) fn language_model(name: &str, device: &DeviceHandle) -> Result<LanguageModel> {
    let (n_layer, n_head, n_embd, context, batch) = match name {
        "gpt-nano" => (4, 4, 128, 128, 8),
        "gpt-mini" => (6, 6, 384, 256, 4),
        other => return Err(format!("no workload `{other}`; there are gpt-nano and gpt-mini").into()),
    };
    let config = Gpt2Config {
        vocab_size: 256,
        n_positions: context,
        n_embd,
        n_layer,
        n_head,
        activation_function: Activation::Gelu,
        tie_word_embeddings: false,
        resid_pdrop: 0.0,
        embd_pdrop: 0.0,
        attn_pdrop: 0.0,
        ..Gpt2Config::default()
    };
    let model = Gpt2LMHead::new(&config, &Init::new(device, 1337), Gpt2Init::Plain)?;
    let mut optimizer = AdamW::new(all_parameters(&model, 0.01), AdamWConfig::default());
    optimizer.set_lr(3e-4);
    Ok(LanguageModel { model, optimizer, batches: Lcg(42), batch, context, device: device.clone() })
}

impl Step for LanguageModel {
    fn run(&mut self) -> Result {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for _ in 0..self.batch {
            let (start, stride) = (self.batches.next() % 256, 1 + self.batches.next() % 7);
            let token = |t: usize| ((start + t as u64 * stride) & 255) as i32;
            inputs.extend((0..self.context).map(token));
            targets.extend((1..=self.context).map(token));
        }
        let shape = [self.batch, self.context];
        let ids = Tensor::from_vec(inputs, shape, &self.device);
        let targets = Tensor::from_vec(targets, shape, &self.device);
        let logits = self.model.forward(&ids, None, &Context::train(0, 0));
        self.optimizer.step(&Gpt2LMHead::next_token_loss(&logits, &targets))?;
        Ok(())
    }

    fn tokens(&self) -> Option<usize> {
        Some(self.batch * self.context)
    }

    fn params(&self) -> Option<usize> {
        Some(self.model.num_parameters())
    }
}

/// The generator of every peer's batches: 64-bit linear congruential, upper 31 bits.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}
