//! Checks generated WGSL for every back end, without any adapter.
//!
//! Planning devices take the programs of real training steps and run nothing; the shaders of these programs are generated for
//! several profiles of capabilities, and each distinct one goes through naga to SPIR-V, MSL and HLSL.

use std::{collections::BTreeSet, sync::Arc};

use wgrad::{prelude::DeviceHandle, runtime::Device};
use wgrad_ir::Kernel;
use wgrad_kernels::{Choices, MatMulVariant, check, generate};

use crate::{Result, bench::workloads, profiles};

/// Options of `cargo xtask shaders`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pass every distinct shader through naga to SPIR-V, MSL and HLSL.
    #[arg(long, required = true)]
    check: bool,
}

/// Traces two training steps of each language-model workload on each profile, and checks their shaders.
///
/// # Errors
/// A shader that a back end does not take, or a step that cannot be traced.
pub(crate) fn run(args: &Args) -> Result {
    debug_assert!(args.check, "clap requires it");
    let mut failures = 0;
    for profile in profiles::GPUS {
        let device: DeviceHandle = profiles::device(profile);
        for workload in ["gpt-nano", "gpt-mini"] {
            workloads::language_model(workload, &device)?.steps(2)?;
        }
        let shaders = shaders(&*device)?;
        let mut bad = 0;
        for source in &shaders {
            if let Err(error) = check(source) {
                bad += 1;
                eprintln!("{profile}: {error}\n{source}");
            }
        }
        println!(
            "{profile}: {} distinct shaders valid as WGSL, SPIR-V, MSL and HLSL, {bad} not",
            shaders.len() - bad
        );
        failures += bad;
    }
    if failures == 0 { Ok(()) } else { Err(format!("{failures} shaders failed").into()) }
}

/// The distinct shaders of every program that a device holds.
fn shaders(device: &dyn Device) -> Result<BTreeSet<Arc<str>>> {
    let mut sources = BTreeSet::new();
    for executable in device.cache().executables() {
        for step in &executable.program().steps {
            for choices in choices(device, &step.kernel) {
                let dispatches = generate(&step.kernel, device.caps(), &choices)
                    .map_err(|error| format!("kernel `{}` on {}: {error}", step.label, device.info().id))?;
                sources.extend(dispatches.into_iter().map(|d| d.source));
            }
        }
    }
    Ok(sources)
}

/// The choices under which a kernel may run: the generator's own, and on real GPUs cooperative matrices where an adapter has them.
fn choices(device: &dyn Device, kernel: &Kernel) -> Vec<Choices> {
    let mut all = vec![Choices::default()];
    if matches!(kernel, Kernel::MatMul(_)) && !device.caps().software {
        let sizes = [8, 16].map(|size| MatMulVariant::Cooperative { size, subgroup: 32 });
        all.extend(sizes.map(|variant| Choices { matmul: Some(variant), ..Choices::default() }));
    }
    all
}
