//! Attention kernels.

use wgrad_ir::{AttentionGradKernel, AttentionKernel, DeviceCaps};

use crate::{Dispatch, KernelError};

/// Generates the forward kernel.
pub(crate) fn generate(_: &AttentionKernel, _: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    Err(KernelError::Inconsistent("attention has no WGSL yet".into()))
}

/// Generates the gradient.
pub(crate) fn generate_grad(_: &AttentionGradKernel, _: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    Err(KernelError::Inconsistent("the gradient of attention has no WGSL yet".into()))
}
