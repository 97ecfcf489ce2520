//! WGSL for the kernels of [`wgrad_ir`]: bodies in `.wgsl` files, and the generator that completes them with bindings,
//! constants and hooks.
//!
//! A [`Kernel`] says what is computed; [`generate`] says how a device with given capabilities computes it: one or several
//! [`Dispatch`]es, each a complete shader with the grid to launch. This crate names no graphics interface, so that text can be
//! generated and checked (`check`, with the feature of that name) for platforms that the machine at hand does not have.
//!
//! Extents and strides are constants in the text. Text is therefore the key under which a runtime shares pipelines, and the
//! driver's compiler sees every division and every loop bound.
#![forbid(unsafe_code)]

mod attention;
mod bindings;
#[cfg(feature = "check")]
mod check;
mod conv;
mod cumulate;
mod dispatch;
mod expr;
mod grid;
mod index;
mod library;
mod map;
mod matmul;
mod reduce;
mod row;
mod scatter;
mod sort;
mod storage;
mod unroll;
mod wide;

pub use attention::AttentionVariant;
#[cfg(feature = "check")]
pub use check::check;
pub use cumulate::CumulateVariant;
pub use dispatch::{Binding, Dispatch, KernelError, Resource};
pub use matmul::MatMulVariant;
pub use reduce::ReduceVariant;
pub use row::RowVariant;
use wgrad_ir::{DeviceCaps, Kernel};

/// Which variants to use; by default the generator chooses by extents and device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Choices {
    /// For matrix products, and for convolutions where it suits them.
    pub matmul: Option<MatMulVariant>,
    /// For reductions.
    pub reduce: Option<ReduceVariant>,
    /// For reductions along rows.
    pub row: Option<RowVariant>,
    /// For sums so far and linear recurrences.
    pub cumulate: Option<CumulateVariant>,
    /// For attention and its gradient.
    pub attention: Option<AttentionVariant>,
}

/// The dispatches that compute `kernel` on a device with `caps`, in order; none where there is nothing to compute.
///
/// # Errors
/// [`KernelError`]: a dtype that WGSL lacks, or extents beyond 32-bit addresses or the grid.
pub fn generate(kernel: &Kernel, caps: &DeviceCaps, choices: &Choices) -> Result<Vec<Dispatch>, KernelError> {
    match kernel {
        Kernel::Map(k) => map::generate(k, caps),
        Kernel::Reduce(k) => match choices.reduce {
            Some(variant) => reduce::generate_as(k, caps, variant),
            None => reduce::generate(k, caps),
        },
        Kernel::MatMul(k) => match choices.matmul {
            Some(variant) => matmul::generate_as(k, caps, variant),
            None => matmul::generate(k, caps),
        },
        Kernel::Conv(k) => conv::generate(k, caps, choices.matmul),
        Kernel::Row(k) => row::generate(k, caps, choices.row),
        Kernel::ScatterAdd(k) => scatter::generate(k, caps),
        Kernel::Sort(k) => sort::generate(k, caps),
        Kernel::Cumulate(k) => match choices.cumulate {
            Some(variant) => cumulate::generate_as(k, caps, variant),
            None => cumulate::generate(k, caps),
        },
        Kernel::Attention(k) => match choices.attention {
            Some(variant) => attention::generate_as(k, caps, variant),
            None => attention::generate(k, caps),
        },
        Kernel::AttentionGrad(k) => match choices.attention {
            Some(variant) => attention::generate_grad_as(k, caps, variant),
            None => attention::generate_grad(k, caps),
        },
    }
}
