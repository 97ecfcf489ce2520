//! Evaluation: trace, find or compile the program, run it, keep the buffers.

use wgrad_compile::{Options, compile};
use wgrad_ir::OutputSource;
use wgrad_runtime::{Buffer, DeviceError, DeviceHandle};

use crate::{
    Donation, Tensor, TensorError,
    donate::GivenUp,
    tensor::Source,
    trace::{Trace, Until},
};

/// Computes tensors, all of one device in one program. What has been computed before is taken from memory; what is common to
/// several is computed once. Contiguous pieces of evaluated tensors stay what they are, since nothing is to be computed.
/// Returns when the work is queued, which may be before it is done.
///
/// # Errors
/// The first error that a tensor or something it needs carries; errors of the compiler and the device.
pub fn eval(tensors: &[&Tensor]) -> Result<(), TensorError> {
    eval_donating(tensors, &Donation::default())
}

/// As [`eval`], and lets programs update the memory of donated leaves in place: a wanted tensor may come to lie where a leaf lay.
///
/// A leaf is given up only if nothing can need its elements later: every tensor that is computed from it in this evaluation, but
/// for the wanted ones, is held by nothing but the evaluated expressions and the holders that the caller names. Otherwise it
/// stays as it is, and the result gets memory of its own. Whoever holds a leaf that was given up after all (by way of a wanted
/// tensor's history, say) gets [`TensorError::Updated`] when its elements are needed.
///
/// # Errors
/// As [`eval`]; the leaves are then as before.
pub fn eval_donating(tensors: &[&Tensor], donation: &Donation<'_>) -> Result<(), TensorError> {
    eval_all(tensors, donation, &Options::default())
}

/// As [`eval`], with chosen passes of the compiler: to see what each of them is worth, and that each leaves the results as they are.
///
/// # Errors
/// As [`eval`].
pub fn eval_with(tensors: &[&Tensor], options: &Options) -> Result<(), TensorError> {
    eval_all(tensors, &Donation::default(), options)
}

fn eval_all(tensors: &[&Tensor], donation: &Donation<'_>, options: &Options) -> Result<(), TensorError> {
    for tensor in tensors {
        tensor.check()?;
    }
    let mut pending: Vec<&Tensor> = tensors.iter().copied().filter(|t| t.place().is_none()).collect();
    while let Some(first) = pending.first() {
        let device = first.device().clone();
        let (here, elsewhere): (Vec<&Tensor>, Vec<&Tensor>) =
            pending.into_iter().partition(|t| t.device().uid() == device.uid());
        run(&here, donation, &device, options)?;
        pending = elsewhere;
    }
    Ok(())
}

/// Runs one program for tensors of one device.
fn run(
    wanted: &[&Tensor],
    donation: &Donation<'_>,
    device: &DeviceHandle,
    options: &Options,
) -> Result<(), TensorError> {
    let mut trace = Trace::new(wanted, Until::Realized)?;
    let companions = companions(&trace, wanted);
    if !companions.is_empty() {
        let all: Vec<&Tensor> = wanted.iter().copied().chain(&companions).collect();
        drop(trace);
        return run(&all, donation, device, options);
    }
    let mut targets: Vec<&Tensor> = Vec::with_capacity(wanted.len());
    let mut outputs = Vec::with_capacity(wanted.len());
    for &tensor in wanted {
        if let Some(node) = trace.node(tensor)
            && !outputs.contains(&node)
        {
            outputs.push(node);
            targets.push(tensor);
        }
    }
    trace.graph.set_outputs(outputs);
    trace.graph.set_donated(donation.inputs(&trace));
    if cfg!(debug_assertions) {
        wgrad_ir::verify_graph(&trace.graph)?;
    }
    let names: &[Tensor] = &trace.inputs;
    let name = |error: DeviceError| {
        let named = error.with_input_names(|i| Some(names.get(i)?.name()?.to_string()));
        TensorError::Device(named)
    };
    let executable = device.cache().get_or_compile(&trace.graph, options.fingerprint(), || {
        let program = compile(&trace.graph, device.caps(), options)?;
        device.prepare(program.into()).map_err(name)
    })?;
    let program = executable.program();
    let inputs = std::mem::take(&mut trace.buffers);
    let untouched: Vec<Option<Buffer>> = (0..inputs.len() as u32)
        .map(|i| (!program.updates.contains(&i)).then(|| inputs[i as usize].clone()))
        .collect();
    let given_up = GivenUp::take(program.updates.iter().map(|&i| &trace.inputs[i as usize]), donation.by);
    let output = match executable.run(inputs, &trace.scalars) {
        Ok(output) => output,
        Err(error) => {
            given_up.take_back();
            return Err(name(error));
        }
    };
    for (tensor, wanted) in targets.iter().zip(&program.outputs) {
        let buffer: Option<&Buffer> = match wanted.source {
            OutputSource::Result(i) => output.results.get(i as usize),
            OutputSource::Input(i) => match program.updates.iter().position(|&u| u == i) {
                Some(updated) => output.updated.get(updated),
                None => untouched.get(i as usize).and_then(Option::as_ref),
            },
        };
        let buffer = buffer.ok_or_else(|| DeviceError::Misuse {
            device: device.info().id.clone(),
            message: format!("a program returned no buffer for {:?}", wanted.source),
        })?;
        // Another thread may have computed the same elements meanwhile; either buffer will do.
        tensor.0.elements.set(buffer.clone());
    }
    Ok(())
}

/// What is to be computed beside what has been traced, and is not there or wanted yet.
fn companions(trace: &Trace, wanted: &[&Tensor]) -> Vec<Tensor> {
    let mut found: Vec<Tensor> = Vec::new();
    let traced = trace.tensors.iter().filter(|t| !t.is_realized());
    for companion in traced.filter_map(|t| t.0.companion.as_ref()) {
        let known = wanted.iter().any(|w| w.is_same(companion)) || found.iter().any(|f| f.is_same(companion));
        if companion.place().is_none() && !known {
            found.push(companion.clone());
        }
    }
    found
}

impl Tensor {
    /// Computes the elements now; see [`eval`].
    ///
    /// # Errors
    /// As [`eval`].
    pub fn realize(&self) -> Result<(), TensorError> {
        eval(&[self])
    }

    /// The elements without their history: evaluates, and returns a tensor that shares the memory, keeps no operands alive, and
    /// is where gradients and traces end. Optimizers rebind parameters to such leaves, so that one step does not grow upon
    /// the next.
    ///
    /// # Errors
    /// As [`eval`].
    pub fn to_leaf(&self) -> Result<Tensor, TensorError> {
        self.realize()?;
        let mut leaf = self.detach();
        if !leaf.is_leaf() {
            // A piece of another tensor, which gets memory of its own.
            leaf.realize()?;
            leaf = leaf.detach();
        }
        leaf.check()?;
        Ok(leaf)
    }

    /// Whether this is uploaded or evaluated data without history.
    fn is_leaf(&self) -> bool {
        matches!(self.0.source, Source::Leaf)
    }

    /// As [`Tensor::to_leaf`]; where that fails, the result carries the error.
    #[must_use]
    pub fn detach_realized(&self) -> Tensor {
        self.to_leaf().unwrap_or_else(|error| Tensor::faulty(error, self.dtype(), self.device().clone()))
    }

    /// The elements on another device, as a leaf: evaluates, reads and uploads. Itself where it is there already. Carries an
    /// error where that fails.
    #[track_caller]
    pub fn to_device(&self, device: &DeviceHandle) -> Tensor {
        if self.device().uid() == device.uid() || self.error().is_some() {
            return self.clone();
        }
        let moved = self.read_bytes().and_then(|bytes| Ok(device.upload(&bytes.wait()?, self.dtype())?));
        let tensor = match moved {
            Ok(buffer) => {
                Tensor::leaf(buffer, self.shape().clone(), self.dtype(), device.clone(), self.0.range)
            }
            Err(error) => Tensor::faulty(error, self.dtype(), device.clone()),
        };
        match self.name() {
            Some(name) => tensor.named(name),
            None => tensor,
        }
    }
}
