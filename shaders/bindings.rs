//! The storage buffers of one shader.

use std::fmt::Write;

use wgrad_ir::DType;

use crate::{Binding, KernelError, Resource};

/// Buffers in binding order, each with its WGSL type.
#[derive(Clone, Default, Debug)]
pub(crate) struct Bindings {
    list: Vec<(Binding, String)>,
}

impl Bindings {
    /// The variable of a step's argument, bound as an array of `element`: for reading and writing if any use of it writes.
    pub(crate) fn arg(&mut self, arg: u32, element: &str, writable: bool) -> Result<String, KernelError> {
        self.bind(Resource::Arg(arg), format!("array<{element}>"), writable)?;
        Ok(format!("b{arg}"))
    }

    /// Binds the scalars' words.
    pub(crate) fn scalars(&mut self) -> Result<&'static str, KernelError> {
        self.bind(Resource::Scalars, "array<u32>".into(), false)?;
        Ok("scalars")
    }

    /// Binds the device's status word.
    pub(crate) fn status(&mut self) -> Result<&'static str, KernelError> {
        self.bind(Resource::Status, "atomic<u32>".into(), true)?;
        Ok("status")
    }

    fn bind(&mut self, resource: Resource, ty: String, writable: bool) -> Result<(), KernelError> {
        match self.list.iter_mut().find(|(b, _)| b.resource == resource) {
            None => self.list.push((Binding { resource, writable }, ty)),
            Some((b, known)) if *known == ty => b.writable |= writable,
            Some((b, known)) => {
                return Err(KernelError::Inconsistent(format!(
                    "{:?} is used as {known} and as {ty}",
                    b.resource
                )));
            }
        }
        Ok(())
    }

    /// Appends the declarations.
    pub(crate) fn write(&self, out: &mut String) {
        for (n, (binding, ty)) in self.list.iter().enumerate() {
            let name = match binding.resource {
                Resource::Arg(arg) => format!("b{arg}"),
                Resource::Scalars => "scalars".into(),
                Resource::Status => "status".into(),
            };
            let access = if binding.writable { "read_write" } else { "read" };
            let _ = writeln!(out, "@group(0) @binding({n}) var<storage, {access}> {name}: {ty};");
        }
    }

    /// The list for the runtime.
    pub(crate) fn into_list(self) -> Vec<Binding> {
        self.list.into_iter().map(|(b, _)| b).collect()
    }
}

/// The WGSL type of a value in registers.
pub(crate) fn value_type(what: &'static str, dtype: DType) -> Result<&'static str, KernelError> {
    match dtype {
        DType::F64 => Err(KernelError::F64 { what }),
        DType::F32 | DType::F16 | DType::BF16 => Ok("f32"),
        DType::I32 => Ok("i32"),
        DType::U32 | DType::U8 => Ok("u32"),
        DType::Bool => Ok("bool"),
    }
}
