//! Operations made of primitives, where the table of operations cannot tell: relative accuracy, special values, errors, draws.

mod common;

use std::sync::LazyLock;

use common::leaf;
use wgrad_tensor::{
    DType, DeviceHandle, GridMode, GridPadding, Interpolation, PadMode, RandomKey, Tensor, grad,
};

/// One device, so that tensors of several helpers meet.
fn cpu() -> DeviceHandle {
    static CPU: LazyLock<DeviceHandle> = LazyLock::new(common::cpu);
    CPU.clone()
}

fn floats(values: &[f64]) -> Tensor {
    leaf::<f64>(values, &[values.len()], &cpu())
}

fn ints(values: &[i32]) -> Tensor {
    Tensor::from_vec(values.to_vec(), [values.len()], &cpu())
}

/// The message of the error that a tensor carries.
fn refusal(tensor: &Tensor) -> String {
    tensor.error().map(ToString::to_string).unwrap_or_else(|| panic!("{tensor:?} carries no error"))
}

type Function = (&'static str, fn(&Tensor) -> Tensor, fn(f64) -> f64);

const ACCURATE: [Function; 10] = [
    ("log1p", Tensor::log1p, f64::ln_1p),
    ("expm1", Tensor::expm1, f64::exp_m1),
    ("sinh", Tensor::sinh, f64::sinh),
    ("asinh", Tensor::asinh, f64::asinh),
    ("atanh", Tensor::atanh, f64::atanh),
    ("atan", Tensor::atan, f64::atan),
    ("asin", Tensor::asin, f64::asin),
    ("tan", Tensor::tan, f64::tan),
    ("acos", Tensor::acos, f64::acos),
    ("cosh", Tensor::cosh, f64::cosh),
];

#[test]
fn functions_are_accurate_relative_to_small_results() {
    let mut xs: Vec<f64> =
        (-30..=0).flat_map(|e| [10f64.powi(e), -(10f64.powi(e))]).map(|x| 0.83 * x).collect();
    xs.extend([0.2499, 0.2501, -0.2499, -0.2501, 0.35, -0.35, 0.99, -0.99]);
    for (name, function, truth) in ACCURATE {
        let single: Vec<f32> = xs.iter().map(|&x| x as f32).collect();
        let got = function(&Tensor::from_vec(single.clone(), [xs.len()], &cpu())).to_vec::<f32>().unwrap();
        for (&x, &y) in single.iter().zip(&got) {
            let want = truth(f64::from(x));
            let error = (f64::from(y) - want).abs();
            assert!(error <= 1e-6 * want.abs(), "{name}({x}) = {y} in f32, expected {want}");
        }
        let got = function(&floats(&xs)).to_vec::<f64>().unwrap();
        for (&x, &y) in xs.iter().zip(&got) {
            let want = truth(x);
            assert!((y - want).abs() <= 2e-15 * want.abs(), "{name}({x}) = {y} in f64, expected {want}");
        }
    }
}

#[test]
fn arc_tangents_know_all_quadrants() {
    let points = [
        (1.0, 1.0),
        (1.0, -1.0),
        (-1.0, -1.0),
        (-1.0, 1.0),
        (0.0, 2.0),
        (0.0, -2.0),
        (3.0, 0.0),
        (-3.0, 0.0),
        (0.0, 0.0),
    ];
    let (ys, xs): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    let got = floats(&ys).atan2(&floats(&xs)).to_vec::<f64>().unwrap();
    for ((y, x), got) in points.iter().zip(got) {
        assert!((got - y.atan2(*x)).abs() < 1e-14, "atan2({y}, {x}) = {got}");
    }
}

#[test]
fn rounding_goes_to_even_and_remainders_have_the_sign_of_the_divisor() {
    let x = floats(&[0.5, 1.5, -0.5, -2.5, 0.499_999_999_999_999_94, 2.7, -2.2]);
    assert_eq!(x.round().to_vec::<f64>().unwrap(), [0.0, 2.0, 0.0, -2.0, 0.0, 3.0, -2.0]);
    assert_eq!(x.trunc().to_vec::<f64>().unwrap(), [0.0, 1.0, 0.0, -2.0, 0.0, 2.0, -2.0]);
    assert_eq!(x.sign().to_vec::<f64>().unwrap(), [1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0]);
    assert_eq!(floats(&[5.0, -5.0]).remainder(3.0).to_vec::<f64>().unwrap(), [2.0, 1.0]);
    let gradient = grad(&x.round().add(x.sign()).sum_all(), &[&x]).unwrap().remove(0);
    assert_eq!(gradient.to_vec::<f64>().unwrap(), [0.0; 7]);
}

#[test]
fn special_values_are_told_apart_on_the_cpu() {
    let x = floats(&[1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN]);
    assert_eq!(x.isnan().to_vec::<bool>().unwrap(), [false, false, false, true]);
    assert_eq!(x.isinf().to_vec::<bool>().unwrap(), [false, true, true, false]);
    assert_eq!(x.isfinite().to_vec::<bool>().unwrap(), [true, false, false, false]);
}

#[test]
fn sorts_keep_equal_elements_in_order_and_put_nan_last() {
    let x = floats(&[2.0, f64::NAN, -1.0, 2.0, -0.0, 0.0]);
    let (values, order) = x.sort(0, false);
    assert_eq!(order.to_vec::<i32>().unwrap(), [2, 4, 5, 0, 3, 1]);
    assert_eq!(values.to_vec::<f64>().unwrap()[..5], [-1.0, 0.0, 0.0, 2.0, 2.0]);
    assert_eq!(x.argsort(0, true).to_vec::<i32>().unwrap(), [1, 0, 3, 4, 5, 2]);
    let (top, at) = ints(&[3, 9, 4, 9]).topk(2, 0, true);
    assert_eq!((top.to_vec::<i32>().unwrap(), at.to_vec::<i32>().unwrap()), (vec![9, 9], vec![1, 3]));
    assert!(refusal(&x.topk(7, 0, true).0).contains("axis 0 of f64[6] is long, got 7"));
}

#[test]
fn extrema_give_their_gradient_to_the_first_of_equal_elements() {
    let x = leaf::<f64>(&[1.0, 3.0, 3.0, 2.0, 2.0, 2.0], &[2, 3], &cpu());
    let (values, indices) = x.max(1, false);
    assert_eq!(indices.to_vec::<i32>().unwrap(), [1, 0]);
    let gradient = grad(&values.sum_all(), &[&x]).unwrap().remove(0);
    assert_eq!(gradient.to_vec::<f64>().unwrap(), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn of_several_elements_scattered_to_one_place_the_last_one_stays() {
    let (x, source) = (floats(&[10.0, 11.0, 12.0]), floats(&[1.0, 2.0, 3.0, 4.0]));
    let y = x.scatter(0, &ints(&[2, 0, 2, 0]), &source);
    assert_eq!(y.to_vec::<f64>().unwrap(), [4.0, 11.0, 3.0]);
    let gradients = grad(&y.sum_all(), &[&x, &source]).unwrap();
    assert_eq!(gradients[0].to_vec::<f64>().unwrap(), [0.0, 1.0, 0.0]);
    assert_eq!(gradients[1].to_vec::<f64>().unwrap(), [0.0, 0.0, 1.0, 1.0]);
}

#[test]
fn indices_out_of_range_are_errors_wherever_they_come_from() {
    let x = leaf::<f32>(&[0.0; 6], &[2, 3], &cpu());
    let far = Tensor::from_vec(vec![0, 3], [2, 1], &cpu());
    for refused in [
        x.gather(1, &far),
        x.scatter_add(1, &far, &x),
        x.index_select(0, &ints(&[2])),
        x.index_add(0, &ints(&[-1]), &x.narrow(0, 0, 1)),
        ints(&[4]).one_hot(4),
    ] {
        assert!(refusal(&refused).contains("out of range"), "{}", refusal(&refused));
    }
    // 3 is the first element of the next row, which nobody asked for; the host does not know it.
    let computed = far.add(0.0);
    assert!(computed.int_range().is_none());
    assert!(x.gather(1, &computed).to_vec::<f32>().is_err());
    let fits = computed.minimum(2.0);
    assert!(x.gather(1, &fits).to_vec::<f32>().is_ok());
}

#[test]
fn subscripts_that_do_not_fit_are_errors_that_say_why() {
    let x = leaf::<f32>(&[0.0; 6], &[2, 3], &cpu());
    for (equation, operands, part) in [
        ("ij,jk->ik", vec![&x], "2 terms for 1 operands"),
        ("ijk->i", vec![&x], "does not name 2 axes"),
        ("i1->i", vec![&x], "'1' is no subscript"),
        ("ij->k", vec![&x], "occurs in no operand"),
        ("ij->ii", vec![&x], "twice"),
        ("ij,ij->ij", vec![&x, &x], ""),
        ("ij,jk->ik", vec![&x, &x], "3 long here and 2 there"),
        ("ii->i", vec![&x], "names extents 2 and 3"),
    ] {
        let y = Tensor::einsum(equation, &operands);
        if part.is_empty() {
            assert!(y.error().is_none(), "{equation}");
        } else {
            assert!(refusal(&y).contains(part), "{}", refusal(&y));
        }
    }
    assert!(Tensor::einsum("", &[]).error().is_some());
    let [floats, integers] = [DType::F32, DType::I32].map(|dtype| Tensor::ones([2, 2], dtype, &cpu()));
    assert!(Tensor::einsum("ij,jk->ik", &[&floats, &integers]).error().is_some());
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let x = leaf::<f32>(&[0.0; 6], &[2, 3], &cpu());
    let v = leaf::<f32>(&[0.0; 2], &[2], &cpu());
    for refused in [
        x.pad_with(&[(0, 0), (3, 0)], PadMode::Reflect),
        x.pad_with(&[(3, 0), (0, 0)], PadMode::Circular),
        x.pad_with(&[(1, 0)], PadMode::Replicate),
        x.roll(&[1], &[]),
        x.roll(&[1], &[2]),
        x.repeat(&[2]),
        x.matmul(&v),
        x.bmm(&x),
        x.dot(&v),
        x.outer(&v),
        v.tril(0),
        x.diagonal(0, 1, 1),
        v.trace(),
        x.cdist(&v, 2.0),
        v.interpolate(&[2], Interpolation::Nearest),
        x.interpolate(&[0], Interpolation::Nearest),
        x.grid_sample(&x, GridMode::Linear, GridPadding::Zeros, false),
        x.pixel_shuffle(2),
        x.take_along_dim(&ints(&[0]), 1),
        ints(&[1]).norm(2.0, &[0], false),
        ints(&[1]).log1p(),
        x.any(&[0], false),
    ] {
        assert!(!refusal(&refused).is_empty());
    }
    assert!(x.t().matmul(&v).error().is_none() && v.matmul(&v).rank() == 0);
}

#[test]
fn zero_vectors_have_norms_without_a_slope() {
    let x = leaf::<f64>(&[0.0, 0.0, 3.0, -4.0], &[2, 2], &cpu());
    for p in [2.0, 3.0] {
        let norm = x.norm(p, &[1], false);
        let gradient = grad(&norm.sum_all(), &[&x]).unwrap().remove(0).to_vec::<f64>().unwrap();
        assert_eq!((norm.to_vec::<f64>().unwrap()[0], &gradient[..2]), (0.0, &[0.0, 0.0][..]), "p = {p}");
    }
    assert_eq!(x.norm(0.0, &[1], false).to_vec::<f64>().unwrap(), [0.0, 2.0]);
}

#[test]
fn ranges_end_where_they_should() {
    let device = cpu();
    let range = |start, end, step| Tensor::arange_by(start, end, step, DType::F64, &device);
    assert_eq!(range(1.0, 2.0, 0.25).to_vec::<f64>().unwrap(), [1.0, 1.25, 1.5, 1.75]);
    assert_eq!(range(3.0, 0.0, -2.0).to_vec::<f64>().unwrap(), [3.0, 1.0]);
    assert!(range(0.0, 1.0, 0.0).error().is_some() && range(0.0, 1.0, -1.0).error().is_some());
    assert_eq!(Tensor::linspace(3.0, 9.0, 1, DType::F32, &device).to_vec::<f32>().unwrap(), [3.0]);
    let line = Tensor::linspace(-1.0, 0.3, 8, DType::F32, &device).to_vec::<f32>().unwrap();
    assert_eq!((line[0], line[7], line.len()), (-1.0, 0.3, 8));
    assert_eq!(
        Tensor::eye(2, 3, DType::F32, &device).to_vec::<f32>().unwrap(),
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    );
}

#[test]
fn draws_have_the_distributions_they_are_named_after() {
    let device = cpu();
    let key = RandomKey { seed: 5, step: 1, stream: 0 };
    const N: usize = 20_000;
    let mean = |t: &Tensor| t.cast(DType::F64).mean_all().item().unwrap();
    let dice = Tensor::randint(1, 7, [N], &key, &device);
    let faces = dice.to_vec::<i32>().unwrap();
    assert!(faces.iter().all(|f| (1..7).contains(f)));
    // Six standard deviations of the mean of so many throws.
    assert!((mean(&dice) - 3.5).abs() < 6.0 * 1.708 / (N as f64).sqrt());
    let coins = Tensor::full([N], 0.3, DType::F32, &device).bernoulli(&key);
    assert!((mean(&coins) - 0.3).abs() < 6.0 * 0.458 / (N as f64).sqrt());
    let mut order = Tensor::randperm(1000, &key, &device).to_vec::<i32>().unwrap();
    assert!(order.windows(2).any(|w| w[0] > w[1]));
    order.sort_unstable();
    assert!(order.iter().enumerate().all(|(i, &n)| n == i as i32));
    let weights = leaf::<f32>(&[1.0, 0.0, 3.0], &[3], &device);
    let drawn = weights.multinomial(N, true, &key).to_vec::<i32>().unwrap();
    let share = drawn.iter().filter(|&&c| c == 2).count() as f64 / N as f64;
    assert!((share - 0.75).abs() < 6.0 * 0.433 / (N as f64).sqrt() && !drawn.contains(&1), "{share}");
    let mut two = weights.multinomial(2, false, &key).to_vec::<i32>().unwrap();
    two.sort_unstable();
    assert_eq!(two, [0, 2]);
    assert!(weights.multinomial(4, false, &key).error().is_some());
    assert!(Tensor::randint(3, 3, [1], &key, &device).error().is_some());
}

#[test]
fn images_of_constants_stay_constant() {
    let x = Tensor::ones([1, 1, 3, 5], DType::F64, &cpu());
    for mode in [
        Interpolation::Nearest,
        Interpolation::Linear { align_corners: false },
        Interpolation::Linear { align_corners: true },
        Interpolation::Cubic { align_corners: false },
    ] {
        for y in x.interpolate(&[7, 2], mode).to_vec::<f64>().unwrap() {
            assert!((y - 1.0).abs() < 1e-12, "{mode:?}: {y}");
        }
    }
}

/// What PyTorch 2.15 gives at four places, some of them outside.
#[test]
fn grids_are_sampled_as_pytorch_samples_them() {
    use GridMode::{Cubic, Linear, Nearest};
    use GridPadding::{Border, Reflection, Zeros};
    let d = &cpu();
    let image = vec![-2.0f32, 1.5, -0.5, 3.0, 1.0, -1.0, 2.5, 0.5, -1.5, 2.0, 0.0, -2.0];
    let image = Tensor::from_vec(image, [1, 1, 3, 4], d);
    let places = vec![-1.3f32, 0.4, 0.55, -1.7, 2.6, 0.95, -0.21, 0.13];
    let places = Tensor::from_vec(places, [1, 2, 2, 2], d);
    for (mode, padding, corners, expected) in [
        (Linear, Zeros, false, [0.0, 0.0, 0.0, -0.2208]),
        (Linear, Zeros, true, [0.0, 0.19125, 0.0, -0.09477]),
        (Linear, Border, false, [-0.5, 1.6, -2.0, -0.2208]),
        (Linear, Border, true, [0.0, 0.6375, -1.875, -0.09477]),
        (Linear, Reflection, false, [-0.37, 1.435, -0.45, -0.2208]),
        (Linear, Reflection, true, [0.09, 1.48625, 0.56, -0.09477]),
        (Nearest, Zeros, false, [0.0, 0.0, 0.0, -1.0]),
        (Nearest, Zeros, true, [1.0, 0.0, 0.0, -1.0]),
        (Nearest, Border, false, [-1.5, 3.0, -2.0, -1.0]),
        (Nearest, Border, true, [1.0, -0.5, -2.0, -1.0]),
        (Nearest, Reflection, false, [-1.5, 0.5, -1.5, -1.0]),
        (Nearest, Reflection, true, [1.0, 2.5, 2.0, -1.0]),
        (Cubic, Zeros, false, [0.02892, -0.15219, 0.0, -0.54682]),
        (Cubic, Zeros, true, [0.15806, 0.05708, 0.0, -0.41776]),
        (Cubic, Border, false, [-0.314, 1.498, -2.26347, -0.59405]),
        (Cubic, Border, true, [0.40096, 0.25706, -1.90617, -0.44028]),
        (Cubic, Reflection, false, [-0.23804, 1.81035, -0.55833, -0.59405]),
        (Cubic, Reflection, true, [0.02149, 1.97977, 0.59918, -0.41138]),
    ] {
        let got = image.grid_sample(&places, mode, padding, corners).to_f64_vec().unwrap();
        let near = got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-5);
        assert!(near, "{mode:?}, {padding:?}, corners {corners}: {got:?}, expected {expected:?}");
    }
}

#[test]
fn nearest_elements_are_those_that_pytorch_takes() {
    let x = Tensor::arange(5, &cpu()).reshape([1, 1, 5]);
    for (n, nearest, exact) in [
        (2, vec![0, 2], vec![1, 3]),
        (3, vec![0, 1, 3], vec![0, 2, 4]),
        (4, vec![0, 1, 2, 3], vec![0, 1, 3, 4]),
        (7, vec![0, 0, 1, 2, 2, 3, 4], vec![0, 1, 1, 2, 3, 3, 4]),
        (8, vec![0, 0, 1, 1, 2, 3, 3, 4], vec![0, 0, 1, 2, 2, 3, 4, 4]),
    ] {
        assert_eq!(x.interpolate(&[n], Interpolation::Nearest).to_vec::<i32>().unwrap(), nearest);
        assert_eq!(x.interpolate(&[n], Interpolation::NearestExact).to_vec::<i32>().unwrap(), exact);
    }
}
