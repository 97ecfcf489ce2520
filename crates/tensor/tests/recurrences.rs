//! Sums and products so far, and recurrences: values, gradients, and errors.

mod common;

use common::cpu;
use wgrad_tensor::{Tensor, grad, scan};

/// One device for all, since operands are of one.
fn device() -> &'static wgrad_tensor::DeviceHandle {
    static DEVICE: std::sync::OnceLock<wgrad_tensor::DeviceHandle> = std::sync::OnceLock::new();
    DEVICE.get_or_init(cpu)
}

fn tensor(elements: &[f64], shape: &[usize]) -> Tensor {
    Tensor::from_slice(elements, shape, device())
}

#[test]
fn products_have_right_gradients_where_elements_are_zero() {
    let x = tensor(&[2.0, 0.0, 3.0, 0.0, 0.0, 5.0, 1.5, 2.0, 4.0], &[3, 3]);
    let y = x.prod(&[1], false);
    assert_eq!(y.to_vec::<f64>().unwrap(), [0.0, 0.0, 12.0]);
    let gradient = &grad(&y.sum_all(), &[&x]).unwrap()[0];
    assert_eq!(gradient.to_vec::<f64>().unwrap(), [0.0, 6.0, 0.0, 0.0, 0.0, 0.0, 8.0, 6.0, 3.0]);
    // ∂²/∂x₀∂x₁ of x₀ x₁ x₂ is x₂, though all first derivatives are zero.
    let second = &grad(&gradient.narrow(1, 0, 1).sum_all(), &[&x]).unwrap()[0];
    assert_eq!(second.to_vec::<f64>().unwrap()[..6], [0.0, 3.0, 0.0, 0.0, 5.0, 0.0]);
    // d Σ yᵢ: 1 + x₁ + x₁ x₂, x₀ + x₀ x₂, x₀ x₁.
    let gradient = &grad(&x.cumprod(1).sum_all(), &[&x]).unwrap()[0];
    assert_eq!(gradient.to_vec::<f64>().unwrap(), [1.0, 8.0, 0.0, 1.0, 0.0, 0.0, 11.0, 7.5, 3.0]);
}

#[test]
fn products_reduce_any_axes() {
    let x = Tensor::arange(12, device()).reshape([2, 3, 2]).cast(wgrad_tensor::DType::F64).add(1.0);
    assert_eq!(x.prod(&[0, 2], true).shape().dims(), [1, 3, 1]);
    assert_eq!(x.prod(&[0, 2], false).to_vec::<f64>().unwrap(), [112.0, 1080.0, 3960.0]);
    assert_eq!(x.prod(&[-1], false).to_vec::<f64>().unwrap(), [2.0, 12.0, 30.0, 56.0, 90.0, 132.0]);
    let empty = tensor(&[], &[2, 0]);
    assert_eq!(empty.prod(&[1], false).to_vec::<f64>().unwrap(), [1.0, 1.0]);
    assert!(empty.cumprod(1).to_vec::<f64>().unwrap().is_empty());
    assert!(empty.cumsum(1).to_vec::<f64>().unwrap().is_empty());
    assert!(x.cumsum(3).realize().unwrap_err().to_string().contains("axis 3 is out of range"));
}

#[test]
fn long_sums_stay_accurate() {
    let x = Tensor::full([100_000], 0.1, wgrad_tensor::DType::F32, device());
    let last = x.cumsum(0).to_vec::<f32>().unwrap()[99_999];
    assert!((f64::from(last) - 1e5 * f64::from(0.1f32)).abs() < 1e-3, "{last}");
}

#[test]
fn a_scan_uses_tensors_from_outside_and_gives_them_gradients() {
    let (x, w) = (tensor(&[1.0, -2.0, 0.5, 3.0], &[2, 2]), tensor(&[0.5, 0.25, -0.5, 1.0], &[2, 2]));
    let h = tensor(&[0.1, 0.2], &[2]);
    let step = |h: &Tensor, x: &Tensor| h.unsqueeze(0).matmul(&w).squeeze(0).add(x).tanh().mul(0.7);
    let run = scan(&[&h], &[&x], 2, false, |h, x| {
        let next = step(&h[0], &x[0]);
        (vec![next.clone()], vec![next.square()])
    });
    let rows: Vec<Tensor> = x.split(1, 0).iter().map(|r| r.squeeze(0)).collect();
    let (first, second) = (step(&h, &rows[0]), step(&step(&h, &rows[0]), &rows[1]));
    let squares = Tensor::stack(&[&first.square(), &second.square()], 0);
    let loss = |last: &Tensor, squares: &Tensor| last.sum_all().add(squares.sum_all());
    let (got, want) = (loss(&run.carries[0], &run.results[0]), loss(&second, &squares));
    let close = |a: &Tensor, b: &Tensor| {
        let (a, b) = (a.to_vec::<f64>().unwrap(), b.to_vec::<f64>().unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?} {b:?}");
    };
    close(&got, &want);
    let all = [&x, &w, &h];
    for (a, b) in grad(&got, &all).unwrap().iter().zip(grad(&want, &all).unwrap()) {
        close(a, &b);
    }
}

#[test]
fn a_scan_that_does_not_fit_says_so() {
    let (h, x) = (tensor(&[0.0], &[1]), tensor(&[1.0, 2.0], &[2]));
    let message = |run: wgrad_tensor::Scanned| run.carries[0].realize().unwrap_err().to_string();
    let same = |h: &[Tensor], _: &[Tensor]| (vec![h[0].clone()], vec![]);
    let found = message(scan(&[&h], &[&x], 3, false, same));
    assert!(found.contains("expects sequences of 3 slices, got f64[2]"), "{found}");
    let found = message(scan(&[&h], &[&x], 2, false, |h, x| (vec![h[0].add(&x[0]).sum_all()], vec![])));
    assert!(found.contains("carry 0 is f64[1] at first, and f64[] after an iteration"), "{found}");
    let found = message(scan(&[&h], &[&x], 2, false, |_, _| (vec![], vec![])));
    assert!(found.contains("gives 0 carries, but takes 1"), "{found}");
    let faulty = h.reshape([7]);
    let run =
        scan(&[&faulty], &[&x], 2, false, |h, x| (vec![h[0].clone()], vec![x[0].clone(), x[0].clone()]));
    assert_eq!(run.results.len(), 2);
    assert!(run.results[1].realize().is_err());
}

#[test]
fn scans_of_one_body_share_a_program() {
    let device = cpu();
    let run = |start: f64| {
        let h = Tensor::from_vec(vec![start], [1], &device);
        let x = Tensor::from_vec(vec![1.0, 2.0, 3.0], [3, 1], &device);
        scan(&[&h], &[&x], 3, true, |h, x| (vec![h[0].mul(0.5).add(&x[0])], vec![])).carries[0]
            .to_vec::<f64>()
    };
    assert_eq!(run(8.0).unwrap(), [3.75]);
    let misses = device.cache().stats().misses;
    assert_eq!(run(0.0).unwrap(), [2.75]);
    assert_eq!(device.cache().stats().misses, misses);
}
