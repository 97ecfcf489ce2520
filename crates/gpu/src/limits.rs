//! What a run may be given.

use wgrad_ir::{Literal, Program};
use wgrad_runtime::{Buffer, DeviceError};

use crate::device::Shared;

/// Refuses buffers and scalars other than the program's.
pub(crate) fn check_inputs(
    shared: &Shared,
    program: &Program,
    inputs: &[Buffer],
    scalars: &[Literal],
) -> Result<(), DeviceError> {
    if inputs.len() != program.inputs.len() || scalars.len() != program.scalars.len() {
        return Err(shared.misuse(format!(
            "expected {} buffers and {} scalars, got {} and {}",
            program.inputs.len(),
            program.scalars.len(),
            inputs.len(),
            scalars.len()
        )));
    }
    for (n, (buffer, spec)) in inputs.iter().zip(&program.inputs).enumerate() {
        if buffer.bytes() != spec.bytes {
            return Err(shared.misuse(format!(
                "input {n} should be {}{} of {} bytes, got {} bytes",
                spec.dtype,
                spec.shape,
                spec.bytes,
                buffer.bytes()
            )));
        }
    }
    match scalars.iter().zip(&program.scalars).position(|(s, &d)| s.dtype() != d) {
        Some(n) => Err(shared.misuse(format!(
            "scalar {n} should be {}, got {}",
            program.scalars[n],
            scalars[n].dtype()
        ))),
        None => Ok(()),
    }
}
