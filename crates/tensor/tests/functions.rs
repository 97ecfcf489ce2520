//! Functions: custom gradients, checkpoints, what they capture, and what they refuse.

mod common;

use common::{assert_close, cpu, leaf, numbers};
use wgrad_tensor::{
    DeviceHandle, Tensor, TensorError, checkpoint, function, function_with_gradient, grad, grad_allow_unused,
    trace_function,
};

fn leaves(device: &DeviceHandle) -> [Tensor; 3] {
    [[3, 4], [4, 4], [1, 4]].map(|shape| {
        let count = shape.iter().product();
        leaf::<f64>(&numbers(count, (-1.0, 1.0), count), &shape, device)
    })
}

/// A small residual block.
fn block(x: &Tensor, w: &Tensor, b: &Tensor) -> Tensor {
    x.add(x.matmul(w).add(b).tanh().matmul(w))
}

#[test]
fn a_checkpoint_gives_parameters_that_it_captures_the_gradients_of_the_plain_form() -> Result<(), TensorError>
{
    let device = cpu();
    let [x, w, b] = leaves(&device);
    let plain = block(&block(&x, &w, &b), &w, &b);
    let kept = checkpoint(&[&x], |x| block(&x[0], &w, &b));
    let kept = checkpoint(&[&kept], |x| block(&x[0], &w, &b));
    assert_eq!(kept.to_f64_vec()?, plain.to_f64_vec()?);
    let wrt = [&x, &w, &b];
    let expected = grad(&plain.square().sum_all(), &wrt)?;
    let found = grad(&kept.square().sum_all(), &wrt)?;
    for (found, expected) in found.iter().zip(&expected) {
        assert_close("gradient", &found.to_f64_vec()?, &expected.to_f64_vec()?, 1e-14);
    }
    Ok(())
}

#[test]
fn a_checkpoint_of_slices_of_an_arena_gives_the_arena_gradients() -> Result<(), TensorError> {
    let device = cpu();
    let arena = leaf::<f64>(&numbers(20, (-1.0, 1.0), 3), &[20], &device);
    let [x, ..] = leaves(&device);
    let w = arena.narrow(0, 0, 16).reshape([4, 4]);
    let b = arena.narrow(0, 16, 4).reshape([1, 4]);
    let of = |y: Tensor, wrt: &Tensor| grad(&y.square().sum_all(), &[wrt])?[0].to_f64_vec();
    for wrt in [&w, &b, &arena] {
        let found = of(checkpoint(&[&x], |x| block(&x[0], &w, &b)), wrt)?;
        assert_close("gradient", &found, &of(block(&x, &w, &b), wrt)?, 1e-14);
    }
    Ok(())
}

#[test]
fn checkpoints_nest_and_can_be_differentiated_twice() -> Result<(), TensorError> {
    let device = cpu();
    let [x, w, b] = leaves(&device);
    let nested = checkpoint(&[&x], |x| {
        let inner = checkpoint(&[&x[0], &w], |a| block(&a[0], &a[1], &b));
        block(&inner, &w, &b).mul(2.0)
    });
    let plain = block(&block(&x, &w, &b), &w, &b).mul(2.0);
    let twice = |y: &Tensor| {
        let first = &grad(&y.square().sum_all(), &[&w])?[0];
        grad(&first.square().sum_all(), &[&x, &w, &b])
    };
    for (found, expected) in twice(&nested)?.iter().zip(&twice(&plain)?) {
        assert_close("second derivative", &found.to_f64_vec()?, &expected.to_f64_vec()?, 1e-12);
    }
    Ok(())
}

#[test]
fn dropout_within_a_checkpoint_is_the_same_in_both_passes() -> Result<(), TensorError> {
    let device = cpu();
    let x = leaf::<f32>(&numbers(64, (0.5, 1.0), 1), &[64], &device);
    for step in 0..3 {
        let key = wgrad_tensor::RandomKey { seed: 7, step, stream: 0 };
        let y = checkpoint(&[&x], |x| {
            let keep = Tensor::random_uniform([64], &key, &device).ge(0.5);
            keep.where_(&x[0].square(), &Tensor::zeros([64], x[0].dtype(), &device))
        });
        let slope = &grad(&y.sum_all(), &[&x])?[0];
        let zero =
            |t: &Tensor| Ok::<_, TensorError>(t.to_f64_vec()?.iter().map(|&v| v == 0.0).collect::<Vec<_>>());
        assert_eq!(zero(&y)?, zero(slope)?);
        let dropped = zero(&y)?.iter().filter(|&&z| z).count();
        assert!((10..54).contains(&dropped), "{dropped} of 64");
    }
    Ok(())
}

#[test]
fn equal_checkpoints_of_every_step_are_one_program() -> Result<(), TensorError> {
    let device = cpu();
    let [x, w, b] = leaves(&device);
    let mut misses = Vec::new();
    for step in 0..4 {
        let x = x.mul(f64::from(step)).to_leaf()?;
        let y = checkpoint(&[&x], |x| block(&x[0], &w, &b).mul(f64::from(step)));
        grad(&y.sum_all(), &[&w])?[0].realize()?;
        misses.push(device.cache().stats().misses);
    }
    assert!(misses.iter().all(|&m| m == misses[0]), "{misses:?}");
    Ok(())
}

#[test]
fn several_outputs_and_integer_operands_are_differentiated() -> Result<(), TensorError> {
    let device = cpu();
    let table = leaf::<f64>(&numbers(8, (-1.0, 1.0), 5), &[4, 2], &device);
    let ids = Tensor::from_vec(vec![3i32, 0, 3], [3], &device);
    let outputs = function("rows", &[&table, &ids], |a| {
        let rows = a[0].embedding(&a[1]);
        vec![rows.square(), rows.sum_all()]
    });
    let loss = outputs[0].sum_all().add(outputs[1].mul(3.0));
    let found = grad(&loss, &[&table])?[0].to_f64_vec()?;
    let rows = table.embedding(&ids);
    let expected = grad(&rows.square().sum_all().add(rows.sum_all().mul(3.0)), &[&table])?[0].to_f64_vec()?;
    assert_close("gradient", &found, &expected, 1e-14);
    // Ids that the host knows are checked within a function as outside of it.
    let far = Tensor::from_vec(vec![4i32], [1], &device);
    let outputs = function("rows", &[&table, &far], |a| vec![a[0].embedding(&a[1]), a[0].exp()]);
    assert_eq!(outputs.len(), 2);
    assert!(outputs[1].error().is_some_and(|e| e.to_string().contains("out of range")));
    Ok(())
}

#[test]
fn a_gradient_of_its_own_replaces_the_derivative_and_sees_residuals() -> Result<(), TensorError> {
    let device = cpu();
    let x = leaf::<f64>(&[0.5, -2.0], &[2], &device);
    let body = |a: &[Tensor]| vec![a[0].square(), a[0].mul(10.0)];
    let y = function_with_gradient("odd", &[&x], 1, body, |b| {
        assert_eq!((b.operands.len(), b.outputs.len(), b.cotangents.len()), (1, 2, 1));
        vec![b.outputs[1].mul(&b.cotangents[0])]
    });
    assert_eq!(y.len(), 1);
    assert_eq!(y[0].to_f64_vec()?, [0.25, 4.0]);
    assert_eq!(grad(&y[0].sum_all(), &[&x])?[0].to_f64_vec()?, [5.0, -20.0]);
    Ok(())
}

#[test]
fn what_cannot_be_a_function_is_refused_with_the_reason() {
    let device = cpu();
    let (x, other) = (leaf::<f64>(&[1.0], &[1], &device), leaf::<f64>(&[2.0], &[1], &device));
    let text = |t: &Tensor| t.error().map(ToString::to_string).unwrap_or_default();
    let gradient = |b: &wgrad_tensor::Backward<'_>| vec![b.cotangents[0].clone()];
    let captures = function_with_gradient("f", &[&x], 1, |a| vec![a[0].mul(&other)], gradient);
    assert!(text(&captures[0]).contains("make it an operand"), "{}", text(&captures[0]));
    let wrong = |b: &wgrad_tensor::Backward<'_>| vec![b.cotangents[0].reshape([1, 1])];
    let misfit = function_with_gradient("f", &[&x], 1, |a| vec![a[0].exp()], wrong);
    assert!(text(&misfit[0]).contains("f64[1, 1], expected f64[1]"), "{}", text(&misfit[0]));
    let mut inside = None;
    let _ = function("f", &[&x], |a| {
        inside = a[0].exp().to_f64_vec().err();
        vec![a[0].clone()]
    });
    assert!(inside.is_some_and(|e| matches!(e, TensorError::Placeholder { .. })));
    assert!(trace_function("f", &[&x], |_| Vec::new()).is_err());
    // An error of an operand, or of an operation within, passes through.
    let faulty = x.reshape([7]);
    assert!(checkpoint(&[&faulty], |a| a[0].exp()).error().is_some());
    assert!(text(&checkpoint(&[&x], |a| a[0].reshape([7]))).contains("reshape"));
    let fine = function_with_gradient("f", &[&faulty], 2, |a| vec![a[0].clone(), a[0].clone()], gradient);
    assert_eq!(fine.len(), 2);
}

#[test]
fn a_checkpoint_of_what_depends_on_nothing_is_that() -> Result<(), TensorError> {
    let device = cpu();
    assert_eq!(
        checkpoint(&[], |_| Tensor::ones([2], wgrad_tensor::DType::F32, &device)).to_f64_vec()?,
        [1.0, 1.0]
    );
    let x = leaf::<f64>(&[3.0], &[1], &device);
    let y = checkpoint(&[], |_| x.square());
    assert_eq!(grad(&y.sum_all(), &[&x])?[0].to_f64_vec()?, [6.0]);
    let unused = checkpoint(&[&x], |_| Tensor::ones([1], wgrad_tensor::DType::F64, &device));
    assert_eq!(
        grad_allow_unused(&unused.sum_all(), &[&x])?[0].as_ref().map(|g| g.to_f64_vec()).transpose()?,
        Some(vec![0.0])
    );
    Ok(())
}
