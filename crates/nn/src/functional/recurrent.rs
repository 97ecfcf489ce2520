//! Recurrent layers of one direction, as recurrences over time; formulas and the order of gates as in PyTorch.
//!
//! Legend: t time, b batch, i input width, h hidden width, g gates times hidden width.

use wgrad_tensor::{DType, Tensor, scan};

use super::{add_bias, linear};

/// What is computed in each step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cell {
    /// `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)` (Elman, 1990).
    Tanh,
    /// `h' = relu(W_ih x + b_ih + W_hh h + b_hh)`.
    Relu,
    /// Gates `i, f, g, o`: `c' = σ(f) c + σ(i) tanh(g)`, `h' = σ(o) tanh(c')` (Hochreiter and Schmidhuber, 1997).
    Lstm,
    /// Gates `r, z, n`, with `n = tanh(W x + b_ih + σ(r) (W h + b_hh))`: `h' = (1 - σ(z)) n + σ(z) h` (Cho et al., 2014).
    Gru,
}

impl Cell {
    /// How many times the hidden width the weights have as rows.
    pub fn gates(self) -> usize {
        match self {
            Cell::Tanh | Cell::Relu => 1,
            Cell::Lstm => 4,
            Cell::Gru => 3,
        }
    }
}

/// The parameters of one direction of one layer.
#[derive(Clone, Debug)]
pub struct CellWeights {
    /// `[g, i]`.
    pub weight_ih: Tensor,
    /// `[g, h]`.
    pub weight_hh: Tensor,
    /// `[g]`.
    pub bias_ih: Option<Tensor>,
    /// `[g]`.
    pub bias_hh: Option<Tensor>,
}

/// One direction of one layer: `x [t, b, i]` and a state `h [b, h]`, for an LSTM also `c [b, h]`, give the outputs `[t, b, h]` and the
/// state after the last step, which with `reverse` is the first in time.
///
/// With `lengths [b]` (integers, at most `t`, which devices check), steps from a sequence's length on change nothing and give zeros:
/// the state is the one at the sequence's end, and `reverse` begins there (PyTorch's packed sequences).
///
/// The products of all inputs with `weight_ih` are one, before the recurrence.
#[track_caller]
pub fn recurrence(
    cell: Cell,
    x_tbi: &Tensor,
    state: &[&Tensor],
    weights: &CellWeights,
    lengths: Option<&Tensor>,
    reverse: bool,
) -> (Tensor, Vec<Tensor>) {
    let [time, _, _] = x_tbi.dims();
    let CellWeights { weight_ih, weight_hh, bias_ih, bias_hh } = weights;
    // A gated unit resets what the recurrent bias of its candidate has joined; all others are sums.
    let (outer, inner) = match (cell, bias_hh) {
        (Cell::Gru, Some(bias)) => {
            let [g] = bias.dims();
            let h = g / 3;
            (Some(bias.narrow(0, 0, 2 * h).pad(&[(0, h)], 0.0)), Some(bias.narrow(0, 2 * h, g - 2 * h)))
        }
        (_, bias) => (bias.clone(), None),
    };
    let gates_tbg = add_bias(linear(x_tbi, weight_ih, bias_ih.as_ref()), outer.as_ref());
    let there_tb1 = lengths.map(|lengths| {
        let lengths = lengths.cast(DType::I32).ensure_below(time + 1);
        let steps = Tensor::arange(time, x_tbi.device()).unsqueeze(-1);
        steps.lt(lengths.unsqueeze(0)).unsqueeze(-1)
    });
    let mut sequences = vec![&gates_tbg];
    sequences.extend(&there_tb1);
    let run = scan(state, &sequences, time, reverse, |state, slices| {
        let products_bg = state[0].matmul(&weight_hh.t());
        let next = step(cell, &slices[0], &products_bg, state, inner.as_ref());
        match slices.get(1) {
            None => (next.clone(), vec![next[0].clone()]),
            Some(there) => {
                let kept = next.iter().zip(state).map(|(next, before)| there.where_(next, before));
                let zero = Tensor::constant(0.0, next[0].dtype(), next[0].device());
                (kept.collect(), vec![there.where_(&next[0], &zero)])
            }
        }
    });
    match run.results.into_iter().next() {
        Some(output) => (output, run.carries),
        None => (x_tbi.invalid("recurrence", "the recurrence gave no output"), run.carries),
    }
}

/// The next state.
#[track_caller]
fn step(cell: Cell, x_bg: &Tensor, h_bg: &Tensor, state: &[Tensor], bias: Option<&Tensor>) -> Vec<Tensor> {
    match cell {
        Cell::Tanh => vec![x_bg.add(h_bg).tanh()],
        Cell::Relu => vec![x_bg.add(h_bg).relu()],
        Cell::Lstm => {
            let gates = x_bg.add(h_bg).chunk(4, -1);
            let [i, f, g, o] = [0, 1, 2, 3].map(|n: usize| gates.get(n).unwrap_or(x_bg));
            let c = f.sigmoid().mul(&state[1]).add(i.sigmoid().mul(g.tanh()));
            vec![o.sigmoid().mul(c.tanh()), c]
        }
        Cell::Gru => {
            let (x, h) = (x_bg.chunk(3, -1), h_bg.chunk(3, -1));
            let part = |parts: &[Tensor], n: usize| parts.get(n).unwrap_or(x_bg).clone();
            let gate = |n| part(&x, n).add(part(&h, n)).sigmoid();
            let (r, z) = (gate(0), gate(1));
            let n = part(&x, 2).add(r.mul(add_bias(part(&h, 2), bias))).tanh();
            vec![n.add(z.mul(state[0].sub(&n)))]
        }
    }
}

/// Why a batch of sequences does not fit, or lengths do not.
pub(crate) fn misfit(
    x: &Tensor,
    width: usize,
    batch_first: bool,
    lengths: Option<&Tensor>,
) -> Option<String> {
    let order = if batch_first { "[batch, time, width]" } else { "[time, batch, width]" };
    let [a, b, i] = x.shape().dims() else {
        return Some(format!("expects {order}, got {}{}", x.dtype(), x.shape()));
    };
    if *i != width {
        return Some(format!("expects {order} of width {width}, got {}{}", x.dtype(), x.shape()));
    }
    let (batch, time) = if batch_first { (*a, *b) } else { (*b, *a) };
    let lengths = lengths.filter(|l| l.error().is_none())?;
    if lengths.shape().dims() != [batch] || !matches!(lengths.dtype(), DType::I32 | DType::U32) {
        let got = format!("{}{}", lengths.dtype(), lengths.shape());
        return Some(format!("expects integer lengths of {batch} sequences, got {got}"));
    }
    let (low, high) = lengths.int_range()?;
    (low < 0 || high > time as i64)
        .then(|| format!("lengths lie in {low}..={high}, but there are {time} steps"))
}
