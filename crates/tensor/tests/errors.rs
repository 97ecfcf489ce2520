//! Wrong calls: no panic, one clear `Err` at evaluation.

mod common;

use common::cpu;
use wgrad_tensor::{DType, DeviceHandle, Tensor, TensorError, eval};

fn ones(shape: &[usize], device: &DeviceHandle) -> Tensor {
    Tensor::ones(shape, DType::F32, device)
}

/// The message must hold all of `parts`, and the line of this file.
#[track_caller]
fn refused(t: &Tensor, parts: &[&str]) {
    let error = t.realize().expect_err("an error is carried to evaluation");
    let text = error.to_string();
    for part in parts.iter().chain(&["errors.rs:"]) {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
    assert!(t.error().is_some());
}

#[test]
fn mismatched_shapes_give_an_error_with_both_shapes_and_the_line() {
    let d = cpu();
    let a = ones(&[2, 3], &d).named("hidden");
    refused(&a.add(ones(&[4], &d)), &["[add]", "`hidden` f32[2, 3]", "f32[4]"]);
    refused(&(&a * &ones(&[4], &d)), &["[mul]", "f32[2, 3]", "f32[4]"]);
    refused(&a.matmul(&ones(&[2, 3], &d)), &["[matmul]", "f32[2, 3]"]);
    refused(&a.matmul(&ones(&[4], &d)), &["[matmul]", "f32[4]"]);
    refused(&a.reshape([5]), &["[reshape]", "[2, 3]", "[5]"]);
    refused(&a.permute(&[0, 0]), &["[permute]", "[0, 0]"]);
    refused(&a.expand([2, 4]), &["[expand]", "[2, 3]", "[2, 4]"]);
    refused(&a.expand([3]), &["[expand]"]);
    refused(&a.narrow(1, 2, 2), &["[narrow]", "[2, 3]"]);
    refused(&a.slice(0, 0, 2, 0), &["[slice]"]);
    refused(&a.sum(&[2], false), &["[sum]", "axis 2"]);
    refused(&a.sum(&[0, -2], false), &["[sum]", "twice"]);
    refused(&a.softmax(-3), &["[softmax]", "axis -3"]);
    refused(&a.t().unsqueeze(0).t(), &["[t]", "rank 2"]);
    refused(&a.pad(&[(1, 1)], 0.0), &["[pad]"]);
    refused(&Tensor::cat(&[&a, &ones(&[3, 3], &d)], 1), &["[cat]", "[2, 3]", "[3, 3]"]);
    refused(&Tensor::cat(&[], 0), &["[cat]"]);
    refused(&Tensor::stack(&[], 0), &["[cat]"]);
    refused(&Tensor::from_vec(vec![1.0f32; 5], [2, 3], &d), &["[from_vec]", "5 elements", "f32[2, 3]"]);
}

#[test]
fn mismatched_dtypes_give_an_error_with_both() {
    let d = cpu();
    let (f, i) = (ones(&[2], &d), Tensor::arange(2, &d));
    refused(&f.add(&i), &["f32[2]", "i32[2]", "cast"]);
    refused(&f.logical_and(&f), &["[logical_and]"]);
    refused(&i.exp(), &["[exp]", "i32"]);
    refused(&i.mean_all(), &["[mean]", "i32"]);
    refused(&f.embedding(&f), &["[embedding]"]);
    refused(&f.where_(&f, &f), &["[where]", "bool"]);
    refused(&f.eq(&f).mean_all(), &["[mean]", "bool"]);
    let text = f.to_vec::<i32>().unwrap_err().to_string();
    assert!(text.contains("[read]") && text.contains("f32[2]") && text.contains("i32"), "{text}");
}

#[test]
fn what_is_computed_from_a_faulty_tensor_carries_the_first_error() {
    let d = cpu();
    let bad = ones(&[2, 3], &d).add(ones(&[4], &d));
    let [b, n, c] = bad.dims();
    assert_eq!([b, n, c], [1; 3]);
    let parts = bad.exp().chunk(3, -1);
    assert_eq!(parts.len(), 3);
    let later = parts[2].reshape([b, n, c]).matmul(&ones(&[7, 7], &d)).softmax(-1).sum_all() * 2.0;
    refused(&later, &["[add]", "f32[2, 3]", "f32[4]"]);
    assert!(matches!(eval(&[&ones(&[1], &d), &later]), Err(TensorError::Op { op: "add", .. })));
    assert!(wgrad_tensor::grad(&later, &[&bad]).is_err());
    assert!(later.item().is_err() && later.to_vec::<f32>().is_err() && later.read::<f32>().is_err());
    assert!(later.to_string().starts_with("tensor(error: [add]"));
}

#[test]
fn operands_on_different_devices_are_refused() {
    let (a, b) = (cpu(), cpu());
    if a.uid() != b.uid() {
        refused(&ones(&[2], &a).add(ones(&[2], &b)), &["different devices", "to_device"]);
        let moved = ones(&[2], &a).to_device(&b);
        assert_eq!(moved.add(ones(&[2], &b)).to_vec::<f32>().unwrap(), [2.0, 2.0]);
    }
}

#[test]
fn ids_that_the_host_knows_are_checked_at_the_call() {
    let d = cpu();
    let table = ones(&[4, 2], &d).named("wte");
    let ids = Tensor::from_vec(vec![0i32, 4], [2], &d).named("tokens");
    refused(&table.embedding(&ids), &["[embedding]", "id 4", "`tokens`", "4 rows", "`wte`"]);
    refused(&table.embedding(&ids.reshape([2, 1]).flip(&[0])), &["id 4"]);
    let negative = Tensor::from_vec(vec![-1i32, 2], [2], &d);
    refused(&table.embedding(&negative), &["id -1"]);
    refused(&table.narrow(0, 0, 2).scatter_add_rows(4, &ids), &["[scatter_add_rows]", "id 4"]);
    refused(&table.embedding(&Tensor::arange(5, &d)), &["id 4"]);
    let good = Tensor::from_vec(vec![3u32, 0], [2], &d);
    assert!(table.embedding(&good).realize().is_ok());
}

#[test]
fn ids_computed_on_the_device_are_reported_by_a_read() {
    let d = cpu();
    let ids = Tensor::arange(4, &d) + 2.0;
    let rows = ones(&[4, 2], &d).embedding(&ids);
    let failed = rows.to_vec::<f32>();
    assert!(matches!(failed, Err(TensorError::Device(_))), "{failed:?}");
    assert!(failed.unwrap_err().to_string().contains("out of range"));
}

#[test]
fn an_item_is_one_element() {
    let d = cpu();
    let text = ones(&[2], &d).item().unwrap_err().to_string();
    assert!(text.contains("[item]") && text.contains("f32[2]"), "{text}");
    assert_eq!(ones(&[1, 1], &d).item().unwrap(), 1.0);
}
