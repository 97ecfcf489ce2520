//! Row kernels.

use wgrad_ir::{DeviceCaps, RowKernel};

use crate::{Dispatch, KernelError};

/// Generates one dispatch.
pub(crate) fn generate(_: &RowKernel, _: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    Err(KernelError::Inconsistent("rows have no WGSL yet".into()))
}
