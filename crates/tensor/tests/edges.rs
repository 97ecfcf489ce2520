//! What PyTorch answers at the edges: infinities and NaN, numbers beside integers, empty axes, scalars with axes, no axes at all.
//!
//! Needs an adapter (a software one will do) and fails without; the environment variable `WGRAD_TEST_DEVICES=cpu` leaves it out.

mod common;

use common::devices;
use wgrad_tensor::{DType, DeviceHandle, RandomKey, Tensor, eval, grad};

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

fn floats(values: &[f32], device: &DeviceHandle) -> Tensor {
    Tensor::from_slice(values, [values.len()], device)
}

fn ints(values: &[i32], device: &DeviceHandle) -> Tensor {
    Tensor::from_slice(values, [values.len()], device)
}

/// Equal to 1e-6, NaN to NaN.
#[track_caller]
fn same(got: &Tensor, expected: &[f64]) {
    let got = got.to_f64_vec().unwrap();
    let near = |(g, e): (&f64, &f64)| g == e || g.is_nan() && e.is_nan() || (g - e).abs() < 1e-6;
    assert!(
        got.len() == expected.len() && got.iter().zip(expected).all(near),
        "{got:?} instead of {expected:?}"
    );
}

#[test]
fn nan_and_infinity_are_told_apart_by_their_bits() {
    for device in devices() {
        let x = floats(&[1.0, INF, -INF, NAN, f32::MAX, -0.0], &device);
        let bools = |t: Tensor| t.to_vec::<bool>().unwrap();
        for x in [x.clone(), x.cast(DType::BF16).cast(DType::F32), x.narrow(0, 0, 4).cast(DType::F16)] {
            assert_eq!(bools(x.isnan())[..4], [false, false, false, true]);
            assert_eq!(bools(x.isinf())[..4], [false, true, true, false]);
            assert_eq!(bools(x.isfinite())[..4], [true, false, false, false]);
        }
        assert_eq!(bools(x.isinf())[4..], [false, false]);
        assert_eq!(bools(x.isfinite())[4..], [true, true]);
        // Computed, not loaded.
        let zero = floats(&[0.0], &device);
        assert_eq!(bools(zero.div(&zero).isnan()), [true]);
        assert_eq!(bools(ints(&[1], &device).isfinite()), [true]);
        assert_eq!(bools(ints(&[1], &device).isinf()), [false]);
    }
}

#[test]
fn extremes_of_nan_are_nan_wherever_it_stands() {
    for device in devices() {
        for length in [3, 70, 1000] {
            for at in [0, 1, length - 1] {
                let mut row = vec![1.0; length];
                row[at] = NAN;
                let x = floats(&row, &device);
                let rows = Tensor::stack(&[&x, &x.ones_like()], 0);
                same(&rows.amax(&[1], false), &[f64::NAN, 1.0]);
                same(&rows.amin(&[1], false), &[f64::NAN, 1.0]);
                same(&rows.t().amax(&[0], false), &[f64::NAN, 1.0]);
                same(&rows.sub(rows.amax(&[1], true)).amax(&[1], false), &[f64::NAN, 0.0]);
                assert_eq!(rows.argmax(1, false).to_vec::<i32>().unwrap(), [at as i32, 0]);
                assert_eq!(rows.argmin(1, false).to_vec::<i32>().unwrap(), [at as i32, 0]);
            }
        }
        let (x, y) = (floats(&[NAN, 1.0, 2.0], &device), floats(&[1.0, NAN, 1.0], &device));
        same(&x.maximum(&y), &[f64::NAN, f64::NAN, 2.0]);
        same(&x.minimum(&y), &[f64::NAN, f64::NAN, 1.0]);
    }
}

#[test]
fn logarithms_of_sums_know_infinities() {
    for device in devices() {
        let cases: [(&[f32], f64, &[f64]); 5] = [
            (&[-INF, -INF], f64::NEG_INFINITY, &[f64::NAN, f64::NAN]),
            (&[-INF, 1.0], 1.0, &[0.0, 1.0]),
            (&[INF, 1.0], f64::INFINITY, &[f64::NAN, 0.0]),
            (&[INF, -INF], f64::INFINITY, &[f64::NAN, 0.0]),
            (&[NAN, 1.0], f64::NAN, &[f64::NAN, f64::NAN]),
        ];
        for (row, value, gradient) in cases {
            let x = floats(row, &device);
            let y = x.logsumexp(&[0], false);
            same(&y, &[value]);
            same(&grad(&y, &[&x]).unwrap()[0], gradient);
        }
        same(&Tensor::zeros([2, 0], DType::F32, &device).logsumexp(&[1], true), &[f64::NEG_INFINITY; 2]);
    }
}

#[test]
fn a_number_beside_integers_is_not_cut_off() {
    for device in devices() {
        let i = ints(&[1, -2, 3], &device);
        let u = Tensor::from_vec(vec![1u8, 2, 255], [3], &device);
        let b = Tensor::from_vec(vec![true, false], [2], &device);
        let holds = |t: Tensor, dtype: DType, expected: &[f64]| {
            assert_eq!(t.dtype(), dtype);
            same(&t, expected);
        };
        holds(&i + 0.5, DType::F32, &[1.5, -1.5, 3.5]);
        holds(&i * 0.5, DType::F32, &[0.5, -1.0, 1.5]);
        holds(0.5 - &i, DType::F32, &[-0.5, 2.5, -2.5]);
        holds(&i + 2.0, DType::I32, &[3.0, 0.0, 5.0]);
        holds(2.0 - &i, DType::I32, &[1.0, 4.0, -1.0]);
        holds(&i + 3e9, DType::I32, &[-1294967295.0, -1294967298.0, -1294967293.0]);
        holds(&i + f64::NAN, DType::F32, &[f64::NAN; 3]);
        holds(i.clamp(0.5, 2.0), DType::F32, &[1.0, 0.5, 2.0]);
        holds(u.clamp(-1.0, 300.0), DType::U8, &[1.0, 2.0, 255.0]);
        holds(i.maximum(0.5), DType::F32, &[1.0, 0.5, 3.0]);
        holds(i.fmod(0.5), DType::F32, &[0.0, 0.0, 0.0]);
        holds(&u + 300.0, DType::U8, &[45.0, 46.0, 43.0]);
        holds(&u - 3.0, DType::U8, &[254.0, 255.0, 252.0]);
        holds(&u + -1.0, DType::U8, &[0.0, 1.0, 254.0]);
        holds(&b + 1.0, DType::I32, &[2.0, 1.0]);
        holds(&b * 0.5, DType::F32, &[0.5, 0.0]);
        holds(i.lt(0.5), DType::Bool, &[0.0, 1.0, 0.0]);
        holds(i.eq(1.5), DType::Bool, &[0.0; 3]);
        holds(i.lt(3e9), DType::Bool, &[1.0; 3]);
        holds(u.lt(300.0), DType::Bool, &[1.0; 3]);
        holds(u.eq(256.0), DType::Bool, &[0.0; 3]);
        holds(u.gt(-1.0), DType::Bool, &[1.0; 3]);
        holds(b.eq(2.0), DType::Bool, &[0.0; 2]);
        holds(b.lt(0.5), DType::Bool, &[0.0, 1.0]);
    }
}

#[test]
fn sums_and_products_of_bytes_and_truth_values_are_integers() {
    for device in devices() {
        let u = Tensor::from_vec(vec![1u8, 2, 255], [3], &device);
        let b = Tensor::from_vec(vec![true, false, true], [3], &device);
        for (t, expected) in [
            (u.sum_all(), &[258.0][..]),
            (u.prod(&[0], false), &[510.0]),
            (u.cumsum(0), &[1.0, 3.0, 258.0]),
            (u.cumprod(0), &[1.0, 2.0, 510.0]),
            (b.sum(&[0], false), &[2.0]),
            (b.prod(&[0], false), &[0.0]),
            (b.cumsum(0), &[1.0, 1.0, 2.0]),
        ] {
            assert_eq!(t.dtype(), DType::I32);
            same(&t, expected);
        }
    }
}

#[test]
fn remainders_have_the_sign_of_the_divisor() {
    for device in devices() {
        let i = ints(&[5, -5, 6, -6, 7], &device);
        assert_eq!(i.remainder(3.0).to_vec::<i32>().unwrap(), [2, 1, 0, 0, 1]);
        assert_eq!(i.remainder(-3.0).to_vec::<i32>().unwrap(), [-1, -2, 0, 0, -2]);
        assert_eq!(i.remainder(0.0).to_vec::<i32>().unwrap(), [0; 5]);
        let u = Tensor::from_vec(vec![7u32, 4], [2], &device);
        assert_eq!(u.remainder(3.0).to_vec::<u32>().unwrap(), [1, 1]);
        let x = floats(&[5.0, -5.0, 5.0, -5.0], &device);
        let y = floats(&[3.0, 3.0, -3.0, -3.0], &device);
        let rest = x.remainder(&y);
        same(&rest, &[2.0, 1.0, -1.0, -2.0]);
        let gradients = grad(&rest.sum_all(), &[&x, &y]).unwrap();
        same(&gradients[0], &[1.0; 4]);
        // Minus the quotients, rounded down.
        same(&gradients[1], &[-1.0, 2.0, 2.0, -1.0]);
        same(&x.narrow(0, 0, 2).remainder(f64::INFINITY), &[5.0, f64::INFINITY]);
    }
}

#[test]
fn no_axes_are_all_axes() {
    for device in devices() {
        let x = floats(&[1.0, 2.0, 3.0, 6.0], &device).reshape([2, 2]);
        same(&x.sum(&[], false), &[12.0]);
        same(&x.mean(&[], false), &[3.0]);
        same(&x.amax(&[], false), &[6.0]);
        same(&x.var(&[], true, false), &[14.0 / 3.0]);
        same(&x.norm(1.0, &[], false), &[12.0]);
        same(&x.prod(&[], false), &[36.0]);
        assert_eq!(x.sum(&[], true).shape().dims(), [1, 1]);
        assert_eq!(x.logsumexp(&[], true).shape().dims(), [1, 1]);
        assert_eq!(x.prod(&[], true).shape().dims(), [1, 1]);
        // But these, as in PyTorch.
        assert_eq!(x.gt(2.0).any(&[], false).to_vec::<bool>().unwrap(), [false, false, true, true]);
        assert_eq!(x.gt(2.0).all(&[], false).shape().dims(), [2, 2]);
        same(&x.flip(&[]), &[1.0, 2.0, 3.0, 6.0]);
    }
}

#[test]
fn a_scalar_has_an_axis_in_name() {
    for device in devices() {
        let x = Tensor::from_vec(vec![2.0f32], [], &device);
        let zero = Tensor::from_vec(vec![0i32], [], &device);
        let three = Tensor::from_vec(vec![3.0f32], [], &device);
        for dim in [0, -1] {
            let scalars: [(Tensor, f64); 28] = [
                (x.sum(&[dim], false), 2.0),
                (x.mean(&[dim], true), 2.0),
                (x.amax(&[dim], false), 2.0),
                (x.prod(&[dim], false), 2.0),
                (x.var(&[dim], true, false), f64::NAN),
                (x.logsumexp(&[dim], false), 2.0),
                (x.norm(2.0, &[dim], false), 2.0),
                (x.normalize(2.0, dim, 1e-12), 1.0),
                (x.cosine_similarity(&three, dim, 1e-8), 1.0),
                (x.softmax(dim), 1.0),
                (x.log_softmax(dim), 0.0),
                (x.cumsum(dim), 2.0),
                (x.cumprod(dim), 2.0),
                (x.sort(dim, false).0, 2.0),
                (x.argsort(dim, true), 0.0),
                (x.topk(1, dim, true).0, 2.0),
                (x.topk(1, dim, true).1, 0.0),
                (x.max(dim, false).0, 2.0),
                (x.max(dim, true).1, 0.0),
                (x.argmin(dim, false), 0.0),
                (x.squeeze(dim), 2.0),
                (x.flip(&[dim]), 2.0),
                (x.transpose(dim, 0), 2.0),
                (x.index_select(dim, &zero), 2.0),
                (x.gather(dim, &zero), 2.0),
                (x.scatter(dim, &zero, &three), 3.0),
                (x.scatter_add(dim, &zero, &three), 5.0),
                (x.index_add(dim, &zero, &three), 5.0),
            ];
            for (n, (t, expected)) in scalars.iter().enumerate() {
                assert_eq!(t.rank(), 0, "{n}: {t:?}");
                same(t, &[*expected]);
            }
        }
        same(&x.gather(0, &ints(&[0, 0], &device)), &[2.0, 2.0]);
        for refused in [x.sum(&[1], false), x.softmax(-2), x.narrow(0, 0, 1), x.topk(2, 0, true).0] {
            assert!(refused.error().is_some());
        }
        let slope = grad(&x.cumprod(0).mul(x.softmax(0)), &[&x]).unwrap();
        same(&slope[0], &[1.0]);
    }
}

#[test]
fn empty_axes_give_empty_results() {
    for device in devices() {
        let x = Tensor::from_vec(Vec::<f32>::new(), [2, 0], &device);
        let none = Tensor::from_vec(Vec::<i32>::new(), [2, 0], &device);
        let empty = [
            x.softmax(1),
            x.softmax(0),
            x.log_softmax(1),
            x.cumsum(1),
            x.cumprod(1),
            x.sort(1, false).0,
            x.argsort(0, false),
            x.topk(0, 1, true).0,
            x.gather(1, &none),
            x.scatter_add(1, &none, &x),
        ];
        for (n, t) in empty.iter().enumerate() {
            assert_eq!(t.shape().dims(), [2, 0], "{n}");
            assert!(t.to_f64_vec().unwrap().is_empty());
        }
        let full = floats(&[1.0, 2.0], &device).reshape([2, 1]);
        assert_eq!(full.gather(1, &none).shape().dims(), [2, 0]);
        assert_eq!(full.topk(0, 1, true).1.shape().dims(), [2, 0]);
        same(&grad(&full.gather(1, &none).sum_all(), &[&full]).unwrap()[0], &[0.0, 0.0]);
        same(&x.logsumexp(&[1], false), &[f64::NEG_INFINITY; 2]);
        assert!(x.logsumexp(&[0], false).to_f64_vec().unwrap().is_empty());
        assert!(x.amax(&[0], false).to_f64_vec().unwrap().is_empty());
        assert!(x.amax(&[1], false).error().is_some());
        let gradient = grad(&x.softmax(1).sum_all().add(x.log_softmax(0).sum_all()), &[&x]).unwrap();
        assert_eq!(gradient[0].shape().dims(), [2, 0]);
    }
}

#[test]
fn impossible_indices_and_probabilities_are_reported_wherever_they_come_from() {
    for device in devices() {
        let key = RandomKey::default();
        let refused = |t: Tensor| {
            let error = t.to_f64_vec().expect_err("an impossible value was accepted");
            assert!(error.to_string().contains("out of range"), "{error}");
        };
        // The host knows nothing of a sum.
        refused(ints(&[0, 3], &device).add(1.0).one_hot(4));
        refused(ints(&[0, 3], &device).sub(1.0).one_hot(4));
        let good = ints(&[0, 2], &device).add(1.0).one_hot(4);
        same(&good, &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        for p in [-0.5, 1.5, NAN] {
            refused(floats(&[0.5, p], &device).bernoulli(&key));
        }
        same(&floats(&[0.0, 1.0], &device).bernoulli(&key), &[0.0, 1.0]);
        for weights in [[0.0, 0.0], [-1.0, 2.0], [NAN, 2.0], [INF, 2.0]] {
            let both = Tensor::stack(&[&floats(&[1.0, 2.0], &device), &floats(&weights, &device)], 0);
            refused(both.multinomial(1, false, &key));
            refused(both.multinomial(3, true, &key));
        }
        same(&floats(&[0.0, 2.0], &device).multinomial(3, true, &key), &[1.0; 3]);
        same(&floats(&[0.0, 2.0], &device).multinomial(2, false, &key), &[1.0, 0.0]);
        // Reported once: what follows is not affected.
        assert!(eval(&[&floats(&[1.0], &device).bernoulli(&key)]).is_ok());
    }
}
