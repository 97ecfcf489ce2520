//! What a program may ask of a device, checked before anything is built.

use wgrad_ir::{BufferRef, DType, Literal, Program, Step};
use wgrad_runtime::{Buffer, DeviceError};

use crate::device::Shared;

/// Refuses a step whose buffers the device cannot hold or bind.
pub(crate) fn check_step(shared: &Shared, program: &Program, step: &Step) -> Result<(), DeviceError> {
    let caps = &shared.caps;
    let unsupported = |what| DeviceError::Unsupported { device: shared.info.id.clone(), what };
    if step.args.len() > caps.max_bindings {
        return Err(unsupported(format!(
            "kernel `{}`: it binds {} buffers where {} are allowed (max_storage_buffers_per_shader_stage)",
            step.label,
            step.args.len(),
            caps.max_bindings
        )));
    }
    for &arg in &step.args {
        // A part of a buffer may be bound where the whole is too long; the whole must still be allocated.
        let limits = [
            (arg.bytes, caps.max_binding_bytes, "max_storage_buffer_binding_size"),
            (program.bytes(arg.buffer), caps.max_buffer_bytes, "max_buffer_size"),
        ];
        for (bytes, limit, limit_name) in limits {
            if bytes > limit {
                return Err(DeviceError::TooLarge {
                    device: shared.info.id.clone(),
                    tensor: describe(program, arg.buffer),
                    buffer: Some(arg.buffer),
                    kernel: step.label.clone(),
                    bytes,
                    limit,
                    limit_name,
                });
            }
        }
    }
    if program.scalars.contains(&DType::F64) {
        return Err(unsupported("an f64 scalar (cast to f32, or use `--device cpu`)".to_owned()));
    }
    Ok(())
}

fn describe(program: &Program, buffer: BufferRef) -> String {
    let (place, spec) = match buffer {
        BufferRef::Input(i) => (format!("input {i}"), program.inputs.get(i as usize)),
        BufferRef::Output(i) => (format!("result {i}"), program.results.get(i as usize)),
        BufferRef::Temp(i) => (format!("intermediate {i}"), None),
    };
    match spec {
        Some(spec) => format!("{place}, {}{},", spec.dtype, spec.shape),
        None => place,
    }
}

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
