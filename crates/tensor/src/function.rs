//! Functions: named operations that carry their definition, traced from Rust code.
//!
//! A function is a composite operation of which more is known than its primitives: a gradient of its own, a kernel that a
//! device may have, or that nothing of it is to be kept for the gradient ([`checkpoint`]).

use std::{
    hash::{BuildHasher, Hash, Hasher},
    num::NonZeroUsize,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use lru::LruCache;
use rustc_hash::{FxBuildHasher, FxHashSet};
use wgrad_ir::{Function, Op};

use crate::{
    Tensor, TensorError,
    tensor::{Source, next_id},
    trace::{Trace, Until},
};

/// What a function's gradient is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a> {
    /// The operands.
    pub operands: &'a [Tensor],
    /// All outputs, those included that only the gradient sees.
    pub outputs: &'a [Tensor],
    /// The cotangents of the public floating-point outputs.
    pub cotangents: &'a [Tensor],
}

/// A custom operation: `body` computes the outputs from stand-ins for the operands, by any operations on tensors, and is
/// differentiated like them. Tensors from outside that it uses (a layer's parameters) become further operands and get gradients.
///
/// `body` is called once per call of this function, and must not evaluate what depends on its operands. An error gives outputs
/// that carry it.
///
/// ```
/// # fn main() -> Result<(), wgrad_tensor::TensorError> {
/// # let device: wgrad_tensor::DeviceHandle = std::sync::Arc::new(wgrad_cpu::CpuDevice::new());
/// use wgrad_tensor::{Tensor, function, grad};
/// let x = Tensor::from_vec(vec![1.0f32, 2.0], [2], &device);
/// let scale = Tensor::from_vec(vec![3.0f32], [1], &device);
/// let y = &function("scaled_square", &[&x], |args| vec![args[0].square().mul(&scale)])[0];
/// assert_eq!(y.to_vec::<f32>()?, [3.0, 12.0]);
/// let gradients = grad(&y.sum_all(), &[&x, &scale])?;
/// assert_eq!(gradients[0].to_vec::<f32>()?, [6.0, 12.0]);
/// assert_eq!(gradients[1].to_vec::<f32>()?, [5.0]);
/// # Ok(()) }
/// ```
#[track_caller]
pub fn function(
    name: &str,
    operands: &[&Tensor],
    body: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
) -> Vec<Tensor> {
    open(name, operands, false, body)
}

/// A custom operation with a gradient of its own, which need not be the derivative of the body. The first `public` outputs of
/// `body` are returned; the others are residuals for `gradient`, which gives the cotangents of the floating-point operands, in
/// order.
///
/// Neither may use tensors from outside; numbers in them become constants. An error gives outputs that carry it.
///
/// ```
/// # fn main() -> Result<(), wgrad_tensor::TensorError> {
/// # let device: wgrad_tensor::DeviceHandle = std::sync::Arc::new(wgrad_cpu::CpuDevice::new());
/// use wgrad_tensor::{Tensor, function_with_gradient, grad};
/// // The identity, whose gradient is clipped to [-1, 1].
/// let clipped = |x: &Tensor| {
///     function_with_gradient("clip_gradient", &[x], 1, |x| vec![x[0].clone()], |b| {
///         let (g, one) = (&b.cotangents[0], Tensor::ones([1], x.dtype(), x.device()));
///         vec![g.minimum(&one).maximum(one.neg())]
///     })[0].clone()
/// };
/// let x = Tensor::from_vec(vec![0.1f32, 5.0], [2], &device);
/// let loss = clipped(&x).square().sum_all();
/// assert_eq!(grad(&loss, &[&x])?[0].to_vec::<f32>()?, [0.2, 1.0]);
/// # Ok(()) }
/// ```
#[track_caller]
pub fn function_with_gradient(
    name: &str,
    operands: &[&Tensor],
    public: usize,
    body: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
    gradient: impl FnOnce(&Backward<'_>) -> Vec<Tensor>,
) -> Vec<Tensor> {
    if let Some(error) = operands.iter().find_map(|t| t.error()) {
        return faulty(error.clone(), operands, public);
    }
    match trace_function_with_gradient(name, operands, public, body, gradient) {
        Ok(function) => call(&intern(function), operands),
        Err(error) => faulty(error, operands, public),
    }
}

/// Computes `body` and keeps nothing of it for the gradient but its operands and what it uses from outside: all else is computed
/// again when gradients are (activation checkpointing; Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016).
/// Random numbers are the same the second time.
///
/// ```
/// # fn main() -> Result<(), wgrad_tensor::TensorError> {
/// # let device: wgrad_tensor::DeviceHandle = std::sync::Arc::new(wgrad_cpu::CpuDevice::new());
/// use wgrad_tensor::{Tensor, checkpoint, grad};
/// let w = Tensor::from_vec(vec![0.5f32, -0.5, 1.0, 2.0], [2, 2], &device);
/// let x = Tensor::from_vec(vec![1.0f32, 2.0], [1, 2], &device);
/// let y = checkpoint(&[&x], |x| x[0].matmul(&w).tanh().matmul(&w).tanh());
/// let plain = x.matmul(&w).tanh().matmul(&w).tanh();
/// let of = |y: &Tensor| grad(&y.sum_all(), &[&w])?[0].to_vec::<f32>();
/// assert_eq!(of(&y)?, of(&plain)?);
/// # Ok(()) }
/// ```
#[track_caller]
pub fn checkpoint(operands: &[&Tensor], body: impl FnOnce(&[Tensor]) -> Tensor) -> Tensor {
    let mut outputs = open("checkpoint", operands, true, |args| vec![body(args)]);
    match outputs.pop() {
        Some(output) => output,
        None => Tensor::apply("checkpoint", Op::Barrier, &[]),
    }
}

/// Calls a function; gives its public outputs. Calls in every step should share one `Arc`, so that comparing programs is cheap.
#[track_caller]
pub fn call(function: &Arc<Function>, operands: &[&Tensor]) -> Vec<Tensor> {
    let mut outputs = Vec::with_capacity(function.public);
    for output in 0..function.public as u32 {
        outputs.push(Tensor::apply("call", Op::Call { function: function.clone(), output }, operands));
    }
    outputs
}

/// The function that `body` computes from operands of these shapes and dtypes, without a gradient of its own. Nothing from outside
/// may occur in it; numbers become constants. Layers that are called in every step trace their functions once, keep them,
/// and [`call`] them.
///
/// # Errors
/// The body gives no output or one that carries an error, or uses a tensor from outside.
pub fn trace_function(
    name: &str,
    operands: &[&Tensor],
    body: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
) -> Result<Function, TensorError> {
    let first = next_id();
    let (function, _, _) = trace(name, &stand_ins(name, operands), Until::Closed(first), body)?;
    Ok(function)
}

/// As [`trace_function`], with a gradient of its own: see [`function_with_gradient`].
///
/// # Errors
/// As [`trace_function`], for body and gradient; the gradient does not fit the operands.
pub fn trace_function_with_gradient(
    name: &str,
    operands: &[&Tensor],
    public: usize,
    body: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
    gradient: impl FnOnce(&Backward<'_>) -> Vec<Tensor>,
) -> Result<Function, TensorError> {
    let first = next_id();
    let (mut function, _, outputs) = trace(name, &stand_ins(name, operands), Until::Closed(first), body)?;
    function.public = public.min(outputs.len());
    let public_floats = outputs[..function.public].iter().filter(|t| t.dtype().is_float());
    let name = format!("{name}_grad");
    let arguments: Vec<&Tensor> = operands.iter().copied().chain(&outputs).chain(public_floats).collect();
    let first = next_id();
    let body = |args: &[Tensor]| {
        let (operands, rest) = args.split_at(operands.len());
        let (outputs, cotangents) = rest.split_at(outputs.len());
        gradient(&Backward { operands, outputs, cotangents })
    };
    let (gradient, _, found) = trace(&name, &stand_ins(&name, &arguments), Until::Closed(first), body)?;
    let list = |tensors: &mut dyn Iterator<Item = &Tensor>| {
        tensors.map(|t| format!("{}{}", t.dtype(), t.shape())).collect::<Vec<_>>().join(", ")
    };
    let expected = list(&mut operands.iter().copied().filter(|t| t.dtype().is_float()));
    let found = list(&mut found.iter());
    if expected != found {
        return Err(TensorError::Cotangents { function: function.name, expected, found });
    }
    function.gradient = Some(intern(gradient));
    Ok(function)
}

/// Traces a body that may use tensors from outside, and calls it.
#[track_caller]
fn open(
    name: &str,
    operands: &[&Tensor],
    recompute: bool,
    body: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
) -> Vec<Tensor> {
    if operands.iter().any(|t| t.error().is_some()) {
        // The body's operations pass the error on, to as many outputs as there are.
        return body(&operands.iter().map(|&t| t.clone()).collect::<Vec<_>>());
    }
    let first = next_id();
    let mut count = 1;
    let body = |args: &[Tensor]| {
        let mut outputs = body(args);
        count = outputs.len();
        outputs.extend(alongside(&outputs, first));
        outputs
    };
    match trace(name, &stand_ins(name, operands), Until::Older(first), body) {
        // What depends on nothing at all is not worth a call.
        Ok((_, used, mut outputs)) if used.is_empty() => {
            outputs.truncate(count);
            outputs
        }
        Ok((mut function, used, inside)) => {
            function.recompute = recompute;
            let used: Vec<&Tensor> = operands.iter().copied().chain(&used[operands.len()..]).collect();
            let mut outputs = call(&intern(function), &used);
            let companions = outputs.split_off(count.min(outputs.len()));
            for (inside, outside) in inside[count..].iter().zip(&companions) {
                // The body made it a moment ago: nothing else stands for it.
                let _ = inside.0.outside.set(outside.clone());
                outputs.iter_mut().for_each(|output| *output = output.alongside(outside));
            }
            outputs
        }
        Err(error) => faulty(error, operands, count),
    }
}

/// What a body computes alongside its outputs, in the order in which it was made; what is older than `first` is from outside.
fn alongside(outputs: &[Tensor], first: u64) -> Vec<Tensor> {
    let (mut found, mut seen, mut pending) = (Vec::new(), FxHashSet::default(), outputs.to_vec());
    while let Some(tensor) = pending.pop() {
        if tensor.0.id < first || !seen.insert(tensor.0.id) {
            continue;
        }
        if let Source::Op(_, operands) = &tensor.0.source {
            pending.extend(operands.iter().cloned());
        }
        if let Some(companion) = tensor.0.companion.as_ref().filter(|c| c.0.id >= first) {
            pending.push(companion.clone());
            found.push(companion.clone());
        }
    }
    found.sort_by_key(|companion: &Tensor| companion.0.id);
    found.dedup_by(|a, b| a.is_same(b));
    found
}

/// The function, what its operands stand for (after the given ones, what it uses from outside), and the body's outputs.
pub(crate) type Traced = (Function, Vec<Tensor>, Vec<Tensor>);

/// The nodes stand in the order in which the body made them, so that one that goes chunk by chunk stays so.
pub(crate) fn trace(
    name: &str,
    operands: &[Tensor],
    until: Until,
    body: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
) -> Result<Traced, TensorError> {
    let outputs = body(operands);
    if outputs.is_empty() {
        // An operation without operands is the error that says so.
        Tensor::apply("function", Op::Barrier, &[]).check()?;
    }
    let mut trace = Trace::with_inputs(operands, &outputs.iter().collect::<Vec<_>>(), until)?;
    trace.sort()?;
    let wanted = outputs.iter().filter_map(|o| trace.node(o)).collect();
    trace.graph.set_outputs(wanted);
    let function = Function {
        name: name.to_owned(),
        body: trace.graph,
        public: outputs.len(),
        gradient: None,
        kernel: None,
        recompute: false,
    };
    Ok((function, trace.inputs, outputs))
}

/// Tensors without elements that stand for operands.
fn stand_ins(name: &str, operands: &[&Tensor]) -> Vec<Tensor> {
    let stand_in = |(i, t): (usize, &&Tensor)| {
        let device = t.device().clone();
        Tensor::new(Source::Leaf, t.shape().clone(), t.dtype(), device, t.int_range())
            .named(format!("operand {i} of {name}"))
    };
    operands.iter().enumerate().map(stand_in).collect()
}

/// Outputs of a call that failed.
pub(crate) fn faulty(error: TensorError, operands: &[&Tensor], outputs: usize) -> Vec<Tensor> {
    let (dtype, device) = match operands.first() {
        Some(first) => (first.dtype(), first.device().clone()),
        None => (wgrad_ir::DType::F32, crate::nowhere::nowhere().clone()),
    };
    vec![Tensor::faulty(error, dtype, device); outputs.max(1)]
}

/// How many functions are kept.
const KEPT: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// The one copy of a function: equal ones that are traced in every step are then compared by address, and the gradient of
/// each is derived once.
fn intern(function: Function) -> Arc<Function> {
    static KNOWN: LazyLock<Mutex<LruCache<u64, Arc<Function>>>> =
        LazyLock::new(|| Mutex::new(LruCache::new(KEPT)));
    let mut hasher = FxBuildHasher.build_hasher();
    (&function, &function.body).hash(&mut hasher);
    function.gradient.as_ref().map(|g| &g.body).hash(&mut hasher);
    let key = hasher.finish();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(&key)
        && **found == function
    {
        return found.clone();
    }
    let function = Arc::new(function);
    known.put(key, function.clone());
    function
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_functions_are_one() {
        let device = crate::nowhere::nowhere();
        let x = Tensor::zeros([2], wgrad_ir::DType::F32, device);
        let traced = |name| trace_function(name, &[&x], |x| vec![x[0].exp()]).map(intern);
        let (a, b, c) = (traced("f").unwrap(), traced("f").unwrap(), traced("g").unwrap());
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
    }
}
