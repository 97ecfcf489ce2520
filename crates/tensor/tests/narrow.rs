//! 16-bit floats and bytes: the table of operations on both devices, and what keeping elements in 16 bits means.
//!
//! Needs an adapter (a software one will do) and fails without; the environment variable `WGRAD_TEST_DEVICES=cpu` leaves it out.

mod common;

use common::{FromF64, cpu, devices, leaf, numbers, ops::cases};
use half::{bf16, f16};
use wgrad_tensor::{DType, DeviceHandle, Element, Tensor, TensorError, grad};

/// The value of an operation and the gradients of `Σ y w`, on inputs that `T` holds exactly, computed in `U`.
fn run<T: Element + FromF64, U: Element + FromF64>(
    device: &DeviceHandle,
    case: &common::ops::Case,
) -> Result<Vec<Vec<f64>>, TensorError> {
    let exact = |x: &[f64]| x.iter().map(|&x| T::from_f64(x).as_f64()).collect::<Vec<_>>();
    let input = |(i, s): (usize, &Vec<usize>)| {
        leaf::<U>(&exact(&numbers(s.iter().product(), case.domain, i)), s, device)
    };
    let xs: Vec<Tensor> = case.shapes.iter().enumerate().map(input).collect();
    let y = (case.build)(&xs);
    assert_eq!(y.dtype(), U::DTYPE, "{}", case.name);
    let w = leaf::<U>(&exact(&numbers(y.elements(), (-1.0, 1.0), 7)), y.shape(), device);
    let gradients = grad(&y.mul(&w).sum_all(), &xs.iter().collect::<Vec<_>>())?;
    wgrad_tensor::eval(&gradients.iter().chain([&y]).collect::<Vec<_>>())?;
    [y].iter().chain(&gradients).map(Tensor::to_f64_vec).collect()
}

/// Errors relative to the largest element of a result (at least 1): how far from `f64`, and how far apart two devices.
///
/// An operation rounds once; compositions and gradients round a few times, each by half of a unit at most. Devices round the
/// same `f32` values, which differ in their last bits: where these straddle the middle between two 16-bit floats, so do the
/// results, and what is computed from them.
fn table<T: Element + FromF64>(unit: f64) {
    let (host, devices) = (cpu(), devices());
    let mut failures = Vec::new();
    for case in cases() {
        let exact = run::<T, f64>(&host, &case).expect(case.name);
        for device in &devices {
            let got = match run::<T, T>(device, &case) {
                Ok(got) => got,
                Err(error) => {
                    failures.push(format!("{} on {}: {error}", case.name, device.info().id));
                    continue;
                }
            };
            for (n, (got, exact)) in got.iter().zip(&exact).enumerate() {
                let scale = exact.iter().fold(1.0f64, |s, x| s.max(x.abs()));
                let error = got.iter().zip(exact).fold(0.0f64, |e, (g, x)| e.max((g - x).abs())) / scale;
                let few = if n == 0 { 8.0 } else { 16.0 };
                let near = error <= few * unit;
                if !near || got.len() != exact.len() {
                    failures.push(format!(
                        "{} [{n}] on {}: {:.1} units",
                        case.name,
                        device.info().id,
                        error / unit
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_operation_in_f16_is_that_of_f64_to_a_few_units() {
    table::<f16>(1.0 / 2048.0);
}

#[test]
fn every_operation_in_bf16_is_that_of_f64_to_a_few_units() {
    table::<bf16>(1.0 / 256.0);
}

/// Every 16-bit pattern and numbers around the middles between them, converted there and back, at every place in a word.
#[test]
fn conversions_are_those_of_the_half_crate_bit_for_bit() {
    for device in devices() {
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        let f16s: Vec<f16> = halves.iter().map(|&b| f16::from_bits(b)).collect();
        let bf16s: Vec<bf16> = halves.iter().map(|&b| bf16::from_bits(b)).collect();
        let same = |got: &[f32], want: &[f32]| {
            for (g, w) in got.iter().zip(want) {
                // A GPU may take subnormal numbers of f32 for 0.
                let tiny = w.abs() < f32::MIN_POSITIVE && g.abs() <= w.abs();
                assert!(g.to_bits() == w.to_bits() || w.is_nan() && g.is_nan() || tiny, "{g:e} is not {w:e}");
            }
        };
        let n = halves.len();
        let wide = |t: Tensor| t.narrow(0, 1, n - 1).cast(DType::F32).to_vec::<f32>().unwrap();
        let want: Vec<f32> = f16s[1..].iter().map(|x| x.to_f32()).collect();
        same(&wide(Tensor::from_vec(f16s.clone(), [n], &device)), &want);
        let want: Vec<f32> = bf16s[1..].iter().map(|x| x.to_f32()).collect();
        same(&wide(Tensor::from_vec(bf16s.clone(), [n], &device)), &want);

        let mut x: Vec<f32> = Vec::new();
        for high in (0..=u16::MAX).step_by(7) {
            let low = [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff];
            let each = low.map(|low| f32::from_bits(u32::from(high) << 16 | low));
            x.extend(each.iter().filter(|x| x.is_normal() || **x == 0.0 || x.is_infinite() || x.is_nan()));
        }
        for len in [x.len() / 4 * 4, x.len() / 4 * 4 - 1] {
            let x = &x[..len];
            let t = Tensor::from_vec(x.to_vec(), [len], &device);
            let got = t.cast(DType::F16).to_vec::<f16>().unwrap();
            for (x, got) in x.iter().zip(&got) {
                let want = f16::from_f32(*x);
                assert!(
                    got.to_bits() == want.to_bits() || x.is_nan() && got.is_nan(),
                    "{x:e}: {got} is not {want}"
                );
            }
            let got = t.cast(DType::BF16).to_vec::<bf16>().unwrap();
            for (x, got) in x.iter().zip(&got) {
                let want = bf16::from_f32(*x);
                assert!(
                    got.to_bits() == want.to_bits() || x.is_nan() && got.is_nan(),
                    "{x:e}: {got} is not {want}"
                );
            }
        }
    }
}

#[test]
fn neighbours_in_a_word_are_written_apart() {
    for device in devices() {
        let numbers: Vec<f32> = (0..7 * 5).map(|i| i as f32 - 9.5).collect();
        let x = Tensor::from_vec(numbers.clone(), [7, 5], &device).cast(DType::BF16);
        x.realize().unwrap();
        // Odd rows, every other column, columns that interleave, odd parts of a whole.
        let got = x.narrow(0, 1, 3).t().to_f64_vec().unwrap();
        let want: Vec<f64> = (0..5).flat_map(|c| (1..4).map(move |r| f64::from(r * 5 + c) - 9.5)).collect();
        assert_eq!(got, want);
        let parts =
            [&x.narrow(1, 0, 3), &x.narrow(1, 1, 1).neg(), &x.narrow(1, 3, 1), &x.exp().narrow(1, 0, 0)];
        let joined = Tensor::cat(&parts, 1).to_f64_vec().unwrap();
        for (r, row) in joined.chunks(5).enumerate() {
            let at = |c: usize| f64::from(numbers[r * 5 + c]);
            assert_eq!(row, [at(0), at(1), at(2), -at(1), at(3)]);
        }
        let flipped = x.flip(&[1]).add(&x).to_f64_vec().unwrap();
        let want: Vec<f64> =
            (0..35).map(|i| f64::from(numbers[i] + numbers[i / 5 * 5 + 4 - i % 5])).collect();
        assert_eq!(flipped, want);
    }
}

#[test]
fn bytes_wrap_saturate_and_compare() {
    for device in devices() {
        let x = Tensor::from_vec(vec![0u8, 1, 200, 255, 7], [5], &device);
        let y = Tensor::from_vec(vec![0u8, 255, 100, 255, 3], [5], &device);
        let u8s = |t: Tensor| t.to_vec::<u8>().unwrap();
        assert_eq!(u8s(x.add(&y)), [0, 0, 44, 254, 10]);
        assert_eq!(u8s(x.sub(&y)), [0, 2, 100, 0, 4]);
        assert_eq!(u8s(x.div(&y)), [0, 0, 2, 1, 2]);
        assert_eq!(u8s(x.maximum(&y).flip(&[0])), [7, 255, 200, 255, 0]);
        assert_eq!(x.lt(&y).to_vec::<bool>().unwrap(), [false, true, false, false, false]);
        assert_eq!(x.cast(DType::F32).to_vec::<f32>().unwrap(), [0.0, 1.0, 200.0, 255.0, 7.0]);
        assert_eq!(x.cast(DType::BF16).to_f64_vec().unwrap(), [0.0, 1.0, 200.0, 255.0, 7.0]);
        assert_eq!(x.cast(DType::Bool).to_vec::<bool>().unwrap(), [false, true, true, true, true]);
        let f = Tensor::from_vec(vec![-3.5f32, 300.0, 7.9, f32::NAN], [4], &device);
        assert_eq!(f.cast(DType::U8).to_vec::<u8>().unwrap()[..3], [0, 255, 7]);
        let i = Tensor::from_vec(vec![-1i32, 256, 77], [3], &device);
        assert_eq!(u8s(i.cast(DType::U8)), [255, 0, 77]);
        assert_eq!(u8s(x.narrow(0, 1, 3)), [1, 200, 255]);
        let table = Tensor::from_vec(vec![1.5f32, 2.5, 3.5], [3], &device).cast(DType::F16);
        let ids = Tensor::from_vec(vec![2u8, 0, 1, 1], [4], &device);
        assert_eq!(table.embedding(&ids).to_f64_vec().unwrap(), [3.5, 1.5, 2.5, 2.5]);
    }
}

#[test]
fn sums_of_many_halves_accumulate_in_f32() {
    for device in devices() {
        // One after the other in bf16 they would stop at 256, in f16 at 2048.
        let ones = Tensor::ones([3, 5000], DType::F32, &device);
        let sums = ones.cast(DType::BF16).sum(&[1], false).to_f64_vec().unwrap();
        assert_eq!(sums, [f64::from(bf16::from_f64(5000.0)); 3]);
        let mean = (&ones * 60000.0).cast(DType::F16).mean_all().item().unwrap();
        assert_eq!(mean, f64::from(f16::from_f64(60000.0)));
        let product = ones.cast(DType::F16).matmul(&ones.cast(DType::F16).t()).to_f64_vec().unwrap();
        assert_eq!(product, [5000.0; 9]);
    }
}

#[test]
fn halves_print_with_their_dtype() {
    let x = Tensor::from_vec(vec![1.5f32, -2.0], [2], &cpu());
    assert_eq!(x.cast(DType::BF16).to_string(), "tensor([ 1.5000, -2.0000], dtype=bf16)");
    assert_eq!(x.cast(DType::F16).to_string(), "tensor([ 1.5000, -2.0000], dtype=f16)");
    assert_eq!(Tensor::from_vec(vec![3u8], [1], &cpu()).to_string(), "tensor([3], dtype=u8)");
}
