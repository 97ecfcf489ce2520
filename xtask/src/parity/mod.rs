//! Comparison with reference data computed by PyTorch and Hugging Face.

use std::{
    fs,
    path::{Path, PathBuf},
};

use wgrad::runtime::{DeviceHandle, DeviceKind};

use crate::Result;

mod compare;
mod model;
mod models;
mod ops;
mod optim;
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
            match run_case(case, &device, &args.entry) {
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
const MARKS: [&str; 3] = ["io.safetensors", "ops.json", "optim.json"];

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
    if found.is_empty() {
        let marks = MARKS.join(" or ");
        return Err(format!("{} holds no cases (directories with {marks})", args.dir.display()).into());
    }
    Ok(found)
}

fn run_case(dir: &Path, device: &DeviceHandle, entries: &[String]) -> Result<Report> {
    let gpu = device.info().kind != DeviceKind::Cpu;
    if dir.join("ops.json").is_file() {
        return ops::run(dir, device, gpu, entries);
    }
    if dir.join("optim.json").is_file() {
        return optim::run(dir, device, gpu);
    }
    model::run(dir, device, gpu)
}
