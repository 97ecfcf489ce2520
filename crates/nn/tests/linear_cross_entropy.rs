//! Output layer and loss in one against the two of them apart.

use wgrad_cpu::CpuDevice;
use wgrad_nn::functional::{cross_entropy, linear_cross_entropy};
use wgrad_tensor::{DType, DeviceHandle, Tensor, TensorError, eval, grad};

type Outcome = Result<(), TensorError>;

fn device() -> DeviceHandle {
    std::sync::Arc::new(CpuDevice::new())
}

fn numbers(n: usize, seed: u64) -> Vec<f64> {
    wgrad_nn::Initializer::Normal { std: 1.0 }.draw(&[n], seed, 0)
}

const CLASSES: usize = 11;
const IGNORED: i32 = -100;

/// Hidden states `[3, 5, 8]`, weight `[11, 8]`, targets `[3, 5]` with every fourth one ignored.
fn operands(dtype: DType, device: &DeviceHandle) -> [Tensor; 3] {
    let tensor = |shape: &[usize], seed| {
        let values = numbers(shape.iter().product(), seed);
        Tensor::from_vec(values, shape, device).cast(dtype).detach_realized()
    };
    let targets = (0..15).map(|i| if i % 4 == 1 { IGNORED } else { (i * 7) % CLASSES as i32 });
    [
        tensor(&[3, 5, 8], 1),
        tensor(&[CLASSES, 8], 2),
        Tensor::from_vec(targets.collect::<Vec<_>>(), [3, 5], device),
    ]
}

#[test]
fn loss_and_gradients_equal_those_of_the_plain_form_for_every_chunk() -> Outcome {
    let device = device();
    for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-6)] {
        let [hidden, weight, targets] = operands(dtype, &device);
        let shown = targets.maximum(Tensor::constant(0.0, DType::I32, &device)).detach_realized();
        for (targets, ignored) in [(&targets, Some(IGNORED)), (&shown, None), (&shown, Some(3))] {
            let plain = cross_entropy(&hidden.matmul(&weight.t()), targets, ignored);
            let expected = grad(&plain.mul(3.0), &[&hidden, &weight])?;
            for chunk in [1, 2, 4, 5, 15, 100] {
                let found = linear_cross_entropy(&hidden, &weight, targets, ignored, chunk);
                let gradients = grad(&found.mul(3.0), &[&hidden, &weight])?;
                let what = format!("{dtype} {ignored:?} chunks of {chunk}");
                assert!((found.item()? - plain.item()?).abs() < 3.0 * tolerance, "{what}");
                for (f, e) in gradients.iter().zip(&expected) {
                    assert_eq!(f.shape(), e.shape());
                    for (f, e) in f.to_f64_vec()?.iter().zip(e.to_f64_vec()?) {
                        assert!((f - e).abs() < tolerance, "{what}: {f} instead of {e}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn where_every_target_is_ignored_the_loss_is_not_a_number_and_its_gradients_0_as_in_pytorch() -> Outcome {
    let device = device();
    let [hidden, weight, _] = operands(DType::F64, &device);
    let targets = Tensor::from_vec(vec![IGNORED; 15], [3, 5], &device);
    let loss = linear_cross_entropy(&hidden, &weight, &targets, Some(IGNORED), 4);
    for gradient in grad(&loss, &[&hidden, &weight])? {
        assert!(gradient.to_f64_vec()?.iter().all(|&g| g == 0.0));
    }
    assert!(loss.item()?.is_nan());
    Ok(())
}

#[test]
fn second_derivatives_are_those_of_the_plain_form() -> Outcome {
    let device = device();
    let [hidden, weight, targets] = operands(DType::F64, &device);
    let twice = |loss: Tensor| {
        let first = grad(&loss, &[&hidden, &weight])?;
        let squares = first[0].square().sum_all().add(first[1].square().sum_all());
        grad(&squares, &[&hidden, &weight])
    };
    let found = twice(linear_cross_entropy(&hidden, &weight, &targets, Some(IGNORED), 4))?;
    let expected = twice(cross_entropy(&hidden.matmul(&weight.t()), &targets, Some(IGNORED)))?;
    for (f, e) in found.iter().zip(&expected) {
        for (f, e) in f.to_f64_vec()?.iter().zip(e.to_f64_vec()?) {
            assert!((f - e).abs() < 1e-11, "{f} instead of {e}");
        }
    }
    Ok(())
}

#[test]
fn memory_is_that_of_one_chunk_of_logits() -> Outcome {
    let (n, c, v) = (1024, 16, 2048);
    let logits = (n * v * 4) as u64;
    let device = device();
    let hidden = Tensor::from_vec(vec![0.1f32; n * c], [n, c], &device);
    let weight = Tensor::from_vec(vec![0.1f32; v * c], [v, c], &device);
    let targets = Tensor::from_vec(vec![5i32; n], [n], &device);
    let allocated = |loss: &Tensor, backward: bool| -> Result<u64, TensorError> {
        let mut wanted = vec![loss.clone()];
        if backward {
            wanted.extend(grad(loss, &[&hidden, &weight])?);
        }
        device.cache().clear();
        eval(&wanted.iter().collect::<Vec<_>>())?;
        Ok(device.cache().executables().iter().map(|e| e.program().allocated_bytes()).sum())
    };
    let fused = || linear_cross_entropy(&hidden, &weight, &targets, None, 64);
    let plain = || cross_entropy(&hidden.matmul(&weight.t()), &targets, None);
    assert!(allocated(&plain(), true)? >= logits);
    // Gradients, partial sums of the weight's, and a few tensors of a chunk's logits.
    let bound = ((n * c + 3 * v * c + 5 * 64 * v) * 4) as u64;
    let both = allocated(&fused(), true)?;
    assert!(both <= bound, "{both} bytes, expected at most {bound}; all logits have {logits}");
    let forward = allocated(&fused(), false)?;
    assert!(forward <= (3 * 64 * v * 4) as u64, "{forward} bytes forward; all logits have {logits}");
    Ok(())
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let device = device();
    let [hidden, weight, targets] = operands(DType::F32, &device);
    let text = |t: Tensor| t.error().map(ToString::to_string).unwrap_or_default();
    let of = |h: &Tensor, w: &Tensor, t: &Tensor, chunk| text(linear_cross_entropy(h, w, t, None, chunk));
    assert!(of(&hidden, &weight, &targets, 4).contains("-100"), "a target without a class");
    assert!(of(&hidden, &weight.t(), &targets, 4).contains("[8, 11]"));
    assert!(of(&hidden, &weight, &targets.reshape([15]), 4).contains("[15]"));
    let shown = Tensor::zeros([3, 5], DType::I32, &device);
    assert!(of(&hidden, &weight, &shown, 0).contains("chunks"));
    assert!(of(&hidden, &weight, &shown, 4).is_empty());
}

#[test]
fn targets_that_are_no_classes_are_errors_wherever_they_hide() -> Outcome {
    let device = device();
    let x = Tensor::from_vec(vec![3.0f32, 1.0, 2.0, 5.0, 4.0, 6.0], [2, 3], &device);
    let weight = Tensor::from_vec(vec![1.0f32; 9], [3, 3], &device);
    let host = |ids: [i32; 2]| Tensor::from_vec(ids.to_vec(), [2], &device);
    let options = wgrad_nn::functional::CrossEntropy::default();
    // Behind an ignored one, and computed on the device.
    let hidden = [
        host([IGNORED, -1]),
        host([-1, IGNORED]),
        host([0, 1]).add(Tensor::constant(5.0, DType::I32, &device)),
    ];
    for targets in &hidden {
        for loss in [
            cross_entropy(&x, targets, Some(IGNORED)),
            wgrad_nn::functional::cross_entropy_with(&x, targets, &options),
            linear_cross_entropy(&x, &weight, targets, Some(IGNORED), 1),
        ] {
            assert!(loss.item().is_err());
        }
    }
    for targets in [host([IGNORED, 1]), host([0, 1]).add(Tensor::constant(1.0, DType::I32, &device))] {
        let known = targets.to_vec::<i32>()?;
        let expected = cross_entropy(&x, &host([known[0].max(0), 1 + i32::from(known[0] == 1)]), None);
        let loss = cross_entropy(&x, &targets, Some(IGNORED)).item()?;
        assert!(
            loss.is_finite() && (known[0] == IGNORED || (loss - expected.item()?).abs() < 1e-6),
            "{loss}"
        );
    }
    Ok(())
}
