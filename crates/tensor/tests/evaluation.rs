//! When and how often things are computed, and how elements get out.

mod common;

use common::{assert_close, cpu};
use expect_test::expect;
use wgrad_ir::philox;
use wgrad_tensor::{DType, RandomKey, Tensor, eval, grad};

#[test]
fn an_expression_that_comes_back_is_not_compiled_again() {
    let d = cpu();
    let step = |x: f32, rate: f64| {
        let w = Tensor::from_vec(vec![x, 2.0 * x], [2], &d);
        let loss = w.square().sum_all();
        let g = grad(&loss, &[&w]).unwrap().remove(0);
        (&w - g * rate).to_vec::<f32>().unwrap()
    };
    assert_eq!(step(1.0, 0.5), [0.0, 0.0]);
    let misses = d.cache().stats().misses;
    assert_eq!(step(3.0, 0.25), [1.5, 3.0]);
    assert_eq!(d.cache().stats().misses, misses, "another rate and other data are the same program");
    assert_eq!(d.cache().stats().hits, 1);
}

#[test]
fn several_tensors_are_computed_by_one_program() {
    let d = cpu();
    let x = Tensor::from_vec(vec![1.0f32, 4.0], [2], &d);
    let shared = x.sqrt();
    let (a, b, c) = (&shared + 1.0, &shared * 2.0, Tensor::constant(7.0, DType::I32, &d));
    let view = x.reshape([2, 1]);
    eval(&[&a, &b, &a, &c, &view, &x]).unwrap();
    assert_eq!(d.stats().runs, 1);
    assert_eq!(a.to_vec::<f32>().unwrap(), [2.0, 3.0]);
    assert_eq!(b.to_vec::<f32>().unwrap(), [2.0, 4.0]);
    assert_eq!(c.item().unwrap(), 7.0);
    assert_eq!(view.to_vec::<f32>().unwrap(), [1.0, 4.0]);
    assert_eq!(d.stats().runs, 1, "what is computed is kept");
    assert!(!shared.is_realized(), "what was not asked for is not kept");
}

#[test]
fn long_histories_do_not_overflow_the_stack() {
    let d = cpu();
    let mut x = Tensor::scalar(0.0, DType::F32, &d);
    let one = Tensor::constant(1.0, DType::F32, &d);
    for _ in 0..100_000 {
        x = x.add(&one);
    }
    // On a small stack, where recursion would not survive.
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(move || {
            assert!(grad(&x, &[&one]).is_ok());
            drop(x);
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_value_is_read_late_or_awaited() {
    let d = cpu();
    let x = Tensor::from_vec(vec![1.0f32, 2.0], [2], &d);
    let pending = x.exp().log().read::<f32>().unwrap();
    let later = (&x * 2.0).to_vec::<f32>().unwrap();
    assert_eq!(later, [2.0, 4.0]);
    assert_close(
        "log exp",
        &pending.wait().unwrap().iter().map(|&v| f64::from(v)).collect::<Vec<_>>(),
        &[1.0, 2.0],
        1e-6,
    );
    assert_eq!(pollster::block_on(x.to_vec_async::<f32>()).unwrap(), [1.0, 2.0]);
}

#[test]
fn every_dtype_goes_in_and_out() {
    let d = cpu();
    let round = |t: Tensor| t.to_f64_vec().unwrap();
    assert_eq!(round(Tensor::from_vec(vec![1.5f64, -2.0], [2], &d)), [1.5, -2.0]);
    assert_eq!(round(Tensor::from_vec(vec![i32::MIN, 7], [2], &d)), [f64::from(i32::MIN), 7.0]);
    assert_eq!(round(Tensor::from_vec(vec![u32::MAX, 7], [2], &d)), [f64::from(u32::MAX), 7.0]);
    let flags = Tensor::from_vec(vec![true, false, true], [3], &d);
    assert_eq!(flags.to_vec::<bool>().unwrap(), [true, false, true]);
    assert_eq!(flags.logical_not().to_vec::<bool>().unwrap(), [false, true, false]);
    assert_eq!(round(flags.cast(DType::I32)), [1.0, 0.0, 1.0]);
    let x = Tensor::from_vec(vec![-1.5f32, 0.0, 3e9], [3], &d);
    assert_eq!(x.cast(DType::I32).to_vec::<i32>().unwrap(), [-1, 0, i32::MAX]);
    assert_eq!(x.cast(DType::Bool).to_vec::<bool>().unwrap(), [true, false, true]);
    let big = Tensor::from_vec(vec![i32::MAX], [1], &d) + 1.0;
    assert_eq!(big.to_vec::<i32>().unwrap(), [i32::MIN], "integers wrap");
    let ten = Tensor::from_vec(vec![10i32, -10], [2], &d);
    let zero = Tensor::zeros([2], DType::I32, &d);
    assert_eq!(ten.div(3.0).to_vec::<i32>().unwrap(), [3, -3]);
    assert_eq!(ten.fmod(3.0).to_vec::<i32>().unwrap(), [1, -1]);
    assert_eq!(ten.div(&zero).to_vec::<i32>().unwrap(), [0, 0]);
    assert_eq!(ten.fmod(&zero).to_vec::<i32>().unwrap(), [0, 0]);
    assert_eq!(ten.abs().sum_all().item().unwrap(), 20.0);
}

#[test]
fn empty_tensors_are_ordinary() {
    let d = cpu();
    let x = Tensor::from_vec(Vec::<f32>::new(), [0, 3], &d);
    assert_eq!(x.exp().to_vec::<f32>().unwrap(), []);
    assert_eq!(x.sum(&[0], false).to_vec::<f32>().unwrap(), [0.0; 3]);
    assert_eq!(x.sum_all().item().unwrap(), 0.0);
    assert!(x.mean_all().item().unwrap().is_nan());
    assert_eq!(x.matmul(&Tensor::ones([3, 2], DType::F32, &d)).shape().dims(), [0, 2]);
    let k0 = Tensor::ones([2, 0], DType::F32, &d).matmul(&Tensor::ones([0, 3], DType::F32, &d));
    assert_eq!(k0.to_vec::<f32>().unwrap(), [0.0; 6]);
    let y = Tensor::cat(&[&x, &Tensor::ones([1, 3], DType::F32, &d)], 0);
    assert_eq!(y.to_vec::<f32>().unwrap(), [1.0; 3]);
    let dx = grad(&x.exp().sum_all(), &[&x]).unwrap();
    assert_eq!(dx[0].to_vec::<f32>().unwrap(), []);
}

#[test]
fn random_elements_are_those_of_philox() {
    let d = cpu();
    let key = RandomKey { seed: 0x1234_5678_9abc_def0, step: 5, stream: 3 };
    let words = Tensor::random_bits([3, 7], &key, &d).to_vec::<u32>().unwrap();
    let expected: Vec<u32> = (0..21).map(|i| philox::word(i, 3, 5, [0x9abc_def0, 0x1234_5678])).collect();
    assert_eq!(words, expected);
    let uniforms = Tensor::random_uniform([21], &key, &d).to_vec::<f32>().unwrap();
    assert_eq!(uniforms, expected.iter().map(|&w| philox::uniform(w)).collect::<Vec<_>>());
    let misses = d.cache().stats().misses;
    let next = Tensor::random_uniform([21], &RandomKey { step: 6, ..key }, &d).to_vec::<f32>().unwrap();
    assert_ne!(next, uniforms);
    assert_eq!(d.cache().stats().misses, misses, "the step is a parameter");
}

#[test]
fn normal_elements_have_the_moments_of_a_normal_distribution() {
    let n = 40_000;
    let key = RandomKey { seed: 1, step: 0, stream: 0 };
    let z = Tensor::random_normal([n], &key, &cpu()).to_f64_vec().unwrap();
    let moment = |p: i32| z.iter().map(|x| x.powi(p)).sum::<f64>() / n as f64;
    // Standard errors: 1/√n, √2/√n, √15/√n, √96/√n; four of them each.
    assert!(moment(1).abs() < 0.02, "{}", moment(1));
    assert!((moment(2) - 1.0).abs() < 0.03, "{}", moment(2));
    assert!(moment(3).abs() < 0.08, "{}", moment(3));
    assert!((moment(4) - 3.0).abs() < 0.2, "{}", moment(4));
}

#[test]
fn tensors_print_as_in_pytorch() {
    let d = cpu();
    let x = Tensor::from_vec(vec![1.0f32, 2.5, -3.0, 4.0], [2, 2], &d);
    expect![[r#"
        tensor([[ 1.0000,  2.5000],
                [-3.0000,  4.0000]])"#]]
    .assert_eq(&x.to_string());
    expect!["tensor([0, 1, 2], dtype=i32)"].assert_eq(&Tensor::arange(3, &d).to_string());
    expect!["tensor([ True, False])"].assert_eq(&x.narrow(0, 0, 1).reshape([2]).lt(2.0).to_string());
    expect!["tensor(2.5000)"].assert_eq(&x.narrow(1, 1, 1).narrow(0, 0, 1).reshape([]).to_string());
    expect!["tensor([1., 1.])"].assert_eq(&Tensor::ones([2], DType::F32, &d).to_string());
    expect!["tensor([1.0000e-05, 1.0000e+00])"]
        .assert_eq(&Tensor::from_vec(vec![1e-5f32, 1.0], [2], &d).to_string());
    expect!["tensor([   0,    1,    2, ..., 1997, 1998, 1999], dtype=i32)"]
        .assert_eq(&Tensor::arange(2000, &d).to_string());
    expect!["tensor([])"].assert_eq(&Tensor::zeros([0], DType::F32, &d).to_string());
    assert!(format!("{:?}", x.exp().named("y")).contains("`y` f32[2, 2], exp"));
}
