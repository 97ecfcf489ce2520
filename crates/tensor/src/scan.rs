//! Recurrences, traced from Rust code.

use std::{
    hash::BuildHasher,
    num::NonZeroUsize,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use lru::LruCache;
use rustc_hash::FxBuildHasher;
use wgrad_ir::{Loop, LoopOutput, Op, Shape};

use crate::{
    Tensor,
    function::{faulty, trace},
    tensor::{Source, next_id},
    trace::Until,
};

/// What [`scan`] gives.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The carries after the last iteration.
    pub carries: Vec<Tensor>,
    /// The results of all iterations, each stacked along a new leading axis, in the order of the sequences.
    pub results: Vec<Tensor>,
}

/// A recurrence of `length` iterations: `body` computes the next carries and an iteration's results from the carries and from one
/// slice of each sequence `[length, rest..]`; with `reverse`, from the last slice to the first. Tensors from outside that it uses (a
/// layer's parameters) are the same in every iteration, and so are random numbers drawn in it.
///
/// `body` is called once. It is compiled once, too, and what does not change from iteration to iteration is computed once, before. A
/// program holds the steps of all iterations (a few hundred bytes of host memory and a microsecond or two of a CPU per step and run).
///
/// The gradient is a recurrence the other way, for which the carries and the results of products of each iteration are kept; all
/// else is computed again. The gradient of a matrix that every iteration multiplies by is one product of all iterations. Gradients
/// can be differentiated again.
///
/// An error (a next carry of another shape or dtype, a sequence of another length) gives tensors that carry it.
///
/// ```
/// # fn main() -> Result<(), wgrad_tensor::TensorError> {
/// # let device: wgrad_tensor::DeviceHandle = std::sync::Arc::new(wgrad_cpu::CpuDevice::new());
/// use wgrad_tensor::{Tensor, grad, scan};
/// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], [3], &device);
/// let decay = Tensor::from_vec(vec![0.5f32], [], &device);
/// let start = Tensor::from_vec(vec![8.0f32], [], &device);
/// let run = scan(&[&start], &[&x], 3, false, |carries, slices| {
///     let next = carries[0].mul(&decay).add(&slices[0]);
///     (vec![next.clone()], vec![next])
/// });
/// assert_eq!(run.results[0].to_vec::<f32>()?, [5.0, 4.5, 5.25]);
/// let gradients = grad(&run.carries[0], &[&x, &start])?;
/// assert_eq!(gradients[0].to_vec::<f32>()?, [0.25, 0.5, 1.0]);
/// assert_eq!(gradients[1].item()?, 0.125);
/// # Ok(()) }
/// ```
#[track_caller]
pub fn scan(
    initial: &[&Tensor],
    sequences: &[&Tensor],
    length: usize,
    reverse: bool,
    body: impl FnOnce(&[Tensor], &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>),
) -> Scanned {
    let operands: Vec<&Tensor> = initial.iter().chain(sequences).copied().collect();
    let misfit = sequences.iter().find(|s| s.error().is_none() && s.shape().first() != Some(&length));
    let error = operands.iter().find_map(|t| t.error().cloned()).or_else(|| {
        let message = |s: &&Tensor| format!("expects sequences of {length} slices, got {}", s.describe());
        misfit.and_then(|s| s.fail("scan", message(s)).error().cloned())
    });
    if let Some(error) = error {
        // The body says how many results there are.
        let count = |n: usize| faulty(error.clone(), &operands, n);
        let (_, results) = body(&count(initial.len()), &count(sequences.len()));
        return Scanned { carries: count(initial.len()), results: count(results.len()) };
    }
    let first = next_id();
    let mut results = 0;
    let traced = trace("scan", &stand_ins(initial, sequences), Until::Older(first), |args| {
        let (carries, slices) = args.split_at(initial.len());
        let (next, found) = body(carries, slices);
        results = found.len();
        check_carries(initial, next).into_iter().chain(found).collect()
    });
    let (function, used, _) = match traced {
        Ok(traced) => traced,
        Err(error) => {
            let count = |n: usize| if n == 0 { Vec::new() } else { faulty(error.clone(), &operands, n) };
            return Scanned { carries: count(initial.len()), results: count(results) };
        }
    };
    let mut graph = function.body;
    let outputs = graph.outputs().to_vec();
    let (next, each) = outputs.split_at(initial.len());
    graph.set_outputs(next.to_vec());
    let body =
        intern(Loop { body: graph, carries: initial.len(), sequences: sequences.len(), length, reverse });
    let operands: Vec<&Tensor> =
        operands.into_iter().chain(&used[initial.len() + sequences.len()..]).collect();
    let output = |output| Tensor::apply("scan", Op::Loop { body: body.clone(), output }, &operands);
    Scanned {
        carries: (0..initial.len() as u32).map(|n| output(LoopOutput::Final(n))).collect(),
        results: each.iter().map(|&id| output(LoopOutput::Each(id))).collect(),
    }
}

/// The next carries, or in their place an error where there are more or fewer than carries.
fn check_carries(initial: &[&Tensor], next: Vec<Tensor>) -> Vec<Tensor> {
    if next.len() == initial.len() {
        return next;
    }
    let message = format!("the body gives {} carries, but takes {}", next.len(), initial.len());
    let any = initial.first().copied().or(next.first());
    match any {
        Some(any) => vec![any.fail("scan", message)],
        None => Vec::new(),
    }
}

/// Tensors without elements that stand for the carries and for one slice of each sequence.
fn stand_ins(initial: &[&Tensor], sequences: &[&Tensor]) -> Vec<Tensor> {
    let stand_in = |t: &Tensor, shape: Shape, what: &str, range| {
        let device = t.device().clone();
        Tensor::new(Source::Leaf, shape, t.dtype(), device, range).named(format!("{what} of a scan"))
    };
    // What a carry becomes is not known.
    let carries = initial.iter().map(|t| stand_in(t, t.shape().clone(), "a carry", None));
    let slices = sequences.iter().map(|t| stand_in(t, t.shape()[1..].into(), "a slice", t.int_range()));
    carries.chain(slices).collect()
}

/// How many loops are kept.
const KEPT: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// The one copy of a loop: equal ones that are traced in every step are then compared by address, and the gradient of each is
/// derived once.
fn intern(body: Loop) -> Arc<Loop> {
    static KNOWN: LazyLock<Mutex<LruCache<u64, Arc<Loop>>>> =
        LazyLock::new(|| Mutex::new(LruCache::new(KEPT)));
    let key = FxBuildHasher.hash_one((&body, &body.body));
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(&key)
        && **found == body
    {
        return found.clone();
    }
    let body = Arc::new(body);
    known.put(key, body.clone());
    body
}
