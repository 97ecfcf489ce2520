//! What a program may ask of a device.

use wgrad_ir::{BufferRef, DType, DeviceCaps, Program};

use crate::DeviceError;

/// Refuses a program whose buffers a device of these capabilities can neither hold nor bind.
///
/// # Errors
/// [`DeviceError::TooLarge`] names the first buffer beyond a limit, [`DeviceError::Unsupported`] a kernel of too many buffers, or a
/// scalar of a dtype that the device does not compute with.
pub fn check_limits(device: &str, caps: &DeviceCaps, program: &Program) -> Result<(), DeviceError> {
    if program.scalars.contains(&DType::F64) && !caps.f64 {
        let what = "an f64 scalar (cast to f32, or use `--device cpu`)".to_owned();
        return Err(DeviceError::Unsupported { device: device.to_owned(), what });
    }
    for step in &program.steps {
        if step.args.len() > caps.max_bindings {
            let what = format!(
                "kernel `{}`: it binds {} buffers where {} are allowed (max_storage_buffers_per_shader_stage)",
                step.label,
                step.args.len(),
                caps.max_bindings
            );
            return Err(DeviceError::Unsupported { device: device.to_owned(), what });
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
                        device: device.to_owned(),
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
