//! The façade of wgrad: tensors, layers, optimizers, models, data and training behind one name.
//!
//! `use wgrad::prelude::*` brings what a model and its training loop need:
//!
//! ```
//! use wgrad::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = wgrad::devices().open("cpu")?.device;
//! let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], [3], &device);
//! let loss = x.square().sum_all();
//! assert_eq!(grad(&loss, &[&x])?[0].to_vec::<f32>()?, [2.0, 4.0, 6.0]);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use wgrad_runtime::{Backend, Registry};

pub use wgrad_cpu as cpu;
pub use wgrad_data as data;
#[cfg(feature = "gpu")]
pub use wgrad_gpu as gpu;
pub use wgrad_models as models;
pub use wgrad_nn as nn;
pub use wgrad_optim as optim;
pub use wgrad_runtime as runtime;
pub use wgrad_tensor as tensor;
pub use wgrad_train as train;

/// The devices of this machine: the CPU runtime and, with the feature `gpu`, every adapter that wgpu finds.
///
/// `wgrad::devices().open("auto")?` opens a real GPU where there is one, else the CPU runtime.
pub fn devices() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let backends: Vec<Box<dyn Backend>> = vec![
            Box::new(wgrad_cpu::CpuBackend),
            #[cfg(feature = "gpu")]
            Box::new(wgrad_gpu::GpuBackend::default()),
        ];
        Registry::new(backends)
    })
}

/// What a model and its training loop need.
pub mod prelude {
    pub use wgrad_nn::{Context, Init, Linear, Module, Param, functional};
    pub use wgrad_optim::{
        AdamW, AdamWConfig, Optimizer, Schedule, Sgd, SgdConfig, all_parameters, decay_matrices_only,
    };
    pub use wgrad_tensor::{DType, DeviceHandle, RandomKey, Shape, Tensor, TensorError, eval, grad};
}
