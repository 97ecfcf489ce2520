//! Recurrent layers: names, packed sequences, dropout, errors.

use std::sync::Arc;

use wgrad_nn::{Context, GRU, Init, LSTM, Module, RNN, RecurrentOptions};
use wgrad_tensor::{DType, DeviceHandle, Tensor};

/// One for each test: an index out of range is told to whoever reads from the device next.
fn device() -> &'static DeviceHandle {
    thread_local!(static DEVICE: &'static DeviceHandle = {
        let device: DeviceHandle = Arc::new(wgrad_cpu::CpuDevice::new());
        Box::leak(Box::new(device))
    });
    DEVICE.with(|device| *device)
}

fn init() -> Init {
    Init::new(device(), 7).with_dtype(DType::F64)
}

fn numbers(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|i| ((i * 37 + 11) % 101) as f64 / 50.0 - 1.0).collect();
    Tensor::from_vec(values, shape, device())
}

fn lengths(values: &[i32]) -> Tensor {
    Tensor::from_slice(values, [values.len()], device())
}

#[track_caller]
fn assert_close(got: &Tensor, want: &Tensor) {
    let (got, want) = (got.to_vec::<f64>().unwrap(), want.to_vec::<f64>().unwrap());
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?}\n{want:?}");
}

const DEEP: RecurrentOptions =
    RecurrentOptions { num_layers: 2, bias: true, batch_first: true, dropout: 0.0, bidirectional: true };

#[test]
fn parameters_have_the_names_order_and_bounds_of_pytorch() {
    let layer = LSTM::new(&init(), 3, 4, DEEP);
    let names: Vec<String> = layer.named_parameters().into_iter().map(|p| p.0).collect();
    let expected = [
        ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"],
        ["weight_ih_l0_reverse", "weight_hh_l0_reverse", "bias_ih_l0_reverse", "bias_hh_l0_reverse"],
        ["weight_ih_l1", "weight_hh_l1", "bias_ih_l1", "bias_hh_l1"],
        ["weight_ih_l1_reverse", "weight_hh_l1_reverse", "bias_ih_l1_reverse", "bias_hh_l1_reverse"],
    ];
    assert_eq!(names, expected.concat());
    for (name, value) in layer.state_dict() {
        let width = if name.starts_with("weight_ih_l1") {
            8
        } else if name.contains("ih") {
            3
        } else {
            4
        };
        let shape = if name.starts_with("bias") { vec![16] } else { vec![16, width] };
        assert_eq!(value.shape().dims(), shape, "{name}");
        let values = value.to_vec::<f64>().unwrap();
        assert!(values.iter().all(|v| v.abs() <= 0.5) && values.iter().any(|v| v.abs() > 0.4), "{name}");
    }
    let plain = RNN::new(&init(), 3, 4, RecurrentOptions { bias: false, ..RecurrentOptions::default() });
    assert_eq!(plain.named_parameters().len(), 2);
}

#[test]
fn a_padded_batch_gives_what_each_sequence_gives_alone() {
    let (x, sizes) = (numbers(&[3, 5, 3]), [5usize, 2, 4]);
    let all = lengths(&sizes.map(|n| n as i32));
    let ctx = Context::eval();
    let (gru, lstm) = (GRU::new(&init(), 3, 4, DEEP), LSTM::new(&init(), 3, 4, DEEP));
    let states = (numbers(&[4, 3, 4]), numbers(&[4, 3, 4]).flip(&[0]));
    let run = |x: &Tensor, h: &Tensor, c: &Tensor, lengths: Option<&Tensor>| {
        let (y, h_n) = gru.forward(x, Some(h), lengths, &ctx);
        let (z, (h_m, c_m)) = lstm.forward(x, Some((h, c)), lengths, &ctx);
        ([y, z], [h_n, h_m, c_m])
    };
    let (outputs, last) = run(&x, &states.0, &states.1, Some(&all));
    for (n, &len) in sizes.iter().enumerate() {
        let one = |s: &Tensor| s.narrow(1, n, 1);
        let alone = run(&x.narrow(0, n, 1).narrow(1, 0, len), &one(&states.0), &one(&states.1), None);
        for (padded, alone) in outputs.iter().zip(&alone.0) {
            let padded = padded.narrow(0, n, 1);
            assert_close(&padded.narrow(1, 0, len), alone);
            let rest = padded.narrow(1, len, 5 - len).to_vec::<f64>().unwrap();
            assert!(rest.iter().all(|&v| v == 0.0));
        }
        for (padded, alone) in last.iter().zip(&alone.1) {
            assert_close(&padded.narrow(1, n, 1), alone);
        }
    }
}

#[test]
fn time_first_and_batch_first_agree_and_states_begin_at_zero() {
    let x = numbers(&[2, 4, 3]);
    let first = GRU::new(&init(), 3, 4, RecurrentOptions { batch_first: true, ..DEEP });
    let second = GRU::new(&init(), 3, 4, RecurrentOptions { batch_first: false, ..DEEP });
    let ctx = Context::eval();
    let zeros = Tensor::zeros([4, 2, 4], DType::F64, device());
    let (y, h) = first.forward(&x, None, None, &ctx);
    let (z, k) = second.forward(&x.transpose(0, 1), Some(&zeros), None, &ctx);
    assert_close(&y, &z.transpose(0, 1));
    assert_close(&h, &k);
}

#[test]
fn dropout_acts_between_layers_in_training_only() {
    let options = RecurrentOptions { dropout: 0.5, ..DEEP };
    let (dropped, plain) = (GRU::new(&init(), 3, 8, options), GRU::new(&init(), 3, 8, DEEP));
    let x = numbers(&[2, 4, 3]);
    let outputs = |layer: &GRU, ctx: &Context| layer.forward(&x, None, None, ctx);
    let (y, h) = outputs(&plain, &Context::eval());
    let (z, k) = outputs(&dropped, &Context::eval());
    assert_close(&y, &z);
    assert_close(&h, &k);
    let (z, k) = outputs(&dropped, &Context::train(1, 0));
    assert_ne!(y.to_vec::<f64>().unwrap(), z.to_vec::<f64>().unwrap());
    // The first layer's states are before any dropout.
    assert_close(&h.narrow(0, 0, 2), &k.narrow(0, 0, 2));
}

#[test]
fn what_does_not_fit_is_an_error_that_says_what_was_expected() {
    let layer = LSTM::new(&init(), 3, 4, RecurrentOptions::default());
    let ctx = Context::eval();
    let message = |x: &Tensor, state: Option<&Tensor>, lengths: Option<&Tensor>| {
        let (y, (h, c)) = layer.forward(x, state.map(|s| (s, s)), lengths, &ctx);
        assert!(h.error().is_some() && c.error().is_some());
        y.realize().unwrap_err().to_string()
    };
    let x = numbers(&[5, 2, 3]);
    let found = message(&numbers(&[5, 2, 4]), None, None);
    assert!(found.contains("[time, batch, width] of width 3, got f64[5, 2, 4]"), "{found}");
    let found = message(&numbers(&[3]), None, None);
    assert!(found.contains("[time, batch, width], got f64[3]"), "{found}");
    let found = message(&numbers(&[5, 3]), None, Some(&lengths(&[5])));
    assert!(found.contains("no lengths and states [layers, hidden] beside one sequence [5, 3]"), "{found}");
    let found = message(&x, Some(&numbers(&[2, 1, 4])), None);
    assert!(found.contains("states f64[1, 2, 4], got f64[2, 1, 4]"), "{found}");
    let found = message(&x, None, Some(&lengths(&[5, 6])));
    assert!(found.contains("lengths lie in 5..=6, but there are 5 steps"), "{found}");
    let found = message(&x, None, Some(&lengths(&[5])));
    assert!(found.contains("integer lengths of 2 sequences, got i32[1]"), "{found}");
    // The host does not know the elements of a sum.
    let (y, _) = layer.forward(&x, None, Some(&lengths(&[5, 5]).add(1.0)), &ctx);
    assert!(y.to_vec::<f64>().unwrap_err().to_string().contains("out of range"));
    let (y, _) = layer.forward(&x, None, Some(&lengths(&[3, 4]).add(1.0)), &ctx);
    assert!(y.to_vec::<f64>().is_ok());
    for options in [
        RecurrentOptions { num_layers: 0, ..RecurrentOptions::default() },
        RecurrentOptions { dropout: f64::NAN, ..RecurrentOptions::default() },
    ] {
        let (y, h) = GRU::new(&init(), 3, 4, options).forward(&x, None, None, &ctx);
        let found = y.realize().unwrap_err().to_string();
        assert!(found.contains("expects 1 or more layers") && h.error().is_some(), "{found}");
    }
}

#[test]
fn one_sequence_needs_no_axis_of_the_batch() {
    let ctx = Context::eval();
    for batch_first in [false, true] {
        let options = RecurrentOptions { batch_first, ..DEEP };
        let (gru, lstm) = (GRU::new(&init(), 3, 4, options), LSTM::new(&init(), 3, 4, options));
        let (x, h, c) = (numbers(&[5, 3]), numbers(&[4, 4]), numbers(&[4, 4]).neg());
        let axis = if batch_first { 0 } else { 1 };
        let (y, after) = gru.forward(&x, Some(&h), None, &ctx);
        let (z, k) = gru.forward(&x.unsqueeze(axis), Some(&h.unsqueeze(1)), None, &ctx);
        assert_eq!((y.shape().dims(), after.shape().dims()), (&[5, 8][..], &[4, 4][..]));
        assert_close(&y, &z);
        assert_close(&after, &k);
        let (y, (_, after)) = lstm.forward(&x, Some((&h, &c)), None, &ctx);
        let (z, (_, k)) =
            lstm.forward(&x.unsqueeze(axis), Some((&h.unsqueeze(1), &c.unsqueeze(1))), None, &ctx);
        assert_close(&y, &z);
        assert_close(&after, &k);
    }
}
