//! Recurrences: cumulations, recurrent layers, and the loss of alignments.

use serde_json::json;
use wgrad::{
    nn::{
        GRU, Init, LSTM, Module, RNN, RecurrentOptions,
        functional::{CtcOptions, Reduction, ctc_loss},
    },
    prelude::*,
};

use crate::{Call, Dtypes, Input, Outputs, Row, Sample, floats, given, ints};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new("cumsum", |c| c.x(0).cumsum(c.isize("dim", -1)))
            .shapes("[.., n, ..] → [.., n, ..]")
            .dtypes(Dtypes::Numbers)
            .entries(&["cumsum"])
            .samples(lines(-1.9, 1.9)),
        Row::new("cumprod", |c| c.x(0).cumprod(c.isize("dim", -1)))
            .shapes("[.., n, ..] → [.., n, ..]")
            .dtypes(Dtypes::Numbers)
            .entries(&["cumprod"])
            .samples(lines(0.5, 1.5))
            .sample([with_zeros()]),
        Row::new("prod", |c| c.x(0).prod(&c.isizes("dim", &[-1]), c.bool("keepdim", false)))
            .shapes("[.., n, ..] → [..]")
            .dtypes(Dtypes::Numbers)
            .entries(&["prod"])
            .sample([floats("x", &[3, 5]).within(0.5, 1.5)])
            .sample([with_zeros()])
            .sample(Sample::of([floats("x", &[2, 3, 4])]).attrs(json!({"dim": [0, 2], "keepdim": true})))
            .sample([floats("x", &[2, 0])]),
        layer("rnn", 1, rnn).entries(&["rnn_tanh", "rnn_relu"]),
        layer("lstm", 4, lstm).entries(&["lstm", "lstm_2layer_bi"]),
        layer("gru", 3, gru).entries(&["gru", "gru_2layer_bi"]),
        ctc(),
    ]
}

fn with_zeros() -> Input {
    given("x", &[3, 3], &[2.0, 0.0, 3.0, 0.0, 0.0, 5.0, 1.5, 2.0, 4.0])
}

/// Along the last axis, the first, one in the middle; long ones, of one element, of none.
fn lines(low: f64, high: f64) -> Vec<Sample> {
    let shapes: [(&[usize], isize); 7] = [
        (&[3, 5], -1),
        (&[5, 3], 0),
        (&[2, 4, 3], 1),
        (&[2, 300], 1),
        (&[70, 66], 0),
        (&[3, 1], 1),
        (&[0, 3], 0),
    ];
    let sample = |&(shape, dim): &(&[usize], isize)| {
        Sample::of([floats("x", shape).within(low, high)]).attrs(json!({"dim": dim}))
    };
    shapes.iter().map(sample).collect()
}

/// A recurrent layer of hidden width 2 on inputs of width 2.
fn layer(name: &'static str, gates: usize, run: impl Fn(&Call) -> Outputs + Send + Sync + 'static) -> Row {
    let weights = |names: [&'static str; 4], width: usize| {
        let [w_ih, w_hh, b_ih, b_hh] = names;
        let rows = 2 * gates;
        let shapes = [vec![rows, width], vec![rows, 2], vec![rows], vec![rows]];
        [w_ih, w_hh, b_ih, b_hh]
            .into_iter()
            .zip(shapes)
            .map(|(name, shape)| floats(name, &shape).within(-0.9, 0.9))
    };
    let forward = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"];
    let back = ["weight_ih_l0_reverse", "weight_hh_l0_reverse", "bias_ih_l0_reverse", "bias_hh_l0_reverse"];
    let second = ["weight_ih_l1", "weight_hh_l1", "bias_ih_l1", "bias_hh_l1"];
    let second_back =
        ["weight_ih_l1_reverse", "weight_hh_l1_reverse", "bias_ih_l1_reverse", "bias_hh_l1_reverse"];
    let state = |layers: usize, batch: usize| {
        let names = if name == "lstm" { &["h0", "c0"][..] } else { &["h0"][..] };
        names.iter().map(move |n| floats(n, &[layers, batch, 2])).collect::<Vec<_>>()
    };
    let one = |batch, time| {
        let mut inputs = vec![floats("x", &[batch, time, 2])];
        inputs.extend(state(1, batch));
        inputs.extend(weights(forward, 2));
        inputs
    };
    let mut packed = one(2, 3);
    packed.push(ints("lengths", &[2], 1, 4));
    let mut deep = vec![floats("x", &[3, 5, 2])];
    deep.extend(state(4, 3));
    deep.extend([forward, back].into_iter().flat_map(|names| weights(names, 2)));
    deep.extend([second, second_back].into_iter().flat_map(|names| weights(names, 4)));
    deep.push(given("lengths", &[3], &[5.0, 2.0, 4.0]).constant());
    Row::new(name, run)
        .shapes("x [b, t, i], h0 [layers, b, h] → [b, t, h], [layers, b, h]")
        .sample(Sample { inputs: one(2, 3), attrs: json!({"hidden": 2, "batch_first": true}) })
        .sample(Sample { inputs: packed, attrs: json!({"hidden": 2, "batch_first": true}) })
        .sample(Sample { inputs: one(1, 1), attrs: json!({"hidden": 2, "batch_first": true}) })
        .sample(Sample {
            inputs: deep,
            attrs: json!({"hidden": 2, "batch_first": true, "num_layers": 2, "bidirectional": true}),
        })
}

/// Settings, input width and hidden width of a call.
fn options(c: &Call) -> (RecurrentOptions, usize, usize) {
    let options = RecurrentOptions {
        num_layers: c.usize("num_layers", 1),
        bias: c.get("bias_ih_l0").is_some(),
        batch_first: c.bool("batch_first", false),
        dropout: 0.0,
        bidirectional: c.bool("bidirectional", false),
    };
    (options, c.named("x").shape().last().copied().unwrap_or(0), c.usize("hidden", 1))
}

/// The layer with the call's tensors as parameters, so that these have gradients.
fn fill<M: Module>(c: &Call, layer: M) -> M {
    layer.named_parameters().iter().for_each(|(name, param)| param.set(c.named(name)));
    layer
}

fn lengths(c: &Call) -> Option<Tensor> {
    c.get("lengths").map(|lengths| lengths.cast(DType::I32))
}

fn rnn(c: &Call) -> Outputs {
    let (options, width, hidden) = options(c);
    let init = Init::new(c.device(), 0);
    let make = if c.text("nonlinearity", "tanh") == "relu" { RNN::relu } else { RNN::new };
    let layer = fill(c, make(&init, width, hidden, options));
    layer.forward(&c.named("x"), c.get("h0").as_ref(), lengths(c).as_ref(), &Context::eval()).into()
}

fn gru(c: &Call) -> Outputs {
    let (options, width, hidden) = options(c);
    let layer = fill(c, GRU::new(&Init::new(c.device(), 0), width, hidden, options));
    layer.forward(&c.named("x"), c.get("h0").as_ref(), lengths(c).as_ref(), &Context::eval()).into()
}

fn lstm(c: &Call) -> Outputs {
    let (options, width, hidden) = options(c);
    let layer = fill(c, LSTM::new(&Init::new(c.device(), 0), width, hidden, options));
    let state = c.get("h0").zip(c.get("c0"));
    let state = state.as_ref().map(|(h, c)| (h, c));
    let (y, (h, cell)) = layer.forward(&c.named("x"), state, lengths(c).as_ref(), &Context::eval());
    (y, h, cell).into()
}

fn ctc() -> Row {
    // Targets, lengths of inputs and of targets.
    let sample = |x: &[usize], targets: (&[usize], &[f64]), il: &[f64], tl: &[f64], attrs| {
        let whole = |name, shape: &[usize], values: &[f64]| given(name, shape, values).constant();
        let n = [il.len()];
        let inputs =
            vec![floats("x", x), whole("t", targets.0, targets.1), whole("il", &n, il), whole("tl", &n, tl)];
        Sample { inputs, attrs }
    };
    Row::new("ctc_loss", |c| loss(c, "mean", 0))
        .shapes("x [t, n, c], t [n, s], il [n], tl [n] → []")
        .entries(&["ctc_none", "ctc_mean", "ctc_sum"])
        .entry_by("ctc_blank_last", |c| loss(c, "sum", 1))
        .entry_by("ctc_concatenated", |c| loss(c, "none", 0))
        .entry_by("ctc_zero_infinity", |c| loss(c, "none", 0))
        .entry_by("ctc_infeasible", |c| loss(c, "none", 0))
        .entry_by("ctc_exact_fit", |c| loss(c, "none", 0))
        .entry_by("ctc_long", |c| loss(c, "sum", 0))
        .sample(sample(&[6, 2, 3], (&[2, 2], &[1.0, 1.0, 2.0, 0.0]), &[6.0, 4.0], &[2.0, 1.0], json!(null)))
        .sample(sample(
            &[5, 3, 3],
            (&[3, 3], &[1.0, 2.0, 1.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0]),
            &[5.0, 4.0, 3.0],
            &[3.0, 3.0, 0.0],
            json!({"reduction": "none", "zero_infinity": true}),
        ))
        .sample(sample(
            &[3, 2, 4],
            (&[2, 2], &[1.0, 0.0, 3.0, 2.0]),
            &[3.0, 2.0],
            &[1.0, 2.0],
            json!({"reduction": "sum"}),
        ))
        .sample(sample(&[2, 1, 2], (&[1, 0], &[]), &[2.0], &[0.0], json!({"blank": 1})))
}

/// Of the logits; targets are `shift` lower than given.
fn loss(c: &Call, reduction: &str, shift: usize) -> Tensor {
    let ints = |name: &str| c.named(name).cast(DType::I32);
    let targets = match shift {
        0 => ints("t"),
        _ => ints("t").sub(Tensor::constant(shift as f64, DType::I32, c.device())),
    };
    let reduction = match c.text("reduction", reduction).as_str() {
        "none" => Reduction::None,
        "sum" => Reduction::Sum,
        _ => Reduction::Mean,
    };
    let options =
        CtcOptions { blank: c.usize("blank", 0), reduction, zero_infinity: c.bool("zero_infinity", false) };
    ctc_loss(&c.named("x").log_softmax(-1), &targets, &ints("il"), &ints("tl"), options)
}
