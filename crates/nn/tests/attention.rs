//! Attention against the same formula composed of plain operations: values, gradients, gradients of gradients; both by the device's
//! kernel (f32) and by the function's body (f64).

use wgrad_cpu::CpuDevice;
use wgrad_ir::Kernel;
use wgrad_nn::{
    Context,
    functional::{Attention, scaled_dot_product_attention},
};
use wgrad_tensor::{DType, DeviceHandle, Tensor, TensorError, grad};

type Outcome = Result<(), TensorError>;

fn device() -> DeviceHandle {
    std::sync::Arc::new(CpuDevice::new())
}

fn numbers(n: usize, seed: u64) -> Vec<f64> {
    wgrad_nn::Initializer::Normal { std: 1.0 }.draw(&[n], seed, 0)
}

fn near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "{what}: element {i}: {f} instead of {e}");
    }
}

/// Extents and what is seen.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
    causal: bool,
    window: Option<usize>,
    masked: bool,
}

const BASE: Case = Case {
    batch: 2,
    heads: 4,
    kv_heads: 4,
    queries: 7,
    keys: 7,
    width: 8,
    causal: false,
    window: None,
    masked: false,
};

const CASES: [Case; 10] = [
    BASE,
    Case { causal: true, ..BASE },
    Case { causal: true, window: Some(3), ..BASE },
    Case { window: Some(2), ..BASE },
    Case { masked: true, ..BASE },
    Case { causal: true, masked: true, kv_heads: 2, ..BASE },
    Case { kv_heads: 1, keys: 11, ..BASE },
    Case { causal: true, queries: 9, keys: 5, window: Some(2), ..BASE },
    Case { causal: true, queries: 3, keys: 10, masked: true, ..BASE },
    Case { batch: 1, heads: 1, kv_heads: 1, queries: 1, keys: 1, width: 1, ..BASE },
];

struct Operands {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Option<Tensor>,
    /// Weights of the loss.
    w: Tensor,
}

impl Operands {
    fn new(case: Case, dtype: DType, device: &DeviceHandle) -> Self {
        let Case { batch, heads, kv_heads, queries, keys, width, .. } = case;
        let tensor = |shape: [usize; 4], seed| {
            Tensor::from_vec(numbers(shape.iter().product(), seed), shape, device)
                .cast(dtype)
                .detach_realized()
        };
        // The first sequence hides every third key, the second one all keys but the last.
        let shown = (0..batch * keys).map(|n| if n < keys { n % 3 != 0 } else { n + 1 == batch * keys });
        Operands {
            q: tensor([batch, heads, queries, width], 1),
            k: tensor([batch, kv_heads, keys, width], 2),
            v: tensor([batch, kv_heads, keys, width], 3),
            mask: case.masked.then(|| Tensor::from_vec(shown.collect::<Vec<_>>(), [batch, keys], device)),
            w: tensor([batch, heads, queries, width], 4),
        }
    }

    fn function(&self, case: Case) -> Tensor {
        let options = Attention {
            causal: case.causal,
            window: case.window,
            key_mask: self.mask.as_ref(),
            ..Attention::default()
        };
        scaled_dot_product_attention(&self.q, &self.k, &self.v, &options, &Context::train(0, 0))
    }

    fn composed(&self, case: Case) -> Tensor {
        let device = self.q.device();
        let repeat = |t: &Tensor| {
            let [b, g, j, d] = t.dims::<4>();
            t.unsqueeze(2).expand([b, g, case.heads / g, j, d]).reshape([b, case.heads, j, d])
        };
        let scores =
            self.q.matmul(&repeat(&self.k).transpose(-2, -1)).mul((case.width as f64).sqrt().recip());
        let (mut seen, (i, j)) = (Vec::new(), (case.queries, case.keys));
        for (i, j) in (0..i).flat_map(|i| (0..j).map(move |j| (i, j))) {
            seen.push((!case.causal || j <= i) && case.window.is_none_or(|w| i.abs_diff(j) < w));
        }
        let mut seen = Tensor::from_vec(seen, [i, j], device);
        if let Some(mask) = &self.mask {
            seen = seen.logical_and(mask.unsqueeze(1).unsqueeze(1));
        }
        let constant = |value| Tensor::constant(value, scores.dtype(), device);
        let weights = seen.where_(&scores, &constant(-1e30)).softmax(-1);
        seen.where_(&weights, &constant(0.0)).matmul(&repeat(&self.v))
    }

    fn leaves(&self) -> [&Tensor; 3] {
        [&self.q, &self.k, &self.v]
    }

    fn gradients(&self, y: &Tensor) -> Result<Vec<Tensor>, TensorError> {
        grad(&y.mul(&self.w).sum_all(), &self.leaves())
    }
}

#[test]
fn attention_equals_the_composed_form_in_value_and_gradient() -> Outcome {
    let device = device();
    for case in CASES {
        for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 2e-5)] {
            let x = Operands::new(case, dtype, &device);
            let exact = Operands::new(case, DType::F64, &device);
            let (found, expected) = (x.function(case), exact.composed(case));
            near(&format!("{case:?} {dtype}"), &found.to_f64_vec()?, &expected.to_f64_vec()?, tolerance);
            let (found, expected) = (x.gradients(&found)?, exact.gradients(&expected)?);
            for (n, (f, e)) in found.iter().zip(&expected).enumerate() {
                let what = format!("{case:?} {dtype} gradient {n}");
                near(&what, &f.to_f64_vec()?, &e.to_f64_vec()?, 10.0 * tolerance);
            }
        }
    }
    Ok(())
}

#[test]
fn the_device_s_kernels_compute_it_in_both_directions() -> Outcome {
    let device = device();
    let case = Case { causal: true, ..BASE };
    let x = Operands::new(case, DType::F32, &device);
    let gradients = x.gradients(&x.function(case))?;
    device.cache().clear();
    wgrad_tensor::eval(&gradients.iter().collect::<Vec<_>>())?;
    let programs = device.cache().executables();
    let steps: Vec<_> = programs.iter().flat_map(|p| &p.program().steps).collect();
    let count = |wanted: fn(&Kernel) -> bool| steps.iter().filter(|s| wanted(&s.kernel)).count();
    assert_eq!(count(|k| matches!(k, Kernel::Attention(_))), 1);
    assert_eq!(count(|k| matches!(k, Kernel::AttentionGrad(_))), 1);
    assert_eq!(count(|k| matches!(k, Kernel::MatMul(_))), 0);
    Ok(())
}

#[test]
fn gradients_of_the_body_match_finite_differences() -> Outcome {
    let device = device();
    let small = Case { batch: 2, heads: 2, kv_heads: 1, queries: 3, keys: 4, width: 2, ..BASE };
    for case in [small, Case { causal: true, masked: true, ..small }, Case { window: Some(2), ..small }] {
        let x = Operands::new(case, DType::F64, &device);
        let loss = |x: &Operands| x.function(case).mul(&x.w).sum_all().item();
        let gradients = x.gradients(&x.function(case))?;
        for (operand, gradient) in gradients.iter().enumerate() {
            let gradient = gradient.to_f64_vec()?;
            for (element, analytic) in gradient.iter().enumerate() {
                let at = |shift: f64| -> Result<f64, TensorError> {
                    let mut moved = Operands::new(case, DType::F64, &device);
                    let target = [&mut moved.q, &mut moved.k, &mut moved.v].into_iter().nth(operand);
                    if let Some(target) = target {
                        let mut values = target.to_f64_vec()?;
                        values[element] += shift;
                        *target = Tensor::from_vec(values, target.shape(), &device);
                    }
                    loss(&moved)
                };
                let numeric = (at(1e-5)? - at(-1e-5)?) / 2e-5;
                assert!((analytic - numeric).abs() < 1e-8, "{operand}[{element}]: {analytic}, {numeric}");
            }
        }
    }
    Ok(())
}

#[test]
fn second_derivatives_equal_those_of_the_composed_form() -> Outcome {
    let device = device();
    for case in [CASES[1], CASES[5], CASES[7]] {
        let x = Operands::new(case, DType::F64, &device);
        let twice = |y: &Tensor| {
            let first = x.gradients(y)?;
            let loss = first.iter().map(|g| g.square().sum_all()).reduce(|a, b| a.add(b));
            grad(&loss.unwrap_or_else(|| y.sum_all()), &x.leaves())
        };
        for (f, e) in twice(&x.function(case))?.iter().zip(twice(&x.composed(case))?) {
            near(&format!("{case:?}"), &f.to_f64_vec()?, &e.to_f64_vec()?, 1e-9);
        }
    }
    Ok(())
}

#[test]
fn dropped_weights_leave_the_mean_and_follow_window_and_groups() -> Outcome {
    let device = device();
    let case = Case { batch: 1, kv_heads: 2, causal: true, window: Some(3), ..BASE };
    let x = Operands::new(case, DType::F32, &device);
    let options = Attention { causal: true, window: Some(3), dropout: 0.5, ..Attention::default() };
    let of = |ctx: &Context| scaled_dot_product_attention(&x.q, &x.k, &x.v, &options, ctx).to_f64_vec();
    let exact = x.function(case).to_f64_vec()?;
    // Without training there is no dropout.
    near("evaluation", &of(&Context::eval())?, &exact, 1e-6);
    let mut mean = vec![0.0; exact.len()];
    const DRAWS: u32 = 2000;
    for step in 0..DRAWS {
        mean.iter_mut().zip(of(&Context::train(1, step))?).for_each(|(m, v)| *m += v / f64::from(DRAWS));
    }
    // The standard error of a mean of weights that are 0 or doubled is about 1/√2000 of values around 1.
    near("mean", &mean, &exact, 0.15);
    Ok(())
}

#[test]
fn operands_that_do_not_fit_are_refused_with_their_shapes() {
    let device = device();
    let x = |shape: [usize; 4]| Tensor::zeros(shape, DType::F32, &device);
    let of = |q: &Tensor, k: &Tensor, v: &Tensor, options: &Attention<'_>| {
        let y = scaled_dot_product_attention(q, k, v, options, &Context::eval());
        y.error().map(ToString::to_string).unwrap_or_default()
    };
    let (q, plain) = (x([1, 4, 3, 8]), Attention::default());
    let three = of(&q, &x([1, 3, 3, 8]), &x([1, 3, 3, 8]), &plain);
    assert!(three.contains("[1, 4, 3, 8]") && three.contains("[1, 3, 3, 8]"), "{three}");
    assert!(!of(&q, &x([1, 4, 3, 4]), &x([1, 4, 3, 4]), &plain).is_empty());
    assert!(!of(&q, &x([1, 4, 3, 8]), &x([1, 4, 2, 8]), &plain).is_empty());
    let none = Attention { window: Some(0), ..plain };
    assert!(of(&q, &q, &q, &none).contains("window"));
    let mask = Tensor::zeros([2, 3], DType::Bool, &device);
    assert!(!of(&q, &q, &q, &Attention { key_mask: Some(&mask), ..plain }).is_empty());
}
