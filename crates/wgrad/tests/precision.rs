//! Mixed precision: what it rounds, what it leaves alone, and that models learn by it.

use wgrad::{
    data::{TextSource, TokenStream, Tokenizer, WindowSampler},
    models::{Gpt2Config, Gpt2Init, Gpt2LMHead},
    nn::Init,
    optim::{AdamWConfig, GradScaler, Schedule, decay_matrices_only},
    prelude::*,
};

fn devices() -> Vec<DeviceHandle> {
    let open = |id: &str| wgrad::devices().open(id).unwrap_or_else(|e| panic!("{e}")).device;
    if std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|d| d == "cpu") {
        eprintln!("the GPU is left out: WGRAD_TEST_DEVICES=cpu");
        return vec![open("cpu")];
    }
    vec![open("cpu"), open("gpu")]
}

/// How large a GPT, and how long it learns.
struct Run {
    context: usize,
    batch: usize,
    width: usize,
    layers: usize,
    heads: usize,
    steps: u64,
    lr: f64,
}

/// The mean loss of the last steps of a GPT on real text.
fn final_loss(device: &DeviceHandle, run: &Run, dtype: DType) -> f64 {
    let recipes = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes");
    let text = TextSource::new(["data/sotu/*.txt"]).with_range(2009, 2018).resolve(recipes.as_ref()).unwrap();
    let stream = TokenStream::in_memory(&text, &Tokenizer::Bytes).unwrap();
    let sampler = WindowSampler::new(stream.len(), run.context, run.batch, 3).unwrap();
    let config = Gpt2Config {
        vocab_size: 256,
        n_positions: run.context,
        n_embd: run.width,
        n_layer: run.layers,
        n_head: run.heads,
        resid_pdrop: 0.0,
        embd_pdrop: 0.0,
        attn_pdrop: 0.0,
        ..Gpt2Config::default()
    };
    let model = Gpt2LMHead::new(&config, &Init::new(device, 3), Gpt2Init::ScaledResiduals).unwrap();
    let mut optimizer = AdamW::new(decay_matrices_only(&model, 0.1), AdamWConfig::default());
    optimizer.set_clip_grad_norm(Some(1.0));
    if dtype == DType::F16 {
        assert!(optimizer.set_grad_scaler(Some(GradScaler::new(device))));
    }
    let schedule =
        Schedule::WarmupCosineTo { lr: run.lr, min_lr: run.lr / 10.0, warmup: 10, total: run.steps };
    let mut losses = Vec::new();
    for step in 0..run.steps {
        let batch = sampler.batch(&stream, step).unwrap();
        let tensor = |ids: Vec<i32>| Tensor::from_vec(ids, [run.batch, run.context], device);
        let logits = model.forward(&tensor(batch.inputs), None, &Context::train(3, step as u32));
        let loss = Gpt2LMHead::next_token_loss(&logits, &tensor(batch.targets)).autocast(dtype);
        optimizer.set_lr(schedule.lr(step));
        losses.push(optimizer.step(&loss).unwrap().loss);
    }
    let last = &losses[losses.len() - (run.steps as usize / 8).max(1)..];
    last.iter().map(|loss| loss.item().unwrap()).sum::<f64>() / last.len() as f64
}

#[test]
fn a_tiny_gpt_learns_as_well_by_halves() {
    let run = Run { context: 32, batch: 8, width: 32, layers: 1, heads: 2, steps: 80, lr: 5e-3 };
    for device in devices() {
        // A software adapter is slow: as many steps as show a difference.
        let run = Run { steps: if device.info().id == "cpu" { run.steps } else { 24 }, ..run };
        let f32 = final_loss(&device, &run, DType::F32);
        assert!(f32 < 4.5, "nothing was learned: {f32}");
        for dtype in [DType::BF16, DType::F16] {
            let half = final_loss(&device, &run, dtype);
            println!("{}: {dtype} {half:.4}, f32 {f32:.4}", device.info().id);
            assert!((half - f32).abs() < 0.02 * f32, "{}: {dtype} {half}, f32 {f32}", device.info().id);
        }
    }
}

#[test]
#[ignore = "minutes: gpt-nano, three times 300 steps"]
fn gpt_nano_ends_within_two_percent_of_its_loss_in_f32() {
    let run = Run { context: 64, batch: 16, width: 128, layers: 4, heads: 4, steps: 300, lr: 1e-3 };
    let device = devices().swap_remove(0);
    let f32 = final_loss(&device, &run, DType::F32);
    for dtype in [DType::BF16, DType::F16] {
        let half = final_loss(&device, &run, dtype);
        println!("{dtype} {half:.4}, f32 {f32:.4}");
        assert!((half - f32).abs() < 0.02 * f32, "{dtype} {half}, f32 {f32}");
    }
}

#[test]
fn products_round_their_operands_and_all_else_stays_f32() {
    for device in devices() {
        let x = Tensor::from_vec(vec![1.0f32, 1.001, -0.3337, 2.5], [2, 2], &device);
        let w = Tensor::from_vec(vec![0.7001f32, -1.2002, 0.3003, 2.1], [2, 2], &device);
        for dtype in [DType::BF16, DType::F16] {
            let plain = |x: &Tensor, w: &Tensor| x.matmul(&w.t()).tanh().sum_all();
            let by_hand = x.cast(dtype).matmul(&w.t().cast(dtype)).cast(DType::F32).tanh().sum_all();
            let loss = plain(&x, &w).autocast(dtype);
            assert_eq!(loss.item().unwrap(), by_hand.item().unwrap(), "{dtype}");
            let (got, want) = (grad(&loss, &[&x, &w]).unwrap(), grad(&by_hand, &[&x, &w]).unwrap());
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got.dtype(), DType::F32);
                assert_eq!(got.to_f64_vec().unwrap(), want.to_f64_vec().unwrap(), "{dtype}");
            }
            // Without products nothing changes, and checkpoints are entered.
            let sum = x.exp().sum_all();
            assert!(sum.autocast(dtype).is_same(&sum));
            let checkpoint = wgrad::tensor::checkpoint(&[&x, &w], |x| plain(&x[0], &x[1])).autocast(dtype);
            assert_eq!(checkpoint.item().unwrap(), loss.item().unwrap());
            let gradients = grad(&checkpoint, &[&x, &w]).unwrap();
            for (got, want) in gradients.iter().zip(&got) {
                assert_eq!(got.to_f64_vec().unwrap(), want.to_f64_vec().unwrap(), "{dtype}");
            }
        }
        assert!(x.sum_all().autocast(DType::I32).error().is_some());
    }
}

#[test]
fn convolutions_round_their_operands_as_products_do() {
    use wgrad::nn::functional::{Conv, Padding, conv2d};
    for device in devices() {
        let number = |n: usize| (n * 37 % 101) as f32 / 40.0 - 1.2;
        let tensor = |shape: [usize; 4]| {
            Tensor::from_vec((0..shape.iter().product()).map(number).collect(), shape, &device)
        };
        let (x, w) = (tensor([2, 4, 5, 7]), tensor([6, 2, 3, 3]));
        let options = Conv { stride: [2, 1], padding: Padding::Both([1; 2]), groups: 2, ..Conv::default() };
        for dtype in [DType::BF16, DType::F16] {
            let loss = conv2d(&x, &w, None, &options).tanh().sum_all().autocast(dtype);
            let by_hand = conv2d(&x.cast(dtype), &w.cast(dtype), None, &options);
            let by_hand = by_hand.cast(DType::F32).tanh().sum_all();
            assert_eq!(loss.item().unwrap(), by_hand.item().unwrap(), "{dtype}");
            let (got, want) = (grad(&loss, &[&x, &w]).unwrap(), grad(&by_hand, &[&x, &w]).unwrap());
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got.dtype(), DType::F32);
                assert_eq!(got.to_f64_vec().unwrap(), want.to_f64_vec().unwrap(), "{dtype}");
            }
        }
    }
}

#[test]
fn a_step_that_overflows_is_skipped_on_the_device_and_halves_the_scale() {
    for device in devices() {
        let model = Linear::new(&Init::new(&device, 1), 2, 1, false);
        let weight = || model.weight.tensor().to_vec::<f32>().unwrap();
        let mut optimizer = AdamW::new(all_parameters(&model, 0.0), AdamWConfig::default());
        let mut scaler = GradScaler::with_scale(8.0, &device);
        scaler.growth_interval = 2;
        assert!(optimizer.set_grad_scaler(Some(scaler)));
        let scale = |optimizer: &dyn Optimizer| -> f64 {
            let state = optimizer.state_dict();
            let found = state.tensors.iter().find(|(name, _)| name == "grad_scaler.scale");
            found.expect("a scale").1.item().unwrap()
        };
        let step = |optimizer: &mut dyn Optimizer, size: f32| {
            let x = Tensor::from_vec(vec![size, -size], [1, 2], &device);
            optimizer.step(&model.forward(&x).square().sum_all().autocast(DType::F16)).unwrap()
        };
        let first = step(&mut optimizer, 1.0);
        assert!(first.grad_norm.item().unwrap() > 0.0);
        let before = weight();
        // 60,000 times the cotangent is beyond f16.
        assert!(!step(&mut optimizer, 6e4).grad_norm.item().unwrap().is_finite());
        assert_eq!((weight(), scale(&optimizer)), (before.clone(), 4.0));
        step(&mut optimizer, 1.0);
        assert!(weight() != before && weight().iter().all(|w| w.is_finite()));
        assert_eq!(scale(&optimizer), 4.0);
        step(&mut optimizer, 1.0);
        assert_eq!(scale(&optimizer), 8.0);
        // A checkpoint holds the scale.
        let state = optimizer.state_dict();
        let mut other = AdamW::new(all_parameters(&model, 0.0), AdamWConfig::default());
        other.set_grad_scaler(Some(GradScaler::new(&device)));
        other.load_state_dict(&state).unwrap();
        assert_eq!(scale(&other), 8.0);
    }
}
