//! Layers of image models: what moves within a training step, where gradients go, and what is refused. Values and gradients are
//! compared with PyTorch's through the table of operations.

use std::sync::Arc;

use wgrad_cpu::CpuDevice;
use wgrad_nn::{
    BatchNorm2d, Context, Conv2d, Init, Module, Param,
    functional::{self, Conv, ConvTranspose, MaxPool, Padding},
};
use wgrad_tensor::{DType, DeviceHandle, Tensor, TensorError, eval, grad};

type Outcome = Result<(), TensorError>;

fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new())
}

fn numbers(shape: &[usize], seed: u64, device: &DeviceHandle) -> Tensor {
    let values = wgrad_nn::Initializer::Normal { std: 1.0 }.draw(shape, seed, 0);
    Tensor::from_vec(values.into_iter().map(|v| v as f32).collect::<Vec<_>>(), shape, device)
}

#[derive(Module)]
struct Net {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl Net {
    fn new(device: &DeviceHandle) -> Self {
        let init = Init::new(device, 3);
        let options = Conv { padding: Padding::Both([1, 1]), ..Conv::default() };
        Net { conv: Conv2d::new(&init, 2, 3, [3, 3], options, true), norm: BatchNorm2d::new(&init, 3) }
    }

    fn loss(&self, x: &Tensor, ctx: &Context) -> Tensor {
        self.norm.forward(&self.conv.forward(x), ctx).relu().square().mean_all()
    }
}

/// The value of a buffer that is there.
fn of(buffer: &Option<Param>) -> Tensor {
    buffer.as_ref().expect("a tracked statistic").tensor()
}

/// Mean and unbiased variance of a channel of `[n, c, h, w]`.
fn moments(x: &Tensor, channel: usize) -> Result<(f64, f64), TensorError> {
    let values = x.narrow(1, channel, 1).to_f64_vec()?;
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    Ok((mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)))
}

#[test]
fn statistics_move_in_the_program_of_the_loss_and_are_used_in_evaluation() -> Outcome {
    let device = device();
    let net = Net::new(&device);
    let batches = [1, 2, 3].map(|seed| numbers(&[4, 2, 5, 6], seed, &device));
    let mut expected = [(0.0, 1.0); 3];
    for x in &batches {
        let loss = net.loss(x, &Context::train(0, 0));
        let before = device.cache().stats().misses;
        eval(&[&loss])?;
        let programs = device.cache().stats().misses - before;
        assert!(programs <= 1, "{programs} programs for one loss");
        assert!(of(&net.norm.running_mean).is_realized() && of(&net.norm.running_var).is_realized());
        for (channel, (mean, var)) in expected.iter_mut().enumerate() {
            let (m, v) = moments(&net.conv.forward(x), channel)?;
            (*mean, *var) = (0.9 * *mean + 0.1 * m, 0.9 * *var + 0.1 * v);
        }
    }
    let found = (of(&net.norm.running_mean).to_f64_vec()?, of(&net.norm.running_var).to_f64_vec()?);
    for (channel, (mean, var)) in expected.into_iter().enumerate() {
        assert!((found.0[channel] - mean).abs() < 1e-6 && (found.1[channel] - var).abs() < 1e-6);
    }
    assert_eq!(of(&net.norm.num_batches_tracked).to_vec::<i32>()?, [3]);
    let y = net.norm.forward(&net.conv.forward(&batches[0]), &Context::eval()).to_f64_vec()?;
    let x = net.conv.forward(&batches[0]).to_f64_vec()?;
    for (i, (y, x)) in y.into_iter().zip(x).enumerate() {
        let (mean, var) = expected[i / 30 % 3];
        assert!((y - (x - mean) / (var + 1e-5).sqrt()).abs() < 1e-5);
    }
    Ok(())
}

#[test]
fn passes_that_are_evaluated_together_count_one_after_the_other() -> Outcome {
    let device = device();
    let (apart, together) = (Net::new(&device), Net::new(&device));
    let [a, b] = [1, 2].map(|seed| numbers(&[2, 2, 4, 4], seed, &device));
    let ctx = Context::train(0, 0);
    eval(&[&apart.loss(&a, &ctx)])?;
    eval(&[&apart.loss(&b, &ctx)])?;
    let sum = together.loss(&a, &ctx).add(together.loss(&b, &ctx));
    eval(&[&sum])?;
    let state = |net: &Net| of(&net.norm.running_var).to_f64_vec();
    assert_eq!(state(&apart)?, state(&together)?);
    assert_eq!(of(&together.norm.num_batches_tracked).to_vec::<i32>()?, [2]);
    Ok(())
}

#[test]
fn without_a_momentum_statistics_are_means_over_all_batches() -> Outcome {
    let device = device();
    let mut net = Net::new(&device);
    net.norm.momentum = None;
    let mut expected = [(0.0, 0.0); 3];
    for seed in 1..=3 {
        let x = numbers(&[4, 2, 5, 6], seed, &device);
        eval(&[&net.loss(&x, &Context::train(0, 0))])?;
        for (channel, (mean, var)) in expected.iter_mut().enumerate() {
            let (m, v) = moments(&net.conv.forward(&x), channel)?;
            (*mean, *var) = (*mean + m / 3.0, *var + v / 3.0);
        }
    }
    let found = (of(&net.norm.running_mean).to_f64_vec()?, of(&net.norm.running_var).to_f64_vec()?);
    for (channel, (mean, var)) in expected.into_iter().enumerate() {
        assert!((found.0[channel] - mean).abs() < 1e-6 && (found.1[channel] - var).abs() < 1e-6);
    }
    Ok(())
}

#[test]
fn without_statistics_evaluation_is_by_those_of_the_batch() -> Outcome {
    let device = device();
    let net = Net::new(&device);
    let norm = net.norm.clone().without_running_stats();
    assert!(norm.named_buffers().is_empty());
    let x = numbers(&[2, 3, 4, 4], 1, &device);
    let [training, evaluation] =
        [Context::train(0, 0), Context::eval()].map(|ctx| norm.forward(&x, &ctx).to_f64_vec());
    assert_eq!(evaluation?, training?);
    Ok(())
}

#[test]
fn statistics_of_a_checkpointed_layer_are_those_of_a_plain_one() -> Outcome {
    let device = device();
    let (plain, kept) = (Net::new(&device), Net::new(&device));
    for seed in 1..=2 {
        let (x, ctx) = (numbers(&[2, 2, 4, 4], seed, &device), Context::train(0, 0));
        let expected = plain.loss(&x, &ctx);
        let inner = |x: &[Tensor]| wgrad_tensor::checkpoint(&[&x[0]], |x| kept.loss(&x[0], &ctx));
        // A checkpoint in a checkpoint the second time.
        let loss =
            if seed == 1 { inner(std::slice::from_ref(&x)) } else { wgrad_tensor::checkpoint(&[&x], inner) };
        let gradients = |net: &Net, loss: &Tensor| -> Result<Vec<Vec<f64>>, TensorError> {
            let weights = net.named_parameters();
            let weights: Vec<Tensor> = weights.iter().map(|(_, w)| w.tensor()).collect();
            let gradients = grad(loss, &weights.iter().collect::<Vec<_>>())?;
            gradients.iter().map(Tensor::to_f64_vec).collect()
        };
        for (got, want) in
            gradients(&kept, &loss)?.concat().iter().zip(gradients(&plain, &expected)?.concat())
        {
            assert!((got - want).abs() < 1e-6, "{got}, without a checkpoint {want}");
        }
        assert_eq!(loss.to_f64_vec()?, expected.to_f64_vec()?);
        assert!(of(&kept.norm.running_var).is_realized(), "the statistics are not computed with the loss");
    }
    assert_eq!(of(&kept.norm.running_mean).to_f64_vec()?, of(&plain.norm.running_mean).to_f64_vec()?);
    assert_eq!(of(&kept.norm.running_var).to_f64_vec()?, of(&plain.norm.running_var).to_f64_vec()?);
    assert_eq!(of(&kept.norm.num_batches_tracked).to_vec::<i32>()?, [2]);
    Ok(())
}

#[test]
fn statistics_of_a_rounded_pass_are_computed_with_its_loss() -> Outcome {
    let device = device();
    let (plain, rounded) = (Net::new(&device), Net::new(&device));
    for seed in 1..=2 {
        let (x, ctx) = (numbers(&[2, 2, 4, 4], seed, &device), Context::train(0, 0));
        let expected = plain.loss(&x, &ctx);
        let loss = wgrad_tensor::checkpoint(&[&x], |x| rounded.loss(&x[0], &ctx)).autocast(DType::BF16);
        eval(&[&expected, &loss])?;
        let mean = of(&rounded.norm.running_mean);
        assert!(mean.is_realized(), "the statistics are not computed with the loss");
        for (got, want) in mean.to_f64_vec()?.iter().zip(of(&plain.norm.running_mean).to_f64_vec()?) {
            // The convolution is rounded to 8 bits, so that they are near, but not the same.
            assert!((got - want).abs() < 1e-2 && *got != want, "{got}, without rounding {want}");
        }
        assert_eq!(of(&rounded.norm.num_batches_tracked).to_vec::<i32>()?, [seed as i32]);
    }
    Ok(())
}

#[test]
fn statistics_are_saved_and_loaded_but_not_trained() -> Outcome {
    let device = device();
    let (net, other) = (Net::new(&device), Net::new(&device));
    let names = |list: Vec<(String, wgrad_nn::Param)>| list.into_iter().map(|n| n.0).collect::<Vec<_>>();
    assert_eq!(names(net.named_parameters()), ["conv.weight", "conv.bias", "norm.weight", "norm.bias"]);
    let buffers = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"];
    assert_eq!(names(net.named_buffers()), buffers);
    assert_eq!(net.unfreeze("*"), 4);
    assert!(net.norm.running_mean.as_ref().is_some_and(Param::is_frozen));
    eval(&[&net.loss(&numbers(&[2, 2, 4, 4], 1, &device), &Context::train(0, 0))])?;
    other.load_state_dict(&net.state_dict(), true).expect("the same names and shapes");
    assert_eq!(of(&other.norm.running_mean).to_f64_vec()?, of(&net.norm.running_mean).to_f64_vec()?);
    assert_eq!(of(&other.norm.num_batches_tracked).to_vec::<i32>()?, [1]);
    Ok(())
}

#[test]
fn the_gradient_of_a_maximum_goes_to_the_first_of_equals() -> Outcome {
    let device = device();
    let x = Tensor::from_vec(vec![0.0f32, 0.0, 2.0, 0.0, 0.0, 2.0, 2.0, 0.0, 0.0], [1, 1, 3, 3], &device);
    let options = MaxPool { stride: [1, 1], ..MaxPool::new([2, 2]) };
    let y = functional::max_pool2d(&x, &options);
    assert_eq!(y.to_vec::<f32>()?, [0.0, 2.0, 2.0, 2.0]);
    // Windows 1 and 3 hold two elements of 2 or one: the first in row-major order counts.
    let g = Tensor::from_vec(vec![1.0f32, 10.0, 100.0, 1000.0], [1, 1, 2, 2], &device);
    let dx = grad(&y.mul(&g).sum_all(), &[&x])?[0].to_vec::<f32>()?;
    assert_eq!(dx, [1.0, 0.0, 10.0, 0.0, 0.0, 1000.0, 100.0, 0.0, 0.0]);
    Ok(())
}

/// Of `Σ max²` the gradient is twice each maximum where it came from, and the gradient of that along `v` twice `v` there.
#[test]
fn a_maximum_has_a_second_gradient() -> Outcome {
    let device = device();
    for (size, kernel) in [(4, 2), (10, 5)] {
        let x = numbers(&[2, 3, size, size], 4, &device);
        let v = numbers(&[2, 3, size, size], 5, &device);
        let y = functional::max_pool2d(&x, &MaxPool::new([kernel, kernel]));
        let dx = grad(&y.square().sum_all(), &[&x])?.remove(0);
        let second = grad(&dx.mul(&v).sum_all(), &[&x])?.remove(0);
        let (x, v, dx, second) =
            (x.to_vec::<f32>()?, v.to_vec::<f32>()?, dx.to_vec::<f32>()?, second.to_vec::<f32>()?);
        let mut maxima = 0;
        for i in 0..x.len() {
            let is_maximum = dx[i] != 0.0;
            maxima += usize::from(is_maximum);
            assert_eq!((dx[i], second[i]), if is_maximum { (2.0 * x[i], 2.0 * v[i]) } else { (0.0, 0.0) });
        }
        assert_eq!(maxima, 2 * 3 * 4, "windows of {kernel}");
    }
    Ok(())
}

#[test]
fn a_transposed_convolution_is_the_gradient_of_a_convolution() -> Outcome {
    let device = device();
    let (x, w) = (numbers(&[2, 4, 7, 6], 1, &device), numbers(&[6, 2, 3, 2], 2, &device));
    let options = Conv { stride: [2, 1], padding: Padding::Both([1, 0]), groups: 2, ..Conv::default() };
    let y = functional::conv2d(&x, &w, None, &options);
    let g = numbers(y.shape(), 3, &device);
    let dx = &grad(&y.mul(&g).sum_all(), &[&x])?[0];
    let back = ConvTranspose { stride: [2, 1], padding: [1, 0], groups: 2, ..ConvTranspose::default() };
    let transposed = functional::conv_transpose2d(&g, &w, None, &back);
    assert_eq!(transposed.shape(), x.shape());
    for (a, b) in dx.to_f64_vec()?.into_iter().zip(transposed.to_f64_vec()?) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
    Ok(())
}

/// Extents beyond one tile of the kernels: several tiles of places, several runs of terms.
#[test]
fn large_convolutions_equal_products_with_unfolded_windows() -> Outcome {
    let device = device();
    for (stride, images) in [(1, 2), (2, 3)] {
        let (x, w) = (numbers(&[images, 16, 40, 40], 1, &device), numbers(&[24, 16, 3, 3], 2, &device));
        let options = Conv { stride: [stride; 2], padding: Padding::Both([1, 1]), ..Conv::default() };
        let y = functional::conv2d(&x, &w, None, &options);
        let columns = functional::unfold(&x, [3, 3], [1, 1], [1, 1], [stride; 2]);
        let z = w.reshape([1, 24, 144]).matmul(&columns).reshape(y.shape());
        let g = numbers(y.shape(), 3, &device);
        let of = |y: &Tensor| grad(&y.relu().mul(&g).sum_all(), &[&x, &w]);
        let (found, expected) = (of(&y)?, of(&z)?);
        for (a, b) in [(&y, &z), (&found[0], &expected[0]), (&found[1], &expected[1])] {
            let (a, b) = (a.to_f64_vec()?, b.to_f64_vec()?);
            let scale = b.iter().fold(1.0f64, |m, v| m.max(v.abs()));
            for (a, b) in a.into_iter().zip(b) {
                assert!((a - b).abs() < 2e-6 * scale, "{a} and {b}");
            }
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let device = device();
    let x = Tensor::zeros([1, 3, 4, 4], DType::F32, &device);
    let w = Tensor::zeros([2, 3, 3, 3], DType::F32, &device);
    let message = |t: Tensor| t.error().map(ToString::to_string).unwrap_or_default();
    let grouped = Conv { groups: 2, ..Conv::default() };
    assert!(message(functional::conv2d(&x, &w, None, &grouped)).contains("2 group(s)"));
    let wide = Tensor::zeros([2, 3, 5, 5], DType::F32, &device);
    assert!(message(functional::conv2d(&x, &wide, None, &Conv::default())).contains("conv"));
    let zero = Conv { stride: [0, 1], ..Conv::default() };
    assert!(message(functional::conv2d(&x, &w, None, &zero)).contains("1 or more"));
    let same = Conv { stride: [2, 2], padding: Padding::Same, ..Conv::default() };
    assert!(message(functional::conv2d(&x, &w, None, &same)).contains("same"));
    assert!(message(functional::max_pool2d(&x, &MaxPool::new([5, 5]))).contains("does not fit"));
    assert!(message(functional::adaptive_avg_pool(&x, [0, 1])).contains("cannot divide"));
    assert!(message(functional::pixel_shuffle(&x, 2)).contains("channels that 2 x 2 divides"));
    let (y, _) = functional::batch_norm_train(&Tensor::zeros([1, 3], DType::F32, &device), None, None, 1e-5);
    assert!(message(y).contains("one value per channel"));
    let extra = ConvTranspose { output_padding: [2, 0], ..ConvTranspose::default() };
    let turned = Tensor::zeros([3, 2, 3, 3], DType::F32, &device);
    assert!(message(functional::conv_transpose2d(&x, &turned, None, &extra)).contains("output padding"));
}
