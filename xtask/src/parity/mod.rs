//! Comparison with reference data computed by PyTorch and Hugging Face.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::builder::PossibleValuesParser;
use wgrad::{
    runtime::{DeviceHandle, DeviceKind},
    tensor::CompileOptions as Options,
};

use crate::Result;

mod compare;
mod model;
mod models;
mod ops;
mod optim;
mod pipeline;
mod reference;
mod schedules;

use compare::Report;

/// Options of `cargo xtask parity`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A directory of cases.
    #[arg(long, default_value = "tests/parity")]
    dir: PathBuf,
    /// Only this device; both by default.
    #[arg(long, value_parser = ["cpu", "gpu"])]
    device: Option<String>,
    /// Only these cases; may be given several times.
    #[arg(long)]
    case: Vec<String>,
    /// Of cases of operations only these entries; may be given several times.
    #[arg(long)]
    entry: Vec<String>,
    /// Models only, without a pass of the compiler, or `all`; may be given several times. Outputs and gradients are compared, and no
    /// trajectories, whose steps always run every pass.
    #[arg(long, value_name = "PASS", value_parser = passes())]
    without: Vec<String>,
}

/// What `--without` takes.
fn passes() -> PossibleValuesParser {
    Options::NAMES.iter().copied().chain(["all"]).into()
}

/// Runs every case on every device, and prints a line for each.
///
/// # Errors
/// A case failed, is of a kind that is not known, or a case that was asked for does not exist.
pub(crate) fn run(args: &Args) -> Result {
    let cases = cases(args)?;
    let devices: Vec<&str> = args.device.as_deref().map_or(vec!["cpu", "gpu"], |d| vec![d]);
    let mut failed = 0;
    let mut run = 0;
    for name in devices {
        let device = wgrad::devices().open(name)?.device;
        for case in &cases {
            run += 1;
            let title = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match run_case(case, &device, args) {
                Ok(report) => {
                    println!(
                        "{} {name:3} {title}: {}",
                        if report.ok() { "ok  " } else { "FAIL" },
                        report.summary()
                    );
                    for line in report.failures() {
                        println!("       {line}");
                    }
                    failed += usize::from(!report.ok());
                }
                Err(error) => {
                    println!("FAIL {name:3} {title}: {error}");
                    failed += 1;
                }
            }
        }
    }
    println!("parity: {} of {run} cases passed", run - failed);
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {run} parity cases failed").into()) }
}

/// A directory that holds one of these is a case.
const MARKS: [&str; 4] = ["io.safetensors", "ops.json", "optim.json", "trajectory.json"];

fn cases(args: &Args) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(&args.dir).map_err(|e| format!("cannot read {}: {e}", args.dir.display()))?;
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if MARKS.iter().any(|mark| path.join(mark).is_file()) {
            found.push(path);
        }
    }
    found.sort();
    let named = |p: &Path, n: &String| p.file_name().is_some_and(|f| f.to_string_lossy() == *n);
    for name in &args.case {
        if !found.iter().any(|p| named(p, name)) {
            return Err(format!(
                "{} has no case `{name}` (a directory with {})",
                args.dir.display(),
                MARKS.join(" or ")
            )
            .into());
        }
    }
    if !args.case.is_empty() {
        found.retain(|p| args.case.iter().any(|n| named(p, n)));
    }
    if !args.without.is_empty() {
        found.retain(|p| is_model(p));
    }
    if found.is_empty() {
        let marks = MARKS.join(" or ");
        return Err(format!("{} holds no cases (directories with {marks})", args.dir.display()).into());
    }
    Ok(found)
}

/// Whether a case is one of a model, and none of operations, optimizers or a pipeline.
fn is_model(dir: &Path) -> bool {
    dir.join("io.safetensors").is_file()
}

fn run_case(dir: &Path, device: &DeviceHandle, args: &Args) -> Result<Report> {
    let gpu = device.info().kind != DeviceKind::Cpu;
    if dir.join("ops.json").is_file() {
        return ops::run(dir, device, gpu, &args.entry);
    }
    if dir.join("optim.json").is_file() {
        return optim::run(dir, device, gpu);
    }
    if !dir.join("io.safetensors").is_file() {
        return pipeline::run(dir, device, gpu);
    }
    if args.without.is_empty() {
        return model::run(dir, device, gpu);
    }
    let options = Options::without(&args.without).ok_or("no such pass")?;
    model::run_passes(dir, device, gpu, &options)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped cases of models.
    fn models() -> Vec<PathBuf> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/parity");
        let entries =
            fs::read_dir(dir).expect("the shipped cases").map(|entry| entry.expect("an entry").path());
        let mut found: Vec<PathBuf> = entries.filter(|p| p.is_dir() && is_model(p)).collect();
        found.sort();
        found
    }

    fn check(dir: &Path, device: &DeviceHandle, options: &Options) {
        let gpu = device.info().kind != DeviceKind::Cpu;
        let report = model::run_passes(dir, device, gpu, options).expect("the case runs");
        let failures: Vec<String> = report.failures().to_vec();
        assert!(report.ok(), "{} with {options:?}: {failures:?}", dir.display());
    }

    #[test]
    fn every_model_computes_the_same_without_any_of_the_passes_and_without_all() {
        let device = wgrad::devices().open("cpu").expect("a CPU").device;
        assert!(models().len() >= 16);
        for dir in models() {
            for pass in Options::NAMES.iter().chain(["all"].iter()) {
                check(&dir, &device, &Options::without(&[pass]).expect("a pass"));
            }
        }
    }

    #[test]
    fn models_compute_the_same_on_the_gpu_without_passes() {
        if std::env::var("WGRAD_TEST_DEVICES").is_ok_and(|v| v == "cpu") {
            eprintln!("the GPU is left out: WGRAD_TEST_DEVICES=cpu");
            return;
        }
        let device = wgrad::devices().open("gpu").expect("a GPU").device;
        for dir in models() {
            check(&dir, &device, &Options::without(&["all"]).expect("all"));
        }
    }
}
