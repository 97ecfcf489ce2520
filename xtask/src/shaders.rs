//! Checks generated WGSL for every back end, without any adapter.
//!
//! A recording device takes the programs of real training steps and, instead of running them, generates their shaders for
//! several profiles of capabilities and passes each distinct one through naga to SPIR-V, MSL and HLSL.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use wgrad::runtime::{
    Buffer, Device, DeviceError, DeviceHandle, DeviceInfo, DeviceKind, DeviceStats, Executable, ProgramCache,
    Readback,
};
use wgrad_ir::{DType, DeviceCaps, Literal, Program};
use wgrad_kernels::{Choices, check, generate};

use crate::{
    Result,
    bench::workloads::{self, Step as _},
};

/// Options of `cargo xtask shaders`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pass every distinct shader through naga to SPIR-V, MSL and HLSL.
    #[arg(long, required = true)]
    check: bool,
}

/// Traces a training step of each language-model workload on each profile, and checks its shaders.
///
/// # Errors
/// A shader that a back end does not take, or a step that cannot be traced.
pub(crate) fn run(args: &Args) -> Result {
    debug_assert!(args.check, "clap requires it");
    let mut failures = 0;
    for (name, caps) in profiles() {
        let recorder = Arc::new(Recorder::new(name, caps));
        let device: DeviceHandle = recorder.clone();
        for workload in ["gpt-nano", "gpt-mini"] {
            let mut step = workloads::language_model(workload, &device)?;
            step.run()?;
        }
        let shaders = recorder.shaders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bad = 0;
        for source in shaders.iter() {
            if let Err(error) = check(source) {
                bad += 1;
                eprintln!("{name}: {error}\n{source}");
            }
        }
        println!(
            "{name}: {} distinct shaders valid as WGSL, SPIR-V, MSL and HLSL, {bad} not",
            shaders.len() - bad
        );
        failures += bad;
    }
    if failures == 0 { Ok(()) } else { Err(format!("{failures} shaders failed").into()) }
}

/// Adapters as they are in the field: software, a desktop GPU, and the least that WebGPU promises.
fn profiles() -> [(&'static str, DeviceCaps); 3] {
    let base = DeviceCaps {
        f64: false,
        bool_bytes: 4,
        max_buffer_bytes: 2 << 30,
        max_binding_bytes: 2 << 30,
        max_bindings: 32,
        subgroup_size: 32,
        max_workgroup_invocations: 1024,
        max_workgroup_bytes: 32 << 10,
        max_workgroups_per_dim: 65_535,
        software: false,
    };
    [
        (
            "software",
            DeviceCaps { subgroup_size: 8, max_binding_bytes: 128 << 20, software: true, ..base.clone() },
        ),
        ("desktop", base.clone()),
        (
            "portable",
            DeviceCaps {
                subgroup_size: 0,
                max_buffer_bytes: 256 << 20,
                max_binding_bytes: 128 << 20,
                max_bindings: 8,
                max_workgroup_invocations: 256,
                max_workgroup_bytes: 16 << 10,
                ..base
            },
        ),
    ]
}

/// A device that generates shaders and runs nothing: buffers have a size and no memory, and read as zeros.
struct Recorder {
    uid: u64,
    info: DeviceInfo,
    caps: DeviceCaps,
    cache: ProgramCache,
    shaders: Mutex<HashSet<Arc<str>>>,
}

impl Recorder {
    fn new(name: &str, caps: DeviceCaps) -> Self {
        let info = DeviceInfo {
            id: format!("recorder:{name}"),
            name: name.to_owned(),
            kind: DeviceKind::VirtualGpu,
            driver: "none".to_owned(),
            details: Vec::new(),
        };
        let uid = <dyn Device>::next_uid();
        Recorder { uid, info, caps, cache: ProgramCache::default(), shaders: Mutex::default() }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.info.id)
    }
}

impl Device for Recorder {
    fn uid(&self) -> u64 {
        self.uid
    }

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn caps(&self) -> &DeviceCaps {
        &self.caps
    }

    fn cache(&self) -> &ProgramCache {
        &self.cache
    }

    fn upload(&self, bytes: &[u8], dtype: DType) -> std::result::Result<Buffer, DeviceError> {
        let bytes = bytes.len() / dtype.host_bytes() * self.caps.storage_bytes(dtype);
        Ok(Buffer::new(Arc::new(()), bytes as u64, self.uid))
    }

    fn read(&self, buffer: &Buffer, dtype: DType) -> std::result::Result<Readback, DeviceError> {
        let elements = buffer.bytes() as usize / self.caps.storage_bytes(dtype);
        Ok(Readback::ready(Ok(vec![0; elements * dtype.host_bytes()])))
    }

    fn prepare(&self, program: Arc<Program>) -> std::result::Result<Arc<dyn Executable>, DeviceError> {
        let mut shaders = self.shaders.lock().unwrap_or_else(PoisonError::into_inner);
        for step in &program.steps {
            let dispatches = generate(&step.kernel, &self.caps, &Choices::default()).map_err(|e| {
                DeviceError::Unsupported { device: self.info.id.clone(), what: e.to_string() }
            })?;
            shaders.extend(dispatches.into_iter().map(|d| d.source));
        }
        Ok(Arc::new(Recorded { program, uid: self.uid }))
    }

    fn synchronize(&self) -> std::result::Result<(), DeviceError> {
        Ok(())
    }

    fn stats(&self) -> DeviceStats {
        DeviceStats::default()
    }
}

struct Recorded {
    program: Arc<Program>,
    uid: u64,
}

impl Executable for Recorded {
    fn program(&self) -> &Program {
        &self.program
    }

    fn run(
        &self,
        _inputs: Vec<Buffer>,
        _scalars: &[Literal],
    ) -> std::result::Result<Vec<Buffer>, DeviceError> {
        Ok(self.program.results.iter().map(|r| Buffer::new(Arc::new(()), r.bytes, self.uid)).collect())
    }
}
