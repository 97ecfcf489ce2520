//! Evaluation: trace, find or compile the program, run it, keep the buffers.

use wgrad_compile::{Options, compile};
use wgrad_ir::OutputSource;
use wgrad_runtime::{Buffer, DeviceError, DeviceHandle};

use crate::{
    Tensor, TensorError,
    trace::{Trace, Until},
};

/// Computes tensors, all of one device in one program. What has been computed before is taken from memory; what is common to
/// several is computed once. Returns when the work is queued, which may be before it is done.
///
/// # Errors
/// The first error that a tensor or something it needs carries; errors of the compiler and the device.
pub fn eval(tensors: &[&Tensor]) -> Result<(), TensorError> {
    for tensor in tensors {
        tensor.check()?;
    }
    let mut pending: Vec<&Tensor> = tensors.iter().copied().filter(|t| !t.is_realized()).collect();
    while let Some(first) = pending.first() {
        let device = first.device().clone();
        let (here, elsewhere): (Vec<&Tensor>, Vec<&Tensor>) =
            pending.into_iter().partition(|t| t.device().uid() == device.uid());
        run(&here, &device)?;
        pending = elsewhere;
    }
    Ok(())
}

/// Runs one program for tensors of one device.
fn run(wanted: &[&Tensor], device: &DeviceHandle) -> Result<(), TensorError> {
    let mut trace = Trace::new(wanted, Until::Realized)?;
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
    if cfg!(debug_assertions) {
        wgrad_ir::verify_graph(&trace.graph)?;
    }
    let options = Options::default();
    let name = |error: DeviceError| {
        let named = error.with_input_names(|i| Some(trace.inputs.get(i)?.name()?.to_string()));
        TensorError::Device(named)
    };
    let executable = device.cache().get_or_compile(&trace.graph, options.fingerprint(), || {
        let program = compile(&trace.graph, device.caps(), &options)?;
        device.prepare(program.into()).map_err(name)
    })?;
    let inputs = trace.buffers();
    let results = executable.run(inputs.clone(), &trace.scalars).map_err(name)?.results;
    for (tensor, output) in targets.iter().zip(&executable.program().outputs) {
        let buffer: Option<&Buffer> = match output.source {
            OutputSource::Result(i) => results.get(i as usize),
            OutputSource::Input(i) => inputs.get(i as usize),
        };
        let buffer = buffer.ok_or_else(|| DeviceError::Misuse {
            device: device.info().id.clone(),
            message: format!("a program returned no buffer for {:?}", output.source),
        })?;
        // Another thread may have computed the same elements meanwhile; either buffer will do.
        let _ = tensor.0.buffer.set(buffer.clone());
    }
    Ok(())
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
        let leaf = self.detach();
        leaf.check()?;
        Ok(leaf)
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
