//! Connectionist temporal classification (Graves et al., 2006).
//!
//! Legend: t frames, n sequences, c classes, s labels, l = 2 s + 1 states: blank, label, blank, label, .., blank.

use wgrad_ir::{DType, Function, Shape};
use wgrad_tensor::{Backward, Tensor, TensorError, call, scan, trace_function_with_gradient};

use super::{known::Known, loss::Reduction};

/// Settings of [`ctc_loss`]; the defaults are PyTorch's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CtcOptions {
    /// The class that stands for no label.
    pub blank: usize,
    /// How losses are combined; the mean is one over the lengths of their targets (at least 1).
    pub reduction: Reduction,
    /// Whether losses of sequences without any alignment are 0, and not infinite.
    pub zero_infinity: bool,
}

/// Stands for `ln 0` inside, where infinities are not: no sum of logarithms of probabilities comes near it.
const NEVER: f64 = -1e30;

/// The negative logarithm of the probability that `log_probs` give to the targets, over all alignments.
///
/// `log_probs [t, n, c]` are logarithms of probabilities (`logits.log_softmax(-1)`), `targets` class numbers: `[n, s]`, of which the
/// first `target_lengths` of each row count, or the sequences one after the other, `[Σ target_lengths]` (then the host must know the
/// target lengths: they are uploaded data). `input_lengths [n]` and `target_lengths [n]` are integers. A sequence that no
/// alignment fits (fewer frames than labels and blanks between equal ones) has the loss `+inf` and a gradient of NaN, as in PyTorch,
/// or with `zero_infinity` the loss 0 and a gradient of zero.
///
/// The gradient is that of the loss for `log_probs`: minus the probability that a frame's state has the class. (PyTorch's adds the
/// probability of the class, so that it may be taken for that of the logits; after a `log_softmax` both are the same.) Forward and
/// backward pass are a recurrence each, of one kernel per frame, in logarithms throughout.
///
/// A single sequence may come without its axis: `[t, c]`, `[s]`, and lengths of rank 0; its loss has rank 0.
///
/// What does not fit gives a loss that carries an error: labels that are no classes, lengths beyond what there is. Where the host
/// does not know them, it is an error of the evaluation. The blank may be a label.
#[track_caller]
pub fn ctc_loss(
    log_probs: &Tensor,
    targets: &Tensor,
    input_lengths: &Tensor,
    target_lengths: &Tensor,
    options: CtcOptions,
) -> Tensor {
    const NAME: &str = "ctc_loss";
    let given = [log_probs, targets, input_lengths, target_lengths];
    if let Some(faulty) = given.into_iter().find(|t| t.error().is_some()) {
        return faulty.clone();
    }
    if let ([_, _], [s]) = (log_probs.shape().dims(), targets.shape().dims()) {
        let [input, target] = [input_lengths, target_lengths].map(|l| l.reshape([1]));
        let loss = ctc_loss(&log_probs.unsqueeze(1), &targets.reshape([1, *s]), &input, &target, options);
        return if loss.error().is_some() { loss } else { loss.reshape([]) };
    }
    if let Some(message) = misfit(log_probs, targets, input_lengths, target_lengths, options.blank) {
        return log_probs.invalid(NAME, message);
    }
    let (dtype, device) = (log_probs.dtype(), log_probs.device());
    if dtype.is_half() {
        // Sums over a sequence leave the range of 16 bits, and so does the stand-in for the logarithm of 0.
        let wide = log_probs.cast(DType::F32);
        return ctc_loss(&wide, targets, input_lengths, target_lengths, options).cast(dtype);
    }
    let ([frames, _, classes], given) = (log_probs.dims::<3>(), targets.cast(DType::I32));
    let [input_lengths, target_lengths] = [input_lengths, target_lengths].map(|l| l.cast(DType::I32));
    let targets = match padded(&given, &target_lengths) {
        Ok(targets) => targets,
        Err(message) => return log_probs.invalid(NAME, message),
    };
    let input_lengths = input_lengths.ensure_below(frames + 1);
    let mut target_lengths = target_lengths.ensure_below(targets.shape()[1] + 1);
    if given.rank() == 1 {
        target_lengths = target_lengths.ensure(&target_lengths.sum_all().eq(given.elements() as f64));
    }
    let targets = labels(&targets, &target_lengths, given.int_range(), classes);
    let operands = [log_probs, &states(&targets, options.blank), &input_lengths, &target_lengths];
    static KNOWN: Known<(DType, Shape, Shape, bool)> = Known::new();
    let key = (dtype, log_probs.shape().clone(), operands[1].shape().clone(), options.zero_infinity);
    let losses = match KNOWN.get_or_make(key, || define(&operands, options.zero_infinity)) {
        Ok(function) => call(&function, &operands)[0].clone(),
        Err(error) => return log_probs.invalid(NAME, error.to_string()),
    };
    let impossible = if options.zero_infinity { 0.0 } else { f64::INFINITY };
    let constant = |value| Tensor::constant(value, dtype, device);
    let never = losses.ge(constant(-NEVER / 2.0));
    let losses = never.where_(&constant(impossible), &losses);
    match options.reduction {
        Reduction::Mean => {
            let one = Tensor::constant(1.0, DType::I32, device);
            losses.div(target_lengths.maximum(&one).cast(dtype)).mean_all()
        }
        other => other.apply(&losses),
    }
}

fn misfit(
    log_probs: &Tensor,
    targets: &Tensor,
    input_lengths: &Tensor,
    target_lengths: &Tensor,
    blank: usize,
) -> Option<String> {
    let show = |t: &Tensor| format!("{}{}", t.dtype(), t.shape());
    let [t, n, c] = log_probs.shape().dims() else {
        return Some(format!("expects log_probs [frames, sequences, classes], got {}", show(log_probs)));
    };
    if !log_probs.dtype().is_float() || *c == 0 || *t == 0 {
        let got = show(log_probs);
        return Some(format!("expects float log_probs of at least one frame and class, got {got}"));
    }
    for (name, lengths) in [("input", input_lengths), ("target", target_lengths)] {
        if lengths.shape().dims() != [*n] || !lengths.dtype().is_int() {
            return Some(format!("expects {n} integer {name} lengths, got {}", show(lengths)));
        }
        if let Some((low, _)) = lengths.int_range().filter(|r| r.0 < 0) {
            return Some(format!("expects {name} lengths of 0 or more, got {low}"));
        }
    }
    if blank >= *c {
        return Some(format!("the blank is class {blank}, but there are {c} classes"));
    }
    let most = match targets.shape().dims() {
        [rows, s] if rows == n => *s,
        [total] => *total,
        _ => {
            let got = show(targets);
            return Some(format!("expects targets [{n}, labels] or one after the other, got {got}"));
        }
    };
    if !targets.dtype().is_int() {
        return Some(format!("expects integer targets, got {}", show(targets)));
    }
    if let (1, Some((low, high))) = (targets.rank(), targets.int_range())
        && (low < 0 || high >= *c as i64)
    {
        return Some(format!("targets lie in {low}..={high}, but there are {c} classes"));
    }
    let beyond = |lengths: &Tensor, most: usize| lengths.int_range().filter(|r| r.1 > most as i64);
    if let Some((_, high)) = beyond(input_lengths, *t) {
        return Some(format!("an input length is {high}, but there are {t} frames"));
    }
    let (_, high) = beyond(target_lengths, most)?;
    Some(format!("a target length is {high}, but there are {most} labels"))
}

/// Targets one after the other as rows.
#[track_caller]
fn padded(targets: &Tensor, lengths: &Tensor) -> Result<Tensor, String> {
    let [total] = targets.shape().dims() else { return Ok(targets.clone()) };
    let device = targets.device();
    let Some((_, longest)) = lengths.int_range() else {
        return Err("the length of the longest target must be known to the host where targets come one after the other; \
             upload the target lengths, or pass targets [sequences, labels]"
            .into());
    };
    let (total, longest) = (*total, longest.max(0) as usize);
    if total == 0 || longest == 0 {
        return Ok(Tensor::zeros([lengths.elements(), 0], DType::I32, device));
    }
    let first = lengths.cumsum(0).sub(lengths).unsqueeze(-1);
    let last = Tensor::constant(total as f64 - 1.0, DType::I32, device);
    Ok(targets.embedding(&first.add(Tensor::arange(longest, device)).minimum(&last)))
}

/// Targets `[n, s]`, of which those that count are classes, and the others, which may have been anything, are too.
#[track_caller]
fn labels(targets_ns: &Tensor, lengths: &Tensor, known: Option<(i64, i64)>, classes: usize) -> Tensor {
    if known.is_some_and(|(low, high)| low >= 0 && high < classes as i64) {
        return targets_ns.clone();
    }
    let counts = Tensor::arange(targets_ns.shape()[1], targets_ns.device()).lt(lengths.unsqueeze(-1));
    // A product, of whose range the host claims nothing.
    targets_ns.mul(counts.cast(DType::I32)).ensure_below(classes)
}

/// The class of each state: `[n, s]` as `[n, 2 s + 1]`.
#[track_caller]
fn states(targets_ns: &Tensor, blank: usize) -> Tensor {
    let [n, s] = targets_ns.dims();
    let blank = Tensor::constant(blank as f64, DType::I32, targets_ns.device());
    let blanks = |s: usize| blank.reshape([1, 1]).expand([n, s]);
    let pairs = Tensor::stack(&[&blanks(s), targets_ns], -1).reshape([n, 2 * s]);
    Tensor::cat(&[&pairs, &blanks(1)], 1)
}

/// The losses `[n]`, and as residuals the logarithms of what states emit and of the probability to be there, `[t, n, l]` each.
fn define(operands: &[&Tensor], zero_infinity: bool) -> Result<Function, TensorError> {
    let body = |x: &[Tensor]| forward(&x[0], &x[1], &x[2], &x[3]);
    let gradient = |b: &Backward<'_>| vec![backward(b, zero_infinity)];
    trace_function_with_gradient("ctc_loss", operands, 1, body, gradient)
}

/// The logarithm of a sum of three exponentials.
fn log_sum(terms: [&Tensor; 3]) -> Tensor {
    let [a, b, c] = terms;
    let top = a.maximum(b).maximum(c);
    top.add(a.sub(&top).exp().add(b.sub(&top).exp()).add(c.sub(&top).exp()).log())
}

/// What the recurrences in both directions have in common.
struct Lattice {
    states: usize,
    /// The logarithm of 1 where a state may be entered from two states before, `[n, l]`.
    skip_nl: Tensor,
    /// Whether a state may be the last, `[n, l]`.
    last_nl: Tensor,
    /// Whether a frame counts, `[t, n, 1]`.
    there_tn1: Tensor,
    never: Tensor,
}

impl Lattice {
    fn new(log_probs: &Tensor, labels_nl: &Tensor, input_lengths: &Tensor, target_lengths: &Tensor) -> Self {
        let (dtype, device) = (log_probs.dtype(), log_probs.device());
        let [frames, _, _] = log_probs.dims();
        let [_, states] = labels_nl.dims();
        let constant = |value| Tensor::constant(value, dtype, device);
        let int = |value| Tensor::constant(value, DType::I32, device);
        let state = Tensor::arange(states, device);
        // Two states before: a label that is another one (blanks are equal to the blank before). The first two have none.
        let before = labels_nl.narrow(1, 0, states.saturating_sub(2)).pad(&[(0, 0), (states.min(2), 0)], 0.0);
        let differs = labels_nl.ne(&before).logical_and(state.ge(int(2.0)).unsqueeze(0));
        let end = target_lengths.mul(int(2.0)).unsqueeze(-1);
        // Without labels, the last label does not exist: its state would be -1.
        let last = state.eq(&end).logical_or(state.eq(end.sub(int(1.0))));
        let there = Tensor::arange(frames, device).unsqueeze(-1).lt(input_lengths.unsqueeze(0)).unsqueeze(-1);
        Lattice {
            states,
            skip_nl: differs.where_(&constant(0.0), &constant(NEVER)),
            last_nl: last,
            there_tn1: there,
            never: constant(NEVER),
        }
    }

    /// The elements of `n` states before (or after), with impossible ones where there are none.
    #[track_caller]
    fn shifted(&self, x_nl: &Tensor, by: usize, later: bool) -> Tensor {
        let by = by.min(self.states);
        let kept = self.states - by;
        if later {
            x_nl.narrow(1, by, kept).pad(&[(0, 0), (0, by)], NEVER)
        } else {
            x_nl.narrow(1, 0, kept).pad(&[(0, 0), (by, 0)], NEVER)
        }
    }
}

#[track_caller]
fn forward(
    log_probs: &Tensor,
    labels_nl: &Tensor,
    input_lengths: &Tensor,
    target_lengths: &Tensor,
) -> Vec<Tensor> {
    let (dtype, device) = (log_probs.dtype(), log_probs.device());
    let [t, n, c] = log_probs.dims();
    let int = |value: usize| Tensor::constant(value as f64, DType::I32, device);
    let lattice = Lattice::new(log_probs, labels_nl, input_lengths, target_lengths);
    let ids_tnl = Tensor::arange(t * n, device).mul(int(c)).reshape([t, n, 1]).add(labels_nl);
    let emitted_tnl = log_probs.reshape([t * n * c]).embedding(&ids_tnl).maximum(&lattice.never);
    // Before the first frame, all of the probability is where state 0 comes next.
    let start = Tensor::arange(lattice.states, device).eq(int(0)).unsqueeze(0);
    let start =
        start.where_(&Tensor::constant(0.0, dtype, device), &lattice.never).expand([n, lattice.states]);
    let run = scan(&[&start], &[&emitted_tnl, &lattice.there_tn1], t, false, |carries, slices| {
        let alpha = &carries[0];
        let one = lattice.shifted(alpha, 1, false);
        let two = lattice.shifted(alpha, 2, false).add(&lattice.skip_nl);
        let next = slices[1].where_(&log_sum([alpha, &one, &two]).add(&slices[0]), alpha);
        (vec![next.clone()], vec![next])
    });
    let last = lattice.last_nl.where_(&run.carries[0], &lattice.never);
    let mut outputs = vec![last.logsumexp(&[-1], false).neg()];
    outputs.push(emitted_tnl);
    outputs.extend(run.results);
    outputs
}

#[track_caller]
fn backward(b: &Backward<'_>, zero_infinity: bool) -> Tensor {
    let [log_probs, labels_nl, input_lengths, target_lengths] = [0, 1, 2, 3].map(|i: usize| &b.operands[i]);
    let [losses_n, emitted_tnl, alphas_tnl] = [0, 1, 2].map(|i: usize| &b.outputs[i]);
    let (dtype, device) = (log_probs.dtype(), log_probs.device());
    let [t, _, c] = log_probs.dims();
    let zero = Tensor::constant(0.0, dtype, device);
    let without = Tensor::constant(if zero_infinity { 0.0 } else { f64::NAN }, dtype, device);
    let lattice = Lattice::new(log_probs, labels_nl, input_lengths, target_lengths);
    let losses_n1 = losses_n.unsqueeze(-1);
    let possible_n1 = losses_n1.lt(Tensor::constant(-NEVER / 2.0, dtype, device));
    // The logarithm of the probability of all that follows a frame, given the state there.
    let end = lattice.last_nl.where_(&zero, &lattice.never);
    let sequences = [emitted_tnl, alphas_tnl, &lattice.there_tn1];
    let run = scan(&[&end], &sequences, t, true, |carries, slices| {
        let (beta, there) = (&carries[0], &slices[2]);
        let through = slices[1].add(beta).add(&losses_n1).minimum(&zero).exp();
        let occupied = there.where_(&possible_n1.where_(&through, &without), &zero);
        let next = slices[0].add(beta);
        let one = lattice.shifted(&next, 1, true);
        let two = lattice.shifted(&next.add(&lattice.skip_nl), 2, true);
        (vec![there.where_(&log_sum([&next, &one, &two]), beta)], vec![occupied])
    });
    let occupied_ntl = run.results[0].transpose(0, 1);
    let classes = Tensor::arange(c, device).reshape([1, 1, c]);
    let hits_nlc = labels_nl.unsqueeze(-1).eq(&classes).cast(dtype);
    let slope = b.cotangents[0].neg().reshape([1, b.cotangents[0].elements(), 1]);
    occupied_ntl.matmul(&hits_nlc).transpose(0, 1).mul(&slope)
}
