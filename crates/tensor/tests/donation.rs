//! Updates in place: when a leaf is given up, when it is not, and what old handles say.

mod common;

use common::{cpu, leaf, numbers};
use wgrad_tensor::{DeviceHandle, Donation, Tensor, TensorError, eval, eval_donating};

type Outcome = Result<(), TensorError>;

const LEN: usize = 256;

fn arena(device: &DeviceHandle) -> Tensor {
    leaf::<f32>(&numbers(LEN, (0.0, 1.0), 1), &[LEN], device).named("arena")
}

/// Evaluates `wanted`, offering `leaf` with the handles that `holders` lists.
fn update(wanted: &[&Tensor], leaf: &Tensor, holders: &[&Tensor]) -> Outcome {
    eval_donating(wanted, &Donation { leaves: &[leaf], holders, by: "a test" })
}

fn doubled(device: &DeviceHandle) -> Result<Vec<f64>, TensorError> {
    arena(device).mul(2.0).to_f64_vec()
}

#[test]
fn a_leaf_that_nobody_else_needs_is_updated_in_place_and_says_so() -> Outcome {
    let device = cpu();
    let expected = doubled(&device)?;
    let old = arena(&device);
    let new = old.mul(2.0);
    update(&[&new], &old, &[&old])?;
    assert_eq!(new.to_f64_vec()?, expected);
    let error = old.to_f64_vec().unwrap_err();
    assert!(matches!(error, TensorError::Updated { .. }), "{error}");
    assert!(error.to_string().contains("`arena`") && error.to_string().contains("a test"), "{error}");
    // So does everything that would be computed from it, and its pieces.
    assert!(eval(&[&old.exp()]).is_err());
    assert!(old.narrow(0, 3, 5).to_f64_vec().is_err());
    assert!(!old.is_realized());
    Ok(())
}

#[test]
fn memory_is_really_shared() -> Outcome {
    let device = cpu();
    let mut value = leaf::<f32>(&numbers(1 << 18, (0.0, 1.0), 1), &[1 << 18], &device);
    let mut allocated = Vec::new();
    for _ in 0..4 {
        let new = value.mul(2.0);
        update(&[&new], &value, &[&value])?;
        value = new.to_leaf()?;
        allocated.push(device.stats().peak_bytes);
    }
    assert_eq!(device.stats().copied_inputs, 0);
    assert!(allocated[3] < 2 << 20, "{allocated:?}");
    Ok(())
}

#[test]
fn a_leaf_stays_where_somebody_may_still_need_it() -> Outcome {
    let device = cpu();
    let (before, expected) = (arena(&device).to_f64_vec()?, doubled(&device)?);
    // A handle that the caller does not name; an expression not yet evaluated; a piece of the leaf.
    let keeps: [fn(&Tensor) -> Tensor; 3] = [Tensor::clone, |t| t.add(1.0), |t| t.narrow(0, 64, 64)];
    for keep in keeps {
        let old = arena(&device);
        let kept = keep(&old);
        let elements = keep(&arena(&device)).to_f64_vec()?;
        let new = old.mul(2.0);
        update(&[&new], &old, &[&old])?;
        assert_eq!(new.to_f64_vec()?, expected);
        assert_eq!(old.to_f64_vec()?, before);
        assert_eq!(kept.to_f64_vec()?, elements);
    }
    Ok(())
}

#[test]
fn an_intermediate_that_somebody_holds_keeps_the_leaf_and_a_wanted_one_does_not() -> Outcome {
    let device = cpu();
    for wanted in [false, true] {
        let old = arena(&device);
        let logits = old.narrow(0, 0, 64).exp();
        let loss = logits.sum_all();
        let new = old.sub(old.mul(&loss));
        if wanted {
            update(&[&loss, &new, &logits], &old, &[&old])?;
            assert!(old.to_f64_vec().is_err());
        } else {
            update(&[&loss, &new], &old, &[&old])?;
            assert!(old.to_f64_vec().is_ok());
        }
        let expected = arena(&device).narrow(0, 0, 64).exp();
        assert_eq!(logits.to_f64_vec()?, expected.to_f64_vec()?);
    }
    Ok(())
}

#[test]
fn named_holders_of_pieces_count() -> Outcome {
    let device = cpu();
    let old = arena(&device);
    let piece = old.narrow(0, 64, 64).reshape([8, 8]);
    let cell = piece.clone();
    let new = old.add(piece.sum_all());
    // Two handles to the piece, of which only one is named; then both.
    update(&[&new], &old, &[&old, &piece])?;
    assert!(old.is_realized());
    let old = arena(&device);
    let piece = old.narrow(0, 64, 64).reshape([8, 8]);
    let new = old.add(piece.sum_all());
    drop(cell);
    let cell = piece.clone();
    update(&[&new], &old, &[&old, &piece, &cell])?;
    assert!(!old.is_realized() && piece.to_f64_vec().is_err());
    Ok(())
}

#[test]
fn a_leaf_whose_memory_another_leaf_shares_is_copied_and_not_overwritten() -> Outcome {
    let device = cpu();
    let old = arena(&device);
    let shared = old.detach();
    let before = shared.to_f64_vec()?;
    let new = old.mul(2.0);
    update(&[&new], &old, &[&old])?;
    assert_eq!(shared.to_f64_vec()?, before);
    assert_eq!(new.to_f64_vec()?, doubled(&device)?);
    Ok(())
}

#[test]
fn what_is_computed_is_never_given_up_nor_what_is_not_needed() -> Outcome {
    let device = cpu();
    let old = arena(&device);
    let computed = old.exp();
    computed.realize()?;
    let new = computed.mul(2.0);
    update(&[&new], &computed, &[&computed])?;
    assert!(computed.is_realized(), "it could be asked for again");
    let other = arena(&device);
    update(&[&old.add(1.0)], &other, &[&other])?;
    assert!(other.is_realized());
    Ok(())
}

#[test]
fn pieces_of_leaves_are_read_without_a_program() -> Outcome {
    let device = cpu();
    let all = arena(&device);
    let numbers = all.to_f64_vec()?;
    let piece = all.narrow(0, 64, 60).reshape([3, 20]);
    eval(&[&piece, &all])?;
    assert_eq!(piece.to_f64_vec()?, numbers[64..124]);
    assert_eq!(piece.narrow(0, 2, 1).narrow(1, 5, 10).to_f64_vec()?, numbers[109..119]);
    assert_eq!(device.stats().runs, 0);
    // These are not contiguous.
    assert_eq!(piece.narrow(1, 5, 1).to_f64_vec()?, [numbers[69], numbers[89], numbers[109]]);
    assert_eq!(all.slice(0, 0, 9, 4).to_f64_vec()?, [numbers[0], numbers[4], numbers[8]]);
    // A leaf of a piece has memory of its own.
    let own = piece.to_leaf()?;
    update(&[&all.mul(2.0)], &all, &[&all])?;
    assert_eq!(own.to_f64_vec()?, numbers[64..124]);
    Ok(())
}

#[test]
fn a_run_that_fails_gives_the_leaf_back() -> Outcome {
    let device = cpu();
    let old = arena(&device);
    let before = old.to_f64_vec()?;
    let new = old.mul(2.0);
    // 2^46 bytes: no machine has them.
    let huge = old.narrow(0, 0, 1).expand([1 << 44]).exp();
    let error = update(&[&new, &huge], &old, &[&old]).unwrap_err();
    assert!(error.to_string().contains("available"), "{error}");
    assert_eq!(old.to_f64_vec()?, before);
    drop(huge);
    update(&[&new], &old, &[&old])?;
    assert!(old.to_f64_vec().is_err());
    Ok(())
}
