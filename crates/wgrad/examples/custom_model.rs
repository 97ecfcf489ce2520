//! A module, a loss and a training loop of one's own: a small network learns a sine.
//!
//! `cargo run --release -p wgrad --example custom_model`

use wgrad::prelude::*;

/// `W2 tanh(W1 x + b1) + b2`
#[derive(Module)]
struct Mlp {
    hidden: Linear,
    output: Linear,
}

impl Mlp {
    fn new(init: &Init, width: usize) -> Self {
        Mlp { hidden: Linear::new(init, 1, width, true), output: Linear::new(init, width, 1, true) }
    }

    /// `x [batch, 1]` to `[batch, 1]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        self.output.forward(&self.hidden.forward(x).tanh())
    }
}

/// Huber's loss: squared near zero, straight beyond 1, so that outliers do not shout.
fn huber(prediction: &Tensor, target: &Tensor) -> Tensor {
    let distance = (prediction - target).abs();
    distance.lt(1.0).where_(&(distance.square() * 0.5), &(&distance - 0.5)).mean_all()
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = wgrad::devices().open("cpu")?.device;
    let model = Mlp::new(&Init::new(&device, 1), 32);
    println!("{} parameters", model.num_parameters());

    let xs: Vec<f32> = (0..128).map(|i| i as f32 / 64.0 - 1.0).collect();
    let ys: Vec<f32> = xs.iter().map(|x| (3.0 * x).sin()).collect();
    let x = Tensor::from_vec(xs, [128, 1], &device);
    let y = Tensor::from_vec(ys, [128, 1], &device);

    let mut optimizer = AdamW::new(all_parameters(&model, 0.0), AdamWConfig::default());
    optimizer.set_lr(1e-2);
    let mut losses = Vec::new();
    for step in 0..300 {
        let loss = huber(&model.forward(&x), &y);
        let outcome = optimizer.step(&loss)?;
        losses.push(outcome.loss.item()?);
        if step % 50 == 0 {
            println!("step {step:3}  loss {:.5}", losses[step]);
        }
    }
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    println!("loss {first:.5} -> {last:.5}");
    assert!(last < first / 100.0, "the network did not learn");
    Ok(())
}
