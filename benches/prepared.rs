//! A case that is ready to run again and again.

use std::sync::Arc;

use wgrad_compile::{Options, compile};
use wgrad_ir::{DType, OutputSource};
use wgrad_runtime::{Buffer, DeviceHandle, Executable};

use crate::{Case, Error};

/// A compiled case with its inputs.
pub struct Prepared {
    device: DeviceHandle,
    executable: Arc<dyn Executable>,
    inputs: Vec<Buffer>,
}

impl Prepared {
    /// Compiles a case, and uploads numbers in (-1, 1), none of them negative where they are an optimizer's.
    ///
    /// # Errors
    /// The device cannot hold or compute it.
    pub fn new(case: &Case, options: &Options, device: &DeviceHandle) -> Result<Self, Error> {
        let program = compile(&case.graph, device.caps(), options)?;
        let mut inputs = Vec::new();
        for (n, spec) in program.inputs.iter().enumerate() {
            let lowest = if case.graph.donated().is_empty() { -1.0 } else { 0.0 };
            let value = |i: usize| (i * 37 % 101 + n) as f32 * (1.0 - lowest) / 128.0 + lowest;
            let bytes: Vec<u8> = (0..spec.shape.elements()).flat_map(|i| value(i).to_ne_bytes()).collect();
            inputs.push(device.upload(&bytes, DType::F32)?);
        }
        Ok(Prepared { device: device.clone(), executable: device.prepare(program.into())?, inputs })
    }

    /// Kernels of a run.
    pub fn kernels(&self) -> usize {
        self.executable.program().steps.len()
    }

    /// Runs once, and waits until that is done. What is updated in place goes into the next run.
    ///
    /// # Errors
    /// The device failed.
    pub fn run(&mut self) -> Result<(), Error> {
        self.queue()?;
        Ok(self.device.synchronize()?)
    }

    /// Runs once; the elements of every output.
    ///
    /// # Errors
    /// The device failed.
    pub fn outputs(&mut self) -> Result<Vec<Vec<f32>>, Error> {
        let results = self.queue()?;
        let mut outputs = Vec::new();
        for output in &self.executable.program().outputs {
            let buffer = match output.source {
                OutputSource::Result(i) => &results[i as usize],
                OutputSource::Input(i) => &self.inputs[i as usize],
            };
            let bytes = self.device.read(buffer, DType::F32)?.wait()?;
            let number = |b: &[u8]| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
            outputs.push(bytes.chunks_exact(4).map(number).collect());
        }
        Ok(outputs)
    }

    /// Queues a run; gives its results.
    fn queue(&mut self) -> Result<Vec<Buffer>, Error> {
        let updates = &self.executable.program().updates;
        let given = std::mem::take(&mut self.inputs);
        let kept: Vec<Option<Buffer>> =
            (0u32..).zip(&given).map(|(n, buffer)| (!updates.contains(&n)).then(|| buffer.clone())).collect();
        let out = self.executable.run(given, &[])?;
        let mut updated = out.updated.into_iter();
        self.inputs = kept.into_iter().filter_map(|kept| kept.or_else(|| updated.next())).collect();
        Ok(out.results)
    }
}
