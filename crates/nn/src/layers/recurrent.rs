//! Recurrent layers: stacks of recurrences in one or both directions, with PyTorch's parameter names.

use wgrad_tensor::Tensor;

use crate::{
    Context, Init, Initializer, Module, Param, Visitor, functional,
    functional::{Cell, CellWeights},
};

/// Settings of a recurrent layer; the defaults are PyTorch's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RecurrentOptions {
    /// Layers on top of each other.
    pub num_layers: usize,
    /// Whether there are biases.
    pub bias: bool,
    /// Whether inputs and outputs are `[batch, time, width]`; else they are `[time, batch, width]`. States do not depend on it.
    pub batch_first: bool,
    /// Probability with which outputs of all layers but the last are dropped in training.
    pub dropout: f64,
    /// Whether each layer also runs backwards; outputs are then twice as wide, forward first.
    pub bidirectional: bool,
}

impl Default for RecurrentOptions {
    fn default() -> Self {
        RecurrentOptions { num_layers: 1, bias: true, batch_first: false, dropout: 0.0, bidirectional: false }
    }
}

/// The parameters of one direction of one layer.
#[derive(Clone, Debug)]
struct Direction {
    weight_ih: Param,
    weight_hh: Param,
    bias: Option<(Param, Param)>,
}

/// What the three layers have in common.
#[derive(Clone, Debug)]
struct Stack {
    name: &'static str,
    cell: Cell,
    input_size: usize,
    hidden_size: usize,
    options: RecurrentOptions,
    /// For each layer its directions.
    layers: Vec<Vec<Direction>>,
}

impl Stack {
    /// Everything uniform on `±1/√hidden`, as in PyTorch.
    fn new(
        init: &Init,
        name: &'static str,
        cell: Cell,
        (input_size, hidden_size): (usize, usize),
        options: RecurrentOptions,
    ) -> Self {
        let initializer = Initializer::linear_default(hidden_size);
        let (gates, directions) = (cell.gates() * hidden_size, 1 + usize::from(options.bidirectional));
        let layer = |n: usize| {
            let width = if n == 0 { input_size } else { directions * hidden_size };
            let direction = |_| Direction {
                weight_ih: init.param([gates, width], initializer),
                weight_hh: init.param([gates, hidden_size], initializer),
                bias: options
                    .bias
                    .then(|| (init.param([gates], initializer), init.param([gates], initializer))),
            };
            (0..directions).map(direction).collect()
        };
        let layers = (0..options.num_layers).map(layer).collect();
        Stack { name, cell, input_size, hidden_size, options, layers }
    }

    /// Tensors of a state: `h`, and of an LSTM `c`.
    fn states(&self) -> usize {
        1 + usize::from(self.cell == Cell::Lstm)
    }

    /// Results that carry an error.
    #[track_caller]
    fn faulty(&self, x: &Tensor, message: String) -> (Tensor, Vec<Tensor>) {
        let faulty = x.invalid(self.name, message);
        (faulty.clone(), vec![faulty; self.states()])
    }

    /// The outputs, and the states `[layers * directions, batch, hidden]` after the last step.
    #[track_caller]
    fn forward(
        &self,
        x: &Tensor,
        initial: &[&Tensor],
        lengths: Option<&Tensor>,
        ctx: &Context,
    ) -> (Tensor, Vec<Tensor>) {
        let RecurrentOptions { batch_first, bidirectional, dropout, .. } = self.options;
        let states = self.states();
        let fail = |message: String| self.faulty(x, message);
        let given = [x].into_iter().chain(initial.iter().copied()).chain(lengths);
        if let Some(faulty) = given.into_iter().find(|t| t.error().is_some()) {
            return (faulty.clone(), vec![faulty.clone(); states]);
        }
        if self.layers.is_empty() || self.hidden_size == 0 || !(0.0..=1.0).contains(&dropout) {
            return fail(format!(
                "expects 1 or more layers, a hidden width of 1 or more and a dropout in [0, 1], got {}, {} and {dropout}",
                self.layers.len(),
                self.hidden_size
            ));
        }
        if x.rank() == 2 {
            return self.forward_alone(x, initial, lengths, ctx);
        }
        if let Some(message) = functional::recurrent_misfit(x, self.input_size, batch_first, lengths) {
            return fail(message);
        }
        let mut x_tbi = if batch_first { x.transpose(0, 1) } else { x.clone() };
        let [_, batch, _] = x_tbi.dims();
        let directions = 1 + usize::from(bidirectional);
        let expected = [self.layers.len() * directions, batch, self.hidden_size];
        if let Some(state) = initial.iter().find(|s| s.shape().dims() != expected || s.dtype() != x.dtype()) {
            let got = format!("{}{}", state.dtype(), state.shape());
            return fail(format!("expects states {}{expected:?}, got {got}", x.dtype()));
        }
        let zeros = Tensor::zeros([batch, self.hidden_size], x.dtype(), x.device());
        let mut last: Vec<Vec<Tensor>> = vec![Vec::new(); states];
        for (n, layer) in self.layers.iter().enumerate() {
            let mut outputs: Vec<Tensor> = Vec::new();
            for (d, direction) in layer.iter().enumerate() {
                let at = n * directions + d;
                let state: Vec<Tensor> = (0..states)
                    .map(|s| initial.get(s).map_or(zeros.clone(), |t| t.narrow(0, at, 1).squeeze(0)))
                    .collect();
                let state: Vec<&Tensor> = state.iter().collect();
                let weights = direction.weights();
                let (output, after) =
                    functional::recurrence(self.cell, &x_tbi, &state, &weights, lengths, d == 1);
                outputs.push(output);
                last.iter_mut().zip(after).for_each(|(all, after)| all.push(after));
            }
            x_tbi = Tensor::cat(&outputs.iter().collect::<Vec<_>>(), -1);
            if n + 1 < self.layers.len() {
                x_tbi = functional::dropout(&x_tbi, dropout, ctx);
            }
        }
        let output = if batch_first { x_tbi.transpose(0, 1) } else { x_tbi };
        let stacked = last.iter().map(|all| Tensor::stack(&all.iter().collect::<Vec<_>>(), 0)).collect();
        (output, stacked)
    }

    /// As [`Stack::forward`] for one sequence `[time, input]` with states `[layers * directions, hidden]`.
    #[track_caller]
    fn forward_alone(
        &self,
        x: &Tensor,
        initial: &[&Tensor],
        lengths: Option<&Tensor>,
        ctx: &Context,
    ) -> (Tensor, Vec<Tensor>) {
        if lengths.is_some() || initial.iter().any(|state| state.rank() != 2) {
            let expected = "expects no lengths and states [layers, hidden] beside one sequence";
            return self.faulty(x, format!("{expected} {}", x.shape()));
        }
        let batch = isize::from(!self.options.batch_first);
        let states: Vec<Tensor> = initial.iter().map(|state| state.unsqueeze(1)).collect();
        let states: Vec<&Tensor> = states.iter().collect();
        let (output, after) = self.forward(&x.unsqueeze(batch), &states, None, ctx);
        let alone = |t: &Tensor, axis: isize| if t.error().is_some() { t.clone() } else { t.squeeze(axis) };
        (alone(&output, batch), after.iter().map(|state| alone(state, 1)).collect())
    }
}

impl Direction {
    fn weights(&self) -> CellWeights {
        CellWeights {
            weight_ih: self.weight_ih.tensor(),
            weight_hh: self.weight_hh.tensor(),
            bias_ih: self.bias.as_ref().map(|b| b.0.tensor()),
            bias_hh: self.bias.as_ref().map(|b| b.1.tensor()),
        }
    }
}

impl Module for Stack {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        for (n, layer) in self.layers.iter().enumerate() {
            for (d, direction) in layer.iter().enumerate() {
                let end = if d == 1 { "_reverse" } else { "" };
                let mut show = |name: &str, param: &Param| {
                    visitor.field(&format!("{name}_l{n}{end}"), |visitor| visitor.param(param));
                };
                show("weight_ih", &direction.weight_ih);
                show("weight_hh", &direction.weight_hh);
                if let Some((ih, hh)) = &direction.bias {
                    show("bias_ih", ih);
                    show("bias_hh", hh);
                }
            }
        }
    }
}

macro_rules! layer {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Inputs are `[time, batch, input]`, or `[batch, time, input]` with `batch_first`; outputs of the last layer have `hidden` or,
        /// in both directions, twice as many columns. States are `[layers * directions, batch, hidden]`, zeros where none is given. One
        /// sequence may come without the axis of the batch, and so do its states and results then.
        ///
        /// With `lengths [batch]` (integers, at most the number of steps) outputs beyond a sequence's length are zero, the state is the
        /// one at its end, and the reverse direction begins there: PyTorch's packed sequences.
        ///
        /// Parameters are named `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, `weight_ih_l0_reverse`, .. and drawn
        /// uniformly from `±1/√hidden`. What does not fit gives outputs that carry an error.
        #[derive(Clone, Debug)]
        pub struct $name(Stack);

        impl Module for $name {
            fn visit(&self, visitor: &mut Visitor<'_>) {
                self.0.visit(visitor);
            }
        }
    };
}

layer! {
    /// A recurrent layer with one hidden state and no gates ([`Cell::Tanh`], [`Cell::Relu`]).
    RNN
}

layer! {
    /// Long short-term memory ([`Cell::Lstm`]).
    LSTM
}

layer! {
    /// Gated recurrent units ([`Cell::Gru`]).
    GRU
}

impl RNN {
    /// With hyperbolic tangents.
    pub fn new(init: &Init, input_size: usize, hidden_size: usize, options: RecurrentOptions) -> Self {
        RNN(Stack::new(init, "rnn", Cell::Tanh, (input_size, hidden_size), options))
    }

    /// With rectified linear units (`nonlinearity = "relu"`).
    pub fn relu(init: &Init, input_size: usize, hidden_size: usize, options: RecurrentOptions) -> Self {
        RNN(Stack::new(init, "rnn", Cell::Relu, (input_size, hidden_size), options))
    }
}

impl GRU {
    /// A layer with these settings.
    pub fn new(init: &Init, input_size: usize, hidden_size: usize, options: RecurrentOptions) -> Self {
        GRU(Stack::new(init, "gru", Cell::Gru, (input_size, hidden_size), options))
    }
}

/// Layers with one state.
macro_rules! one_state {
    ($($name:ident)*) => {$(
        impl $name {
            /// The outputs, and the state after the last step.
            #[track_caller]
            pub fn forward(
                &self,
                x: &Tensor,
                h0: Option<&Tensor>,
                lengths: Option<&Tensor>,
                ctx: &Context,
            ) -> (Tensor, Tensor) {
                let (output, mut after) = self.0.forward(x, h0.as_slice(), lengths, ctx);
                let h = after.pop().unwrap_or_else(|| output.clone());
                (output, h)
            }
        }
    )*};
}

one_state! { RNN GRU }

impl LSTM {
    /// A layer with these settings.
    pub fn new(init: &Init, input_size: usize, hidden_size: usize, options: RecurrentOptions) -> Self {
        LSTM(Stack::new(init, "lstm", Cell::Lstm, (input_size, hidden_size), options))
    }

    /// The outputs, and hidden and cell state after the last step; `state` holds those to begin with.
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        state: Option<(&Tensor, &Tensor)>,
        lengths: Option<&Tensor>,
        ctx: &Context,
    ) -> (Tensor, (Tensor, Tensor)) {
        let initial: Vec<&Tensor> = state.into_iter().flat_map(|(h, c)| [h, c]).collect();
        let (output, mut after) = self.0.forward(x, &initial, lengths, ctx);
        let c = after.pop().unwrap_or_else(|| output.clone());
        let h = after.pop().unwrap_or_else(|| output.clone());
        (output, (h, c))
    }
}
